"""Reading and writing speed of the engine, interleaved with peers on the same model file when they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from assistant.benchmarks.measure import busy_core, interleaved, machine, peak_megabytes
from assistant.errors import UsageError
from assistant.lm.chat_format import Prompt
from assistant.lm.engine import PACKED, Engine
from assistant.lm.kernels import Kernels, measure
from assistant.lm.speculate import speculator
from assistant.settings import Settings
from assistant.turn import Message, Sampling

PROMPT_TOKENS, NEW_TOKENS = 128, 128
TEXT = "The history of science is the story of people who looked at the world and asked how it works. "
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_tokens=NEW_TOKENS)

REQUESTS = {
    "chat": "Why is the sky blue? Explain it to a child.",
    "story": "Write a short story about a lighthouse keeper.",
    "copying": "Repeat this text word by word: The river runs past the old mill, under the stone bridge, and through the green valley, "
    "where the farmers grow apples, pears and plums, until it reaches the harbour at the edge of the town.",
    "looping": "",
}
"""What `guessing` asks; nothing: to go on with a sentence that was repeated six times."""

Run = Callable[[], dict[str, float]]


def bench(
    settings: Settings, path: Path, peers: Sequence[str] = (), rounds: int = 3, *, busy: bool = False, speculation: bool = False
) -> dict[str, Any]:
    """Median prefill and decode speed over interleaved rounds; every round reads 128 tokens and writes 128, one by one.

    `busy` measures all once more while another program has one core; `speculation` measures replies with and without guessed tokens.
    """

    def load_once() -> tuple[Engine, float]:
        began = time.perf_counter()
        engine = Engine.load(path, device=settings.device, dtype=settings.dtype, thread_count=settings.threads, packed_folder=Path(folder))
        return engine, time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        first_load = load_once()[1]
        memory = peak_megabytes()
        engine, load = load_once()
    ids = (engine.tokenizer.encode(TEXT) * PROMPT_TOKENS)[:PROMPT_TOKENS]
    actions: dict[str, Run] = {"pellucid": lambda: ours(engine, ids)}
    for peer in peers:
        actions[peer] = _peer(peer, path, ids, machine()["threads"])
    figures = interleaved(actions, rounds)
    mine = figures["pellucid"]
    beside: dict[str, Any] = {"speculation": guessing(engine, rounds)} if speculation else {}
    if busy:
        with busy_core():
            beside["beside_a_busy_core"] = interleaved(actions, rounds)
    return {
        "machine": machine(),
        "model": engine.info.name, "dtype": engine.info.dtype, "device": engine.info.device,
        "kernels": {"chosen": str(engine.kernels), "microseconds_per_million_weights": microseconds(engine.kernels)},
        "prefill_tokens_per_second": mine["prefill_tokens_per_second"]["median"],
        "decode_tokens_per_second": mine["decode_tokens_per_second"]["median"],
        "time_to_first_token_seconds": mine["time_to_first_token_seconds"]["median"],
        "load_seconds": load,
        "first_load_seconds": first_load,
        "peak_megabytes": memory,
        "dense_copy_megabytes": dense_copy(engine) / 1e6,
        "turn_5": fifth_turn(engine, settings, rounds),
        "joules_per_token": mine["joules_per_token"]["median"],
        "energy_source": energy_source(engine, ids),
        "figures": figures,
        "ratios": {
            peer: {f: mine[f]["median"] / figures[peer][f]["median"] for f in ("prefill_tokens_per_second", "decode_tokens_per_second")}
            for peer in peers
        },
        **beside,
    }  # fmt: skip


QUESTIONS = (
    "What is a rainbow?", "Why is it round?", "Can I walk to its end?", "Who explained it first?", "And why is the sky behind it dark?",
)  # fmt: skip


def fifth_turn(engine: Engine, settings: Settings, rounds: int) -> dict[str, float]:
    """Seconds until the first token of the fifth turn of a chat, as these settings have it, and with the turns before forgotten."""
    messages = [Message("system", settings.system)]
    engine.cache.keep_prefix([])
    for question in QUESTIONS:
        messages.append(Message("user", question))
        prompt = engine.render(messages, reserve=settings.max_tokens)
        if len(messages) < 2 * len(QUESTIONS):
            messages.append(Message("assistant", "".join(token.text for token in engine.generate(prompt, settings.sampling(seed=1)))))
    cached = engine.cache.keep_prefix(prompt.ids)

    def reads(keep: int) -> dict[str, float]:
        engine.cache.keep_prefix([*prompt.ids[:keep], prompt.ids[keep]])
        generation = engine.generate(prompt, replace(GREEDY, max_tokens=1))
        list(generation)
        return {"seconds": generation.usage.prefill_seconds}

    taken = interleaved({"cached": partial(reads, cached), "whole": partial(reads, 0)}, rounds)
    went_on, whole = (taken[name]["seconds"]["median"] for name in ("cached", "whole"))
    return {
        "prompt_tokens": len(prompt.ids), "cached_tokens": cached, "time_to_first_token_seconds": went_on, "whole_prompt_seconds": whole,
        "share": went_on / whole,
    }  # fmt: skip


def dense_copy(engine: Engine) -> int:
    """Bytes of the blocks' weights as numbers beside their packed codes: they read prompts and serve gradients. 0 where there are none."""
    if engine.info.dtype not in PACKED:
        return 0
    return sum(parameter.nbytes for parameter in engine.model.blocks.parameters())


