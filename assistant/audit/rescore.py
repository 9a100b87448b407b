"""The model's part of a replay: a logged reply scored again, and what the sampler would have done at each step. Imports torch."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Sequence

from assistant.audit.replay import Rescored, Step
from assistant.lm.engine import PACKED, Engine  # before torch: it sets how threads wait

import torch  # isort: skip
from torch import Tensor

from assistant.lm import sampler
from assistant.lm.pace import one_thread
from assistant.pipeline import as_messages
from assistant.turn import ModelInfo, Sampling, Turn

_ROWS = 64
"""Positions whose scores over the whole vocabulary are held at once."""
_AT_THE_CUT, _NEAR_THE_CUT = 1e-3, 0.5
"""How far below the last candidate a token still counts as one, with the same arithmetic and with another."""


class EngineReplay:
    """An engine as `replay.Replayable`. Uses the engine's cache: one caller at a time, nothing generated meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def info(self) -> ModelInfo:
        """The model that is loaded."""
        return self._engine.info

    def render(self, turn: Turn, history: Sequence[Turn]) -> tuple[int, ...]:
        """The prompt ids that turn and history give now."""
        if turn.raw:
            return self._engine.render_raw(turn.prompt).ids
        messages = as_messages(turn.system, list(history), turn.prompt, turn.earlier)
        return self._engine.render(messages, reserve=turn.sampling.max_tokens).ids

    @torch.inference_mode()
    def rescore(self, turn: Turn, before: Sequence[Turn], *, exact: bool) -> Rescored:
        """The reply scored again. Packed weights are always scored step by step: their arithmetic is that of decoding."""
        reply = [token.id for token in turn.tokens]
        tight = turn.model.dtype == self.info.dtype == "float32"
        stepwise = exact or (turn.model.dtype == self.info.dtype and self.info.dtype in PACKED)
        if stepwise:
            rows, relived = self._decoded(turn, reply, before)
            tight = tight or (turn.model.dtype == self.info.dtype and relived)
        else:
            rows = self._in_one_pass(turn.prompt_ids, reply)
        slack = _AT_THE_CUT if tight else _NEAR_THE_CUT
        steps: list[Step] = []
        for step, token in enumerate(reply):
            logits = next(rows)
            with one_thread():
                logprob = float(logits[token] - torch.logsumexp(logits, 0))  # as `generate` logs it, to the last bit
            steps.append(Step(logprob, margin(logits, reply[:step], token, turn.sampling, slack)))
        ended = None
        if turn.finish == "stop" and not turn.sampling.stop:
            ended = self._would_end(next(rows), reply, turn, slack)
        return Rescored(steps, ended, stepwise, tight, self._environment(stepwise))

    def _in_one_pass(self, prompt: Sequence[int], reply: Sequence[int]) -> Iterator[Tensor]:
        """The logits (V,) before each reply token and after the last."""
        model = self._engine.model
        ids = torch.tensor([[*prompt, *reply]], device=self._engine.device)
        hidden = model(ids)[0, len(prompt) - 1 :]  # (T + 1, D)
        for part in hidden.split(_ROWS):
            yield from model.logits(part)

    def _decoded(self, turn: Turn, reply: Sequence[int], before: Sequence[Turn]) -> tuple[Iterator[Tensor], bool]:
        """The same, token by token through the cache, and whether the cache could be brought into the state it had then.

        The earlier turns are lived through again, so that it holds what decoding had left in it, not what reading leaves.
        """
        cache, prompt, cached = self._engine.cache, turn.prompt_ids, turn.usage.cached_tokens
        cache.keep_prefix(())
        for earlier in before:
            for _ in self._feed(earlier.prompt_ids, [token.id for token in earlier.tokens[:-1]]):
                pass
        kept = cache.keep_prefix(prompt[: cached + 1]) if cached else cache.keep_prefix(())
        if kept < cached:  # that part stood in the cache from another conversation that began alike
            self._engine.prefill(prompt[:cached])
        return self._feed(prompt, reply), kept == cached or not before

    def _feed(self, prompt: Sequence[int], reply: Sequence[int]) -> Iterator[Tensor]:
        ids = list(prompt)
        yield self._engine.prefill(ids)[0]
        for token in reply:
            ids.append(token)
            yield self._engine.prefill(ids)[0]

    def _would_end(self, logits: Tensor, reply: Sequence[int], turn: Turn, slack: float) -> bool:
        kept = sampler.truncate(logits, reply, turn.sampling)
        chosen = sampler.draw(kept, turn.sampling, len(reply))
        ends = set(self._engine.tokenizer.eos)
        if not turn.raw:
            ends |= {self._engine.tokenizer.ids[t] for t in self._engine.chat_format.control}
        if chosen in ends:
            return True
        # another machine may have tipped it: an end token must at least have come close
        return any(margin(logits, reply, end, turn.sampling, slack) <= slack for end in ends)

    def _environment(self, stepwise: bool) -> dict[str, str]:
        return {
            "torch": torch.__version__, "threads": str(torch.get_num_threads()), "machine": platform.machine(),
            "device": self.info.device, "dtype": self.info.dtype, "kernels": str(self._engine.kernels), "sampler": sampler.NAME,
            "scored": "step by step" if stepwise else "in one pass",
        }  # fmt: skip


def margin(logits: Tensor, reply: Sequence[int], token: int, sampling: Sampling, slack: float) -> float:
    """By how much the best candidate beats `token` in the sampler at this step: 0 when it wins, infinite when it was cut.

    A token at most `slack` below the last candidate counts as one: on another machine it may have been kept.
    """
    if sampling.temperature == 0:
        penalised = sampler.truncate(logits, reply, _every(sampling))
        where = (penalised.ids == token).nonzero()
        return float(penalised.logits.max() - penalised.logits[where[0, 0]]) if len(where) else math.inf
    kept = sampler.truncate(logits, reply, sampling)
    ids = kept.ids.tolist()
    values = dict(zip(ids, kept.logits.double().tolist(), strict=True))
    if token not in values:
        everything = sampler.truncate(logits, reply, _every(sampling))
        where = (everything.ids == token).nonzero()
        value = float(everything.logits[where[0, 0]])
        if value < min(values.values()) - slack:
            return math.inf
        values[token] = value
    assert sampling.seed is not None
    noisy = {i: v / sampling.temperature + sampler.gumbel(sampling.seed, len(reply), i) for i, v in values.items()}
    return float(max(noisy.values()) - noisy[token])


def _every(sampling: Sampling) -> Sampling:
    """The same sampling with nothing cut off: only the repetition penalty is left."""
    return Sampling(1.0, 0, 1.0, 0.0, sampling.repetition_penalty, sampling.seed, sampling.max_tokens)
