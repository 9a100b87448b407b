"""`pellucid bench audit`: how fast the ledger writes, verifies, searches and opens, on this machine and this disk.

Works on a ledger of its own that is thrown away: synthetic turns, half Chinese and half English, with words in about the
proportions of real text. The bulk figures come from the importer's own path; the durable ones from the chat's.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assistant.audit.verify import verify
from assistant.store import bulk, canonical, migrations, records
from assistant.store.canonical import Record
from assistant.store.checkpoint import outside_file
from assistant.store.commitment import commit
from assistant.store.connection import as_database, connect
from assistant.store.content import Part
from assistant.store.ledger import Ledger
from assistant.store.merkle import Frontier, inclusion_proof
from assistant.turn import ModelInfo, Sampling, Turn, Usage
from safety.verdict import Action, Verdict

_EN = re.findall(
    r"\w+",
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what all were",
)
_ZH = (
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方"
    "成者多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从"
)


_LOG = "0" * 32
"""The name of the throw-away log: its checkpoints are thrown away with it."""
Shape = tuple[Record, list[Part], Record, list[Part]]
"""The two records of a turn without what is new in each, and their parts."""


def bench(turns: int = 20_000, *, folder: Path | None = None, durable: int = 200, searches: int = 60) -> dict[str, Any]:
    """The figures, as plain data. `folder` is where the throw-away ledger lies: its disk is what is measured."""
    place = Path(tempfile.mkdtemp(prefix="pellucid-bench-", dir=folder))
    try:
        path = place / "ledger.db"
        figures: dict[str, Any] = {"turns": turns}
        figures |= fill(path, turns)
        with Ledger.open(path) as ledger:
            figures |= _verifying(ledger)
            figures |= _searching(ledger, searches)
            figures |= _proving(ledger)
            figures |= _committing(ledger, durable)
        figures["open_ms"] = round(1000 * min(_seconds(lambda: Ledger.open(path, read_only=True).close()) for _ in range(5)), 2)
        return figures
    finally:
        shutil.rmtree(place, ignore_errors=True)
        outside_file(_LOG).unlink(missing_ok=True)


def table(figures: dict[str, Any]) -> list[str]:
    """The figures as lines for people, each with its goal."""
    goals = {
        "bulk_turns_per_second": "≥ 30000", "index_turns_per_second": "≥ 15000", "durable_commits_per_second": "≥ 400",
        "durable_p99_ms": "< 20", "verify_chain_rows_per_second": "≥ 200000", "verify_contents_rows_per_second": "≥ 60000",
        "search_en_p95_ms": "< 20", "search_zh_p95_ms": "< 20", "open_ms": "< 100",
    }  # fmt: skip
    return [f"{name:<34}{value:>14,}   {goals.get(name, '')}".rstrip() for name, value in figures.items()]


def fill(path: Path, turns: int, seed: int = 1) -> dict[str, Any]:
    """A ledger of that many synthetic turns at `path`, through the bulk path. Returns how fast that went."""
    rng = random.Random(seed)
    pool = [_synthetic(rng, i) for i in range(min(turns, 2000))]
    with contextlib.closing(connect(path, read_only=False)) as connection, bulk.loading(connection):
        migrations.migrate(as_database(connection))
        schema = migrations.describe(connection)
        began = time.perf_counter()
        with bulk.unguarded(connection):
            writer = _Writer(connection)
            writer.genesis(schema)
            for i in range(turns):
                writer.turn(i, pool[i % len(pool)])
            writer.loader.finish()
        inserting = time.perf_counter() - began
        indexing = _seconds(lambda: bulk.rebuild_index(connection))
    return {
        "bulk_turns_per_second": round(turns / inserting),
        "bulk_records_per_second": round(writer.seq / inserting),
        "index_turns_per_second": round(turns / indexing),
        "bytes_per_turn": round(path.stat().st_size / turns),
    }


class _Writer:
    """Makes records of shapes: numbers, times, ids and commitments are new in each."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.loader = bulk.Loader(connection, index=False)
        self.seq = 0

    def genesis(self, schema: dict[str, str]) -> None:
        id_ = migrations.schema_id(schema)
        self._connection.execute("INSERT INTO registry VALUES (?, 'schema', ?)", (id_, migrations.schema_text(schema)))
        self._record({"kind": "schema", "schema": id_, "version": migrations.newest_version(), "from": 0, "log": _LOG}, [])

    def turn(self, number: int, shape: Shape) -> None:
        asked, asked_parts, answered, answered_parts = shape
        ids = {"turn": f"{number:026d}", "conv": f"C{number // 8:025d}"}
        ts = 1_790_000_000_000_000 + number * 1_000_000
        self._record({**asked, **ids, "kind": "intent", "ts": ts}, asked_parts)
        self._record({**answered, **ids, "kind": "output", "ts": ts + 500_000}, answered_parts)

    def _record(self, fields: Record, parts: list[Part]) -> None:
        self.seq = seq = self.seq + 1
        record = {"ts": 0, **fields, "v": 1, "seq": seq}
        rows: list[bulk.Content] = []
        if parts:
            salts = os.urandom(32 * len(parts))
            vouched = record["content"] = {}
            for i, part in enumerate(parts):
                salt = salts[32 * i : 32 * i + 32]
                vouched[part.name] = commit(seq, part.name, part.codec, salt, part.body).hex()
                rows.append((seq, part.name, part.codec, salt, part.body))
        self.loader.add(record, canonical.encode_plain(record), rows)


