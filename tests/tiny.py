"""A GGUF model of a few kilobytes: random weights, a vocabulary of the 256 bytes and the control tokens of ChatML."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assistant.lm import gguf
from assistant.lm.tokenizer import _BYTE_OF

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_parts(*, layers=2, width=32, heads=4, kv=2, ffn=48, context=512, seed=0, arch="llama", **changes):
    """(metadata, tensors) of the tiny model; `changes` replace metadata values (None removes them)."""
    rng = np.random.default_rng(seed)
    vocabulary = CONTROL + list(_BYTE_OF)
    d = width // heads

    def weight(*shape):
        return rng.normal(0, 0.25, shape).astype(np.float32)

    tensors = {"token_embd.weight": weight(len(vocabulary), width), "output_norm.weight": np.ones(width, np.float32)}
    for i in range(layers):
        p = f"blk.{i}."
        tensors |= {
            p + "attn_norm.weight": 1 + weight(width), p + "ffn_norm.weight": 1 + weight(width),
            p + "attn_q.weight": weight(heads * d, width), p + "attn_k.weight": weight(kv * d, width),
            p + "attn_v.weight": weight(kv * d, width), p + "attn_output.weight": weight(width, heads * d),
            p + "ffn_gate.weight": weight(ffn, width), p + "ffn_up.weight": weight(ffn, width),
            p + "ffn_down.weight": weight(width, ffn),
        }  # fmt: skip
        if arch == "qwen2":
            tensors |= {f"{p}attn_{n}.bias": weight(count * d) for n, count in (("q", heads), ("k", kv), ("v", kv))}
        if arch == "qwen3":
            tensors |= {f"{p}attn_{n}_norm.weight": 1 + weight(d) for n in "qk"}
    metadata = {
        "general.architecture": arch, "general.name": "tiny", "general.languages": ["en"],
        f"{arch}.block_count": layers, f"{arch}.context_length": context, f"{arch}.embedding_length": width,
        f"{arch}.feed_forward_length": ffn, f"{arch}.attention.head_count": heads, f"{arch}.attention.head_count_kv": kv,
        f"{arch}.rope.freq_base": 10000.0, f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * 256, "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.chat_template": TEMPLATE,
    } | changes  # fmt: skip
    return {k: v for k, v in metadata.items() if v is not None}, tensors


def write_tiny_model(path: Path, **options) -> Path:
    gguf.write(path, *tiny_parts(**options))
    return path
