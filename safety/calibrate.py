"""How far n-grams and encoder are believed, fitted on rows that taught neither: `fit_blend(rows, ensemble)`.

A logistic regression with weights that may not be negative, for each role and language. Its rows weigh as traffic does,
not as the files happen to: half of the weight lies on everyday messages. Then the offset is lowered, where need be,
until at most the allowed shares of harmless rows reach a risk of one half, where policies begin to caution.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from safety.ensemble import Ensemble
from safety.evaluate import average_precision, calibration_error, recall_at
from safety.labels import lesson
from safety.language import detect
from safety.normalize import base_view

EVERYDAY, BORDERLINE = 0.006, 0.30
"""The shares of everyday messages, and of harmless ones that sound harmful, whose risk may reach one half. The second is generous:
the rows that sound harmful carry the noisiest labels (XSafety labels by category)."""
SHARES = {"everyday": 3.0, "borderline": 1.0, "unsafe": 2.0, "safe post": 0.6, "unsafe post": 0.6}
"""How much each kind of row weighs as a whole."""
_RIDGE = 1e-3
_AT_ONCE = 256
_MOST = {"everyday": 1200, "borderline": 600, "unsafe": 600, "safe post": 300, "unsafe post": 300}
"""Rows of each kind, for each role and language; more would cost time and change little."""
NAMES = ("n-grams", "encoder", "encoder unsafe")


def fit_blend(
    rows: Iterable[Mapping[str, Any]], ensemble: Ensemble, say: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The blend by `role.language`, and what was measured: each part alone and the blend."""
    groups: dict[str, list[Mapping[str, Any]]] = {f"{role}.{lang}": [] for role in ("prompt", "response") for lang in ("zh", "en")}
    for row in rows:
        if row["role"] != "post" and not _certain(row):
            continue
        for role in ("prompt", "response"):
            if row["role"] in (role, "post"):
                groups[f"{role}.{detect(row['text'])}"].append(row)
    blend: dict[str, list[float]] = {}
    measured: dict[str, Any] = {}
    for key, found_rows in groups.items():
        role, lang = key.split(".")
        members = _sample(found_rows)
        kinds = [_kind(row) for row in members]
        unsafe = np.array([kind.startswith("unsafe") for kind in kinds])
        if unsafe.all() or not unsafe.any() or kinds.count("everyday") < 20:
            raise ValueError(f"too few {lang} {role} rows to calibrate with: add harmless (kind `benign`) and unsafe ones")
        seen = parts(members, ensemble, role, lang)
        weight = np.array([SHARES[kind] / kinds.count(kind) for kind in kinds])
        found = _regress(seen, unsafe, weight)
        risk = seen @ found[:3] + found[3]
        over = 0.0
        for kind, allowed in (("everyday", EVERYDAY), ("borderline", BORDERLINE)):
            mine = risk[np.array([k == kind for k in kinds])]
            if len(mine) >= 20:
                over = max(over, float(np.quantile(mine, 1 - allowed)))
        blend[key] = [*map(float, found[:3]), float(found[3]) - over]
        columns = {**{name: seen[:, i] for i, name in enumerate(NAMES)}, "blend": risk - over}
        measured[key] = {
            "rows": {kind: kinds.count(kind) for kind in SHARES},
            "weights": [round(float(value), 3) for value in blend[key]],
            "lowered": round(over, 3),
            "ece": round(calibration_error(unsafe, 1 / (1 + np.exp(-columns["blend"]))), 3),
            **{name: _figures(values, unsafe, kinds) for name, values in columns.items()},
        }
        say(f"{key}: {measured[key]['weights']}, lowered by {over:.2f}")
    return blend, measured


def parts(rows: list[Mapping[str, Any]], ensemble: Ensemble, role: str, lang: str) -> NDArray[np.float64]:
    """(rows, 3): what the risk is blended of."""
    texts = [base_view(row["text"]).text for row in rows]
    out = []
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        ensemble.prepare(some, role)
        out += [ensemble.parts(text, role, lang) for text in some]
    return np.array(out)


def _figures(values: NDArray[np.float64], unsafe: NDArray[np.bool_], kinds: list[str]) -> dict[str, float]:
    """Without the posts: the classes of a conversation."""
    asked = np.array([not kind.endswith("post") for kind in kinds])
    out = {"auprc": average_precision(unsafe[asked], values[asked]), "recall_at_1": recall_at(unsafe[asked], values[asked], 0.01)}
    if not asked.all():
        out["auprc_posts"] = average_precision(unsafe[~asked], values[~asked])
    return {name: round(value, 3) for name, value in out.items()}


def _sample(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As many rows of each kind as `_MOST` says, always the same ones."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: zlib.crc32(row["text"].encode("utf-8", "replace"))):
        kept.setdefault(_kind(row), []).append(row)
    return [row for kind in sorted(kept) for row in kept[kind][: _MOST[kind]]]


def _certain(row: Mapping[str, Any]) -> bool:
    """Whether the row's label can be taken at its word: replies that are unsafe only in their context, and questions that are
    harmful only in a broad sense, would blur what is measured."""
    taught = lesson(row)
    return taught is not None and taught.weight >= 0.5


def _kind(row: Mapping[str, Any]) -> str:
    if row["role"] == "post":
        return f"{row['label']} post"
    if row["label"] == "unsafe":
        return "unsafe"
    return "everyday" if row["kind"] == "benign" else "borderline"


def _regress(x: NDArray[np.float64], y: NDArray[np.bool_], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Three weights that are not negative, and an offset."""
    inputs, targets, weights = torch.from_numpy(x), torch.from_numpy(y.astype(float)), torch.from_numpy(weight / weight.sum())
    raw = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        slopes = torch.nn.functional.softplus(raw[:3])
        value = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ slopes + raw[3], targets, weight=weights, reduction="sum")
        value = value + _RIDGE * (slopes**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = raw.detach()
    return np.append(torch.nn.functional.softplus(found[:3]).numpy(), float(found[3]))
