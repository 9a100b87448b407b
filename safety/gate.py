"""The gate of the encoder: after its first layers, whether a text could be anything but harmless; `fit_gate(…)`.

A logistic regression on what those layers give, taught by what the last layer said about the same texts, and a ridge
regression that guesses the last layer's logits where reading stops. The gate's offset is set on texts kept aside so that
of those which the last layer suspects, hardly any is stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from safety.curriculum import Example
from safety.encoder import ROLES
from safety.reader import Reader

SUSPECT, LOST = -2.0, 0.01
"""From which greatest logit of the last layer on a text must not be stopped, and the share of such texts that may be."""
_CLEAR = -2.0  # what the gate learns to let through
_MOST = {"prompt": 3000, "response": 2000}
_KEPT = 4  # one text in so many sets the offset
_RIDGE = 30.0


def fit_gate(reader: Reader, examples: Sequence[Example], seed: int, say: Callable[[str], None]) -> dict[str, Tensor]:
    """`early.role.w` (outputs + 1, 3 · width) and `early.role.b`: the guesses, and last the gate."""
    made: dict[str, Tensor] = {}
    for role in ROLES:
        mine = [e for e in examples if e.role in (role, "post")]
        mine = random.Random(f"{seed} gate {role}").sample(mine, min(len(mine), _MOST[role]))
        early, late = reader.pooled([e.text for e in mine], role, [e.prompt for e in mine])
        aside = torch.arange(len(mine)) % _KEPT == 0
        worst = late.amax(1)
        gate = _logistic(early[~aside], worst[~aside] > _CLEAR)
        calm = ~aside & (worst < 0)
        guesses = _ridge(early[calm], late[calm].clamp(-8, 0))
        score = early @ gate[:-1] + gate[-1]
        suspects = score[aside & (worst > SUSPECT)]
        threshold = float(suspects.quantile(LOST)) if len(suspects) else 0.0
        weight = torch.cat([guesses[:-1].T, gate[None, :-1]])
        bias = torch.cat([guesses[-1], gate[None, -1] - threshold])
        made[f"early.{role}.w"], made[f"early.{role}.b"] = weight, bias
        stopped = float((score[aside & (worst < _CLEAR)] < threshold).float().mean())
        say(f"gate of {role}: {len(mine)} texts, {stopped:.0%} of the clear ones stop after the first layers")
    return made


def _logistic(x: Tensor, y: Tensor) -> Tensor:
    """Weights and offset, with a little decay; inputs are scaled for the search only."""
    scale = x.std(0).clamp(min=1e-3)
    inputs, targets = x / scale, y.float()
    found = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ found[:-1] + found[-1], targets)
        value = value + 2e-3 * (found[:-1] ** 2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return torch.cat([found.detach()[:-1] / scale, found.detach()[-1:]])


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """(inputs + 1, outputs): weights, and last the offsets."""
    inputs, middle = x - x.mean(0), y.mean(0)
    weights = torch.linalg.solve(inputs.T @ inputs + _RIDGE * torch.eye(x.shape[1]), inputs.T @ (y - middle))
    return torch.cat([weights, (middle - x.mean(0) @ weights)[None]])
