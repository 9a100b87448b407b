"""The ledger when everything goes wrong: kill -9, power failure, bit rot, a full disk, failing syncs, many programs at once.

Each test runs in small by default and in full under `-m slow`; `-s` shows the figures.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant.audit.doctor import backup
from assistant.audit.export import datasette
from assistant.audit.export.jsonl import lines
from assistant.audit.export.target import ExportError, writing
from assistant.audit.importing import import_jsonl
from assistant.audit.redact import redact
from assistant.audit.verify import verify
from assistant.errors import LedgerError
from assistant.store import journal
from assistant.store.driver import newest as sqlite3
from assistant.store.ledger import Filter, Ledger

from . import powerloss
from .conftest import log_turn
from .factory import make_tokens, make_turn
from .test_concurrency import WRITER
from .test_migrations import OLD

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def small_and_full(small: int, full: int) -> Any:
    return pytest.mark.parametrize("count", [small, pytest.param(full, marks=pytest.mark.slow)])


def chat_for_ever(path: Path, name: str, out: int) -> None:
    """Write turns and say after each step that it is done."""
    journal.SECONDS = 0.0
    with Ledger.open(path) as ledger:
        ledger.recover()
        for i in range(10_000):
            turn = make_turn(id=f"{name}-{i}", tokens=make_tokens(*"今天天气很好"), reply="今天天气很好")
            ledger.open_turn(turn)
            os.write(out, f"open {turn.id}\n".encode())
            for n in range(1, 6):
                ledger.journal(turn.id, turn.reply[:n], turn.tokens[:n])
            ledger.close_turn(turn)
            os.write(out, f"closed {turn.id}\n".encode())


@needs_fork
@small_and_full(8, 500)
def test_kill_at_any_moment(path: Path, count: int) -> None:
    rng = random.Random(count)
    acknowledged = interrupted = 0
    for run in range(count):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            with contextlib.suppress(BaseException):
                chat_for_ever(path, f"R{run}", write_end)
            os._exit(1)
        os.close(write_end)
        time.sleep(0.005 + rng.random() * 0.12)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read_end) as said:
            done = [line.split() for line in said.read().splitlines()]
        with Ledger.open(path) as ledger:
            recovered = set(ledger.recover())
            for state, id_ in done:
                turn = ledger.turn(id_)
                assert turn.finish == ("stop" if id_ not in recovered else "interrupted")
                if state == "closed":
                    assert turn.finish == "stop" and turn.reply == "今天天气很好"
                    acknowledged += 1
            interrupted += len(recovered)
            assert ledger.query("SELECT count(*) FROM opened") == [(0,)]
            if run % 25 == 24 or run == count - 1:
                assert verify(ledger).problems == []
    print(f"\n{count} kills: {acknowledged} acknowledged turns, 0 lost; {interrupted} interrupted turns recovered; log sound")


POWER = """
import os, sys
from assistant.store.ledger import Ledger
from tests.assistant.store.factory import make_turn
ledger = Ledger.open(sys.argv[1])
for i in range(int(sys.argv[2])):
    turn = make_turn(id=f"P{i}", prompt="内容" * 100)
    ledger.open_turn(turn)
    os.write(2, f"ACK open P{i}\\n".encode())
    ledger.journal(turn.id, "It", turn.tokens[:1])
    ledger.close_turn(turn)
    os.write(2, f"ACK closed P{i}\\n".encode())