def _synthetic(rng: random.Random, number: int) -> Shape:
    """The two records and the parts of a turn, without ids."""
    chinese = number % 2 == 0
    action = Action.ALLOW if rng.random() < 0.95 else Action.BLOCK
    verdict = Verdict(action, 0.02, {"toxicity": 0.02}, policy="balanced@1a2b3c4d", milliseconds=1.0)
    turn = Turn(
        id="", conversation="", prompt=_text(rng, chinese, 8, 120), reply=_text(rng, chinese, 20, 400), finish="stop",
        prompt_verdict=verdict, output_verdict=verdict, usage=Usage(40, 0, 80, 0.0, 0.2, 1.5, 12.0, "estimated"),
        model=ModelInfo("smollm2-135m", "ab" * 32, "int4", "cpu"), sampling=Sampling(seed=number),
        language="zh" if chinese else "en",
    )  # fmt: skip
    asked, asked_parts = records.intent(turn)
    answered, answered_parts = records.outcome(turn)
    return canonical.plain(asked), asked_parts, canonical.plain(answered), answered_parts


def _text(rng: random.Random, chinese: bool, low: int, high: int) -> str:
    length = rng.randint(low, high)
    if chinese:
        return "".join(_ZH[int(len(_ZH) * rng.random() ** 2)] for _ in range(length))
    words: list[str] = []
    while sum(map(len, words)) + len(words) < length:
        common = rng.random() < 0.6
        words.append(_EN[int(len(_EN) * rng.random() ** 2)] if common else f"w{int(20_000 * rng.random() ** 3)}")
    return " ".join(words)


def _verifying(ledger: Ledger) -> dict[str, Any]:
    size = ledger.query("SELECT max(seq) FROM ledger")[0][0]
    fast = _seconds(lambda: _sound(verify(ledger, contents=False, outside=False)))
    full = _seconds(lambda: _sound(verify(ledger, outside=False)))
    return {"verify_chain_rows_per_second": round(size / fast), "verify_contents_rows_per_second": round(size / full)}


def _sound(report: Any) -> None:
    assert report.problems == [], report.problems[:3]


def _searching(ledger: Ledger, searches: int) -> dict[str, Any]:
    rng = random.Random(7)
    queries = {
        "zh": ["".join(rng.choices(_ZH, k=rng.choice((1, 2, 2, 2, 3, 4)))) for _ in range(searches)],
        "en": [
            rng.choice((rng.choice(_EN), f"w{rng.randrange(20_000)}", f"{rng.choice(_EN)} w{rng.randrange(50)}")) for _ in range(searches)
        ],
    }
    out: dict[str, Any] = {}
    for language, some in queries.items():
        times = sorted(1000 * _seconds(lambda q=q: ledger.search(q)) for q in some)  # type: ignore[misc]
        out[f"search_{language}_p50_ms"] = round(times[len(times) // 2], 2)
        out[f"search_{language}_p95_ms"] = round(times[int(len(times) * 0.95)], 2)
    out["list_flagged_ms"] = round(1000 * _seconds(lambda: ledger.list_turns(limit=20, verdict="block")), 2)
    return out


def _proving(ledger: Ledger) -> dict[str, Any]:
    leaves = [leaf for (leaf,) in ledger.query("SELECT leaf FROM ledger ORDER BY seq")]
    tree = Frontier()

    def grow() -> None:
        for leaf in leaves:
            tree.add(leaf)

    return {
        "tree_leaves_per_second": round(len(leaves) / _seconds(grow)),
        "proof_ms": round(1000 * _seconds(lambda: inclusion_proof(leaves, len(leaves) // 2)), 2),
    }


def _committing(ledger: Ledger, count: int) -> dict[str, Any]:
    """Single events through the whole append path, each durable before the next."""
    times = sorted(_seconds(lambda: ledger.record_event("access", {"what": "bench"})) for _ in range(count))
    return {
        "durable_commits_per_second": round(count / sum(times)),
        "durable_p50_ms": round(1000 * times[count // 2], 2),
        "durable_p99_ms": round(1000 * times[min(count - 1, int(count * 0.99))], 2),
    }


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
