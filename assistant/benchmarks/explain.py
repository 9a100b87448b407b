"""What explaining costs: a 62-token prompt and a 24-token reply, one thread, against Captum's own language-model wrapper in the same run.

Captum's wrapper is measured in its two correct settings: the loop over reply tokens without its cache (`token loop`; a few features are
timed and multiplied), and one teacher-forced pass a variant (`one shot`). Its default, with the cache, scores something else.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from assistant.benchmarks.measure import interleaved, machine, peak_megabytes
from assistant.lm.chat_format import Piece
from assistant.lm.engine import Engine
from assistant.lm.scoring import ReplyScorer
from assistant.settings import Settings
from assistant.turn import Message
from explain import attention, balanced, gradients, perturbation
from explain.problem import Problem
from explain.units import Unit, group

PROMPT_TOKENS, REPLY_TOKENS = 62, 24
LOOPED = 2
"""Features that are really timed in the token loop."""
TEXT = "Please explain in a few words why the sky is blue on a clear day and red in the evening when the sun goes down. "


def bench(settings: Settings, path: Path, rounds: int = 3) -> dict[str, Any]:
    """Median seconds of each way, one plain forward pass for comparison, and how far the results of equal methods differ."""
    engine = Engine.load(path, dtype=settings.dtype, thread_count=1)
    before = peak_megabytes()
    pieces, reply = _chat(engine)
    prompt, shown = [p.id for p in pieces], [i for i, p in enumerate(pieces) if p.role]
    keep = torch.ones(1, len(prompt), dtype=torch.bool)
    results: dict[str, Tensor] = {}

    def ours(run: Callable[[Problem], Any], name: str) -> Callable[[], dict[str, float]]:
        def action() -> dict[str, float]:
            problem = _problem(engine, prompt, reply, shown)
            seconds, found = _timed(lambda: run(problem))
            results[name] = found
            return {"seconds": seconds}

        return action

    c = engine.model.config
    heads = torch.zeros(len(attention.POWERS) * c.n_layers * (c.n_heads + c.n_kv_heads))

    def with_heads(problem: Problem) -> Any:
        problem.coefficients = heads
        return attention.learned(problem)

    actions: dict[str, Callable[[], dict[str, float]]] = {
        "forward": lambda: {"seconds": _timed(lambda: ReplyScorer(engine.model, prompt, reply).log_probs(keep))[0]},
        perturbation.NAME: ours(perturbation.matrix, perturbation.NAME),
        balanced.NAME: ours(balanced.balance, balanced.NAME),
        gradients.NORM: ours(gradients.norm, gradients.NORM),
        attention.LEARNED: ours(with_heads, attention.LEARNED),
        "captum one shot": lambda: _captum(engine, prompt, reply, results, loop=False),
        "captum token loop": lambda: _captum(engine, prompt, reply, results, loop=True),
    }
    history = _history(engine, prompt, reply, shown)
    figures = interleaved(actions, rounds)
    median = {name: row["seconds"]["median"] for name, row in figures.items()}
    ablation = results[perturbation.NAME]
    return {
        "machine": machine(), "prompt_tokens": len(prompt), "attributed_tokens": len(shown), "reply_tokens": len(reply), "threads": 1,
        "figures": figures,
        "ratios": {
            "one shot / ablation": median["captum one shot"] / median[perturbation.NAME],
            "token loop / ablation": median["captum token loop"] / median[perturbation.NAME],
            "one shot / balanced-ablation": median["captum one shot"] / median[balanced.NAME],
            "token loop / balanced-ablation": median["captum token loop"] / median[balanced.NAME],
            "gradient-norm / forward": median[gradients.NORM] / median["forward"],
            "learned-attention / forward": median[attention.LEARNED] / median["forward"],
        },
        "largest_difference_from_one_shot": float((ablation - results["captum one shot"][:, [i - 1 for i in shown]]).abs().max()),
        "history": history,
        "megabytes_after_load": before,
        "peak_megabytes": peak_megabytes(),
    }  # fmt: skip


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = run()
    return time.perf_counter() - began, found


def _chat(engine: Engine) -> tuple[Sequence[Piece], list[int]]:
    """The question in the model's chat format, at most PROMPT_TOKENS long, and a reply of REPLY_TOKENS."""
    words = (TEXT * 4).split(" ")
    while len(pieces := engine.render([Message("user", " ".join(words))], reserve=REPLY_TOKENS).pieces) > PROMPT_TOKENS:
        words.pop()
    return pieces, (engine.tokenizer.encode(TEXT) * 2)[:REPLY_TOKENS]


