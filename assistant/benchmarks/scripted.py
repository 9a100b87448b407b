"""The program that `pellucid bench tui` watches: the real terminal application over a real log, with an engine that reads from a script.

Run as `python -m assistant.benchmarks.scripted LOG REPORT SCENARIO`; it leaves its figures as JSON in the file REPORT and ends by itself.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from assistant.events import Event, Finished, Moderated, Prefilled, PromptChecked, Text, Token
from assistant.pipeline import Request
from assistant.settings import Settings
from assistant.store.ledger import Ledger
from assistant.turn import Candidate, ModelInfo, ReplyToken, Turn, Usage
from safety.verdict import Action, Verdict

RATE = 40.0  # tokens a second
MODEL = ModelInfo("scripted", "0" * 64, "float32", "cpu")
ALLOW = Verdict(Action.ALLOW, 0.01, {"violence": 0.01}, policy="balanced@bench")
REPLIES = {
    "prose": "The light of the sun is scattered by the air, and short waves are scattered more than long ones. " * 3 + "\n\n",
    "list": "- short waves are scattered more\n- long waves pass\n    - red ones most of all\n",
    "code": "```python\n" + "def scatter(wavelength: float) -> float:\n    return 1 / wavelength ** 4  # Rayleigh\n\n" * 1000,
}


def pieces(kind: str, count: int) -> list[str]:
    """`count` tokens of about four characters."""
    text = REPLIES[kind] * (1 + 4 * count // len(REPLIES[kind]))
    return [text[i : i + 4] for i in range(0, 4 * count, 4)]


class ScriptedSession:
    """What the terminal application needs of a session; the next reply is `kind`, `tokens` long, `rate` tokens a second (0: at once)."""

    def __init__(self, ledger: Ledger) -> None:
        self.settings = Settings(language="en")
        self.ledger = ledger
        self.engine = SimpleNamespace(info=MODEL, context_length=8192)
        self.guard = SimpleNamespace(policy="balanced@bench")
        self.ready = True
        self.kind, self.tokens, self.rate = "prose", 100, RATE

    def load(self, progress: Any = None) -> None:
        """Nothing to load."""

    def explain(self, turn: str, **how: Any) -> Any:
        """Nothing is explained here."""
        raise NotImplementedError

    def ablate(self, turn: str, **how: Any) -> Any:
        """Nothing is explained here."""
        raise NotImplementedError

    def respond(self, request: Request, cancel: threading.Event | None = None) -> Iterator[Event]:
        """The events of one turn, logged as the pipeline does it."""
        turn = make_turn(time.time_ns(), request.prompt, "", request.parent, request.conversation)
        self.ledger.open_turn(turn)
        yield PromptChecked(turn.id, turn.conversation, turn.prompt, ALLOW)
        yield Prefilled(30, 0, 8192)
        began, tokens = time.perf_counter(), []
        for index, text in enumerate(pieces(self.kind, self.tokens)):
            if cancel is not None and cancel.is_set():
                break
            token = ReplyToken(index, index % 997, text, -0.5, 1.0, (Candidate(1, text, -0.5), Candidate(2, " else", -1.5)))
            tokens.append(token)
            yield Token(token)
            yield Text(text)
            if self.rate:
                time.sleep(max(0.0, began + (index + 1) / self.rate - time.perf_counter()))
        usage = Usage(30, 0, len(tokens), 0.0, 0.1, max(0.001, time.perf_counter() - began))
        turn = replace(turn, reply="".join(t.text for t in tokens), finish="stop", tokens=tuple(tokens), output_verdict=ALLOW, usage=usage)
        self.ledger.close_turn(turn)
        yield Moderated(ALLOW, final=True)
        yield Finished(turn)


def make_turn(number: int, prompt: str, reply: str, parent: str | None, conversation: str | None) -> Turn:
    """A turn of the scripted model."""
    return Turn(
        id=f"T{number:025d}", conversation=conversation or f"C{number:025d}", prompt=prompt, reply=reply, finish="stop",
        prompt_verdict=ALLOW, output_verdict=ALLOW, usage=Usage(), model=MODEL, sampling=Settings().sampling(), parent=parent,
        created_us=time.time_ns() // 1000, language="en",
    )  # fmt: skip


def fill(path: Path, turns: int) -> str:
    """A log with one conversation of so many turns; returns its id. Not durable: it is thrown away."""
    with Ledger.open(path) as ledger:
        with ledger.exclusive() as connection:
            connection.execute("PRAGMA synchronous = OFF")
        parent, conversation = None, "C" + "0" * 25
        for number in range(turns):
            answer = f"Answer {number}: **short** waves scatter.\n\n- blue\n- red\n\n" * (1 + number % 3)
            turn = make_turn(number, f"Question {number}?", answer, parent, conversation)
            ledger.open_turn(turn)
            ledger.close_turn(turn)
            parent = turn.id
    return conversation


class Watch:
    """Plays one scenario inside the running application and takes its figures."""

    def __init__(self, app: Any, session: ScriptedSession, report: Path) -> None:
        self.app, self.session, self.report = app, session, report
        self.frames: list[float] = []

    async def play(self, scenario: str) -> None:
        """Play, write the report, leave."""
        name, _, argument = scenario.partition(":")
        await asyncio.sleep(1.0)
        figures = await getattr(self, name)(argument)
        self.report.write_text(json.dumps(figures), "utf-8")
        self.app.exit(0)

    async def stream(self, kind: str) -> dict[str, Any]:
        """One long reply: the share of a core that the whole process used, and how long each frame took."""
        self._time_frames()
        self.session.kind, self.session.tokens = kind, 600
        return await self._reply()

    async def open(self, conversation: str) -> dict[str, Any]:
        """A long conversation: until its end is on the screen, then a reply in it."""
        chat = self.app.chat
        began = time.perf_counter()
        chat.open_conversation(conversation)
        while not chat.branch.path or not chat.transcript.views:
            await asyncio.sleep(0.002)
        painted = asyncio.Event()
        chat.call_after_refresh(painted.set)
        await painted.wait()
        opened = time.perf_counter() - began
        self._time_frames()
        self.session.tokens = 200
        return {"open_seconds": opened, **await self._reply()}

    async def idle(self, argument: str) -> dict[str, Any]:
        """Nothing happens."""
        await asyncio.sleep(2.0)
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(8.0)
        return {"cpu": (time.process_time() - cpu) / (time.perf_counter() - began)}

    async def turns(self, count: str) -> dict[str, Any]:
        """Many short turns, one after another: how much memory the later ones took."""
        self.session.tokens, self.session.rate = 40, 0
        total, resident = int(count), {}
        for number in range(1, total + 1):
            await self._reply()
            if number in (total // 5, total):
                gc.collect()
                resident[number] = resident_bytes()
        first, last = resident[total // 5], resident[total]
        grown = (last - first) / (total - total // 5)
        return {"bytes_per_turn": grown, "megabytes": last / 1e6, "turns": total}

    async def _reply(self) -> dict[str, Any]:
        chat = self.app.chat
        from assistant.tui.chat_state import Wish

        cpu, began = time.process_time(), time.perf_counter()
        await chat.ask(Wish("Why is the sky blue?"))
        while chat.generation is not None:
            await asyncio.sleep(0.01)
        took = time.perf_counter() - began
        return {"cpu": (time.process_time() - cpu) / took, "seconds": took, "frames": self.frames}

    def _time_frames(self) -> None:
        """From taking in new tokens until the terminal has been written to, in seconds, for every frame."""
        chat = self.app.chat
        drain, paint = chat._drain, chat._compositor_refresh
        waiting: list[float] = []  # since when news is taken in that is not painted yet
        taking = False

        async def timed() -> None:
            nonlocal taking
            waiting.append(time.perf_counter())
            taking = True
            await drain()
            taking = False
            if chat.generation is None:
                waiting.clear()

        def painted() -> None:
            paint()
            if waiting and not taking:
                self.frames.append(time.perf_counter() - waiting[0])
                waiting.clear()

        chat._drain, chat._compositor_refresh = timed, painted


def resident_bytes() -> int:
    """The resident size of this process now; where the system does not say, its largest so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        from assistant.benchmarks.measure import peak_megabytes

        return int(peak_megabytes() * 1e6)


def main() -> None:
    """Run the application under watch."""
    path, report, scenario = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    from assistant.tui.app import PellucidApp

    with Ledger.open(path) as ledger:
        session = ScriptedSession(ledger)
        app = PellucidApp(session)
        watch = Watch(app, session, report)
        asyncio.run(_both(app, watch, scenario))


async def _both(app: Any, watch: Watch, scenario: str) -> None:
    async def when_ready() -> None:
        while not (hasattr(app, "chat") and app.chat.is_mounted and hasattr(app.chat, "sidebar")):
            await asyncio.sleep(0.02)
        with app._context():
            await watch.play(scenario)

    playing = asyncio.create_task(when_ready())
    await app.run_async()
    await playing


if __name__ == "__main__":
    main()
