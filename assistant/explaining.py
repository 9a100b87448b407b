"""Explaining a logged turn with the loaded model: who said what in the prompt, the self-check, the cost, and errors a user can act on."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from assistant import paths
from assistant.contrasting import Question, aim, token_bytes
from assistant.errors import ExplanationError
from assistant.turn import Turn
from explain.attribution import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from assistant.lm.engine import Engine
    from assistant.lm.scoring import ReplyScorer
    from explain.target import Target
    from explain.units import Unit

Progress = Callable[[str, float | None], None]

TOLERANCE = {
    "float32": (0.002, 0.02), "int4": (0.15, 1.5), "int4+bfloat16": (0.15, 1.5), "bfloat16": (0.1, 1.0), "float16": (0.05, 0.5),
}  # fmt: skip
"""Per dtype: how far the explainer's log-probabilities (dense weights) may lie from the logged ones, on average and at most, in nats."""
BATCHED = 0.4
"""What one of many passes costs, against the first alone."""
LONG = 30.0
"""Seconds from which a coarser level is offered before the work begins."""


def explain_turn(
    engine: Engine,
    turn: Turn,
    history: Sequence[Turn],
    question: Question,
    *,
    other: Turn | None = None,
    progress: Progress = lambda what, fraction: None,
    cancel: threading.Event | None = None,
) -> Attribution:
    """The attribution of a turn's reply, or of a part of it. `history`: the turns before it, oldest first; `other`: the turn that
    `question.than` names.

    A run that was stopped goes on where it was when the same question is asked again. Raises ExplanationError when there is no reply to
    explain, another model is loaded, the explainer would score something else than the generator did, or the question makes no sense.
    """
    from assistant.lm.scoring import ReplyScorer
    from explain.attributing import Cancelled, attribute
    from explain.units import group

    if not turn.tokens or not turn.prompt_ids:
        raise ExplanationError(f"turn {turn.id} has no generated reply to explain (it was blocked, or its text was erased)")
    if turn.model.sha256 != engine.info.sha256:
        raise ExplanationError(f"turn {turn.id} was written by {turn.model.name}: load that model to explain it")
    if question.method == "fast":
        compared = question.contrast is not None or question.against is not None or question.than  # attention tells of one reply only
        question = replace(question, method="gradient-norm" if compared or coefficients(engine) is None else "learned-attention")
    _check_memory(engine, len(turn.prompt_ids) + len(turn.tokens), question.method)
    meter = engine.meter()
    meter.start()
    began = time.perf_counter()
    scorer = ReplyScorer(engine.model, turn.prompt_ids, [t.id for t in turn.tokens])
    agreement = self_check(scorer, turn)
    one_pass = time.perf_counter() - began
    pieces = [token_bytes(engine, i) for i in turn.prompt_ids]
    partial = _Partial(turn, question)
    try:
        target, reply, part, name = aim(engine, turn, scorer, question, other)
        if question.than and other is not None:
            self_check(ReplyScorer(engine.model, turn.prompt_ids, [t.id for t in other.tokens]), other)
        roles = prompt_roles(engine, turn, history)
        _announce(target, group(pieces, roles), question, one_pass, progress)
        attribution = attribute(
            target,
            pieces,
            roles,
            reply,
            method=question.method,
            **part,
            level=question.level,
            samples=question.samples,
            seed=question.seed,
            baseline_id=engine.neutral_id,
            coefficients=coefficients(engine) if question.method == "learned-attention" else None,
            known=partial.known,
            progress=lambda fraction: progress(question.method, fraction),
            cancelled=lambda: cancel is not None and cancel.is_set(),
        )
    except (ValueError, FloatingPointError) as error:
        raise ExplanationError(str(error)) from error
    except Cancelled:
        partial.save()
        raise ExplanationError("the explanation was stopped: asked again, it goes on from here") from None
    except KeyboardInterrupt:
        partial.save()
        raise
    finally:
        meter.stop()
    partial.remove()
    joules, source = meter.read()
    quality = {
        **attribution.quality, **agreement, "model": engine.info.name, "dtype": engine.info.dtype,
        "joules": joules, "energy_source": source,
    }  # fmt: skip
    if question.against is not None:
        quality["rather_than"] = engine.tokenizer.text_of(question.against)
    return replace(attribution, quality=quality, target=name or attribution.target)


