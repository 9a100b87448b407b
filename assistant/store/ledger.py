"""The ledger: every turn, decision and event, in the order they happened, in one file that can be checked and erased
from.

This class is the store's whole front: it owns one connection, one lock, and the rule that a turn's intent is durable
before anything is generated. What the records mean is `records`, how they are hashed `append`, what is kept of them
`migrations`. Safe to call from any thread; other programs may read and write the same file meanwhile.
"""

from __future__ import annotations

import contextlib
import getpass
import hmac
import logging
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Unpack

from assistant.errors import LedgerError, UsageError
from assistant.store import journal, listing, migrations, reading, records, recovery, search, tree
from assistant.store.append import Appender, Clock
from assistant.store.checkpoint import Checkpoint, keep_outside
from assistant.store.circumstances import Circumstances
from assistant.store.connection import BUSY_SECONDS, as_database, connect, translated
from assistant.store.content import PROMPT, as_part, decode, json_part, text_part
from assistant.store.driver import errors
from assistant.store.listing import Filter, Filters, TurnRow
from assistant.store.process import Presence
from assistant.store.reading import Conversation
from assistant.store.search import Hit, Side
from assistant.store.together import Together
from assistant.turn import ReplyToken, Turn
from explain.attribution import Attribution

__all__ = ["Conversation", "Filter", "Hit", "Ledger", "TurnRow"]

_RESERVED = ("intent", "output", "interrupted", "attribution", "title", "schema", "checkpoint", "redact", "import", "export", "moderation")
_KIND = re.compile(r"[a-z][a-z._-]{1,31}")
_PART = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WRITTEN = """SELECT 1 FROM ledger WHERE turn = ?
AND (kind = 'output' OR kind = 'interrupted' AND record ->> '$.session' = ?) LIMIT 1"""
"""Whether a turn has its outcome: one that another program took for dead and closed gets it all the same."""
_JOURNAL_WAIT_MS = 50
_PIN_EVERY = 200
"""Records between two checkpoints of a program that goes on running."""
_log = logging.getLogger(__name__)


