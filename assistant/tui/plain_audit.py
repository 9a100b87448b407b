"""The audit browser in words, for the line mode: what its keys do is asked for on one line.

`/audit` lists the newest turns and `/audit more` those before; `/audit WORDS verdict:block since:7d` finds turns, in the words of the
browser's own box. `/audit show 3`, `/audit verify`, `/audit review 3 unsafe`, `/audit redact 3`, `/audit export FILE`: a number is one of
the last list, an id of a turn does as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from assistant.errors import LedgerError, UsageError
from assistant.tui import auditing, export, trace
from assistant.tui.format import moment
from assistant.tui.sanitize import one_line
from assistant.tui.searching import Question, every_turn, parse, read_page
from assistant.tui.text import say
from assistant.turn import Turn

if TYPE_CHECKING:
    from assistant.tui.plain import PlainChat

PAGE = 20


class PlainAudit:
    """What `/audit` does in one line-mode chat."""

    def __init__(self, chat: PlainChat) -> None:
        self._chat = chat
        self._ledger: Any = chat.session.ledger
        self._question = Question()
        self._before: int | None = None

    def do(self, argument: str) -> None:
        """Do what the line says. Raises UsageError or LedgerError."""
        word, _, rest = argument.strip().partition(" ")
        deeds = {"more": self._more, "verify": self._verify, "show": self._show, "review": self._review, "redact": self._redact,
                 "export": self._export, "help": self._help}  # fmt: skip
        if word in deeds:
            deeds[word](rest.strip())
        elif word and not rest and self._is_turn(word):
            self._show(word)
        else:
            self._question, self._before, self._chat.found = parse(argument), None, []
            self._more("")

    def _help(self, rest: str) -> None:
        self._chat.say(say("plain.audit_how"))

    def _is_turn(self, word: str) -> bool:
        try:
            self._ledger.turn(word)
        except LedgerError:
            return False
        return True

    def _more(self, rest: str) -> None:
        rows = read_page(self._ledger, self._question, PAGE, self._before)
        for row in rows:
            self._chat.found.append((row.conversation, row.turn))
            text = row.prompt if hasattr(row, "prompt") else row.snippet
            verdict = say.get("action." + row.verdict, row.verdict)
            self._chat.say(f"{len(self._chat.found)}. {row.turn} · {moment(row.created_us)} · {verdict} · {one_line(text, 60)}")
        if not rows:
            self._chat.say(say("audit.empty"))
            return
        self._before = rows[-1].seq
        self._chat.say(say("plain.audit_how") if len(rows) < PAGE else say("plain.audit_more"))

    def _turn(self, word: str) -> Turn:
        """The turn of a number of the last list, or of an id."""
        if word.isdecimal() and 1 <= int(word) <= len(self._chat.found) and (turn := self._chat.found[int(word) - 1][1]):
            word = turn
        if not word:
            raise UsageError(say("plain.audit_how"))
        return cast(Turn, self._ledger.turn(word))

    def _show(self, rest: str) -> None:
        turn = self._turn(rest)
        self._tree(trace.trace(turn, self._ledger.attributions(turn.id), auditing.remarks(self._ledger, turn.id)), 0)

    def _tree(self, node: trace.Node, depth: int) -> None:
        self._chat.say("  " * depth + node.text)
        for child in node.children:
            self._tree(child, depth + 1)

    def _verify(self, rest: str) -> None:
        self._chat.say(say("audit.verifying"))
        check = auditing.check(self._ledger)
        self._chat.say(say("audit.sound", records=check.records) if check.sound else say("audit.broken", summary=check.summary))

    def _review(self, rest: str) -> None:
        word, label, note = [*rest.split(maxsplit=2), "", "", ""][:3]
        labels = {say(f"audit.review_{one}").lower(): one for one in ("safe", "unsafe", "unsure")}
        chosen = labels.get(label.lower(), label)
        if chosen not in labels.values():
            raise UsageError(say("plain.audit_how"))
        auditing.review(self._ledger, self._turn(word).id, cast(auditing.Label, chosen), note.strip())
        self._chat.say(say("audit.reviewed"))

    def _redact(self, rest: str) -> None:
        word, _, reason = rest.partition(" ")
        turn = self._turn(word)
        self._chat.say(f"{turn.id} · {one_line(turn.prompt, 60)}")
        self._chat.say(say("audit.redact_text"))
        if self._chat.agrees():
            self._chat.say(say("audit.redacted", count=auditing.redact(self._ledger, [turn.id], None, reason.strip() or "audit")))

    def _export(self, rest: str) -> None:
        if not rest:
            raise UsageError(say("plain.audit_how"))

        def turns() -> Iterator[Turn]:
            ids = list(every_turn(self._ledger, self._question))
            auditing.note_export(self._ledger, rest, self._question.filters)
            yield from (self._ledger.turn(id) for id in reversed(ids))

        self._chat.say(say("export.done", path=export.write_turns(turns(), rest)))
