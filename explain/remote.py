"""A served model as a target, through the protocol of Captum's RemoteLLMAttribution: a provider that returns the log-probabilities of a
given continuation. Only methods that leave pieces out work: nothing can be looked into from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Provider(Protocol):
    """What `captum.attr.RemoteLLMProvider` offers, its VLLMProvider for instance."""

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any) -> list[float]:
        """The log-probability of each token of `target_str` after `input_prompt`."""
        ...


class RemoteTarget:
    """One reply to one prompt, scored by a server, one request a variant: mind the cost. Satisfies `Target`.

    pieces: the prompt cut into texts, of which each is one prompt "token" here; they are joined again without those left out.
    """

    def __init__(self, provider: Provider, pieces: Sequence[str], reply: str, tokenizer: Any = None) -> None:
        if not pieces or not reply:
            raise ValueError("a prompt and a reply are needed")
        self._provider, self._pieces, self._reply, self._tokenizer = provider, list(pieces), reply, tokenizer
        self.prompt_length = len(pieces)
        self.forwards = 0
        self.reply_length = len(self._score(torch.ones(len(pieces), dtype=torch.bool)))

    def log_probs(self, keep: Tensor) -> Tensor:
        """keep (B, P) bool → (B, T). Raises ValueError when the server cuts the reply into other tokens than before."""
        rows = [self._score(row) for row in keep]
        if any(len(row) != self.reply_length for row in rows):
            raise ValueError("the server cut the same reply into different tokens: its log-probabilities cannot be compared")
        return torch.tensor(rows)

    def _score(self, keep: Tensor) -> list[float]:
        prompt = "".join(piece for piece, kept in zip(self._pieces, keep.tolist(), strict=True) if kept)
        self.forwards += 1
        return self._provider.get_logprobs(prompt, self._reply, self._tokenizer)