def microseconds(kernels: Kernels) -> dict[str, float]:
    """What the start measured, or would have measured: one token, or a prompt of 128, through a million weights."""
    return {name: 1e6 * seconds for name, seconds in (kernels.seconds or measure()).items()}


def ours(engine: Engine, ids: Sequence[int]) -> dict[str, float]:
    """One round of our engine with a cold cache, no end token obeyed."""
    engine.cache.keep_prefix([])
    engine.speculator = None
    generation = engine.generate_ids(ids, GREEDY, eos=frozenset())
    for _ in generation:
        pass
    usage = generation.usage
    return {
        "prefill_tokens_per_second": usage.prompt_tokens / usage.prefill_seconds,
        "decode_tokens_per_second": (usage.reply_tokens - 1) / usage.decode_seconds,
        "time_to_first_token_seconds": usage.prefill_seconds,
        "joules_per_token": (usage.joules or 0.0) / (usage.prompt_tokens + usage.reply_tokens),
    }


def guessing(engine: Engine, rounds: int) -> dict[str, Any]:
    """Decode speed with and without guessed tokens, for each of REQUESTS; the replies are the same."""
    actions: dict[str, Run] = {}
    for name, text in REQUESTS.items():
        prompt = engine.render([Message("user", text)], reserve=NEW_TOKENS) if text else engine.render_raw(6 * TEXT)
        for way in ("alone", "guessing"):
            actions[f"{name}, {way}"] = partial(_reply, engine, prompt, way == "guessing")
    return interleaved(actions, rounds)


def _reply(engine: Engine, prompt: Prompt, guess: bool) -> dict[str, float]:
    engine.cache.keep_prefix([])
    engine.speculator = speculator(engine._decoder) if guess else None
    generation = engine.generate(prompt, Sampling(temperature=0.2, seed=1, repetition_penalty=1.0, max_tokens=NEW_TOKENS))
    for _ in generation:
        pass
    usage, guesses = generation.usage, engine.speculator
    figures = {"decode_tokens_per_second": (usage.reply_tokens - 1) / usage.decode_seconds, "reply_tokens": float(usage.reply_tokens)}
    return figures | ({"passes": float(guesses.passes), "guessed_right": float(guesses.guessed)} if guesses else {})


def energy_source(engine: Engine, ids: Sequence[int]) -> str:
    """Whether joules are measured here, or how they are estimated."""
    generation = engine.generate_ids(ids[:2], Sampling(temperature=0, max_tokens=1), eos=frozenset())
    for _ in generation:
        pass
    return generation.usage.energy_source


def _peer(name: str, path: Path, ids: Sequence[int], threads: int) -> Run:
    if name == "llama.cpp":
        return _llama_cpp(path, ids, threads)
    if name == "transformers":
        return _transformers(path, ids)
    raise UsageError(f"there is no peer {name!r}: llama.cpp and transformers are known")


def _llama_cpp(path: Path, ids: Sequence[int], threads: int) -> Run:
    if importlib.util.find_spec("llama_cpp") is None:
        raise UsageError("the peer llama.cpp is not installed: pip install llama-cpp-python")
    import numpy as np

    llama_cpp: Any = importlib.import_module("llama_cpp")  # not a dependency

    model = llama_cpp.Llama(str(path), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def run() -> dict[str, float]:
        model.reset()
        began = time.perf_counter()
        model.eval(list(ids))
        read = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            model.eval([int(np.argmax(model.scores[model.n_tokens - 1]))])
        wrote = time.perf_counter() - began
        return {"prefill_tokens_per_second": len(ids) / read, "decode_tokens_per_second": (NEW_TOKENS - 1) / wrote}

    return run


def _transformers(path: Path, ids: Sequence[int]) -> Run:
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("the peer transformers is not installed: pip install transformers accelerate")
    import torch

    transformers: Any = importlib.import_module("transformers")  # not a dependency
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)

    @torch.inference_mode()
    def run() -> dict[str, float]:
        began = time.perf_counter()
        out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        read = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
        wrote = time.perf_counter() - began
        return {"prefill_tokens_per_second": len(ids) / read, "decode_tokens_per_second": (NEW_TOKENS - 1) / wrote}

    return run
