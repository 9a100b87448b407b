"""The Hugging Face way to describe a model: what config.json means, and how its tensors are called. Both directions: read and write.

Imports no torch. The names on our side are those of `layout.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from assistant.errors import ModelError
from assistant.lm.config import MAX_LAYERS, Config, RopeScaling

LLAMA = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
GEMMA = LLAMA | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GPT2 = {
    "token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f", "output": "lm_head", "attn_norm": "ln_1", "attn_q": "attn.c_attn",
    "attn_k": "attn.c_attn", "attn_v": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}  # fmt: skip
TABLES = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "gemma3_text": GEMMA, "gpt2": GPT2}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM", "gpt2": "GPT2LMHeadModel",
}  # fmt: skip
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu"}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one of our tensors is: rows `part` of `of` equal ones of the tensor `name`, perhaps transposed, perhaps less by one."""

    name: str
    part: int = 0
    of: int = 1
    transposed: bool = False
    plus_one: bool = False


class Names:
    """Our names in theirs, for one model. `present` holds the names that its files have."""

    def __init__(self, described: Mapping[str, Any], present: Container[str] = ()) -> None:
        self.kind = str(described.get("model_type"))
        self._table = TABLES.get(self.kind, LLAMA)
        self._present = present

    def find(self, name: str) -> Stored:
        """The place of one of our tensors."""
        block = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        stem, _, leaf = (block[2] if block else name).rpartition(".")
        theirs = self._table.get(stem, stem)
        if self.kind == "gpt2":
            full = f"{f'h.{block[1]}.' if block else ''}{theirs}.{leaf}"
            if theirs != "lm_head" and f"transformer.{full}" in self._present:
                full = f"transformer.{full}"
            third = stem in ("attn_q", "attn_k", "attn_v")
            convolution = leaf == "weight" and theirs.split(".")[0] in ("attn", "mlp")  # kept as (in, out)
            return Stored(full, "qkv".index(stem[-1]) if third else 0, 3 if third else 1, convolution)
        full = f"{f'model.layers.{block[1]}.' if block else ''}{theirs}.{leaf}"
        # Gemma keeps the gains of its norms less by one
        return Stored(full, plus_one=self.kind == "gemma3_text" and "norm" in stem)


def read(described: Mapping[str, Any], model: str) -> Config:
    """The numbers of config.json. Raises ModelError for a family or a feature that we do not have, and for impossible numbers."""
    kind = described.get("model_type")
    if not isinstance(kind, str) or kind not in TABLES:
        raise ModelError(f"{model} is of the kind {kind!r}, which is not supported: choose a model of {', '.join(TABLES)}")
    for key, wanted in _REFUSED.items():
        if described.get(key, wanted) not in (wanted, None):
            raise ModelError(f"{model}: {key} = {described[key]!r} is not supported: choose another model")
    try:
        return _gpt2(described) if kind == "gpt2" else _llama(described, kind)
    except KeyError as error:
        raise ModelError(f"{model}: config.json does not say {error.args[0]}: fetch the model again") from None
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ModelError(f"{model} describes an impossible model: {error}") from error


_REFUSED = {
    "partial_rotary_factor": 1.0, "quantization_config": None, "use_bidirectional_attention": False, "reorder_and_upcast_attn": False,
    "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
}  # fmt: skip
"""Features that we do not have, and the value of those who do without."""


def _whole(described: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    value = next((described[k] for k in keys if described.get(k) is not None), default)
    if value is None:
        raise KeyError(keys[0])
    if type(value) is not int:
        raise TypeError(f"{keys[0]} is {value!r}, not a whole number")
    return value


def _number(described: Mapping[str, Any], key: str, default: float) -> float:
    value = described.get(key)
    if value is None:
        return default
    if type(value) not in (int, float):
        raise TypeError(f"{key} is {value!r}, not a number")
    return float(value)


def _activation(described: Mapping[str, Any], *keys: str) -> Any:
    name = next((described[k] for k in keys if described.get(k) is not None), "silu")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"the activation {name!r} is not supported")
    return ACTIVATIONS[name]


