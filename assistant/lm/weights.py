"""Filling a `Transformer` from a GGUF file: names, fused projections, the order of rotary pairs, and the int4 copies for decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from assistant.errors import ModelError
from assistant.lm.gguf import GGUFFile
from assistant.lm.packed_cache import cached
from assistant.lm.quantize import Int4, can_pack, dequantise, pack_int4
from assistant.lm.transformer import Block, Config, Transformer

PAIRED = "llama"  # this architecture's GGUF files store rotary pairs side by side, as our `rotate` wants them
SUPPORTED = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """The int4 copies of one block's four matrices."""

    qkv: Int4
    out: Int4
    gate_up: Int4
    down: Int4


def read_config(file: GGUFFile) -> Config:
    """The model's dimensions. Raises ModelError for an architecture we do not have, or sizes that do not fit together."""
    arch = file.get("general.architecture", str)
    if arch not in SUPPORTED:
        raise ModelError(f"{file.path.name} is of architecture {arch!r}, which is not supported: choose a model of {', '.join(SUPPORTED)}")
    if file.metadata.get(f"{arch}.expert_count"):
        raise ModelError(f"{file.path.name} is a mixture of experts, which is not supported: choose a dense model")
    if file.metadata.get(f"{arch}.rope.scaling.type", "none") not in ("none", None) or "rope_freqs.weight" in file.tensors:
        raise ModelError(f"{file.path.name} scales its rotary positions, which is not supported yet: choose another model")
    heads = file.get(f"{arch}.attention.head_count", int)
    width = file.get(f"{arch}.embedding_length", int)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != width:
        raise ModelError(f"{file.path.name} has no embedding matrix of width {width}: fetch the model again")
    try:
        return Config(
            vocab_size=embedding.shape[0],
            width=width,
            n_layers=file.get(f"{arch}.block_count", int),
            n_heads=heads,
            n_kv_heads=file.get(f"{arch}.attention.head_count_kv", int, heads),
            ffn_width=file.get(f"{arch}.feed_forward_length", int),
            context_length=file.get(f"{arch}.context_length", int),
            head_width=file.get(f"{arch}.attention.key_length", int, width // max(heads, 1)),
            rope_base=file.get(f"{arch}.rope.freq_base", float, 10_000.0),
            norm_eps=file.get(f"{arch}.attention.layer_norm_rms_epsilon", float),
            qkv_bias="blk.0.attn_q.bias" in file.tensors,
            qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
            tied="output.weight" not in file.tensors,
        )
    except (ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{file.path.name} describes an impossible model: {error}") from error


def load(
    file: GGUFFile,
    config: Config,
    dtype: torch.dtype,
    device: torch.device,
    *,
    pack: bool,
    progress: Callable[[float], None] = lambda fraction: None,
    packed_folder: Path | None = None,
    sha256: str = "",
) -> tuple[Transformer, list[PackedBlock] | None]:
    """The dense model in `dtype` on `device`, and (with `pack`, on the CPU) the int4 copies of its blocks, kept in `packed_folder`.

    Raises ModelError for a missing tensor or a wrong shape. The norms and the rotary table stay float32.
    """
    with torch.device("meta"):
        model = Transformer(config)

    def tensor(name: str, *shape: int) -> Tensor:
        info, raw = file.tensors.get(name), file.raw(name)
        assert info is not None
        if info.shape != shape:
            raise ModelError(f"{file.path.name}: tensor {name} has shape {info.shape}, not {shape}: fetch the model again")
        return dequantise(info, raw)

    def place(t: Tensor, to: torch.dtype = torch.float32) -> nn.Parameter:
        return nn.Parameter(t.to(device, to), requires_grad=False)

    c, d = config, config.head_width
    pair = None if file.get("general.architecture", str) == PAIRED else _pairing(d)
    model.embedding.weight = place(tensor("token_embd.weight", c.vocab_size, c.width), dtype)
    model.norm = place(tensor("output_norm.weight", c.width))
    if isinstance(model.head, nn.Linear):
        model.head.weight = place(tensor("output.weight", c.vocab_size, c.width), dtype)
    model.rotary = torch.empty(0, device=device)
    packed = _packed_blocks(file, config, packed_folder, sha256) if pack else None
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        prefix = f"blk.{i}."
        heads = {"attn_q": c.n_heads, "attn_k": c.n_kv_heads, "attn_v": c.n_kv_heads}
        order = _orders(file, c)

        def rows(name: str, t: Tensor, order: dict[str, Tensor | None] = order) -> Tensor:
            permutation = order.get(name)
            return t if permutation is None else t[permutation]

        block.attention_norm = place(tensor(prefix + "attn_norm.weight", c.width))
        block.ffn_norm = place(tensor(prefix + "ffn_norm.weight", c.width))
        qkv = [rows(n, tensor(f"{prefix}{n}.weight", count * d, c.width)) for n, count in heads.items()]
        block.qkv.weight = place(torch.cat(qkv), dtype)
        if c.qkv_bias:
            block.qkv.bias = place(torch.cat([rows(n, tensor(f"{prefix}{n}.bias", k * d)) for n, k in heads.items()]), dtype)
        if c.qk_norm:
            for name in ("q_norm", "k_norm"):
                norm = tensor(f"{prefix}attn_{name}.weight", d)
                setattr(block, name, place(norm if pair is None else norm[pair]))
        block.out.weight = place(tensor(prefix + "attn_output.weight", c.width, c.n_heads * d), dtype)
        gate_up = [tensor(f"{prefix}ffn_{n}.weight", c.ffn_width, c.width) for n in ("gate", "up")]
        block.gate_up.weight = place(torch.cat(gate_up), dtype)
        block.down.weight = place(tensor(prefix + "ffn_down.weight", c.width, c.ffn_width), dtype)
        progress((i + 1) / c.n_layers)
    return model.eval(), packed


def packable(file: GGUFFile, config: Config) -> bool:
    """Whether all matrices of all blocks map onto the int4 kernel without loss."""
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    infos = [file.tensors.get(f"blk.{i}.{n}.weight") for i in range(config.n_layers) for n in names]
    return not config.qkv_bias and all(info is not None and can_pack(info) for info in infos)


def _orders(file: GGUFFile, config: Config) -> dict[str, Tensor | None]:
    """For queries and keys, where each row comes from, so that rotary pairs stand side by side; None: they do already."""
    if file.get("general.architecture", str) == PAIRED:
        return {"attn_q": None, "attn_k": None}
    pair = _pairing(config.head_width)
    return {"attn_q": _row_order(pair, config.n_heads), "attn_k": _row_order(pair, config.n_kv_heads)}


MATRICES = ("qkv", "out", "gate_up", "down")


def _packed_blocks(file: GGUFFile, config: Config, folder: Path | None, sha256: str) -> list[PackedBlock]:
    def make() -> dict[str, Tensor]:
        order = _orders(file, config)
        tensors: dict[str, Tensor] = {}
        for i in range(config.n_layers):
            block = _pack(file, f"blk.{i}.", order)
            for name in MATRICES:
                matrix: Int4 = getattr(block, name)
                tensors |= {f"{i}.{name}.packed": matrix.packed, f"{i}.{name}.scales": matrix.scale_and_zero}
        return tensors

    found = cached(folder, sha256, make)
    return [
        PackedBlock(*(Int4(found[f"{i}.{name}.packed"], found[f"{i}.{name}.scales"]) for name in MATRICES)) for i in range(config.n_layers)
    ]


def _pack(file: GGUFFile, prefix: str, order: dict[str, Tensor | None]) -> PackedBlock:
    def pack(*names: str) -> Int4:
        full = [f"{prefix}{n}.weight" for n in names]
        return pack_int4([(file.tensors[n], file.raw(n)) for n in full], [order.get(n) for n in names])

    return PackedBlock(pack("attn_q", "attn_k", "attn_v"), pack("attn_output"), pack("ffn_gate", "ffn_up"), pack("ffn_down"))


def _pairing(d: int) -> Tensor:
    """Where each row of one head comes from, when its rotary partner lies d/2 further on: 0, d/2, 1, d/2 + 1, …"""
    return torch.arange(d).view(2, d // 2).t().flatten()


def _row_order(pair: Tensor, heads: int) -> Tensor:
    return (torch.arange(heads).unsqueeze(1) * len(pair) + pair).flatten()