os._exit(0)
"""


@needs_strace
@small_and_full(60, 2000)
def test_power_failure_at_any_moment(tmp_path: Path, count: int) -> None:
    folder, rng = tmp_path / "disk", random.Random(count)
    folder.mkdir(mode=0o700)
    try:
        ops = powerloss.record([sys.executable, "-c", POWER, str(folder / "ledger.db"), "25"], folder, tmp_path / "trace")
    except subprocess.CalledProcessError:
        pytest.skip("strace may not trace here")
    ops = [op for op in ops if ".live-" not in op.file]
    first = next(i for i, op in enumerate(ops) if op.kind == "ack")
    kinds: tuple[powerloss.Survivors, ...] = ("none", "all", "some", "torn")
    lost = 0
    for state in range(count):
        cut = rng.randint(first, len(ops))
        after = tmp_path / "after"
        shutil.rmtree(after, ignore_errors=True)
        after.mkdir()
        for name, content in powerloss.rebuild(ops[:cut], kinds[state % 4], rng).items():
            (after / name).write_bytes(content)
        with Ledger.open(after / "ledger.db") as ledger:
            for op in ops[:cut]:
                if op.kind == "ack":
                    what, id_ = op.data.decode().split()
                    turn = ledger.turn(id_)
                    lost += what == "closed" and turn.finish != "stop"
            ledger.recover()
            assert verify(ledger, outside=False).problems == [], (cut, kinds[state % 4])
    assert lost == 0
    print(f"\n{count} power failures over {len(ops)} system calls: 0 acknowledged turns lost, every log sound")


def logged(path: Path) -> list[Any]:
    """Everything that was logged, read from the tables themselves."""
    with contextlib.closing(sqlite3.connect(path)) as c:
        c.text_factory = bytes
        order = {"ledger": "seq", "content": "seq, part", "erased": "seq, part", "registry": "id", "checkpoint": "size"}
        return [c.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY {by}").fetchall() for table, by in order.items()]


@small_and_full(40, 500)
def test_bit_rot(path: Path, tmp_path: Path, count: int) -> None:
    with Ledger.open(path) as ledger:
        for i in range(60):
            log_turn(ledger, prompt=f"question {i} 问题", reply=f"answer {i} 回答 " * 5)
        redact(ledger, ledger.list_turns()[3].turn, "asked")
    truth, sound, rng = logged(path), path.read_bytes(), random.Random(count)
    changing = found = 0
    rotten = tmp_path / "rotten.db"
    while changing < count:
        data = bytearray(sound)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        rotten.write_bytes(data)
        try:
            if logged(rotten) == truth:
                continue
        except (sqlite3.Error, UnicodeDecodeError):
            pass  # unreadable: it must be noticed, too
        changing += 1
        try:
            with Ledger.open(rotten, read_only=True) as ledger:
                found += verify(ledger, outside=False).exit_code == 4
        except LedgerError as error:
            assert error.exit_code == 3
            found += 1
    print(f"\n{changing} bit flips that change what is logged: {found} found")
    assert found == changing


def limit_pages(ledger: Ledger, more: int) -> None:
    """The database may grow by so many pages: SQLite then reports a full disk."""
    with ledger.exclusive() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + more}").fetchall()


def test_full_disk_during_a_chat(path: Path) -> None:
    big = make_turn(reply="很长的回答" * 9000)
    with Ledger.open(path) as ledger:
        before = log_turn(ledger)
        ledger.open_turn(big)
        limit_pages(ledger, 2)
        with pytest.raises(LedgerError, match=r"disk is full.*kept in memory"):
            ledger.close_turn(big)
        with pytest.raises(LedgerError, match="disk is full"):
            ledger.open_turn(make_turn())  # nothing is generated that could not be logged
        limit_pages(ledger, 100_000)
        log_turn(ledger)
        assert ledger.turn(big.id) == big and ledger.turn(before.id) == before
        assert verify(ledger).problems == []


def test_full_disk_during_an_erasure(path: Path) -> None:
    with Ledger.open(path) as ledger:
        turns = [log_turn(ledger, prompt=f"text {i} " * 50) for i in range(40)]
        limit_pages(ledger, 0)
        with contextlib.suppress(LedgerError):
            redact(ledger, turns[0].id, "x" * 100_000)
        limit_pages(ledger, 100_000)
        state = ledger.turn(turns[0].id)
        assert state == turns[0] or state.erased
        assert verify(ledger).problems == []


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size; skips the test where none can be made."""
    folder.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_really_full_disk(tmp_path: Path) -> None:
    import gzip

    with small_disk(tmp_path / "disk", "1m") as disk:
        path = disk / "ledger.db"
        written: list[str] = []
        went_through = False
        with contextlib.suppress(LedgerError), Ledger.open(path) as ledger:  # closing it says once more what is missing
            with pytest.raises(LedgerError, match="disk is full"):
                for i in range(10_000):
                    turn = make_turn(id=f"T{i:05d}", reply="回答" * 500)
                    ledger.open_turn(turn)
                    ledger.close_turn(turn)
                    written.append(turn.id)
            with pytest.raises(OSError), (disk / "rest").open("wb", buffering=0) as rest:  # not a byte is left
                while rest.write(b"\x00" * 512):
                    pass
            for id_ in written:
                assert ledger.turn(id_).finish == "stop"
            with pytest.raises(LedgerError, match="disk is full"):
                redact(ledger, written[0], "no room")
            assert ledger.turn(written[0]).reply
            with pytest.raises(ExportError, match="could not be written"), writing(disk / "log.jsonl") as file:
                file.writelines(lines(ledger))
            with pytest.raises(LedgerError, match="could not be written"):
                backup(ledger, disk / "copy.db")
            assert sorted(p.suffix for p in disk.iterdir() if ".live-" not in p.name and p.name != "rest") == [".db", ".db-journal"]
            went_through = True
        assert went_through
        with Ledger.open(path, read_only=True) as ledger:
            assert verify(ledger, outside=False).problems == []
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        with Ledger.open(path) as ledger:
            ledger.recover()
            log_turn(ledger)
            redact(ledger, written[0], "room again")
            assert verify(ledger, outside=False).problems == []
        print(f"\nfull disk: {len(written)} acknowledged turns, 0 lost")
    with small_disk(tmp_path / "disk2", "164k") as disk:
        old = gzip.decompress(OLD[0].read_bytes())
        (disk / "ledger.db").write_bytes(old)
        with pytest.raises(LedgerError, match="disk is full"):
            Ledger.open(disk / "ledger.db")
        with Ledger.open(disk / "ledger.db", read_only=True) as ledger:
            assert verify(ledger, outside=False).problems == []


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "log.db") as ledger:
        turn = log_turn(ledger)
        (tmp_path / "log.jsonl").write_text("".join(lines(ledger)), "utf-8")
        ledger.checkpoint()
    with small_disk(tmp_path / "disk", "4m") as disk:
        path = disk / "log.db"
        path.write_bytes((tmp_path / "log.db").read_bytes())
        path.chmod(0o600)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(LedgerError, match="is read-only"):
            Ledger.open(path)
        with pytest.raises(LedgerError, match="is read-only"):
            import_jsonl(tmp_path / "log.jsonl", disk / "new.db")
        with Ledger.open(path, read_only=True) as ledger:
            assert verify(ledger, outside=False).problems == [] and ledger.turn(turn.id) == turn
            with pytest.raises(LedgerError, match="could not be written"):
                backup(ledger, disk / "copy.db")
            with pytest.raises(ExportError, match="cannot be written"), writing(disk / "log.jsonl"):
                pass
            with pytest.raises(ExportError, match="could not be written"):
                datasette.write(ledger, disk / "copy.db", Filter())
        assert [p.name for p in disk.iterdir()] == ["log.db"]