def _problem(engine: Engine, prompt: Sequence[int], reply: Sequence[int], shown: Sequence[int]) -> Problem:
    """Every token of a message a feature, no template token. (Captum's wrapper knows no chat: there each token but the first is one.)"""
    features = [Unit("", i, i + 1, "user") for i in shown]
    outputs = group([engine.tokenizer.bytes_of(i) for i in reply], [""] * len(reply))
    return Problem(ReplyScorer(engine.model, prompt, reply), features, outputs, baseline_id=engine.neutral_id)


def _history(engine: Engine, prompt: Sequence[int], reply: Sequence[int], shown: Sequence[int]) -> dict[str, float]:
    """Seconds to explain by the last 30 message tokens, with none, one, two and four turns of 80 tokens before them."""
    out = {}
    for turns in (0, 1, 2, 4):
        earlier = ([*prompt, *reply] * turns)[: 80 * turns]
        problem = _problem(engine, [*earlier, *prompt], reply, [len(earlier) + i for i in shown[-30:]])
        out[f"{turns} earlier turns"] = _timed(lambda problem=problem: perturbation.matrix(problem))[0]  # type: ignore[misc]
    return out


class _Wrapped(nn.Module):
    """Our model as Captum's wrapper wants one, deleting by hidden keys and closed positions, so that both compute the same."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine, self.device = engine, engine.device

    @torch.inference_mode()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **unused: Any) -> Any:
        here = input_ids[0] != ABSENT
        ids = input_ids[:, here]
        return SimpleNamespace(logits=_spread(self.engine.model.logits(self.engine.model(ids)), here))


ABSENT = -1


def _spread(logits: Tensor, here: Tensor) -> Tensor:
    """Logits back at the places of the tokens that are there; a deleted place repeats what stands before it."""
    at = (here.long().cumsum(0) - 1).clamp_(min=0)
    return logits[:, at]


class _Tokens:
    """The few tokenizer methods that the wrapper calls; the text is the ids themselves."""

    def encode(self, text: str, add_special_tokens: bool = False, return_tensors: str | None = None) -> Any:
        ids = [int(i) for i in text.split()]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any) -> str:
        return " ".join(str(int(i)) for i in ids)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return str(int(ids)) if isinstance(ids, int) else [str(int(i)) for i in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return int(tokens) if isinstance(tokens, str) else [int(t) for t in tokens]

    def __call__(self, text: str, **unused: Any) -> dict[str, Any]:
        ends = [match.span() for match in re.finditer(r"\S+", text)]
        return {"input_ids": self.encode(text), "offset_mapping": ends}


def _captum(engine: Engine, prompt: Sequence[int], reply: Sequence[int], results: dict[str, Tensor], *, loop: bool) -> dict[str, float]:
    """Captum's LLMAttribution around FeatureAblation. The first prompt token is never a feature."""
    from captum.attr import FeatureAblation, LLMAttribution, TextTokenInput

    tokens = _Tokens()
    timed = list(prompt) if not loop else list(prompt[: LOOPED + 1])
    wrapped = LLMAttribution(FeatureAblation(_Wrapped(engine)), tokens)  # type: ignore[arg-type]

    def run(features: int) -> Tensor:
        text = TextTokenInput(tokens.decode(prompt), tokens, baselines=ABSENT)  # type: ignore[arg-type]
        _restrict(text, features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = wrapped.attribute(
                text, target=torch.tensor(list(reply)), forward_in_tokens=loop, use_cached_outputs=False, skip_tokens=None
            )
        assert found.token_attr is not None
        return found.token_attr

    features = len(timed) - 1
    seconds, matrix = _timed(lambda: run(features))
    if loop:  # one pass over the unchanged prompt, then one a feature
        return {"seconds": seconds * len(prompt) / (features + 1)}
    results["captum one shot"] = matrix.float()
    return {"seconds": seconds}


def _restrict(text: Any, features: int) -> None:
    """Make only tokens 1 … `features` of a TextTokenInput features; the others stay as they are."""
    mask = torch.zeros_like(text.inp_tensor, dtype=torch.bool)
    mask[:, 1 : features + 1] = True
    text.itp_mask = mask
    text.itp_tensor = text.inp_tensor[mask].unsqueeze(0)
    text.values = [v for v, kept in zip(text.values, mask[0].tolist(), strict=True) if kept]
    text.n_itp_features = features
