"""Measuring the guard on labelled rows: `evaluate(rows, guard)` and the table that `report` prints.

Figures: F1 and recall of what is cautioned or blocked, area under the precision-recall curve, recall where 1 % of the
safe rows would be flagged, calibration error, the share of safe rows flagged and blocked, milliseconds a message;
each language apart.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from safety.language import detect
from safety.verdict import Action, Verdict

_CONCERNS = {"pii", "secret", "control", "advice"}  # not what benchmarks call harm


class Judge(Protocol):
    """What is measured: the guard, or anything that gives verdicts in the same way."""

    def filter_prompt(self, text: str, /) -> Verdict: ...
    def moderate(self, text: str, /, *, prompt: str = "") -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Figures:
    """The result for one group of rows. What needs rows that are not there is NaN."""

    name: str
    rows: int
    unsafe: int
    f1: float
    recall: float
    auprc: float
    recall_at_1: float
    ece: float
    safe_flagged: float
    safe_blocked: float
    milliseconds: float


def evaluate(rows: Iterable[dict[str, Any]], judge: Judge, progress: Callable[[int], None] = lambda _: None) -> list[Figures]:
    """Figures over rows {text, label: safe|unsafe, role, lang}: all together, then each language."""
    labels, scores, actions, languages, times = [], [], [], [], []
    for number, row in enumerate(rows, 1):
        text = str(row["text"])
        asked = str(row.get("context") or "")
        verdict = judge.moderate(text, prompt=asked) if row.get("role") == "response" else judge.filter_prompt(text)
        labels.append(row["label"] == "unsafe")
        scores.append(max((s for c, s in verdict.categories.items() if c not in _CONCERNS), default=0.0))
        flagged = verdict.action in (Action.CAUTION, Action.BLOCK) and any(f.category not in _CONCERNS for f in verdict.findings)
        actions.append(2 if verdict.action is Action.BLOCK else int(flagged))
        languages.append(row.get("lang") or detect(text))
        times.append(verdict.milliseconds)
        progress(number)
    if not labels:
        raise ValueError("there are no rows to evaluate: give rows with text, label, role and lang")
    columns = np.array(labels), np.array(scores), np.array(actions), np.array(times)
    where = np.array(languages)
    groups = [("all", where == where), *((lang, where == lang) for lang in sorted(set(languages)))]
    return [_figures(name, *(column[mask] for column in columns)) for name, mask in groups]


def _figures(
    name: str,
    unsafe: NDArray[np.bool_],
    score: NDArray[np.float64],
    action: NDArray[np.int64],
    times: NDArray[np.float64],
) -> Figures:
    flagged, safe = action > 0, ~unsafe
    right = int((flagged & unsafe).sum())
    wrong = int((flagged & safe).sum())
    some, none = bool(unsafe.any()), bool(safe.any())
    return Figures(
        name=name,
        rows=len(unsafe),
        unsafe=int(unsafe.sum()),
        f1=2 * right / (right + wrong + int(unsafe.sum())) if some else float("nan"),
        recall=right / int(unsafe.sum()) if some else float("nan"),
        auprc=average_precision(unsafe, score) if some and none else float("nan"),
        recall_at_1=recall_at(unsafe, score, 0.01) if some and none else float("nan"),
        ece=calibration_error(unsafe, score),
        safe_flagged=float(flagged[safe].mean()) if none else float("nan"),
        safe_blocked=float((action[safe] == 2).mean()) if none else float("nan"),
        milliseconds=float(times.mean()),
    )


def average_precision(unsafe: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Area under the precision-recall curve, equal scores taken together."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(unsafe[order])
    last = np.append(np.diff(score[order]) != 0, True)  # where a run of equal scores ends
    precision, recall = (hits / np.arange(1, len(hits) + 1))[last], (hits / hits[-1])[last]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def recall_at(unsafe: NDArray[np.bool_], score: NDArray[np.float64], share: float) -> float:
    """Recall at the threshold above which at most `share` of the safe rows lie."""
    safe = np.sort(score[~unsafe])[::-1]
    threshold = safe[int(len(safe) * share)]
    return float((score[unsafe] > threshold).mean())


def calibration_error(unsafe: NDArray[np.bool_], score: NDArray[np.float64], bins: int = 10) -> float:
    """Expected calibration error over equally wide bins."""
    place = np.minimum((score * bins).astype(int), bins - 1)
    gaps = [
        abs(float(unsafe[place == b].mean()) - float(score[place == b].mean())) * float((place == b).mean()) for b in set(place.tolist())
    ]
    return float(sum(gaps))


def report(figures: Sequence[Figures]) -> str:
    """The figures as a table of text."""
    names = ("rows", "unsafe", "F1", "recall", "AUPRC", "R@1%", "ECE", "flagged", "blocked", "ms")
    head = " " * 8 + "".join(f"{n:>{w}}" for n, w in zip(names, (7, 8, 7, 8, 7, 7, 7, 9, 9, 8), strict=True))
    lines = [
        f"{f.name:8}{f.rows:7}{f.unsafe:8}{f.f1:7.3f}{f.recall:8.3f}{f.auprc:7.3f}{f.recall_at_1:7.3f}{f.ece:7.3f}"
        f"{f.safe_flagged:9.2%}{f.safe_blocked:9.2%}{f.milliseconds:8.2f}"
        for f in figures
    ]
    return "\n".join([head, *lines])


def read_benchmark(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a published benchmark or of our own format, recognised by the names of their fields. Raises ValueError
    otherwise."""
    for number, record in enumerate(_records(path), 1):
        row = _row(record)
        if row is None:
            fields = ", ".join(sorted(map(str, record)))[:200]
            raise ValueError(f"{path}, row {number}: no known benchmark has the fields {fields}; convert it to text, label, role, lang")
        yield row


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
        if {".csv", ".tsv"} & set(path.suffixes):
            yield from csv.DictReader(file, delimiter="\t" if ".tsv" in path.suffixes else ",")
        elif ".jsonl" in path.suffixes:
            yield from (json.loads(line) for line in file if line.strip())
        else:
            data = json.load(file)
            yield from data if isinstance(data, list) else data.values()


