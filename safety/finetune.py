"""Fine-tuning of the encoder: low-rank changes, norms, biases and heads; the trunk's own weights stay as they are.

Warm-up, then each round's own rate (`curriculum.PLAN`); the later ones bring the contrast pairs. A checkpoint every few
minutes holds everything: training that was stopped goes on exactly where it was. The same seed, files, rounds and number
of threads give the same weights.
"""

from __future__ import annotations

import json
import os
import random
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safety.base_weights import BaseWeights
from safety.curriculum import PLAN, Curriculum, Example, Round, batches
from safety.encoder import ROLES, Trunk, encode, initial, pad, pool, tokenizer
from safety.labels import LABELS
from safety.reader import OUTPUTS

RANK, TOKENS, BUDGET = 24, 104, 2048
PROMPT = 32
"""Tokens of the prompt that are read together with a reply."""
_RATES = {"adapter": 1e-3, "norm": 3e-4, "head": 2e-3}
_WARM = 150
_SAVE_EVERY = 240.0  # seconds
_DROPPED = 0.1  # of what the heads read
_UNSAFE = 2.0  # weight of the question whether anything is wrong, against ten categories


def finetune(
    curriculum: Curriculum,
    base: BaseWeights,
    work: Path,
    *,
    seed: int = 0,
    rounds: Sequence[Round] = PLAN,
    start: Mapping[str, Tensor] | None = None,
    seen_rounds: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Tensor]:
    """Train, or go on from the checkpoint in `work`; returns the parameters by name.

    `start` are weights that have seen the first `seen_rounds` rounds already: only the later ones follow, after a warm-up of their own.
    """
    torch.manual_seed(seed)
    trunk, split = Trunk(base), tokenizer(base)
    parameters = initial(trunk, len(OUTPUTS), RANK, seed)
    for name, value in parameters.items():
        if start is not None:
            value.copy_(start[name])
        value.requires_grad_(True)
    groups = [{"params": [v for n, v in parameters.items() if _kind(n) == kind], "lr": rate} for kind, rate in _RATES.items()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    checkpoint = work / "finetune.npz"
    done = _resume(checkpoint, parameters, optimizer)
    if done:
        say(f"going on after step {done}")
    step, total, seen, began, saved = 0, 0.0, 0, time.monotonic(), time.monotonic()
    for number, plan in list(enumerate(rounds))[seen_rounds:]:
        if plan.steps is not None and step + plan.steps <= done:  # all of it was done
            step += plan.steps
            continue
        examples = curriculum.round(number, plan)
        ids = [read_ids(split, trunk, e.text, e.prompt) for e in examples]
        order = list(batches([len(row) for row in ids], BUDGET, random.Random(f"{seed} order {number}")))
        say(f"round {number + 1} of {len(rounds)}: {len(examples)} examples, {sum(map(len, ids))} tokens, {len(order)} steps")
        for place, batch in enumerate(order[: plan.steps]):
            step += 1
            if step <= done:
                continue
            share = plan.begin + (plan.end - plan.begin) * place / len(order)
            for group, rate in zip(optimizer.param_groups, _RATES.values(), strict=True):
                group["lr"] = rate * min(1.0, step / _WARM) * share
            keep = _kept(len(batch), trunk, f"{seed} kept {step}")
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced()):
                loss = _loss(trunk, parameters, [ids[i] for i in batch], [examples[i] for i in batch], keep)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimizer.step()
            total, seen = total + float(loss.detach()), seen + 1
            if step % 50 == 0:
                say(f"step {step} ({place + 1} of {len(order)}): loss {total / seen:.4f}, {(time.monotonic() - began) / seen:.2f} s a step")
                total, seen, began = 0.0, 0, time.monotonic()
            if time.monotonic() - saved > _SAVE_EVERY:
                _save(checkpoint, step, parameters, optimizer)
                saved = time.monotonic()
    _save(checkpoint, step, parameters, optimizer)
    return {name: value.detach() for name, value in parameters.items()}


