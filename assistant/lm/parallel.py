"""One large model over several devices: tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053) through torch's DTensor.

Every process has its own heads and its own features of the feed-forward network: qkv and gate-up are cut by rows, out and down by columns,
and what the processes give is added up twice a layer. Norms, embeddings and the output matrix are whole everywhere. `torchrun` starts the
processes; the first one runs the program and tells the others what it reads, and they read the same.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.errors import ModelError, UsageError
from assistant.lm.config import Config
from assistant.lm.kv_cache import KVCache
from assistant.lm.transformer import Block, Transformer

PATIENCE = timedelta(days=30)
"""How long the others wait for a person to type."""
_END = -1


class Share(nn.Linear):
    """A matrix of which every process has a part (a DTensor); `linear` of `transformer.py` leaves the product to it."""

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b in the precision of the weights."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def local(config: Config, processes: int) -> Config:
    """What one process has of a model. Raises UsageError when heads or features cannot be divided."""
    for number, what in ((config.n_heads, "heads"), (config.n_kv_heads, "key-value heads"), (config.ffn_width, "features")):
        if number % processes:
            raise UsageError(f"{number} {what} cannot be shared by {processes} processes: start a number of them that divides it")
    return dataclasses.replace(
        config, n_heads=config.n_heads // processes, n_kv_heads=config.n_kv_heads // processes, ffn_width=config.ffn_width // processes
    )


def cut(block: Block, device: torch.device) -> None:
    """Leave this process its part of a block's four matrices. All processes must call it with the same whole block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    size, c = group.size, block.config
    block.config = local(c, size)
    d = c.head_width
    parts = {"qkv": (c.n_heads * d, c.n_kv_heads * d, c.n_kv_heads * d), "gate_up": (c.ffn_width,) * (1 + c.gated), "out": (), "down": ()}
    for name, rows in parts.items():
        whole: nn.Linear = getattr(block, name)
        order = interleaved(rows, size).to(device) if rows else slice(None)
        with torch.device("meta"):
            share = Share(whole.in_features, whole.out_features, bias=whole.bias is not None)
        share.weight = nn.Parameter(whole.weight[order], requires_grad=False)
        if whole.bias is not None:
            share.bias = nn.Parameter(whole.bias[order], requires_grad=False)
        setattr(block, name, share)
    styles = {"qkv": ColwiseParallel(), "gate_up": ColwiseParallel(), "out": RowwiseParallel(), "down": RowwiseParallel()}
    mesh = init_device_mesh(device.type, (size,))
    parallelize_module(block, mesh, cast("dict[str, Any]", styles), src_data_rank=None)  # None: each has read the file itself


def interleaved(rows: Sequence[int], processes: int) -> Tensor:
    """The order of the rows of matrices stacked with so many rows each, in which every process's part stands together."""
    order, first = [], 0
    for count in rows:
        order.append(torch.arange(first, first + count).view(processes, -1))
        first += count
    return torch.cat(order, 1).flatten()


@dataclass
class Group:
    """The processes that share one model."""

    size: int = 1
    rank: int = 0
    told: bool = False
    """Whether the others know what to load."""
    reading: bool = False
    """Whether a pass through the model has begun and not ended."""


group = Group()
"""This process's; of size 1 outside of `together`."""


@contextmanager
def together(follower: Callable[[dict[str, Any]], tuple[Transformer, KVCache]]) -> Iterator[bool]:
    """Around a program that `torchrun` started several times: True in the process that is to run it.

    In the others the body must do nothing: before it they load with `follower` what the first one announces, and follow it until it ends.
    """
    # What is said goes over the processor, whatever device computes.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    group.size, group.rank = dist.get_world_size(), dist.get_rank()
    try:
        if group.rank and (settings := _settings()) is not None:
            _follow(*follower(settings))
        yield group.rank == 0
    finally:
        if group.rank == 0 and not group.reading:  # in the middle of a pass nobody listens: torchrun ends the others
            _say(_END, 0)
        dist.destroy_process_group()
        group.__init__()  # type: ignore[misc]


def own(device: torch.device) -> torch.device:
    """This process's own device of that kind."""
    if group.size == 1 or device.type != "cuda":
        return device
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def neighbours() -> int:
    """How many of the processes share this machine's cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", group.size)) if group.size > 1 else 1


def announce(settings: dict[str, Any]) -> None:
    """The first process tells the others, once, what to load."""
    if group.size > 1 and group.rank == 0 and not group.told:
        raw = torch.frombuffer(bytearray(json.dumps(settings).encode()), dtype=torch.uint8)
        _say(len(raw), 0)
        dist.broadcast(raw, 0)
        group.told = True


def lead(model: Transformer) -> None:
    """From now on the first process tells the others whatever `model` reads into a cache.

    The model then raises ModelError for what they could not follow: gradients, observers, batches.
    """

    def tell(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, cache = args[0] if args else kwargs.get("ids"), kwargs.get("cache")
        if ids is None or not isinstance(cache, KVCache) or kwargs.get("observer") is not None:
            raise ModelError("a model shared by several processes only writes replies: use a single process for anything else")
        _say(cache.length, ids.shape[1])
        dist.broadcast(ids[0].cpu(), 0)
        group.reading = True

    def done(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        group.reading = False

    if group.rank == 0:
        model.register_forward_pre_hook(tell, with_kwargs=True)
        model.register_forward_hook(done)


@torch.inference_mode()
def _follow(model: Transformer, cache: KVCache) -> None:
    """Read whatever the first process reads, until it ends."""
    while True:
        past, length = _heard()
        if past == _END:
            return
        ids = torch.empty(length, dtype=torch.long)
        dist.broadcast(ids, 0)
        cache.length = past
        cache.reserve(past + length)
        positions = torch.arange(past, past + length, device=cache.device)
        mask = (torch.arange(past + length, device=cache.device) <= positions.unsqueeze(1)).view(1, 1, length, -1)
        model(ids.unsqueeze(0).to(cache.device), positions=positions.unsqueeze(0), mask=mask if past else None, cache=cache)


def _settings() -> dict[str, Any] | None:
    """What the first process announces; None when it ends without a model."""
    length = _heard()[0]
    if length == _END:
        return None
    raw = torch.empty(length, dtype=torch.uint8)
    dist.broadcast(raw, 0)
    settings: dict[str, Any] = json.loads(bytes(raw.tolist()))
    return settings


def _say(first: int, second: int) -> None:
    dist.broadcast(torch.tensor([first, second]), 0)


def _heard() -> tuple[int, int]:
    header = torch.empty(2, dtype=torch.long)
    dist.broadcast(header, 0)
    first, second = header.tolist()
    return first, second