def lens(engine: Engine, turn: Turn, token: int) -> list[list[tuple[str, float]]]:
    """Per layer, the likeliest texts at the place of reply token `token` (logit lens): a view of the inside, not an attribution."""
    scorer = _inside(engine, turn, token)
    return [[(engine.tokenizer.text_of(i), p) for i, p in layer] for layer in scorer.lens(token)]


HEARD = 3
"""Pieces that are named of each head."""


def heads(engine: Engine, turn: Turn, history: Sequence[Turn], token: int) -> list[list[list[tuple[str, float]]]]:
    """[layer][head]: the words of the conversation, template included, that the head listened to most when it chose reply token `token`,
    and their shares of its attention. A view of the inside, not an attribution: what is listened to need not matter."""
    from explain.units import group, words

    scorer = _inside(engine, turn, token)
    weights = scorer.attention(scorer.prompt_length - 1)[:, :, token]  # (layers, H, P + T − 1)
    ids = [*turn.prompt_ids, *(t.id for t in turn.tokens[:token])]
    roles = [*prompt_roles(engine, turn, history), *["assistant"] * token]
    pieces = words(group([token_bytes(engine, i) for i in ids], roles))
    shares = weights.new_zeros(*weights.shape[:2], len(pieces))
    for i, piece in enumerate(pieces):
        shares[..., i] = weights[..., piece.start : piece.end].sum(-1)
    found, at = shares.topk(min(HEARD, len(pieces)), -1)
    return [
        [[(pieces[i].text, p) for i, p in zip(places, parts, strict=True)] for places, parts in zip(layer, values, strict=True)]
        for layer, values in zip(at.tolist(), found.tolist(), strict=True)
    ]


def _inside(engine: Engine, turn: Turn, token: int) -> ReplyScorer:
    from assistant.lm.scoring import ReplyScorer

    if not turn.tokens or not turn.prompt_ids:
        raise ExplanationError(f"turn {turn.id} has no generated reply to look into (it was blocked, or its text was erased)")
    if not 0 <= token < len(turn.tokens):
        raise ExplanationError(f"the reply has tokens 0 to {len(turn.tokens) - 1}, not {token}")
    if turn.model.sha256 != engine.info.sha256:
        raise ExplanationError(f"turn {turn.id} was written by {turn.model.name}: load that model to look into it")
    return ReplyScorer(engine.model, turn.prompt_ids, [t.id for t in turn.tokens])


def _announce(target: Target, units: Sequence[Unit], question: Question, one_pass: float, progress: Progress) -> None:
    """Say what a long explanation will take before it begins, and which coarser level would take less."""
    from explain.attributing import FORMAT, METHODS, at_level
    from explain.faithfulness import TESTS
    from explain.problem import Problem
    from explain.units import LEVELS

    method = METHODS.get(question.method)
    if method is None or (question.level != "auto" and question.level not in LEVELS):
        return

    def seconds(level: str) -> float:
        features = [unit for unit in at_level(units, level)[0] if unit.role != FORMAT]
        about = Problem(target, features, [], samples=question.samples)
        return (method.cost(about) + TESTS) * one_pass * BATCHED

    needed = seconds(question.level)
    if needed <= LONG:
        return
    finer = ("token", "character", "word", "sentence", "turn")
    coarser = finer[finer.index(question.level) + 1 :] if question.level in finer else finer[3:] if question.level == "auto" else ()
    faster = [f"{level} {_duration(cost)}" for level in coarser if (cost := seconds(level)) < 0.7 * needed]
    offer = f"; a coarser level is faster: {', '.join(faster[-2:])}" if faster else ""
    progress(f"explaining, about {_duration(needed)}{offer}", 0.0)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _check_memory(engine: Engine, tokens: int, method: str) -> None:
    """Raises ExplanationError where `method` needs more memory for so many tokens than there is.

    Estimates (float32, within a third of what was measured with 1,000 and 2,000 tokens): gradients keep about 8 vectors of the model's
    width and 4 of the feed-forward width a token and layer, rollout keeps all attention weights, twice.
    """
    from assistant.lm.memory import available
    from explain import attention, gradients

    c = engine.model.config
    kept = 4 * c.n_layers * (8 * c.width + 4 * c.ffn_width) * tokens
    needed = {
        gradients.NORM: kept, gradients.PRODUCT: kept, attention.LEARNED: kept, gradients.INTEGRATED: kept * gradients.INTERNAL_BATCH,
        attention.ROLLOUT: 8 * c.n_layers * c.n_heads * tokens * tokens,
    }.get(method, 0)  # fmt: skip
    free = available()
    if free is not None and needed > free:
        raise ExplanationError(
            f"{method} would need about {needed / 1e9:.1f} GB of memory for {tokens} tokens, {free / 1e9:.1f} GB are free: "
            f"explain by ablation, at a coarse level"
        )


