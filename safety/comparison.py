"""Which trunk reads best: the same examples in the same order, the same number of steps, the same low rank and heads of the same shape,
measured on the same rows: `compare(…)`. Beside them stand the n-grams, which have seen all the data.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safety.base_weights import BaseWeights
from safety.calibrate import parts, sampled
from safety.curriculum import PLAN, Curriculum, batches
from safety.encoder import ROLES, Trunk, by_length, encode, initial, pad, pool, tokenizer
from safety.ensemble import Ensemble
from safety.evaluate import average_precision, recall_at
from safety.finetune import BUDGET, RANK, loss_of, read_ids, reduced
from safety.normalize import base_view
from safety.reader import OUTPUTS

_RATE, _HEAD_RATE, _WARM, _LAST = 1e-3, 2e-3, 50, 0.02
_TIMED, _TIMES = 32, 7  # tokens of the text whose reading is timed, and how often


class Student(Protocol):
    """A trunk with low-rank changes that can be taught."""

    name: str
    width: int
    """Numbers that the heads read."""

    def ids(self, text: str, prompt: str) -> list[int]:
        """Token ids of a text, behind those of the prompt that it answers."""
        ...

    def pooled(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(texts, width): what the heads read, with its gradients."""
        ...

    def parameters(self) -> list[Tensor]:
        """What is taught."""
        ...


class EncoderStudent:
    """The guard's own trunk, with nothing learnt yet."""

    def __init__(self, base: BaseWeights, seed: int) -> None:
        self.name = "encoder"
        self._trunk, self._split = Trunk(base), tokenizer(base)
        self._p = {name: v for name, v in initial(self._trunk, len(OUTPUTS), RANK, seed).items() if not name.startswith("head")}
        self.width = 3 * self._trunk.shape.width

    def ids(self, text: str, prompt: str) -> list[int]:
        """As the guard cuts them."""
        return read_ids(self._split, self._trunk, text, prompt)

    def pooled(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Mean, first token, greatest."""
        tokens, mask = pad(ids, self._trunk.pad)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced()):
            x = encode(self._trunk, self._p, self._trunk.embed(tokens), mask)
        return pool(x.float(), mask)

    def parameters(self) -> list[Tensor]:
        """Low-rank changes, norms and biases."""
        return list(self._p.values())


def compare(
    students: Sequence[Student],
    curriculum: Curriculum,
    aside: Sequence[Mapping[str, Any]],
    ensemble: Ensemble,
    *,
    steps: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Teach each student `steps` batches of the first round and measure it on the rows `aside`. For prompts and replies of each language:
    average precision and recall where 1 % of the harmless rows would be flagged; milliseconds for a text of 32 tokens."""
    groups = sampled(aside)
    columns: dict[str, dict[str, NDArray[np.float64]]] = {key: {} for key in groups}
    for key, rows in groups.items():
        kind, lang = key.split(".")
        seen = parts(rows, ensemble, kind, lang)
        columns[key] |= {"n-grams, all data": seen[:, 0], "encoder as shipped": seen[:, 1] + seen[:, 2]}
    report: dict[str, Any] = {"steps": steps, "rank": RANK, "students": {}}
    for student in students:
        heads = _teach(student, curriculum, steps, seed, say)
        for key, rows in groups.items():
            columns[key][student.name] = _risk(student, heads, rows, key.split(".")[0])
        report["students"][student.name] = {
            "taught_numbers": sum(p.numel() for p in student.parameters()),
            "milliseconds": round(_milliseconds(student), 1),
        }
    for key, rows in groups.items():
        unsafe = np.array([row["label"] == "unsafe" for row in rows])
        report[key] = {"rows": len(rows), "unsafe": int(unsafe.sum())} | {
            name: {
                "auprc": round(average_precision(unsafe, values), 3),
                "recall_at_1": round(recall_at(unsafe, values, 0.01), 3),
            }
            for name, values in columns[key].items()
        }
    return report


def _teach(student: Student, curriculum: Curriculum, steps: int, seed: int, say: Callable[[str], None]) -> dict[str, Tensor]:
    """The heads, and the student's parameters in place."""
    torch.manual_seed(seed)
    heads = {f"{role}.w": torch.zeros(len(OUTPUTS), student.width) for role in ROLES}
    heads |= {f"{role}.b": torch.full((len(OUTPUTS),), -2.0) for role in ROLES}
    taught = student.parameters()
    for value in [*taught, *heads.values()]:
        value.requires_grad_(True)
    groups = [{"params": taught, "lr": _RATE}, {"params": list(heads.values()), "lr": _HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    plan = PLAN[0]
    examples = curriculum.round(0, plan)
    ids = [student.ids(e.text, e.prompt) for e in examples]
    order = list(batches([len(row) for row in ids], BUDGET, random.Random(f"{seed} order 0")))[:steps]
    began = time.monotonic()
    for step, batch in enumerate(order, 1):
        share = min(1.0, step / _WARM) * (_LAST + (1 - _LAST) * (1 - step / len(order)))
        for group, rate in zip(optimizer.param_groups, (_RATE, _HEAD_RATE), strict=True):
            group["lr"] = rate * share
        pooled = student.pooled([ids[i] for i in batch])
        logits = torch.stack([pooled @ heads[f"{role}.w"].T + heads[f"{role}.b"] for role in ROLES], 1)
        loss = loss_of(logits, [examples[i] for i in batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*taught, *heads.values()], 1.0)
        optimizer.step()
        if step % 50 == 0:
            say(f"{student.name}: step {step} of {len(order)}, {(time.monotonic() - began) / step:.2f} s a step")
    return {name: value.detach() for name, value in heads.items()}


@torch.no_grad()
def _risk(student: Student, heads: Mapping[str, Tensor], rows: Sequence[Mapping[str, Any]], kind: str) -> NDArray[np.float64]:
    """The greatest category's logit and that of "unsafe", together."""
    ids = [student.ids(base_view(row["text"]).text, base_view(str(row["context"])).text if kind == "answer" else "") for row in rows]
    role = "prompt" if kind == "prompt" else "response"
    out = np.zeros(len(rows))
    for batch in by_length(map(len, ids), BUDGET):
        logits = student.pooled([ids[i] for i in batch]) @ heads[f"{role}.w"].T + heads[f"{role}.b"]
        out[batch] = (logits[:, :-1].amax(1) + logits[:, -1]).double().numpy()
    return out


@torch.no_grad()
def _milliseconds(student: Student) -> float:
    """A text of 32 tokens by itself; the median of several."""
    ids = (student.ids("what do people usually bring when they visit a friend " * 8, ""))[:_TIMED]
    times = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        student.pooled([ids])
        times.append((time.perf_counter() - began) * 1e3)
    return float(np.median(times))