@needs_strace
@pytest.mark.parametrize("when", [2, 5, 9, 14])
def test_a_failing_sync_is_reported_and_harms_nothing(path: Path, when: int) -> None:
    Ledger.open(path).close()
    code = WRITER + "\nprint('all written')"
    inject = ["strace", "-f", "-o", "/dev/null", "-e", f"inject=fdatasync,fsync:error=EIO:when={when}"]
    result = subprocess.run([*inject, sys.executable, "-c", code, str(path), "E", "6"], capture_output=True, text=True)
    if "ptrace" in result.stderr.lower():
        pytest.skip("strace may not trace here")
    assert result.returncode != 0 or "all written" in result.stdout
    if result.returncode:
        assert "LedgerError" in result.stderr and "cannot be" in result.stderr
    with Ledger.open(path) as ledger:
        ledger.recover()
        assert verify(ledger, outside=False).problems == []


@pytest.mark.parametrize(("writers", "turns"), [(3, 8), pytest.param(8, 60, marks=pytest.mark.slow)])
def test_many_writers_and_a_reader_that_verifies(path: Path, writers: int, turns: int) -> None:
    Ledger.open(path).close()
    programs = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"W{i}", str(turns)], stderr=subprocess.PIPE, text=True)
        for i in range(writers)
    ]
    rounds = 0
    with Ledger.open(path, read_only=True) as reader:
        while any(program.poll() is None for program in programs):
            assert verify(reader).problems == []
            rounds += 1
            time.sleep(0.05)
        assert [(program.wait(), program.communicate()[1]) for program in programs] == [(0, "")] * writers
        report = verify(reader)
        assert report.problems == [] and report.turns == writers * turns
        for i in range(writers):
            assert [turn.id for turn in reader.turns(f"W{i}")] == [f"W{i}-{n:05d}" for n in range(turns)]
    print(f"\n{writers} writers × {turns} turns, verified {rounds} times meanwhile: 0 errors, 0 gaps")
