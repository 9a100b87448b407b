"""What serve-api costs beside the bare server, and whether faults lose turns. `pellucid bench served`

The server has no model: it writes words at a fixed pace, as a machine with an accelerator would, and needs next to no processor itself. The
client, the proxy and the server are three processes on this machine, so they share its processors.
"""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import openai

from assistant import pipeline
from assistant.benchmarks.faulty_server import Fault, FaultyServer, Script
from assistant.errors import ModelError
from assistant.loading import load_guard
from assistant.served.engine import ServedEngine
from assistant.settings import Settings
from assistant.store.ledger import Ledger
from assistant.turn import Sampling

GOALS = {"first_token_added_ms": 10.0, "throughput_lost_percent": 5.0, "turns_lost": 0, "turns_logged_twice": 0}
PROMPT = "Tell me about the sea, and why it is blue."
_ASKED = 3
INJECTED: tuple[Fault, ...] = ("closed", "reset", "slow", "garbage", "half")


def overhead(streams: int, words: int, pace: float, rounds: int, guard: str, *, senseless: bool = False) -> dict[str, Any]:
    """Time to the first token and words a second with `streams` at once, straight and through serve-api, in turn.

    The replies are sentences; `senseless` ones, which the guard reads at every step, are the worst case.
    """
    straight: list[dict[str, float]] = []
    through: list[dict[str, float]] = []
    with _child([sys.executable, "-m", "assistant.benchmarks.faulty_server", str(words), str(pace), "senseless" * senseless]) as server:
        upstream = f"http://127.0.0.1:{_line(server)}/v1"
        with tempfile.TemporaryDirectory() as folder, _proxy(upstream, Path(folder), guard) as (address, key):
            duration = words * pace
            _measure(address, key, streams, duration, "warming up", asked=1)
            for number in range(rounds):
                straight.append(_measure(upstream, "none", streams, duration, f"straight {number}"))
                through.append(_measure(address, key, streams, duration, f"through {number}"))
    out: dict[str, Any] = {
        "streams": streams, "words": words, "pace_ms": pace * 1000, "replies": "senseless words" if senseless else "sentences",
        "guard": guard, "rounds": rounds,
    }  # fmt: skip
    for name, of in (("straight", straight), ("through", through)):
        out[name] = {key: median(row[key] for row in of) for key in of[0]}
    out["first_token_added_ms"] = median(b["first_token_ms"] - a["first_token_ms"] for a, b in zip(straight, through, strict=True))
    out["first_shown_text_added_ms"] = median(b["first_text_ms"] - a["first_text_ms"] for a, b in zip(straight, through, strict=True))
    lost = [1 - b["words_per_second"] / a["words_per_second"] for a, b in zip(straight, through, strict=True)]
    out["throughput_lost_percent"] = 100 * median(lost)
    return out


