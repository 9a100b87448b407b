"""Small random models of every family, made by `transformers`' own code and kept as folders: what our engine is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.tiny import CONTROL

BYTES = 256
VOCABULARY = BYTES + len(CONTROL) + 1  # one embedding that no token uses

COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
    max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True, head_dim=8,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
YARN = dict(rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32)
FAMILIES = {
    "llama": ("Llama", COMMON | dict(tie_word_embeddings=False)),
    "llama-biased": ("Llama", COMMON | dict(attention_bias=True, mlp_bias=True)),
    "llama3": ("Llama", COMMON | dict(rope_parameters=LLAMA3)),
    "linear": ("Llama", COMMON | dict(rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=4.0))),
    "yarn": ("Qwen2", {k: v for k, v in COMMON.items() if k != "head_dim"} | dict(rope_parameters=YARN)),
    "mistral": ("Mistral", COMMON | dict(sliding_window=7)),
    "qwen2": ("Qwen2", {k: v for k, v in COMMON.items() if k != "head_dim"} | dict(sliding_window=None)),
    "qwen3": ("Qwen3", COMMON | dict(head_dim=16)),
    "gemma3": (
        "Gemma3",
        COMMON
        | dict(
            head_dim=16, sliding_window=7, num_hidden_layers=3, query_pre_attn_scalar=24, final_logit_softcapping=5.0,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"], eos_token_id=None,
            rope_parameters=dict(
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
                full_attention=dict(rope_type="linear", rope_theta=500.0, factor=2.0),
            ),
        ),
    ),
    "gpt2": ("GPT2", dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=48)),
}  # fmt: skip


def reference(family: str):
    """A `transformers` model with random weights of a size that matters (also in the norms and biases)."""
    import transformers

    kind, numbers = FAMILIES[family]
    text = "Text" if kind == "Gemma3" else ""
    config = getattr(transformers, f"{kind}{text}Config")(**numbers, attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1 and kind != "Gemma3"))
    return model


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer.json: control tokens 0 … 2, then the 256 bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    from assistant.lm.tokenizer import _BYTE_OF

    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*CONTROL, *_BYTE_OF])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))


def write_folder(family: str, folder: Path, **options):
    """The family's model as its own library saves it; returns the model."""
    model = reference(family)
    model.save_pretrained(folder, **options)
    write_tokenizer(folder)
    return model


ARCHITECTURES = {
    "llama": "llama", "llama3": "llama", "mistral": "llama", "qwen2": "qwen2", "yarn": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3",
    "gpt2": "gpt2",
}  # fmt: skip
"""The families that a GGUF file can hold, and what it calls them."""


def write_gguf(family: str, source, path: Path) -> None:
    """The model of a folder (a `Directory`) as the GGUF file that llama.cpp's converter would make of it."""
    from assistant.lm import gguf
    from assistant.lm.layout import block_parts, model_parts, pairing
    from assistant.lm.tokenizer import _BYTE_OF

    c, arch = source.config(), ARCHITECTURES[family]
    named = [(part.name, part) for parts in model_parts(c).values() for part in parts]
    named += [(f"blk.{i}.{part.name}", part) for i in range(c.n_layers) for parts in block_parts(c).values() for part in parts]
    tensors = {}
    for name, part in named:
        rows = source.tensor(name, part.shape)
        order = pairing(part, c.head_width) if arch == "llama" else None
        tensors[name] = (rows if order is None else rows[order]).numpy()
    if arch == "gpt2":
        for i in range(c.n_layers):
            for leaf in ("weight", "bias"):
                thirds = [tensors.pop(f"blk.{i}.attn_{x}.{leaf}") for x in "qkv"]
                tensors[f"blk.{i}.attn_qkv.{leaf}"] = torch.cat([torch.from_numpy(t) for t in thirds]).numpy()
    vocabulary = [*CONTROL, *_BYTE_OF, '!"']  # one merge: llama.cpp wants some
    metadata = {
        "general.architecture": arch, f"{arch}.block_count": c.n_layers, f"{arch}.context_length": c.context_length,
        f"{arch}.embedding_length": c.width, f"{arch}.feed_forward_length": c.ffn_width, f"{arch}.attention.head_count": c.n_heads,
        f"{arch}.attention.head_count_kv": c.n_kv_heads, f"{arch}.attention.key_length": c.head_width,
        f"{arch}.attention.value_length": c.head_width, f"{arch}.rope.freq_base": c.rope_base,
        f"{arch}.attention.layer_norm_{'' if c.layer_norm else 'rms_'}epsilon": c.norm_eps,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (BYTES + 1), "tokenizer.ggml.merges": ["! \""],
        "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    if c.window:
        metadata[f"{arch}.attention.sliding_window"] = c.window
    if c.logit_softcap:
        metadata[f"{arch}.final_logit_softcapping"] = c.logit_softcap
    if c.rope_scaling and c.rope_scaling.kind == "llama3":
        frequencies = [c.rope_base ** (-2 * i / c.head_width) for i in range(c.head_width // 2)]
        tensors["rope_freqs.weight"] = torch.tensor(c.rope_scaling.divisors(frequencies)).numpy()
    elif c.rope_scaling:
        metadata |= {
            f"{arch}.rope.scaling.type": c.rope_scaling.kind, f"{arch}.rope.scaling.factor": c.rope_scaling.factor,
            f"{arch}.rope.scaling.original_context_length": c.rope_scaling.original_length,
        }  # fmt: skip
    gguf.write(path, metadata, tensors)
