"""The loop that writes a reply: read the prompt, then token by token decode, sample, turn into text, until something ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from assistant.lm import sampler
from assistant.lm.energy import Meter
from assistant.lm.pace import Pace, one_thread
from assistant.lm.tokenizer import ByteTokenizer, StreamDecoder
from assistant.lm.topk import likeliest
from assistant.turn import Candidate, Finish, ReplyToken, Sampling, Usage

CANDIDATES = 5
"""How many of the likeliest tokens are kept beside the chosen one."""


class StopBuffer:
    """Finds stop strings across token borders; text that might be the beginning of one waits."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """(text that may go out, whether a stop string was met; then nothing after it goes out)."""
        self._held += text
        hits = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if hits:
            out, self._held = self._held[: min(hits)], ""
            return out, True
        waiting = max((_overlap(self._held, s) for s in self._stop), default=0)
        out = self._held[: len(self._held) - waiting]
        self._held = self._held[len(out) :]
        return out, False

    def finish(self) -> str:
        """What was still waiting: no stop string came."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Writer:
    """One reply in the making, without the model: takes the logits of each step, chooses a token, and turns tokens into text.

    It is one token behind, so that the last one can take along what was held back for stop strings and incomplete characters.
    """

    def __init__(self, sampling: Sampling, tokenizer: ByteTokenizer, eos: frozenset[int], limit: int) -> None:
        self.finish: Finish = "stopped"  # unless it ends by itself
        self.ended = False
        self.reply: list[int] = []
        self.pending: ReplyToken | None = None
        self._sampling, self._tokenizer, self._eos, self._limit = sampling, tokenizer, eos, limit
        self._text, self._stops = StreamDecoder(tokenizer), StopBuffer(sampling.stop)
        self._hit = False

    def take(self, logits: Tensor) -> ReplyToken | None:
        """Choose the next token from `logits` (V,); returns the one before it, whose text is certain now. Sets `ended` at the end."""
        token, described = self._choose(logits)
        if token in self._eos:
            self.finish, self.ended = "stop", True
            return None
        out, self._hit = self._stops.feed(self._text.feed(token))
        before, self.pending = self.pending, described(out)
        self.reply.append(token)
        if self._hit:
            self.finish, self.ended = "stop", True
        elif len(self.reply) >= self._limit:
            self.finish, self.ended = "length", True
        return before

    def last(self) -> ReplyToken | None:
        """The last token, with what was held back; None when there is none."""
        if self.pending is None:
            return None
        tail = "" if self._hit else self._stops.feed(self._text.finish())[0] + self._stops.finish()
        return replace(self.pending, text=self.pending.text + tail)

    def _choose(self, logits: Tensor) -> tuple[int, Callable[[str], ReplyToken]]:
        step = len(self.reply)
        with one_thread():  # what is logged does not depend on how many threads there were
            return self._drawn(logits, step)

    def _drawn(self, logits: Tensor, step: int) -> tuple[int, Callable[[str], ReplyToken]]:
        values, ids = likeliest(logits, CANDIDATES)
        kept = sampler.truncate(logits, self.reply, self._sampling, sampler.Kept(ids, values))
        token = sampler.draw(kept, self._sampling, step)
        shares = torch.sub(logits, values[0]).exp_()
        mass = shares.sum()
        total = values[0] + mass.log()  # log p = logit − total
        spread = total - torch.dot(shares, logits) / mass
        chosen, entropy, *best = torch.cat([torch.stack([logits[token] - total, spread]), values - total]).tolist()
        candidates = tuple(Candidate(i, self._tokenizer.text_of(i), p) for i, p in zip(ids.tolist(), best, strict=True))
        return token, lambda text: ReplyToken(step, token, text, chosen, entropy, candidates)


class Generation:
    """One reply in the making: iterate over its tokens; `finish`, `usage`, `prompt_tokens` and `cached_tokens` tell the rest.

    The last token's text includes what was held back for stop strings and incomplete characters; end tokens are not yielded.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        prefill: Callable[[Sequence[int]], tuple[Tensor, int]],
        decode: Callable[[int], Tensor],
        tokenizer: ByteTokenizer,
        eos: frozenset[int],
        room: int,
        meter: Meter,
        pace: Pace | None = None,
        load_seconds: float = 0.0,
        cancel: threading.Event | None = None,
        watch: Callable[[], float] | None = None,
    ) -> None:
        """`watch` tells how risky the reply looks after the token that was read last."""
        self._watch = watch
        self.prompt_tokens = len(prompt_ids)
        self.cached_tokens = 0
        self._prompt = list(prompt_ids)
        self._prefill, self._decode = prefill, decode
        self._writer = Writer(sampling, tokenizer, eos, min(sampling.max_tokens, room))
        self._meter, self._cancel, self._load_seconds = meter, cancel, load_seconds
        self._pace = pace or Pace(1)
        self._prefill_seconds = self._decode_seconds = 0.0
        self._tokens = self._run()

    def __iter__(self) -> Iterator[ReplyToken]:
        return self._tokens

    @property
    def finish(self) -> Finish:
        """How it ended; `stopped` while it has not."""
        return self._writer.finish

    @property
    def usage(self) -> Usage:
        """What the reply has cost so far."""
        joules, source = self._meter.read()
        return Usage(
            self.prompt_tokens, self.cached_tokens, len(self._writer.reply), self._load_seconds,
            self._prefill_seconds, self._decode_seconds, joules, source,
        )  # fmt: skip

    def _run(self) -> Iterator[ReplyToken]:
        writer = self._writer
        self._meter.start()
        began = time.perf_counter()
        logits, self.cached_tokens = self._prefill(self._prompt)
        self._prefill_seconds = time.perf_counter() - began
        began = time.perf_counter()
        self._pace.begin()
        try:
            while not (self._cancel is not None and self._cancel.is_set()):
                before = writer.take(logits)
                self._decode_seconds = time.perf_counter() - began
                if before is not None:
                    yield before
                if writer.ended:
                    break
                logits = self._pace.token(lambda: self._decode(writer.reply[-1]))
                if self._watch is not None and writer.pending is not None:
                    writer.pending = replace(writer.pending, risk=self._watch())
        except Exception:
            if writer.pending is not None:
                yield writer.pending  # the reply so far is kept, whatever happened
            raise
        finally:
            self._pace.end()
            self._meter.stop()
        if (last := writer.last()) is not None:
            yield last
