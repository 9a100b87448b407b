"""Run by test_pty in a pseudo-terminal: the real application over hostile texts, walking through its screens by itself."""

import asyncio
import sys

from assistant.settings import Settings
from assistant.tui.app import PellucidApp
from safety.verdict import Action, Finding, Verdict
from tests.assistant.tui.fakes import FakeSession, MemoryLedger, Script, make_turn

ST = "\x1b\\"
EVIL = (
    f"ev1l \x1b]52;c;cHduZWQ={ST} \x1b]8;;http://evil.example{ST}link\x1b]8;;{ST} \x1b]0;t1tle\x07 \x1b[6n \x1b[2J\x1bc \x1bPq#0{ST}"
    f"\x1b_Ga=T{ST} \x9b31m \x9d0;c1\x9c \x90q\x9c \x07\x08 \u202edesrever \U000e0041 [/x] [@click=app.bell]x[/]"
)


def main():
    verdict = Verdict(Action.CAUTION, 0.5, {EVIL: 0.5}, (Finding(EVIL, EVIL, 0, 4, 0.5),), EVIL, EVIL)
    turn = make_turn(
        1,
        EVIL,
        EVIL + "\n\n```\n" + EVIL + "\n```\n",
        None,
        "C1",
        prompt_verdict=verdict,
        output_verdict=verdict,
        notices=(EVIL,),
        system=EVIL,
    )
    ledger = MemoryLedger([turn])
    ledger.titles["C1"] = EVIL
    session = FakeSession(
        Settings(language="en", model=EVIL),
        ledger=ledger,
        scripts=[Script(EVIL, verdict, verdict, (EVIL,), error=ValueError(EVIL), error_after=40)],
    )
    app = Walker(session, "C1")
    sys.exit(app.run() or app.return_code)


class Walker(PellucidApp):
    """Goes through all screens and leaves."""

    async def on_ready(self):
        self.run_worker(self.walk())

    async def keys(self, *keys, wait=0.4):
        for key in keys:
            self.simulate_key(key)
            await asyncio.sleep(0.05)
        await asyncio.sleep(wait)

    async def walk(self):
        await asyncio.sleep(1.0)
        self.chat.prompt.load_text(EVIL)
        await self.keys("enter", wait=1.2)
        await self.keys("escape")
        if "--teeth" in sys.argv:
            self.notify(EVIL, markup=False)
        else:
            self.chat.tell(EVIL)
        await self.keys("f3", wait=1.0)
        await self.keys("right", "escape", "escape")
        await self.keys("f4", wait=0.8)
        for tab in ("tab-text", "tab-json"):
            self.screen.query_one("TabbedContent").active = tab
            await asyncio.sleep(0.3)
        for key in ("escape", "f2", "escape", "ctrl+p", "escape", "f1", "escape"):
            await self.keys(key)
        self.exit(0)


if __name__ == "__main__":
    main()
