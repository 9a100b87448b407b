"""Training of the classifier, reproducible from the data files: `train(data, output, seed)`.

One linear layer over hashed runs. Posts (tweets, forum lines) are another world than prompts, so they have a second
layer of their own, which is thrown away: what is true of posts alone does not reach the shared weights. Rows that are
unsafe in an unknown way ask only that some category fires (1 − Π(1 − p)). Then: scores on rows kept aside set the
offsets, so that a fixed share of harmless messages is cautioned, in each language and role apart; weights are rounded
to eight bits.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from safety.classifier import Classifier
from safety.features import BUCKETS, WINDOW, bag, scale
from safety.labels import LABELS, Lesson, lesson
from safety.language import detect
from safety.normalize import base_view
from safety.synthesis import sentences

EPOCHS, BATCH, RATE, DECAY = 3, 512, 0.02, 2e-6
EVERYDAY, BORDERLINE = 0.006, 0.12
"""The shares of everyday messages, and of harmless ones that sound harmful, whose score may reach 0.5, where caution
begins."""


@dataclass(slots=True)
class Rows:
    """Training rows: their buckets back to back, and what each teaches."""

    buckets: torch.Tensor
    offsets: torch.Tensor
    lessons: list[Lesson]
    post: torch.Tensor
    keys: list[str]
    """`role.language.label` of each row; safe ones also say whether they are everyday or borderline."""

    def __len__(self) -> int:
        return len(self.lessons)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Buckets, starts and the factor of the rows `index`."""
        pieces = [self.buckets[self.offsets[i] : self.offsets[i + 1]] for i in index.tolist()]
        lengths = torch.tensor([len(piece) for piece in pieces])
        starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)[:-1]])
        return torch.cat(pieces).long(), starts, torch.tensor([1 / scale(len(piece)) for piece in pieces])


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The rows of JSONL files, gzipped or not. Raises ValueError naming the file and line of what is no row."""
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                        row["text"], row["label"]
                    except (ValueError, KeyError, TypeError) as error:
                        raise ValueError(f"{path}, line {number}: not a row with text and label; correct the file") from error
                    yield row


def held_out(row: Mapping[str, Any]) -> bool:
    """One row in twenty is kept for calibration, always the same ones."""
    return zlib.crc32(str(row.get("id", row["text"])).encode("utf-8", "replace")) % 20 == 0


def train(
    data: Path | Sequence[Path],
    output: Path,
    seed: int = 0,
    *,
    dev: Sequence[Path] = (),
    extra: Sequence[Path] = (),
    epochs: int = EPOCHS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train on `data` (gzip JSONL) and on the train half of `extra` (our contrast pairs), calibrate with rows kept
    aside and with `dev`, write the weights to `output`. The report says what was seen and what came out."""
    torch.manual_seed(seed)
    paths = [data] if isinstance(data, Path) else list(data)
    taught: list[dict[str, Any]] = []
    aside: list[dict[str, Any]] = []
    for row in read(paths):
        (aside if held_out(row) else taught).append(row)
    aside += [row for row in read(dev) if row.get("role") != "post"]
    own = [row | {"set": "contrast", "kind": "borderline_safe"} for row in read(extra) if row.get("split", "train") == "train"]
    say(f"{len(taught)} rows to learn from, {len(own)} contrast rows, {len(aside)} to calibrate with")
    rows = pack([*taught, *own, *sentences(seed)], own_weight=3.0)
    say(f"{len(rows)} windows, {len(rows.buckets)} features")
    table, bias = fit(rows, seed, epochs, say)
    model = quantise(table, bias)
    held = pack(aside)
    raw = np.stack([model.raw_of(held.buckets[a:b].numpy()) for a, b in zip(held.offsets[:-1], held.offsets[1:], strict=True)])
    model.calibration, measured = calibrate(raw + bias, held.keys, bias)
    digest = model.save(output)
    return {
        "rows": len(taught) + len(own),
        "windows": len(rows),
        "seed": seed,
        "sha256": digest,
        "calibration": measured,
    }


def pack(rows: Iterable[Mapping[str, Any]], own_weight: float = 1.0) -> Rows:
    """Fold, cut into windows (the first, and the last of a long text) and hash."""
    buckets: list[NDArray[np.int32]] = []
    lessons, post, keys = [], [], []
    for row in rows:
        taught = lesson(row)
        if taught is None:
            continue
        if row["set"] == "contrast":
            taught = Lesson(taught.targets, taught.any, taught.weight * own_weight)
        text = base_view(row["text"]).text
        pieces = [text[:WINDOW]] if len(text) <= WINDOW * 1.2 else [text[:WINDOW], text[-WINDOW:]]
        if row["set"] == "bipia_indirect" and row["label"] == "unsafe":
            pieces = pieces[:1] if row["category"].endswith("start") else pieces[-1:]
        for piece in pieces:
            buckets.append(bag(piece).astype(np.int32))
            lessons.append(taught)
            post.append(row["role"] == "post")
            sounds = ("." + ("everyday" if row["kind"] == "benign" else "borderline")) if row["label"] == "safe" else ""
            keys.append(f"{row['role']}.{detect(row['text'])}.{row['label']}{sounds}")
    offsets = torch.tensor([0, *np.cumsum([len(b) for b in buckets])], dtype=torch.long)
    return Rows(torch.from_numpy(np.concatenate(buckets)), offsets, lessons, torch.tensor(post), keys)


