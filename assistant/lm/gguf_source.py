"""A model in a GGUF file: its metadata as a `Config`, its tensors under their own names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from assistant.errors import ModelError
from assistant.lm import quantize
from assistant.lm.config import MAX_LAYERS, Activation, Config, RopeScaling
from assistant.lm.gguf import GGUFFile
from assistant.lm.hashing import sha256_of
from assistant.lm.source import Codes
from assistant.lm.tokenizer import ByteTokenizer

SUPPORTED = ("llama", "qwen2", "qwen3", "gemma3", "gpt2")
PAIRED = "llama"  # this architecture's GGUF files store rotary pairs side by side, as our `rotate` wants them
GEMMA_PERIOD = 6  # every sixth layer of Gemma 3 sees everything; no GGUF key says so
GEMMA_LOCAL_BASE = 10_000.0
GEMMA_27B_LAYERS = 62  # the one Gemma 3 that scales its queries by the width for a head, not by the head's own


class GGUFSource:
    """See `source.Source`. Raises GGUFError for a damaged file at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = GGUFFile(path)
        metadata = self.file.metadata
        template, stated = metadata.get("tokenizer.chat_template"), metadata.get("general.languages")
        self.template = template if isinstance(template, str) else None
        named = metadata.get("pellucid.chat_format")
        self.chat_format = named if isinstance(named, str) else ""
        self.languages = tuple(x for x in stated if isinstance(x, str)) if isinstance(stated, list) else ()
        self.arch = self.file.get("general.architecture", str)
        self.paired = self.arch == PAIRED

    def config(self) -> Config:
        """The model's dimensions. Raises ModelError for an architecture we do not have, or sizes that do not fit together."""
        file, arch, name = self.file, self.arch, self.path.name
        if arch not in SUPPORTED:
            raise ModelError(f"{name} is of architecture {arch!r}, which is not supported: choose a model of {', '.join(SUPPORTED)}")
        if file.metadata.get(f"{arch}.expert_count"):
            raise ModelError(f"{name} is a mixture of experts, which is not supported: choose a dense model")
        heads = file.get(f"{arch}.attention.head_count", int)
        width = file.get(f"{arch}.embedding_length", int)
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != width:
            raise ModelError(f"{name} has no embedding matrix of width {width}: fetch the model again")
        head_width = file.get(f"{arch}.attention.key_length", int, width // max(heads, 1))
        for key in ("attention.value_length", "rope.dimension_count"):
            if file.get(f"{arch}.{key}", int, head_width) != head_width:
                raise ModelError(f"{name}: {key} differs from the width of a head, which is not supported: choose another model")
        try:
            return Config(
                vocab_size=embedding.shape[0],
                width=width,
                n_layers=file.get(f"{arch}.block_count", int),
                n_heads=heads,
                n_kv_heads=file.get(f"{arch}.attention.head_count_kv", int, heads),
                ffn_width=file.get(f"{arch}.feed_forward_length", int),
                context_length=file.get(f"{arch}.context_length", int),
                head_width=head_width,
                rope_base=file.get(f"{arch}.rope.freq_base", float, 10_000.0),
                norm_eps=file.get(f"{arch}.attention.layer_norm_{'' if arch == 'gpt2' else 'rms_'}epsilon", float),
                qkv_bias="blk.0.attn_q.bias" in file.tensors or "blk.0.attn_qkv.bias" in file.tensors,
                qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
                tied="output.weight" not in file.tensors,
                out_bias="blk.0.attn_output.bias" in file.tensors,
                ffn_bias="blk.0.ffn_down.bias" in file.tensors,
                rope_scaling=self._scaling(),
                **self._family(width, heads),
            )
        except (ValueError, ZeroDivisionError) as error:
            raise ModelError(f"{name} describes an impossible model: {error}") from error

    def _family(self, width: int, heads: int) -> dict[str, Any]:
        """What only some families have."""
        file, arch = self.file, self.arch
        gelu: Activation = "gelu"
        layers = file.get(f"{arch}.block_count", int)
        if arch == "gpt2":
            return {"layer_norm": True, "learned_positions": True, "activation": gelu, "gated": False}
        window = file.get(f"{arch}.attention.sliding_window", int, 0)
        if arch == "gemma3":
            return {
                "activation": gelu,
                "post_norms": True,
                "embedding_scale": math.sqrt(width),
                "query_scale": (width / heads) ** -0.5 if layers == GEMMA_27B_LAYERS else 0.0,
                "logit_softcap": file.get("gemma3.final_logit_softcapping", float, 0.0),
                "window": window,
                "windowed": tuple((i + 1) % GEMMA_PERIOD > 0 for i in range(min(layers, MAX_LAYERS))) if window else (),
                "local_rope_base": file.get("gemma3.rope.freq_base_swa", float, GEMMA_LOCAL_BASE),
            }
        return {"window": window, "windowed": (True,) * min(layers, MAX_LAYERS) if window else ()}

    def _scaling(self) -> RopeScaling | None:
        file, arch = self.file, self.arch
        if "rope_freqs.weight" in file.tensors:  # Llama 3: the divisors themselves
            divisors = self.tensor("rope_freqs.weight", file.tensors["rope_freqs.weight"].shape)
            return RopeScaling("given", given=tuple(divisors.flatten().tolist()))
        kind = file.get(f"{arch}.rope.scaling.type", str, "none")
        if kind == "none":
            return None
        factor = file.get(f"{arch}.rope.scaling.factor", float)
        if kind == "linear":
            return RopeScaling("linear", factor)
        if kind == "yarn":
            original = file.get(f"{arch}.rope.scaling.original_context_length", int)
            return RopeScaling("yarn", factor, original, 1.0, 32.0, 0.1 * math.log(max(factor, 1.0)) + 1.0)
        raise ModelError(f"{self.path.name} scales its rotary positions by {kind!r}, which is not supported: choose another model")

    def tokenizer(self) -> ByteTokenizer:
        """The tokenizer in the file."""
        return ByteTokenizer.from_gguf(self.file)

    def begin(self) -> tuple[int, ...]:
        """The begin token, where the model was trained with one."""
        metadata = self.file.metadata
        bos = metadata.get("tokenizer.ggml.bos_token_id")
        return (bos,) if metadata.get("tokenizer.ggml.add_bos_token") is True and isinstance(bos, int) else ()

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """See `source.Source.tensor`."""
        start, fused = 0, self._fused(name)
        raw, info = self.file.raw(fused or name), self.file.tensors[fused or name]
        if fused:  # GPT-2 stores queries, keys and values as one
            start, shape = "qkv".index(name.split("attn_")[1][0]) * shape[0], (3 * shape[0], *shape[1:])
        if info.shape != shape:
            raise ModelError(f"{self.path.name}: tensor {info.name} has shape {info.shape}, not {shape}: fetch the model again")
        dense = quantize.dequantise(info, raw)
        return dense[start : start + shape[0] // 3] if fused else dense

    def _fused(self, name: str) -> str | None:
        fused = name.replace("attn_q.", "attn_qkv.").replace("attn_k.", "attn_qkv.").replace("attn_v.", "attn_qkv.")
        return fused if fused != name and name not in self.file.tensors and fused in self.file.tensors else None

    def can_pack(self, name: str) -> bool:
        """See `source.Source.can_pack`."""
        info = self.file.tensors.get(name)
        return info is not None and quantize.can_pack(info)

    def codes(self, name: str) -> Codes:
        """See `source.Source.codes`."""
        return quantize.codes(self.file.tensors[name], self.file.raw(name))

    def weights(self) -> int:
        """How many numbers it holds."""
        return sum(math.prod(info.shape) for info in self.file.tensors.values())

    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return sha256_of(self.path)

    def facts(self) -> dict[str, Any]:
        """Its metadata, and how many tensors there are of each type."""
        types: dict[str, int] = {}
        for tensor in self.file.tensors.values():
            types[tensor.type.name] = types.get(tensor.type.name, 0) + 1
        simple = {k: v for k, v in self.file.metadata.items() if not isinstance(v, list) and k != "tokenizer.chat_template"}
        return {
            "bytes": self.path.stat().st_size,
            "licence": str(self.file.metadata.get("general.license", "not stated")),
            "tensors": types,
            "metadata": simple,
        }
