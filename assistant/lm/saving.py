"""Keeping a model as a directory that the Hugging Face libraries read too: model.safetensors, config.json, tokenizer.json.

The inverse of `directory.py`: fused projections are cut apart again, rotary partners are set d/2 rows apart, and what a family keeps
otherwise (Gemma's gains, GPT-2's transposed matrices) is put into that form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from assistant.errors import ModelError
from assistant.lm import safetensors
from assistant.lm.config import Config
from assistant.lm.hf_config import ARCHITECTURES, Names
from assistant.lm.layout import Part, block_parts, model_parts, pairing
from assistant.lm.tokenizer import ByteTokenizer
from assistant.lm.transformer import Transformer

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def save(
    model: Transformer,
    tokenizer: ByteTokenizer,
    folder: Path,
    *,
    chat_format: str = "",
    dtype: torch.dtype = torch.float32,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write `model` into `folder` (made when it is not there), its weights as `dtype`, the norms too.

    chat_format: the name of one of our chat formats that it was trained with. notes: more entries for config.json (languages,
    licence, how it was trained). Files take their names only when they are whole, config.json last. Raises ModelError for a
    combination of features that no known family has, and when the folder cannot be written.
    """
    config = model.config
    kind = family(config)
    ends = sorted(tokenizer.eos)
    described = {
        **(notes or {}),
        **describe(config, kind),
        "dtype": DTYPES[dtype],
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
    }
    begin = tokenizer.begin()
    if begin:
        described["bos_token_id"] = begin[0]
    named = {i: token for token, i in tokenizer.ids.items()}
    about: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if ends:
        about["eos_token"] = named[ends[0]]
    if chat_format:
        about["chat_format"] = chat_format
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.write(folder / "model.safetensors", {n: t.to(dtype) for n, t in stored(model, kind).items()}, {"format": "pt"})
        _write(folder / "tokenizer.json", tokenizer.to_json())
        _write(folder / "tokenizer_config.json", json.dumps(about, ensure_ascii=False, indent=2))
        _write(folder / "config.json", json.dumps(described, ensure_ascii=False, indent=2))
    except OSError as error:
        raise ModelError(f"cannot store the model in {folder}: {error.strerror or error}; make room or choose another folder") from error


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text + "\n", "utf-8")
    partial.replace(path)


def family(c: Config) -> str:
    """The Hugging Face name of the family with these features. Raises ModelError when there is none."""
    if c.learned_positions:
        kind = "gpt2"
    elif c.post_norms:
        kind = "gemma3_text"
    elif c.qk_norm:
        kind = "qwen3"
    elif c.qkv_bias and not c.out_bias:
        kind = "qwen2"
    else:
        kind = "mistral" if c.windowed else "llama"
    gpt2, gemma = kind == "gpt2", kind == "gemma3_text"
    fits = (
        gpt2 == c.layer_norm == (not c.gated)
        and (c.activation == "gelu") == (gpt2 or gemma)
        and (not gpt2 or (c.qkv_bias and c.out_bias and c.ffn_bias))
        and (gemma or (c.embedding_scale == 1.0 and not c.query_scale and not c.local_rope_base and not c.logit_softcap))
        and (not gemma or c.qk_norm)
        and (gpt2 or kind == "llama" or not c.ffn_bias)
        and (gpt2 or kind in ("llama", "qwen3") or not c.out_bias)
        and not (c.rope_scaling and c.rope_scaling.kind == "given")
    )
    if not fits:
        raise ModelError("this model has features that no known family has together, so it cannot be saved as a folder: keep its own file")
    return kind


def describe(c: Config, kind: str) -> dict[str, Any]:
    """config.json for a model of the family `kind`."""
    common: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]], "model_type": kind, "vocab_size": c.vocab_size, "tie_word_embeddings": c.tied,
    }  # fmt: skip
    if kind == "gpt2":
        return common | {
            "n_embd": c.width, "n_layer": c.n_layers, "n_head": c.n_heads, "n_inner": c.ffn_width, "n_positions": c.context_length,
            "layer_norm_epsilon": c.norm_eps, "activation_function": "gelu_new",
        }  # fmt: skip
    described = common | {
        "hidden_size": c.width, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads,
        "intermediate_size": c.ffn_width, "max_position_embeddings": c.context_length, "head_dim": c.head_width,
        "rms_norm_eps": c.norm_eps, "attention_bias": c.out_bias, "rope_theta": c.rope_base, "rope_parameters": _rope(c),
    }  # fmt: skip
    if kind == "llama":
        described["mlp_bias"] = c.ffn_bias
    if kind == "gemma3_text":
        described |= {
            "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": round(c.query_scale**-2) if c.query_scale else c.head_width,
            "attn_logit_softcapping": c.attention_softcap or None, "final_logit_softcapping": c.logit_softcap or None,
            "rope_local_base_freq": c.local_rope_base or c.rope_base,
            "rope_parameters": {
                "full_attention": _rope(c),
                "sliding_attention": {"rope_type": "default", "rope_theta": c.local_rope_base or c.rope_base},
            },
        }  # fmt: skip
    else:
        described["hidden_act"] = "silu"
    if kind != "llama":
        described["sliding_window"] = c.window or None
    if kind.startswith("qwen"):
        described["use_sliding_window"] = bool(c.windowed)
    if kind != "llama" and kind != "mistral":
        described["layer_types"] = ["sliding_attention" if c.is_windowed(i) else "full_attention" for i in range(c.n_layers)]
    return described


def _rope(c: Config) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": c.rope_base}
    scaling = c.rope_scaling
    if scaling is None:
        return rope
    rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        rope["original_max_position_embeddings"] = scaling.original_length
    if scaling.kind == "llama3":
        rope |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    if scaling.kind == "yarn":
        rope |= {"beta_slow": scaling.low, "beta_fast": scaling.high, "attention_factor": scaling.magnitude}
    return rope


def stored(model: Transformer, kind: str) -> dict[str, Tensor]:
    """The tensors of `model` under the names and in the form of the family `kind`, as float32 on the CPU."""
    c, names = model.config, Names({"model_type": kind})
    fused: dict[str, list[Tensor]] = {}
    transposed: set[str] = set()

    def add(module: nn.Module, parts: dict[str, tuple[Part, ...]], prefix: str) -> None:
        for name, pieces in parts.items():
            owner, _, attribute = name.rpartition(".")
            whole: Tensor = getattr(module.get_submodule(owner), attribute).detach().cpu().float()
            for part, rows in zip(pieces, torch.split(whole, [p.shape[0] for p in pieces]), strict=True):
                order, place = pairing(part, c.head_width), names.find(prefix + part.name)
                rows = rows if order is None else rows[order.argsort()]
                fused.setdefault(place.name, []).append(rows - 1 if place.plus_one else rows)
                if place.transposed:
                    transposed.add(place.name)

    add(model, model_parts(c), "")
    for i, block in enumerate(model.blocks):
        add(block, block_parts(c), f"blk.{i}.")
    joined = {name: torch.cat(rows) for name, rows in fused.items()}
    return {name: (t.t() if name in transposed else t).contiguous() for name, t in joined.items()}