def _kind(name: str) -> str:
    return "head" if name.startswith("head") else "adapter" if name.endswith((".A", ".B")) else "norm"


def read_ids(split: Any, trunk: Trunk, text: str, prompt: str = "") -> list[int]:
    """Token ids with start and end, cut to what is read at once; a prompt stands before its reply as the first of a pair."""
    ids = split.encode(text, add_special_tokens=False).ids
    before = [*split.encode(prompt, add_special_tokens=False).ids[:PROMPT], trunk.eos, trunk.eos] if prompt else []
    return [trunk.bos, *before, *ids[: TOKENS - 2 - len(before)], trunk.eos]


def reduced() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than float32."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _kept(rows: int, trunk: Trunk, seed: str) -> Tensor:
    """(rows, 3 · width): the factors of what the heads read, drawn anew for every step and the same for the same seed."""
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return (torch.rand(rows, 3 * trunk.shape.width, generator=generator) >= _DROPPED) / (1 - _DROPPED)


def _loss(trunk: Trunk, p: Mapping[str, Tensor], ids: Sequence[Sequence[int]], examples: Sequence[Example], keep: Tensor) -> Tensor:
    """What the adapted trunk and its heads have to learn from these texts."""
    tokens, mask = pad(ids, trunk.pad)
    pooled = pool(encode(trunk, p, trunk.embed(tokens), mask).float(), mask) * keep
    with torch.autocast("cpu", enabled=False):
        logits = torch.stack([pooled @ p[f"head.{role}.w"].T + p[f"head.{role}.b"] for role in ROLES], 1)
        return loss_of(logits, examples)


def loss_of(logits: Tensor, examples: Sequence[Example]) -> Tensor:
    """logits (batch, roles, outputs) → (). Known categories by cross-entropy; "some category" by 1 − Π(1 − p); and whether anything is
    wrong at all."""
    share = torch.tensor([[0.5, 0.5] if e.role == "post" else [float(e.role == role) for role in ROLES] for e in examples])
    targets = torch.tensor([[e.lesson.targets.get(name, 0.0) for name in LABELS] for e in examples])[:, None].expand(-1, 2, -1)
    known = torch.tensor([[float(name in e.lesson.targets) for name in LABELS] for e in examples])[:, None]
    some = torch.tensor([float(e.lesson.any) for e in examples])[:, None]
    unsafe = torch.tensor([float(e.unsafe) for e in examples])[:, None].expand(-1, 2)
    weight = torch.tensor([e.weight for e in examples])[:, None]
    categories, risk = logits[..., :-1], logits[..., -1]
    cross = torch.nn.functional.binary_cross_entropy_with_logits
    told = (cross(categories, targets, reduction="none") * known).sum(2)
    none = torch.nn.functional.logsigmoid(-categories).sum(2)
    fires = -torch.log1p(-none.clamp(max=-1e-4).exp())
    asked = cross(risk, unsafe, reduction="none") * _UNSAFE
    return ((told + fires * some + asked) * weight * share).sum() / share.sum()


def _save(path: Path, step: int, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Everything that training needs to go on, in one step."""
    arrays = {f"p/{name}": value.detach().numpy() for name, value in parameters.items()}
    state = optimizer.state_dict()["state"]
    for index, entry in state.items():
        arrays |= {f"o/{index}/{key}": value.numpy() for key, value in entry.items()}
    arrays["header"] = np.frombuffer(json.dumps({"step": step}).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".part").open("wb") as out:
        np.savez(out, **arrays)  # type: ignore[arg-type]
    os.replace(path.with_suffix(".part"), path)


def _resume(path: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint into parameters and optimiser; returns the steps that were done, 0 without one."""
    if not path.exists():
        return 0
    with np.load(path, allow_pickle=False) as file:
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(torch.from_numpy(file[f"p/{name}"]))
        state: dict[int, dict[str, Tensor]] = {}
        for name in file.files:
            if name.startswith("o/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = torch.from_numpy(file[name])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(json.loads(file["header"].tobytes())["step"])
