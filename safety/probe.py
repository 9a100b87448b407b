"""A probe: one linear layer on the chat model's own hidden states, which says of every token of a reply how risky the
reply looks there, at the price of one product (Alain & Bengio 2016; as a guard: Constitutional Classifiers++, 2026).

    risk(h) = σ(w · (h − μ) / s + b),   h the state after the token, behind the model's last norm

It belongs to one model, named by the SHA-256 of its file. Knows nothing of how states are gathered; needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FORMAT = "pellucid-probe-1"
_STEPS, _DECAY = 400, 1e-2
Floats = NDArray[np.float32]


class ProbeError(Exception):
    """The probe cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Weights (D,) with the scaling folded in, the offset, and whose model they belong to."""

    weight: Floats
    bias: float
    model: str
    """SHA-256 of the model's file."""

    def risk(self, state: Floats) -> float:
        """The risk, 0 to 1, of one state (D,)."""
        return 1 / (1 + math.exp(-min(max(float(self.weight @ state) + self.bias, -30.0), 30.0)))

    def logits(self, states: Floats) -> Floats:
        """(tokens, D) to (tokens,)."""
        return np.asarray(states @ self.weight + self.bias, np.float32)

    def save(self, path: Path) -> str:
        """Write it; returns the SHA-256 of the file."""
        header = json.dumps({"format": FORMAT, "model": self.model, "bias": self.bias}, sort_keys=True)
        with path.open("wb") as out:
            np.savez_compressed(out, header=np.frombuffer(header.encode(), np.uint8), weight=self.weight)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Read it. Raises ProbeError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                header, weight = json.loads(file["header"].tobytes()), file["weight"].astype(np.float32)
            if header["format"] != FORMAT or weight.ndim != 1:
                raise ValueError(f"it is not of the format {FORMAT}")
            return cls(weight, float(header["bias"]), str(header["model"]))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
            raise ProbeError(f"{path}: the probe cannot be read ({error}); run `pellucid safety probe` again") from error


def fit_probe(states: list[Floats], unsafe: NDArray[np.bool_], model: str) -> Probe:
    """Logistic regression on the states (tokens, D) of every reply; each reply weighs the same, and both classes do.

    Deterministic. Raises ProbeError when a class is missing.
    """
    if unsafe.all() or not unsafe.any():
        raise ProbeError("a probe needs safe and unsafe replies: add the kind that is missing")
    x = np.concatenate(states).astype(np.float64)
    y = np.repeat(unsafe.astype(float), [len(s) for s in states])
    share = np.where(unsafe, 0.5 / unsafe.sum(), 0.5 / (~unsafe).sum())
    weight = np.repeat(share / [len(s) for s in states], [len(s) for s in states])
    mean, scale = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / scale
    w, b = np.zeros(z.shape[1]), 0.0
    velocity, momentum = np.zeros(z.shape[1] + 1), 0.9
    rate = 4.0 / (0.25 * float((z**2).sum(1).mean()) / 20 + 1.0)
    for _ in range(_STEPS):  # gradient descent with Nesterov's momentum
        ahead, off = w + momentum * velocity[:-1], b + momentum * velocity[-1]
        error = weight * (1 / (1 + np.exp(-np.clip(z @ ahead + off, -30, 30))) - y)
        gradient = np.append(z.T @ error + _DECAY * ahead, error.sum())
        velocity = momentum * velocity - rate * gradient
        w, b = w + velocity[:-1], b + float(velocity[-1])
    folded = w / scale
    return Probe(folded.astype(np.float32), b - float(folded @ mean), model)


def of_reply(logits: Floats) -> float:
    """One number for a reply: the mean over its tokens."""
    return float(np.mean(logits)) if len(logits) else 0.0