class Ledger:
    """An open ledger. `with Ledger.open(path) as ledger:` closes it again."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, *, read_only: bool, timeout: float, clock: Clock) -> None:
        self.path = path
        self.read_only = read_only
        self._connection = connection
        self._lock = threading.RLock()
        self._timeout = timeout
        self._appender = Appender(connection, clock)
        self._together = Together(self._appender, self._writing)
        self._presence: Presence | None = None
        self._circumstances = Circumstances()
        self._announced = False
        self._progress: dict[str, journal.Progress] = {}
        self._journaled = float("-inf")
        self._unwritten: dict[str, Turn] = {}
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        read_only: bool = False,
        timeout: float = BUSY_SECONDS,
        clock: Clock = time.time_ns,
        key: str | None = None,
    ) -> Ledger:
        """The ledger at `path`, made when there is none; `:memory:` keeps nothing. Raises LedgerError, touching
        nothing.

        `key` is the passphrase of an encrypted ledger, by default that of the environment (see `driver`).
        A read-only ledger serves auditors: it never writes, so it can be read while the chat goes on.
        """
        file = None if str(path) == ":memory:" else Path(path).expanduser()
        connection = connect(file, read_only=read_only, timeout=timeout, key=key)
        ledger = cls(connection, file, read_only=read_only, timeout=timeout, clock=clock)
        try:
            with translated(file):
                ledger._prepare()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Write what could not be written yet, and let go of the file. Raises LedgerError when that still cannot be
        written.
        """
        with self._lock:
            if self._closed:
                return
            try:
                with translated(self.path):
                    if self._unwritten:
                        self._write_unwritten()
                    wait = round(1000 * min(self._timeout, 5))  # nobody waits long for a program that ends
                    self._connection.execute(f"PRAGMA busy_timeout = {wait}")
                    self._pin_from_time_to_time(at_least=1)
            finally:
                self._closed = True
                with contextlib.suppress(*errors()):
                    if self._presence is not None and self._announced:
                        self._connection.execute(
                            recovery.FORGET_PROCESS,
                            (self._presence.process.id,),
                        )
                self._connection.close()
                if self._presence is not None:
                    self._presence.leave()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- writing -----------------------------------------------------------------------------------------------------

    def open_turn(self, turn: Turn) -> None:
        """Make the intent durable: prompt, filter verdict, sampling, model. Nothing may be generated when this
        raises.
        """
        fields, parts = records.intent(turn)

        def write(connection: sqlite3.Connection) -> Callable[[], object]:
            if connection.execute("SELECT 1 FROM ledger WHERE turn = ? LIMIT 1", (turn.id,)).fetchone():
                raise LedgerError(f"the turn {turn.id} is already in the log: start a new turn")
            process = self._announce(connection)
            for kind, changed in self._circumstances.changes(turn):
                self._appender.append(kind, changed)
            seq = self._appender.append("intent", fields, parts)
            connection.execute("INSERT INTO opened VALUES (?, ?, ?)", (turn.id, seq, process))
            return self._circumstances.settle(turn)

        with translated(self.path):
            self._write_unwritten()
            self._together.commit(write)
        self._announced = True
        self._progress[turn.id] = journal.Progress()

    def journal(self, turn_id: str, text: str, tokens: Sequence[ReplyToken]) -> None:
        """Write the reply so far, at most every half second, together with all others. Cheap enough to be called for every token.

        Where another program or thread is writing just now it waits for the next token, and any other failure is reported: the whole
        reply is written when the turn is closed. `tokens` may grow afterwards.
        """
        progress = self._progress.get(turn_id)
        if progress is None:
            raise LedgerError(f"the turn {turn_id} is not open here: open it before writing its reply")
        progress.latest = text, tokens, len(tokens)
        if time.monotonic() - self._journaled < journal.SECONDS or not self._lock.acquire(blocking=False):  # another thread writes just now
            return
        try:
            self._journaled = time.monotonic()
            with self._writing():
                self._connection.execute(f"PRAGMA busy_timeout = {_JOURNAL_WAIT_MS}")  # a reply never waits for another program
                try:
                    journal.write(self._connection, self._progress.copy())
                finally:
                    self._connection.execute(f"PRAGMA busy_timeout = {round(self._timeout * 1000)}")
        except LedgerError as error:
            busy = getattr(error.__cause__, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            _log.log(logging.DEBUG if busy else logging.WARNING, "the reply so far could not be written down: %s", error)
        finally:
            self._lock.release()

    def close_turn(self, turn: Turn) -> None:
        """Write what became of an open turn. When that fails the turn stays in memory and is tried again with the next
        turn and at the end; LedgerError says so."""
        if turn.id not in self._progress:
            with self._writing() as connection:
                if not connection.execute("SELECT 1 FROM ledger WHERE turn = ? AND kind = 'intent'", (turn.id,)).fetchone():
                    raise LedgerError(f"the turn {turn.id} was never opened in this log: open it first")
        try:
            with translated(self.path):
                self._write_unwritten()
                self._write_outcome(turn)
        except BaseException as error:
            self._unwritten[turn.id] = turn
            if not isinstance(error, LedgerError):
                raise
            raise LedgerError(f"{error}; the reply is kept in memory and will be logged as soon as that works") from error
        with self._writing():
            self._pin_from_time_to_time(at_least=_PIN_EVERY)

    def rename(self, conversation: str, title: str) -> None:
        """Give a conversation a title."""
        with self._writing(), self._appender.transaction() as connection:
            if not connection.execute("SELECT 1 FROM conversation WHERE id = ?", (conversation,)).fetchone():
                raise LedgerError(f"there is no conversation {conversation!r} in the log")
            self._appender.append("title", {"conv": conversation}, [text_part("title", title.strip())])

    def record_attribution(self, turn_id: str, attribution: Attribution) -> None:
        """Keep an explanation of a turn."""
        fields = {"method": attribution.method, "target": attribution.target, "tokens": len(attribution.output_tokens)}
        with self._writing(), self._appender.transaction() as connection:
            turn = reading.full_id(connection, turn_id)
            conversation = connection.execute("SELECT conv FROM ledger WHERE turn = ?", (turn,)).fetchone()[0]
            part = json_part("attribution", attribution.to_dict())
            self._appender.append("attribution", {**fields, "turn": turn, "conv": conversation}, [part])

    def record_event(
        self,
        kind: str,
        fields: Mapping[str, Any],
        *,
        content: Mapping[str, str | bytes] = MappingProxyType({}),
    ) -> int:
        """Log anything else that matters (a review, an access …). Returns its record number.

        `fields` stay for ever and can be searched; what may have to be erased goes into `content`.
        """
        if not _KIND.fullmatch(kind) or kind in _RESERVED:
            raise UsageError(f"{kind!r} cannot be the kind of an event: use lower-case letters, and none of {', '.join(_RESERVED)}")
        if bad := [name for name in content if not _PART.fullmatch(name)]:
            raise UsageError(f"{bad[0]!r} cannot be the name of a content: use lower-case letters, digits and _")
        if bad := [name for name in ("v", "seq", "ts", "kind", "content") if name in fields]:
            raise UsageError(f"an event cannot set the field {bad[0]!r} itself")
        with self._writing(), self._appender.transaction():
            return self._appender.append(kind, fields, [as_part(name, value) for name, value in content.items()])

    def checkpoint(self) -> Checkpoint:
        """Pin down the whole log as it is now, in the log and in a file outside it. Raises LedgerError."""
        with self._writing():
            with self._appender.transaction() as connection:
                point = self._pin(connection)
            self._appender.appended = 0
            if self.path is not None:
                keep_outside(point, self.path)
            return point

    def recover(self) -> list[str]:
        """Close as `interrupted` the turns of programs that died while writing them. Returns their ids.

        Turns of programs that still run are left alone. A read-only ledger recovers nothing.
        """
        if self.read_only:
            return []
        with self._writing():
            own = self._presence.process.id if self._presence else ""
            turns = recovery.abandoned(self._connection, self.path, own)
            closed = [turn for turn in turns if recovery.close_interrupted(self._appender, turn)]
            recovery.forget_dead(self._connection, self.path)
            return closed

    # -- reading -----------------------------------------------------------------------------------------------------

    def turn(self, turn_id: str) -> Turn:
        """The turn with this id, or the only one whose id begins so. Erased texts are empty and named in `erased`."""
        with self._reading() as connection:
            return reading.read_turn(connection, reading.full_id(connection, turn_id))

    def thread(self, turn_id: str | None) -> list[Turn]:
        """The turn and its ancestors, oldest first; without tokens, which `turn` has. Empty for None."""
        if turn_id is None:
            return []
        with self._reading() as connection:
            ids = reading.thread_ids(connection, reading.full_id(connection, turn_id))
            return [reading.read_turn(connection, id_, tokens=False) for id_ in ids]

    def siblings(self, turn_id: str) -> list[str]:
        """The turns that answer after the same parent in the same conversation, this one included, oldest first."""
        with self._reading() as connection:
            turn = reading.full_id(connection, turn_id)
            return [
                row[0]
                for row in connection.execute(
                    """SELECT turn FROM ledger WHERE kind = 'intent' AND (conv, ifnull(parent, '')) =
                    (SELECT conv, ifnull(parent, '') FROM ledger WHERE turn = ? AND kind = 'intent') ORDER BY seq""",
                    (turn,),
                ).fetchall()
            ]

    def latest_turn(self, conversation: str | None = None) -> Turn | None:
        """The turn begun last, of one conversation or of all; None when there is none."""
        with self._reading() as connection:
            where, values = ("conv = ? AND kind = 'intent'", (conversation,)) if conversation else ("kind = 'intent'", ())
            row = connection.execute(f"SELECT turn FROM ledger WHERE {where} ORDER BY seq DESC LIMIT 1", values).fetchone()
            return reading.read_turn(connection, row[0]) if row else None

    def turns(self, conversation: str) -> list[Turn]:
        """Every turn of a conversation in every branch, oldest first; without tokens, which `turn` has."""
        with self._reading() as connection:
            rows = connection.execute("SELECT turn FROM ledger WHERE conv = ? AND kind = 'intent' ORDER BY seq", (conversation,)).fetchall()
            return [reading.read_turn(connection, turn, tokens=False) for (turn,) in rows]

    def conversations(self, limit: int = 50, before: str | None = None) -> list[Conversation]:
        """A page of conversations, the one written to last first; `before` is the last id of the page above."""
        with self._reading() as connection:
            return reading.read_conversations(connection, limit, before)

    def attributions(self, turn_id: str) -> list[Attribution]:
        """The explanations kept for a turn, oldest first."""
        with self._reading() as connection:
            return reading.read_attributions(connection, reading.full_id(connection, turn_id))

    def search(
        self,
        query: str,
        *,
        limit: int = 20,
        before: int | None = None,
        side: Side | None = None,
        ranked: bool = False,
        **filters: Unpack[Filters],
    ) -> list[Hit]:
        """The turns whose prompt or reply holds all words of `query` (Chinese or English), in every branch, newest
        first.

        "Quotes" make a phrase, a final * takes every ending, a leading - excludes. `before` is the last `seq` of the
        page above.
        """
        with self._reading() as connection, reading.understood():
            return search.run(connection, query, limit=limit, before=before, which=Filter(**filters), side=side, ranked=ranked)

    def list_turns(self, *, before: int | None = None, limit: int = 50, **filters: Unpack[Filters]) -> list[TurnRow]:
        """A page of turns, newest first; `before` is the last `seq` of the page above."""
        with self._reading() as connection, reading.understood():
            return listing.read_rows(connection, Filter(**filters), before, limit)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a SELECT: for the audit, which reads the tables themselves."""
        with self._reading() as connection:
            return connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Appender]:
        """Several records at once, or none: for the audit."""
        with self._writing(), self._appender.transaction():
            yield self._appender

    def release_memory(self) -> None:
        """Let go of the pages that SQLite keeps in memory: for a program that stays open for hours. They are read again when needed."""
        with self._reading() as connection:
            connection.execute("PRAGMA shrink_memory")

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[sqlite3.Connection]:
        """The connection itself, alone: for backup and erasure."""
        with self._reading() as connection:
            yield connection

    # -- inside ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self.path):
            if self._closed:
                raise LedgerError("the log is closed: open it again")
            yield self._connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self.read_only:
            raise LedgerError("the log was opened for reading only: open it for writing to change it")
        with self._reading() as connection:
            yield connection

    def _prepare(self) -> None:
        """Make or update the schema, and learn who is writing."""
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if self.read_only:
            if version == 0:
                raise LedgerError(f"there is nothing in the log {self.path} yet: have a conversation first")
            return
        self._presence = Presence(self.path)
        if version < migrations.newest_version():
            self._update_schema()
        self._appender.stamp = self._stamp()

    def _update_schema(self) -> None:
        with self._appender.transaction() as connection:  # whoever comes second finds it done
            before = connection.execute("PRAGMA user_version").fetchone()[0]
            if before == migrations.newest_version():
                return
            version = migrations.migrate(as_database(connection))
            schema = migrations.describe(connection)
            id_ = migrations.schema_id(schema)
            connection.execute("INSERT OR IGNORE INTO registry VALUES (?, 'schema', ?)", (id_, migrations.schema_text(schema)))
            fields: dict[str, Any] = {"schema": id_, "version": version, "from": before}
            if before == 0:
                key = as_part("user_key", uuid.uuid4().bytes + uuid.uuid4().bytes)
                self._appender.append("schema", {**fields, "log": uuid.uuid4().hex}, [key])
            else:
                self._appender.append("schema", fields)

    def _stamp(self) -> dict[str, Any]:
        assert self._presence is not None
        stamp: dict[str, Any] = {"session": self._presence.process.id[:16]}
        if user := self.pseudonym():
            stamp["user"] = user
        return stamp

    def pseudonym(self, name: str | None = None) -> str:
        """What records call the user `name` (the one logged in): a keyed hash, worthless once the key is erased."""
        with self._reading() as connection:
            row = connection.execute("SELECT codec, body FROM content WHERE seq = 1 AND part = 'user_key'").fetchone()
        try:
            login = name if name is not None else getpass.getuser()
        except (OSError, KeyError, ImportError):
            return ""
        return hmac.new(decode(*row), login.encode("utf-8", "replace"), "sha256").hexdigest()[:16] if row else ""

    def _announce(self, connection: sqlite3.Connection) -> str:
        """Say in the file which program this is, once. Returns its id."""
        assert self._presence is not None
        process = self._presence.process
        if not self._announced:
            connection.execute("INSERT OR IGNORE INTO process VALUES (?, ?, ?)", (process.id, process.pid, process.started))
        return process.id

    def _pin(self, connection: sqlite3.Connection) -> Checkpoint:
        size = tree.head(connection).size
        root = tree.frontier(connection, size).root()
        tree.store_frontier(connection, size)
        log = connection.execute("SELECT record ->> '$.log' FROM ledger WHERE seq = 1").fetchone()[0]
        self._appender.append("checkpoint", {"size": size, "root": root.hex()})
        ts = connection.execute("SELECT ts FROM ledger WHERE seq = ?", (size + 1,)).fetchone()[0]
        point = Checkpoint(log, size, root, ts)
        connection.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?)", (size, root, point.note, ts))
        return point

    def _pin_from_time_to_time(self, at_least: int) -> None:
        """A checkpoint when this program has added so many records; in a file only. A failure harms no turn."""
        if self.path is None or self.read_only or self._appender.appended < at_least:
            return
        try:
            self.checkpoint()
        except LedgerError as error:
            _log.warning("no checkpoint could be made: %s", error)
        self._appender.appended = 0

    def _write_unwritten(self) -> None:
        """Turns whose outcome could not be written when they ended."""
        for turn in list(self._unwritten.values()):
            self._write_outcome(turn)
            self._unwritten.pop(turn.id, None)

    def _write_outcome(self, turn: Turn) -> None:
        fields, parts = records.outcome(turn)

        def write(connection: sqlite3.Connection) -> None:
            if connection.execute(_WRITTEN, (turn.id, self._appender.stamp["session"])).fetchone() is None:
                if intervention := records.intervention(turn):
                    self._appender.append("moderation", intervention)
                seq = self._appender.append("interrupted" if turn.finish == "interrupted" else "output", fields, parts)
                prompt = connection.execute(
                    """SELECT body FROM content JOIN ledger USING (seq)
                    WHERE turn = ? AND kind = 'intent' AND part = ?""",
                    (turn.id, PROMPT),
                ).fetchone()
                search.add_to_index(connection, seq, bytes(prompt[0]).decode() if prompt else "", turn.reply)
            journal.clear(connection, turn.id)
            if progress is not None:  # nobody writes it down any more from here on
                progress.closed = True

        progress = self._progress.get(turn.id)
        self._together.commit(write)
        self._progress.pop(turn.id, None)