def _row(r: dict[str, Any]) -> dict[str, Any] | None:
    """One record as a row; None when its shape is unknown. The order goes from the most to the least telling fields."""
    if "text" in r and r.get("label") in ("safe", "unsafe"):
        return r
    if "prompt" in r and "S" in r and "HR" in r:  # OpenAI moderation
        return _as(r["prompt"], any(r.get(k) == 1 for k in ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")))
    if "user_input" in r and "toxicity" in r:  # ToxicChat
        return _as(r["user_input"], str(r["toxicity"]) == "1")
    if "response" in r and "is_safe" in r:  # BeaverTails
        row = _as(r["response"], str(r["is_safe"]).lower() == "false", "response")
        return {**row, "context": str(r.get("prompt") or "")}
    if "TEXT" in r and "label" in r:  # COLD
        return _as(r["TEXT"], str(r["label"]) == "1", "post")
    if "toxic" in r and "content" in r:  # ToxiCN
        return _as(r["content"], str(r["toxic"]) == "1", "post")
    if "post_tokens" in r and "annotators" in r:  # HateXplain: the majority of three
        marks = [a["label"] for a in r["annotators"]]
        return _as(" ".join(r["post_tokens"]), sum(m != "normal" for m in marks) >= 2, "post")
    if "prompt" in r and ("type" in r or "label" in r) and ("note" in r or "focus" in r):  # XSTest
        return _as(r["prompt"], str(r.get("label") or r["type"]).startswith(("unsafe", "contrast")))
    if "Goal" in r and "Behavior" in r:  # JailbreakBench: the file of harmless goals says so in its `Label` or by its path
        return _as(r["Goal"], str(r.get("Label", "harmful")).lower() != "benign")
    if "Behavior" in r and "SemanticCategory" in r:  # HarmBench
        return _as(r["Behavior"], True)
    if "forbidden_prompt" in r:  # StrongREJECT
        return _as(r["forbidden_prompt"], True)
    if "prompt" in r and "word_list" in r:  # NotInject
        return _as(r["prompt"], False)
    return None


def _as(text: Any, unsafe: bool, role: str = "prompt") -> dict[str, Any]:
    return {"text": str(text), "label": "unsafe" if unsafe else "safe", "role": role, "lang": detect(str(text))}
