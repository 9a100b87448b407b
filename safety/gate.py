"""The gate of the encoder: after its first layers, whether a text could be anything but harmless; `fit_gate(…)`.

A small network on what those layers give, taught by what the last layer said about the same texts (a linear map was tried: it lets half as
much through), and a ridge regression that guesses the last layer's logits where reading stops. The gate's offset is set on texts kept
aside so that of those which the last layer suspects, hardly any is stopped.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from safety.curriculum import Example
from safety.encoder import ROLES
from safety.reader import Reader

SUSPECT, LOST = -2.0, 0.004
"""From which greatest logit of the last layer on a text must not be stopped, and the share of such texts that may be."""
_CLEAR = -2.0  # what the gate learns to let through
_MOST = {"prompt": 26000, "response": 12000}
_KEPT = 4  # one text in so many sets the offset
_RIDGE = 30.0
HIDDEN, _EPOCHS, _BATCH, _RATE, _DECAY, _DROPPED = 96, 12, 64, 1e-3, 0.1, 0.1


def fit_gate(reader: Reader, examples: Sequence[Example], seed: int, say: Callable[[str], None]) -> dict[str, Tensor]:
    """`early.role.w` (outputs, 3 · width), `.b`: the guesses; `gate.role.w` (HIDDEN, 3 · width), `.b`, `.v` (HIDDEN,), `.c`: the gate."""
    made: dict[str, Tensor] = {}
    for role in ROLES:
        mine = [e for e in examples if e.role in (role, "post")]
        mine = random.Random(f"{seed} gate {role}").sample(mine, min(len(mine), _MOST[role]))
        early, late = reader.pooled([e.text for e in mine], role, [e.prompt for e in mine])
        aside = torch.arange(len(mine)) % _KEPT == 0
        worst = late.amax(1)
        gate = _network(early[~aside], worst[~aside] > _CLEAR, seed)
        calm = ~aside & (worst < 0)
        guesses = _ridge(early[calm], late[calm].clamp(-8, 0))
        score = doubt(early, gate)
        suspects = score[aside & (worst > SUSPECT)]
        threshold = float(suspects.quantile(LOST)) if len(suspects) else 0.0
        made[f"early.{role}.w"], made[f"early.{role}.b"] = guesses[:-1].T.contiguous(), guesses[-1]
        made |= {f"gate.{role}.{name}": value for name, value in {**gate, "c": gate["c"] - threshold}.items()}
        clear = aside & (worst < _CLEAR)
        stopped = float((score[clear] < threshold).float().mean()) if clear.any() else 0.0
        say(f"gate of {role}: {len(mine)} texts, {stopped:.0%} of the clear ones stop after the first layers")
    return made


def doubt(early: Tensor, gate: Mapping[str, Tensor]) -> Tensor:
    """(texts, 3 · width) → (texts,): below 0 nothing can be wrong."""
    return F.linear(F.gelu(F.linear(early, gate["w"], gate["b"])), gate["v"][None])[:, 0] + gate["c"]


def _network(x: Tensor, y: Tensor, seed: int) -> dict[str, Tensor]:
    """Trained on x (texts, 3 · width) to say y (texts,), by cross-entropy; the scaling of the inputs is folded into the weights."""
    middle, scale = x.mean(0), x.std(0) + 1e-3
    inputs, targets = (x - middle) / scale, y.float()
    generator = torch.Generator().manual_seed(seed)
    width = x.shape[1]
    gate = {
        "w": (torch.rand(HIDDEN, width, generator=generator) * 2 - 1) / math.sqrt(width), "b": torch.zeros(HIDDEN),
        "v": (torch.rand(HIDDEN, generator=generator) * 2 - 1) / math.sqrt(HIDDEN), "c": torch.zeros(1),
    }  # fmt: skip
    for value in gate.values():
        value.requires_grad_(True)
    optimizer = torch.optim.AdamW(gate.values(), lr=_RATE, weight_decay=_DECAY)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(x), generator=generator), _BATCH):
            inner = F.gelu(F.linear(inputs[rows], gate["w"], gate["b"]))
            kept = torch.rand(inner.shape, generator=generator) > _DROPPED
            said = F.linear(inner * kept / (1 - _DROPPED), gate["v"][None])[:, 0] + gate["c"]
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(said, targets[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    found = {name: value.detach() for name, value in gate.items()}
    weight = found["w"] / scale
    return {**found, "w": weight, "b": found["b"] - weight @ middle}


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """(inputs + 1, outputs): weights, and last the offsets."""
    inputs, middle = x - x.mean(0), y.mean(0)
    weights = torch.linalg.solve(inputs.T @ inputs + _RIDGE * torch.eye(x.shape[1]), inputs.T @ (y - middle))
    return torch.cat([weights, (middle - x.mean(0) @ weights)[None]])