def coefficients(engine: Engine) -> Tensor | None:
    """The fitted weights of learned attention, (N,), for this very model file."""
    import torch

    from safety.resources import data_path

    for folder in (paths.data_dir() / "explain", data_path("explain")):
        file = folder / f"attention-{engine.info.sha256[:12]}.json"
        if file.exists():
            return torch.tensor(json.loads(file.read_text(encoding="utf-8"))["coefficients"])
    return None


class _Partial:
    """The subsets scored so far by a run that was stopped: masks and log-probabilities, no text, in the cache folder."""

    def __init__(self, turn: Turn, question: Question) -> None:
        asked = json.dumps(
            [turn.id, question.token, question.span, question.sentence, question.contrast, question.against, question.level, question.than]
        )
        digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
        self._file: Path = paths.cache_dir() / "explanations" / f"{turn.id}-{digest}.npz"
        self.known: dict[bytes, Tensor] = {}
        if self._file.exists():
            self._load()

    def _load(self) -> None:
        import numpy as np
        import torch

        try:
            with np.load(self._file, allow_pickle=False) as stored:
                masks, rows = stored["masks"], torch.from_numpy(stored["rows"])
            self.known = {mask.tobytes(): row for mask, row in zip(masks, rows, strict=True)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self.remove()  # half written: begin anew

    def save(self) -> None:
        """Keep what is known. A full or read-only disk costs the time spent, nothing else."""
        import numpy as np

        if not self.known:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            masks = np.stack([np.frombuffer(key, dtype=np.bool_) for key in self.known])
            np.savez(self._file, masks=masks, rows=np.stack([row.numpy() for row in self.known.values()]))
            self._file.chmod(0o600)
        except OSError:
            return

    def remove(self) -> None:
        """Forget it."""
        self._file.unlink(missing_ok=True)


def self_check(scorer: ReplyScorer, turn: Turn) -> dict[str, float]:
    """The explainer must see the probabilities that the generator logged. Raises ExplanationError when it does not."""
    import torch

    mine = scorer.log_probs(torch.ones(1, scorer.prompt_length, dtype=torch.bool))[0].cpu()
    gaps = (mine - torch.tensor([t.logprob for t in turn.tokens])).abs()
    mean, worst = float(gaps.mean()), float(gaps.max())
    allowed_mean, allowed_worst = TOLERANCE.get(turn.model.dtype, TOLERANCE["bfloat16"])
    if not (mean <= allowed_mean and worst <= allowed_worst):  # also refuses NaN
        raise ExplanationError(
            f"the explainer's log-probabilities differ from the logged ones of turn {turn.id} by {mean:.3f} nats on average "
            f"({worst:.3f} at most): it would explain something else, so it does not"
        )
    return {"generator_gap_mean": mean, "generator_gap_max": worst}


def prompt_roles(engine: Engine, turn: Turn, history: Sequence[Turn]) -> list[str]:
    """For each prompt token `system`, `user`, `assistant`, or `format` for the template's own."""
    from assistant.pipeline import as_messages
    from explain.attributing import FORMAT

    if turn.raw:
        # something must be left to predict from: the first token stays
        return [FORMAT] + ["user"] * (len(turn.prompt_ids) - 1)
    shown = [earlier for earlier in history if earlier.in_context]
    prompt = engine.render(as_messages(turn.system, shown, turn.prompt, turn.earlier), reserve=turn.sampling.max_tokens)
    if turn.prompt_ids[: len(prompt.ids)] == prompt.ids:  # what follows is the beginning of a reply that was gone on with
        return [piece.role or FORMAT for piece in prompt.pieces] + ["assistant"] * (len(turn.prompt_ids) - len(prompt.ids))
    # an earlier turn was erased, or the context setting differs: only the control tokens are certain
    return [FORMAT if i in engine.tokenizer.control else "user" for i in turn.prompt_ids]