def faults(requests: int, share: float, *, at_once: int = 32, seed: int = 0) -> dict[str, Any]:
    """`requests` turns against a server of which `share` of the answers fail; what the ledger then holds of them."""
    rng = random.Random(seed)
    plan = [rng.choice(INJECTED) if rng.random() < share else None for _ in range(requests * 8)]
    words = [f"word{i} " for i in range(40)]
    guard = load_guard(Settings(guard="ngrams"), lambda what, fraction: None)
    began = time.perf_counter()
    ends: Counter[str] = Counter()
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as folder, FaultyServer(Script(words=words, fault=plan.__getitem__, slow=3.0)) as server:
        engine = ServedEngine.connect(server.url, "", timeout=1.0, retries=5, context_length=2048)
        engine.server._pause = 0.02
        with Ledger.open(Path(folder) / "ledger.db") as ledger:

            def ask(number: int) -> None:
                request = pipeline.Request(f"Request {number}", Sampling(seed=number))
                try:
                    for _ in pipeline.respond(request, engine=engine, guard=guard, ledger=ledger):
                        pass
                    end = "answered"
                except ModelError:
                    end = "broken off, the half kept"
                with lock:
                    ends[end] += 1

            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(ask, range(requests)))
            turns = [ledger.turn(turn) for (turn,) in ledger.query("SELECT turn FROM ledger WHERE kind = 'output'")]
        engine.server.close()
        injected = Counter(fault for fault in plan[: len(server.requests)] if fault)
    seen = Counter(turn.prompt for turn in turns)
    whole = "".join(words)
    return {
        "requests": requests, "http_requests": len(server.requests), "injected": dict(sorted(injected.items())), "ends": dict(ends),
        "turns_lost": requests - len(seen), "turns_logged_twice": sum(count - 1 for count in seen.values()),
        "answered_in_full": sum(turn.finish == "stop" and turn.reply == whole for turn in turns),
        "halves_kept": sum(turn.finish == "error" and whole.startswith(turn.reply) and bool(turn.reply) for turn in turns),
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def _measure(url: str, key: str, streams: int, duration: float, name: str, asked: int = _ASKED) -> dict[str, float]:
    """Milliseconds to the first token (of all requests: median and 95th percentile), and words a second of all together.

    Every stream asks again as soon as it is answered, `asked` times, no question twice (`name` makes them those of this run): the guard
    remembers what it has read. They begin one after the other over the first reply's `duration`, as
    the requests of many people do, and not all at once. Words are counted while all streams run.
    """

    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[float, float, int]:
        began = time.perf_counter()
        first = text = 0.0
        count = 0
        messages: Any = [{"role": "user", "content": f"{PROMPT} ({name}, {number})"}]
        async for chunk in await client.chat.completions.create(model="scripted", messages=messages, stream=True, max_tokens=100_000):
            told = (chunk.model_extra or {}).get("pellucid", {})
            content = chunk.choices[0].delta.content if chunk.choices else None
            if not first and (told.get("began") or content):
                first = time.perf_counter() - began
            if content:
                spoken.append((time.perf_counter(), len(content.split())))
                text = text or time.perf_counter() - began
                count += len(content.split())
        return first, text, count

    spoken: list[tuple[float, int]] = []

    async def stream(client: openai.AsyncOpenAI, number: int) -> list[tuple[float, float, int]]:
        await asyncio.sleep(duration * number / streams)
        return [await one(client, number + streams * again) for again in range(asked)]

    async def everything() -> dict[str, float]:
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            await client.models.list()
            began = time.perf_counter()
            found = [row for rows in await asyncio.gather(*(stream(client, n) for n in range(streams))) for row in rows]
        start, end = began + duration, began + max(asked, 2) * duration
        firsts = [row[0] * 1000 for row in found]
        return {
            "first_token_ms": median(firsts), "first_token_95_ms": quantiles(firsts, n=20)[-1] if streams > 1 else firsts[0],
            "first_text_ms": median(row[1] * 1000 for row in found),
            "words_per_second": sum(count for at, count in spoken if start <= at < end) / (end - start),
        }  # fmt: skip

    return asyncio.run(everything())


@contextmanager
def _child(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def _proxy(upstream: str, folder: Path, guard: str) -> Iterator[tuple[str, str]]:
    """(address, key) of `pellucid serve-api` in front of `upstream`, with a log of its own."""
    import os

    command = [
        sys.executable, "-c", "from assistant.cli.main import main; main()", "serve-api", "--port", "0", "--rate", "0", "--at-once", "128",
        "--engine", "openai", "--base-url", upstream, "--db", str(folder / "ledger.db"),
    ]  # fmt: skip
    told = folder / "told"
    with told.open("w") as narration, _child(command, stderr=narration, env={**os.environ, "PELLUCID_GUARD": guard}) as process:
        address = _line(process)
        found = re.search(r"key for this run: (\S+)", told.read_text("utf-8"))
        if found is None:
            raise ModelError(f"serve-api did not start: {told.read_text('utf-8')[-300:]}")
        yield address, found[1]


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