def fit(rows: Rows, seed: int, epochs: int, say: Callable[[str], None]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Learn the shared weights (BUCKETS × labels) and biases."""
    order = torch.Generator().manual_seed(seed)
    shared = torch.zeros(BUCKETS, len(LABELS), requires_grad=True)
    posts = torch.zeros(BUCKETS, len(LABELS), requires_grad=True)
    bias = torch.full((len(LABELS),), -3.0, requires_grad=True)
    post_bias = torch.full((len(LABELS),), -2.0, requires_grad=True)
    optimizer = torch.optim.AdamW([shared, posts, bias, post_bias], lr=RATE, weight_decay=DECAY / RATE, betas=(0.9, 0.99))
    targets = torch.tensor([[row.targets.get(name, 0.0) for name in LABELS] for row in rows.lessons])
    known = torch.tensor([[float(name in row.targets) for name in LABELS] for row in rows.lessons])
    some = torch.tensor([row.any for row in rows.lessons])
    weight = torch.tensor([row.weight for row in rows.lessons])
    steps = epochs * (len(rows) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.02, 1 - step / steps))
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(rows), generator=order).split(BATCH):  # type: ignore[no-untyped-call]
            ids, starts, norm = rows.batch(index)
            logits = torch.nn.functional.embedding_bag(ids, shared, starts, mode="sum") * norm[:, None] + bias
            is_post = rows.post[index]
            if is_post.any():
                own = torch.nn.functional.embedding_bag(ids, posts, starts, mode="sum") * norm[:, None] + post_bias
                logits = logits + own * is_post[:, None]
            loss = _loss(logits, targets[index], known[index], some[index], weight[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        say(f"epoch {epoch + 1} of {epochs}: loss {total / len(rows):.4f}")
    return shared.detach().numpy(), bias.detach().numpy()


def _loss(logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor, some: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    told = (each * known).sum(1)
    none = torch.nn.functional.logsigmoid(-logits).sum(1)  # log of the chance that no category applies
    fires = -torch.log1p(-none.clamp(max=-1e-4).exp())
    return ((told + fires * some) * weight).mean()


def quantise(table: NDArray[np.float32], bias: NDArray[np.float32]) -> _Uncalibrated:
    """Eight bits a weight; the few largest are clipped."""
    scales = (np.quantile(np.abs(table), 0.9999, axis=0) / 127).astype(np.float32)
    rounded = np.clip(np.round(table / scales), -127, 127).astype(np.int8)
    return _Uncalibrated(LABELS, rounded, scales, {})


class _Uncalibrated(Classifier):
    def raw_of(self, buckets: NDArray[np.int32]) -> NDArray[np.float32]:
        total = self.table[buckets].sum(0, dtype=np.int64)
        return np.asarray(total * self.scales / scale(len(buckets)), np.float32)


def calibrate(raw: NDArray[np.float32], keys: Sequence[str], bias: NDArray[np.float32]) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """For each role and language: 0.5 where only the allowed shares of harmless rows lie above, 0.02 for the middle
    one of them."""
    result: dict[str, list[float]] = {}
    measured: dict[str, Any] = {}
    top = raw.max(1)
    where = np.array(keys)
    for role in ("prompt", "response"):
        for lang in ("zh", "en"):
            everyday = top[where == f"{role}.{lang}.safe.everyday"]
            borderline = top[where == f"{role}.{lang}.safe.borderline"]
            unsafe = top[where == f"{role}.{lang}.unsafe"]
            if len(everyday) < 20:
                raise ValueError(f"too few harmless {lang} {role} rows to calibrate with: add rows of kind `benign`")
            threshold = float(np.quantile(everyday, 1 - EVERYDAY))
            if len(borderline) >= 20:
                threshold = max(threshold, float(np.quantile(borderline, 1 - BORDERLINE)))
            slope = 4.0 / (threshold - float(np.median(everyday)))
            result[f"{role}.{lang}"] = [slope, *((float(b) - threshold) * slope for b in bias)]
            measured[f"{role}.{lang}"] = {
                "everyday": len(everyday),
                "borderline": len(borderline),
                "unsafe": len(unsafe),
                "threshold": round(threshold, 3),
                "slope": round(slope, 3),
                "everyday_cautioned": round(float((everyday > threshold).mean()), 4),
                "unsafe_cautioned": round(float((unsafe > threshold).mean()), 4) if len(unsafe) else None,
            }
    return result, measured
