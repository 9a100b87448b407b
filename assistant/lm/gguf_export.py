"""A loaded model as one GGUF file (float32), for llama.cpp and whatever else reads that format, and for this program itself.

The tensors keep the names that `layout.py` has from GGUF. Files of the Llama kind hold rotary partners side by side as we do; in all others
they stand d/2 rows apart. How text is cut before the merges is named, not described, in GGUF: only cuts that have a name can be exported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assistant.errors import ModelError
from assistant.lm import gguf
from assistant.lm.chat_format import FORMATS
from assistant.lm.engine import Engine
from assistant.lm.layout import Part, block_parts, model_parts, pairing
from assistant.lm.saving import family
from assistant.lm.tokenizer import _SPLITS, ByteTokenizer
from assistant.lm.transformer import Transformer

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
NORMAL, CONTROL = 1, 3  # tokenizer.ggml.token_type
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML as other programs want to be told it; this one goes by the name of the format."""


def export(engine: Engine, path: Path) -> None:
    """Write the model of an engine (dense weights). Raises ModelError for a kind that has no GGUF form here, or a disk that is full."""
    arch = ARCHITECTURES.get(family(engine.model.config))
    if arch is None:
        raise ModelError(
            f"{engine.info.name} cannot be exported: only models of the kinds {', '.join(ARCHITECTURES)} have a GGUF form here"
        )
    metadata = {**_sizes(engine, arch), **_vocabulary(engine.tokenizer, engine.info.name)}
    try:
        metadata["pellucid.chat_format"] = engine.chat_format.name
        if engine.chat_format.control == FORMATS["chatml"].control:
            metadata["tokenizer.chat_template"] = CHATML
    except ModelError:
        pass  # a model that only continues text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        gguf.write(part, metadata, _tensors(engine.model, arch == "llama"))
        part.replace(path)
    except OSError as error:
        raise ModelError(f"cannot write {path} ({error.strerror}): make room or choose another place") from error


def _sizes(engine: Engine, arch: str) -> dict[str, Any]:
    c = engine.model.config
    return {
        "general.architecture": arch, "general.name": engine.info.name, "general.languages": list(engine.languages) or ["en"],
        f"{arch}.block_count": c.n_layers, f"{arch}.context_length": c.context_length, f"{arch}.embedding_length": c.width,
        f"{arch}.feed_forward_length": c.ffn_width, f"{arch}.attention.head_count": c.n_heads,
        f"{arch}.attention.head_count_kv": c.n_kv_heads, f"{arch}.attention.key_length": c.head_width,
        f"{arch}.attention.value_length": c.head_width, f"{arch}.rope.dimension_count": c.head_width,
        f"{arch}.rope.freq_base": float(c.rope_base), f"{arch}.attention.layer_norm_rms_epsilon": float(c.norm_eps),
        f"{arch}.vocab_size": c.vocab_size,
    }  # fmt: skip


def _vocabulary(tokenizer: ByteTokenizer, name: str) -> dict[str, Any]:
    described = json.loads(tokenizer.to_json())
    pre = _cut(described.get("pre_tokenizer") or {})
    if described["model"].get("type") != "BPE" or pre is None:
        raise ModelError(f"the tokenizer of {name} has no name in GGUF: its model cannot be exported")
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    tokens = [token for token, _ in sorted(tokenizer.ids.items(), key=lambda item: item[1])]
    begin, ends = tokenizer.begin(), sorted(tokenizer.eos)
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [CONTROL if i in tokenizer.control else NORMAL for i in range(len(tokens))],
        "tokenizer.ggml.add_bos_token": bool(begin),
        **({"tokenizer.ggml.bos_token_id": begin[0]} if begin else {}),
        **{f"tokenizer.ggml.{key}_token_id": i for key, i in zip(("eos", "eot", "eom"), ends, strict=False)},
    }  # fmt: skip


def _cut(described: dict[str, Any]) -> str | None:
    """The name that a way to cut text has in GGUF."""
    steps = described.get("pretokenizers", [described])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = steps[0].get("pattern", {}).get("Regex")
        return next((name for name, split in _SPLITS.items() if split == pattern), None)
    return None


def _tensors(model: Transformer, paired: bool) -> dict[str, NDArray[np.float32]]:
    c, out = model.config, {}

    def add(module: nn.Module, parts: dict[str, tuple[Part, ...]], prefix: str) -> None:
        for name, pieces in parts.items():
            owner, _, attribute = name.rpartition(".")
            whole: Tensor = getattr(module.get_submodule(owner), attribute).detach().cpu().float()
            for part, rows in zip(pieces, torch.split(whole, [p.shape[0] for p in pieces]), strict=True):
                order = None if paired else pairing(part, c.head_width)
                out[prefix + part.name] = (rows if order is None else rows[order.argsort()]).contiguous().numpy()

    with torch.no_grad():
        add(model, model_parts(c), "")
        for i, block in enumerate(model.blocks):
            add(block, block_parts(c), f"blk.{i}.")
    return out
