"""Training on several devices or machines: PyTorch's own `torchrun` starts the processes, FSDP2 spreads the parameters over them.

Alone, everything here does nothing: one process and many run the same code.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


def active() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized()


def begin(device: torch.device) -> torch.device:
    """Join the other processes, where `torchrun` started some; returns the device that is this process's own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not active():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if active() and device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device


def end() -> None:
    """Leave the other processes."""
    if active():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if active() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if active() else 1


def first() -> bool:
    """Whether this process writes the files and speaks to the person."""
    return rank() == 0


def summed(t: Tensor) -> Tensor:
    """The sum of `t` over all processes."""
    if active():
        dist.all_reduce(t)
    return t


def over_processes(module: nn.Module) -> nn.Module:
    """Spread the parameters of every block, and of the rest, over the processes."""
    if active():
        from torch.distributed.fsdp import fully_shard

        for block in getattr(module.model, "blocks", ()):
            fully_shard(block)
        fully_shard(module)
    return module


def settle(module: nn.Module) -> None:
    """After reading without a gradient: every process keeps its own part of the parameters again."""
    reshard = getattr(module, "reshard", None)
    if callable(reshard):
        reshard()
