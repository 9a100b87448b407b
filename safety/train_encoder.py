"""Training of the encoder from the data files to the shipped weights: `train_encoder(…)`. One seed, one result.

Fine-tune (`finetune`), measure the rounding steps (`reader.measure_inputs`), fit the gate (`gate.fit_gate`) and how far
n-grams and encoder are believed (`calibrate.fit_blend`) on rows that taught neither, write it all into one file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safety.base_weights import BaseWeights
from safety.calibrate import fit_blend
from safety.classifier import Classifier
from safety.curriculum import EVERYTHING, PLAN, Curriculum, Example, contrast_rows
from safety.encoder import LAYERS, Trunk, tokenizer
from safety.ensemble import Ensemble
from safety.finetune import RANK, finetune
from safety.gate import fit_gate
from safety.normalize import base_view
from safety.reader import Reader, measure_inputs, read_weights, write_weights
from safety.synthesis import prose, requests, sentences, written
from safety.train import held_out, read

_MEASURED = 200  # texts that the rounding steps are measured on
Say = Callable[[str], None]


def train_encoder(
    data: Sequence[Path],
    output: Path,
    base: Path,
    ngrams: Path,
    work: Path,
    seed: int = 0,
    *,
    dev: Sequence[Path] = (),
    extra: Sequence[Path] = (),
    plain: Sequence[Path] = (),
    start: Path | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Write the encoder's weights to `output`; training that was interrupted goes on from `work`.

    `extra` are the project's own rows (contrast pairs and harmless messages with alarming words), `plain` text files of harmless prose.
    `start` are weights that were trained so far: only the rounds that they have not seen follow. Raises ValueError, BaseWeightsError.
    """
    taught = [row for row in [*read(data), *written()] if not held_out(row)]
    aside = _aside(data, dev)
    own = contrast_rows(read(extra))
    say(f"{len(taught)} rows to learn from, {len(own)} of our own, {len(aside)} kept aside")
    curriculum = Curriculum([*taught, *sentences(seed), *requests(seed), *prose(plain, seed)], own, seed)
    weights = BaseWeights(base)
    known, seen = (None, 0) if start is None else _so_far(start)
    parameters = finetune(curriculum, weights, work, seed=seed, start=known, seen_rounds=seen, say=say)
    examples = curriculum.round(len(PLAN), EVERYTHING)
    return finish(parameters, weights, output, ngrams, examples, aside, {"seed": seed, "rounds": len(PLAN)}, say)


def _aside(data: Sequence[Path], dev: Sequence[Path]) -> list[dict[str, Any]]:
    """What teaches nothing and calibrates: rows kept aside from the data files and from our own, and the dev files."""
    return [*(row for row in [*read(data), *written()] if held_out(row)), *written("aside"), *read(dev)]


def _so_far(path: Path) -> tuple[dict[str, Tensor], int]:
    """The parameters of a weights file and the number of rounds that they have seen."""
    arrays, header = read_weights(path)
    parameters = {name[2:]: torch.from_numpy(value.astype("float32")) for name, value in arrays.items() if name.startswith("p/")}
    return parameters, int(header["rounds"])


def finish(
    parameters: dict[str, Tensor],
    base: BaseWeights,
    output: Path,
    ngrams: Path,
    examples: Sequence[Example],
    aside: Sequence[dict[str, Any]],
    facts: dict[str, Any],
    say: Say,
) -> dict[str, Any]:
    """Rounding steps, gate, calibration, file: what comes after the fine-tuning."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    texts = [base_view(row["text"]).text[:600] for row in random.Random(0).sample(list(aside), min(_MEASURED, len(aside)))]
    inputs = measure_inputs(Trunk(base), parameters, tokenizer(base), texts)
    facts = {"layers": LAYERS, "rank": RANK, **facts}
    write_weights(output, parameters, inputs, facts)
    parameters = {**parameters, **fit_gate(Reader.load(base.path, output), examples, facts["seed"], say)}
    write_weights(output, parameters, inputs, facts)
    blend, measured = calibrate(output, base.path, ngrams, aside, say)
    digest = write_weights(output, parameters, inputs, {**facts, "blend": blend})
    torch.set_num_threads(threads)
    return {"sha256": digest, **facts, "calibration": measured}


def calibrate(
    weights: Path, base: Path, ngrams: Path, aside: Sequence[dict[str, Any]], say: Say = lambda line: None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The blend for weights that exist, as the guard would use them."""
    return fit_blend(aside, Ensemble(Classifier.load(ngrams), Reader.load(base, weights)), say)


def recalibrate(weights: Path, base: Path, ngrams: Path, data: Sequence[Path], dev: Sequence[Path], say: Say) -> dict[str, Any]:
    """Fit the blend anew and write it into `weights`: after the n-grams were trained again, or for other rows."""
    arrays, header = read_weights(weights)
    aside = _aside(data, dev)
    blend, measured = calibrate(weights, base, ngrams, aside, say)
    parts = {kind: {n[2:]: torch.from_numpy(v) for n, v in arrays.items() if n.startswith(kind)} for kind in ("p/", "i/")}
    digest = write_weights(weights, parts["p/"], parts["i/"], {**header, "blend": blend})
    return {"sha256": digest, "calibration": measured}