def _llama(described: Mapping[str, Any], kind: str) -> Config:
    gemma, layers = kind == "gemma3_text", _whole(described, "num_hidden_layers")
    width, heads = _whole(described, "hidden_size"), _whole(described, "num_attention_heads")
    head_width = _whole(described, "head_dim", default=256 if gemma else width // heads)
    rope = _rope(described, "full_attention" if gemma else None)
    local = _rope(described, "sliding_attention") if gemma else {}
    window, windowed = _windows(described, kind, layers)
    scalar = _number(described, "query_pre_attn_scalar", 256.0) if gemma else 0.0
    everywhere = bool(described.get("attention_bias"))
    return Config(
        vocab_size=_whole(described, "vocab_size"),
        width=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=_whole(described, "num_key_value_heads", default=heads),
        ffn_width=_whole(described, "intermediate_size"),
        context_length=_whole(described, "max_position_embeddings", default=2048),
        head_width=head_width,
        rope_base=_number(rope, "rope_theta", 1e6 if gemma else 1e4),
        norm_eps=_number(described, "rms_norm_eps", 1e-6),
        qkv_bias=everywhere or kind == "qwen2",
        out_bias=everywhere,
        ffn_bias=bool(described.get("mlp_bias")),
        qk_norm=kind in ("qwen3", "gemma3_text"),
        tied=bool(described.get("tie_word_embeddings", gemma)),
        activation=_activation(described, *(("hidden_activation",) if gemma else ()), "hidden_act"),
        post_norms=gemma,
        embedding_scale=math.sqrt(width) if gemma else 1.0,
        query_scale=scalar**-0.5 if gemma and scalar != head_width else 0.0,
        attention_softcap=_number(described, "attn_logit_softcapping", 0.0),
        logit_softcap=_number(described, "final_logit_softcapping", 0.0),
        window=window,
        windowed=windowed,
        local_rope_base=_number(local, "rope_theta", 1e4) if gemma else 0.0,
        rope_scaling=_scaling(rope, described),
    )


def _rope(described: Mapping[str, Any], layers: str | None) -> Mapping[str, Any]:
    """The rotary numbers, as transformers 5 keeps them; those of version 4 are put into that form."""
    found = described.get("rope_parameters")
    if isinstance(found, dict):
        inner = found.get(layers) if layers else found
        return inner if isinstance(inner, dict) else found
    scaling = described.get("rope_scaling") if layers != "sliding_attention" else None
    base = described.get("rope_local_base_freq" if layers == "sliding_attention" else "rope_theta")
    rope: dict[str, Any] = dict(scaling) if isinstance(scaling, dict) else {}
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    return rope if base is None else rope | {"rope_theta": base}


def _scaling(rope: Mapping[str, Any], described: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    factor = _number(rope, "factor", 0.0)
    original = _whole(rope, "original_max_position_embeddings", default=_whole(described, "max_position_embeddings"))
    if kind == "linear":
        return RopeScaling("linear", factor)
    if kind == "llama3":
        return RopeScaling("llama3", factor, original, _number(rope, "low_freq_factor", 0.0), _number(rope, "high_freq_factor", 0.0))
    if kind == "yarn" and not any(rope.get(k) for k in ("mscale", "mscale_all_dim")) and rope.get("truncate", True):
        magnitude = _number(rope, "attention_factor", 0.1 * math.log(max(factor, 1.0)) + 1.0)
        return RopeScaling("yarn", factor, original, _number(rope, "beta_slow", 1.0), _number(rope, "beta_fast", 32.0), magnitude)
    raise ValueError(f"the rotary scaling {kind!r} is not supported")


def _windows(described: Mapping[str, Any], kind: str, layers: int) -> tuple[int, tuple[bool, ...]]:
    """(the window, which layers have it)."""
    window = _whole(described, "sliding_window", default=0)
    if not window or kind == "llama" or (kind.startswith("qwen") and not described.get("use_sliding_window")):
        return 0, ()
    types = described.get("layer_types")
    if isinstance(types, list):
        windowed = tuple(t == "sliding_attention" for t in types)
    elif kind == "gemma3_text":
        period = _whole(described, "_sliding_window_pattern", "sliding_window_pattern", default=6)
        windowed = tuple((i + 1) % period > 0 for i in range(min(layers, MAX_LAYERS)))
    elif kind == "mistral":
        windowed = (True,) * min(layers, MAX_LAYERS)
    else:
        windowed = tuple(i >= _whole(described, "max_window_layers", default=0) for i in range(min(layers, MAX_LAYERS)))
    return (window, windowed) if any(windowed) else (0, ())


def _gpt2(described: Mapping[str, Any]) -> Config:
    width, heads = _whole(described, "n_embd"), _whole(described, "n_head")
    return Config(
        vocab_size=_whole(described, "vocab_size"),
        width=width,
        n_layers=_whole(described, "n_layer"),
        n_heads=heads,
        n_kv_heads=heads,
        ffn_width=_whole(described, "n_inner", default=4 * width),
        context_length=_whole(described, "n_positions", "n_ctx"),
        norm_eps=_number(described, "layer_norm_epsilon", 1e-5),
        qkv_bias=True,
        out_bias=True,
        ffn_bias=True,
        layer_norm=True,
        learned_positions=True,
        activation=_activation(described, "activation_function"),
        gated=False,
        tied=bool(described.get("tie_word_embeddings", True)),
    )
