"""The trained part: one linear score for each category over hashed character and word runs. Numbers only; needs no
torch.

A text longer than a window is read in overlapping windows and the highest score counts. Being linear, it can say
exactly which characters made it decide: `explain` spreads every weight over the characters it came from, and nothing
is lost.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safety.features import BUCKETS, bag, extract, scale, windows

FORMAT = "pellucid-classifier-1"


class ClassifierError(Exception):
    """The weights are missing or are not what they should be."""


@dataclass(frozen=True, slots=True)
class Score:
    """One category's calibrated score and the window `[start, end)` that gave it."""

    label: str
    value: float
    start: int
    end: int


class Classifier:
    """Weights, biases and calibration. `load` checks all of it; scoring never fails."""

    def __init__(
        self,
        labels: tuple[str, ...],
        table: NDArray[np.int8],
        scales: NDArray[np.float32],
        calibration: dict[str, list[float]],
    ) -> None:
        self.labels = labels
        self.table = table  # (BUCKETS, labels)
        self.scales = scales  # (labels,)
        self.calibration = calibration
        """For each `role.language`: slope, then one offset a label. score = sigmoid(slope × raw + offset)."""

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read the weights. Raises ClassifierError with what to do."""
        remedy = "install Pellucid again or run `pellucid safety train`"
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes().decode("utf-8"))
                table, scales = file["table"], file["scales"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ClassifierError(f"{path}: the safety weights cannot be read ({error}); {remedy}") from error
        labels = tuple(header.get("labels", ()))
        calibration = header.get("calibration", {})
        if (
            header.get("format") != FORMAT
            or table.shape != (BUCKETS, len(labels))
            or table.dtype != np.int8
            or scales.shape != (len(labels),)
            or any(len(row) != 1 + len(labels) for row in calibration.values())
            or set(calibration) != {f"{role}.{lang}" for role in ("prompt", "response") for lang in ("zh", "en")}
        ):
            raise ClassifierError(f"{path}: the safety weights are of another format than {FORMAT}; {remedy}")
        return cls(labels, table, scales.astype(np.float32), calibration)

    def save(self, path: Path) -> str:
        """Write the weights; returns their SHA-256."""
        header = json.dumps({"format": FORMAT, "labels": list(self.labels), "calibration": self.calibration}, sort_keys=True)
        np.savez_compressed(path, header=np.frombuffer(header.encode(), np.uint8), table=self.table, scales=self.scales)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def raw(self, text: str) -> NDArray[np.float32]:
        """The scores of one window before calibration."""
        buckets = bag(text)
        if not len(buckets):
            return np.zeros(len(self.labels), np.float32)
        total = self.table[buckets].sum(0, dtype=np.int64)
        return np.asarray(total * self.scales / scale(len(buckets)), np.float32)

    def logits(self, text: str, role: str, language: str) -> NDArray[np.float32]:
        """The calibrated logits of one window."""
        slope, *offsets = self.calibration[f"{role}.{language}"]
        return np.asarray(self.raw(text) * slope + offsets, np.float32)

    def scores(self, text: str, role: str, language: str) -> list[Score]:
        """The highest score of every category over all windows of a (folded) text."""
        places = windows(len(text))
        seen: dict[str, NDArray[np.float32]] = {}  # padding repeats itself
        for start, end in places:
            if text[start:end] not in seen:
                seen[text[start:end]] = self.logits(text[start:end], role, language)
        logits = np.stack([seen[text[start:end]] for start, end in places])  # (windows, labels)
        best = logits.argmax(0)
        values = 1 / (1 + np.exp(-np.clip(logits.max(0), -30, 30)))
        return [Score(label, value, *places[at]) for label, value, at in zip(self.labels, values.tolist(), best.tolist(), strict=True)]

    def explain(self, text: str, role: str, language: str, label: str) -> tuple[NDArray[np.float64], float]:
        """One weight a character of this window, and the bias; together they sum to the logit of `label`."""
        column = self.labels.index(label)
        slope, *offsets = self.calibration[f"{role}.{language}"]
        weights = np.zeros(len(text) + 1)
        found = extract(text)
        if len(found.buckets):
            distinct, place, count = np.unique(found.buckets, return_inverse=True, return_counts=True)
            factor = float(self.scales[column]) * slope / scale(len(distinct))
            share = self.table[found.buckets, column] * factor / count[place]
            ends = np.maximum(found.ends, found.starts + 1)
            per_character = share / (ends - found.starts)
            steps = np.zeros(len(text) + 2)
            np.add.at(steps, found.starts, per_character)
            np.add.at(steps, ends, -per_character)
            weights = np.cumsum(steps)[: len(text) + 1]
        return weights, float(offsets[column])
