"""Everything that a run needs to go on, in one file of plain arrays (.npz: nothing in it can be executed, and every array has a checksum).

A new checkpoint is written beside the old one, flushed to the disk, and takes its name in one step: at every instant one whole
checkpoint is there, also when the power fails or the disk is full.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assistant.errors import UsageError

NAME = "checkpoint.npz"


def save(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint. Raises UsageError when it cannot be written; the previous one stays whole."""
    arrays: dict[str, Any] = {name: t.detach().cpu().numpy() for name, t in tensors.items()}
    arrays["header"] = np.frombuffer(json.dumps(dict(header)).encode(), np.uint8)
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out:
            np.savez(out, **arrays)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        before = "the previous one is whole; make room and give the same command again" if path.exists() else "make room"
        raise UsageError(f"the checkpoint {path} cannot be written ({error.strerror}): {before}") from error


def load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors). Raises UsageError for a file that is damaged or no checkpoint."""
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            return header, {name: torch.from_numpy(file[name]) for name in file.files if name != "header"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no whole checkpoint ({error}): delete it to begin anew") from error


def whole(t: Tensor) -> Tensor:
    """`t` itself, or all of a tensor whose parts lie on several processes (every process must ask)."""
    gather = getattr(t, "full_tensor", None)
    full: Tensor = t if gather is None else gather()
    return full.detach()


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters as `p/NAME`, the optimiser's averages as `o/NAME/KEY`, and the state of torch's generator."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    tensors = {f"p/{name}": whole(p) for p, name in names.items() if p.requires_grad}
    for p, entry in optimizer.state.items():
        tensors |= {f"o/{names[p]}/{key}": whole(value) for key, value in entry.items() if isinstance(value, Tensor)}
    if any(p.is_cuda for p in names):
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    return tensors | {"random": torch.get_rng_state()}


@torch.no_grad()
def restore(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The opposite of `state`. Raises UsageError when the checkpoint is of another model."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    stored = {name.removeprefix("p/"): t for name, t in tensors.items() if name.startswith("p/")}
    if set(stored) != set(trained) or any(stored[name].shape != p.shape for name, p in trained.items()):
        raise UsageError("the checkpoint is of another model: give the same sizes as before, or another --output")
    for name, p in trained.items():
        _fill(p, stored[name])
        entry: dict[str, Tensor] = {}
        for key in (k for k in tensors if k.startswith(f"o/{name}/")):
            value = tensors[key]
            if value.shape == p.shape:
                slot = torch.zeros_like(p)
                _fill(slot, value)
                entry[key.rpartition("/")[2]] = slot
            else:
                entry[key.rpartition("/")[2]] = value.clone()
        if entry:
            optimizer.state[p] = entry
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random_cuda"])


def _fill(into: Tensor, full: Tensor) -> None:
    """Copy a whole tensor into one that may be spread over several processes."""
    mesh, placements = getattr(into, "device_mesh", None), getattr(into, "placements", None)
    if mesh is not None:
        from torch.distributed.tensor import distribute_tensor

        full = distribute_tensor(full.to(into.device), mesh, placements)
    into.copy_(full)
