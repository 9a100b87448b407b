"""`pellucid bench audit`: how fast the ledger writes, verifies, searches and opens, on this machine and this disk.

Works on a ledger of its own that is thrown away: synthetic turns, half Chinese and half English, with words in about the
proportions of real text. The bulk figures come from the importer's own path; the durable ones from the chat's. Every figure is a
median where the same thing can be done again.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import re
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assistant.audit.export import jsonl
from assistant.audit.importing import import_jsonl
from assistant.audit.redact import redact
from assistant.audit.verify import all_processors, verify
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


_BLOCK = 50_000
"""Turns that are inserted at a time."""
_LOG = "0" * 32
"""The name of the throw-away log: its checkpoints are thrown away with it."""
Shape = tuple[Record, list[Part], Record, list[Part]]
"""The two records of a turn without what is new in each, and their parts."""
Row = tuple[Record, str, list[bulk.Content]]
"""A record, its canonical text, its contents."""


Saying = Callable[[str, float | None], None]
"""Told what is being measured, and how much of that is done, where it is known."""


def bench(
    turns: int = 20_000,
    *,
    folder: Path | None = None,
    durable: int = 200,
    searches: int = 60,
    rounds: int = 3,
    say: Saying = lambda what, fraction: None,
) -> dict[str, Any]:
    """The figures, as plain data. `folder` is where the throw-away ledger lies: its disk is what is measured."""
    with _throw_away(folder) as place:
        path = place / "ledger.db"
        figures: dict[str, Any] = {"turns": turns, "processors": all_processors()}
        figures |= fill(path, turns, say=say)
        say("export and import", None)
        figures |= _importing(path, place / "imported.db", min(turns, 20_000))
        with Ledger.open(path) as ledger:
            figures |= _verifying(ledger, rounds, say)
            say("search", None)
            figures |= _searching(ledger, searches)
            say("proofs", None)
            figures |= _proving(ledger)
            say("durable commits", None)
            figures |= _committing(ledger, durable)
            say("erasure", None)
            figures |= _erasing(ledger)
        say("opening", None)
        figures["open_ms"] = _summary([1000 * _seconds(lambda: Ledger.open(path).close()) for _ in range(9)])
        figures["open_read_only_ms"] = _summary([1000 * _seconds(lambda: Ledger.open(path, read_only=True).close()) for _ in range(9)])
        return figures


@contextlib.contextmanager
def _throw_away(folder: Path | None) -> Iterator[Path]:
    """A place for gigabytes that are removed afterwards, also where the program is told to end (SIGTERM)."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    place = Path(tempfile.mkdtemp(prefix="pellucid-bench-", dir=folder))
    in_charge = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if in_charge else None
    try:
        yield place
    finally:
        if in_charge:
            signal.signal(signal.SIGTERM, before)
        shutil.rmtree(place, ignore_errors=True)
        outside_file(_LOG).unlink(missing_ok=True)


GOALS = {
    "bulk_turns_per_second": 30_000, "index_turns_per_second": 15_000, "durable_commits_per_second": 400, "durable_p99_ms": -20,
    "verify_chain_rows_per_second": 200_000, "verify_contents_rows_per_second": 60_000,
    "search_en_p95_ms": -20, "search_zh_p95_ms": -20, "open_ms": -100, "open_read_only_ms": -100,
}  # fmt: skip
"""What is wanted: at least so much, or (negative) less than so much."""


def table(figures: dict[str, Any]) -> list[str]:
    """The figures as lines for people, each with its goal and whether it was reached."""
    lines = []
    for name, value in figures.items():
        spread = ""
        if isinstance(value, dict):
            spread, value = f"  ({value['low']:,} … {value['high']:,}, {value['runs']} runs)", value["median"]
        goal, verdict = GOALS.get(name), ""
        if goal is not None:
            reached = value >= goal if goal > 0 else value < -goal
            verdict = f"{'≥' if goal > 0 else '<'} {abs(goal):,} {'✓' if reached else '✗'}"
        lines.append(f"{name:<40}{value:>12,}  {verdict:<14}{spread}".rstrip())
    return lines


def fill(path: Path, turns: int, seed: int = 1, say: Saying = lambda what, fraction: None) -> dict[str, Any]:
    """A ledger of that many synthetic turns at `path`, through the bulk path. Returns how fast that went.

    A bulk insert gets records as canonical text with their contents, as an import does; making and encoding them is timed apart.
    """
    rng = random.Random(seed)
    pool = [_synthetic(rng, i) for i in range(min(turns, 2000))]
    rates: list[float] = []
    making = 0.0
    with contextlib.closing(connect(path, read_only=False)) as connection, bulk.loading(connection):
        migrations.migrate(as_database(connection))
        schema = migrations.describe(connection)
        with bulk.unguarded(connection), bulk.Loader(connection) as loader:
            maker = _Maker()
            for row in maker.genesis(connection, schema):
                loader.add(*row)
            for first in range(0, turns, _BLOCK):
                say("bulk insert", first / turns)
                began = time.perf_counter()
                rows = [row for i in range(first, min(first + _BLOCK, turns)) for row in maker.turn(i, pool[i % len(pool)])]
                gc.collect()
                gc.freeze()  # an import holds no more than a page of records at a time; this holds a whole block
                made = time.perf_counter()
                for record, text, parts in rows:
                    loader.add(record, text, parts)
                loader.flush()
                rates.append(len(rows) / 2 / (time.perf_counter() - made))
                gc.unfreeze()
                making += made - began
            finishing = _seconds(loader.finish)
        indexing = _seconds(lambda: bulk.rebuild_index(connection, lambda done: say("search index", done / turns)))
    inserting = turns / statistics.median(rates) + finishing
    return {
        "bulk_turns_per_second": _summary([turns / (turns / rate + finishing) for rate in rates], 0),
        "bulk_with_encoding_turns_per_second": round(turns / (inserting + making)),
        "index_turns_per_second": round(turns / indexing),
        "bytes_per_turn": round(path.stat().st_size / turns),
    }


class _Maker:
    """Makes records of shapes: numbers, times, ids, salts and commitments are new in each."""

    def __init__(self) -> None:
        self._seq = 0

    def genesis(self, connection: Any, schema: dict[str, str]) -> list[Row]:
        id_ = migrations.schema_id(schema)
        connection.execute("INSERT INTO registry VALUES (?, 'schema', ?)", (id_, migrations.schema_text(schema)))
        return [self._record({"kind": "schema", "schema": id_, "version": migrations.newest_version(), "from": 0, "log": _LOG}, [])]

    def turn(self, number: int, shape: Shape) -> list[Row]:
        asked, asked_parts, answered, answered_parts = shape
        ids = {"turn": f"{number:026d}", "conv": f"C{number // 8:025d}"}
        ts = 1_790_000_000_000_000 + number * 1_000_000
        return [
            self._record({**asked, **ids, "kind": "intent", "ts": ts}, asked_parts),
            self._record({**answered, **ids, "kind": "output", "ts": ts + 500_000}, answered_parts),
        ]

    def _record(self, fields: Record, parts: list[Part]) -> Row:
        self._seq = seq = self._seq + 1
        record = {"ts": 0, **fields, "v": 1, "seq": seq}
        rows: list[bulk.Content] = []
        if parts:
            salts = os.urandom(32 * len(parts))
            vouched = record["content"] = {}
            for i, part in enumerate(parts):
                salt = salts[32 * i : 32 * i + 32]
                vouched[part.name] = commit(seq, part.name, part.codec, salt, part.body).hex()
                rows.append((seq, part.name, part.codec, salt, part.body))
        return record, canonical.encode_plain(record), rows


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
    """Common words for the most part, and between them some of twenty thousand others, the first of which are frequent."""
    length = rng.randint(low, high)
    words: list[str] = []
    size, gap, common = 0, int(not chinese), _ZH if chinese else _EN
    while size < length:
        words.append(
            common[int(len(common) * rng.random() ** 2)] if rng.random() < 0.6 else _word(int(20_000 * rng.random() ** 3), chinese)
        )
        size += len(words[-1]) + gap
    return (" " * gap).join(words)


def _word(number: int, chinese: bool) -> str:
    """One of the rarer words: in Chinese two characters out of 2,500."""
    return "".join(chr(0x4E00 + number * step % 2_500) for step in (7_919, 104_729)) if chinese else f"w{number}"


def _importing(path: Path, target: Path, most: int) -> dict[str, Any]:
    """Export and import of a log, the whole way through JSON lines, over a smaller log of the same making."""
    source = path.with_name("small.db")
    fill(source, most)
    file = path.with_name("small.jsonl")
    with Ledger.open(source, read_only=True) as ledger, file.open("w", encoding="utf-8") as lines:
        exporting = _seconds(lambda: lines.writelines(jsonl.lines(ledger)))
    importing = _seconds(lambda: import_jsonl(file, target))
    for name in (source, file, target):
        name.unlink()
    return {"export_turns_per_second": round(most / exporting), "import_turns_per_second": round(most / importing)}


def _verifying(ledger: Ledger, rounds: int, say: Saying) -> dict[str, Any]:
    size = ledger.query("SELECT max(seq) FROM ledger")[0][0]
    out = {}
    for name, contents, processes in (
        ("verify_chain", False, all_processors()), ("verify_contents", True, all_processors()),
        ("verify_chain_one_process", False, 1), ("verify_contents_one_process", True, 1),
    ):  # fmt: skip

        def told(done: int, total: int, what: str = name.replace("_", " ")) -> None:
            say(what, done / total)

        times = [
            _seconds(lambda c=contents, p=processes, t=told: _sound(verify(ledger, contents=c, outside=False, processes=p, progress=t)))  # type: ignore[misc]
            for _ in range(rounds if size < 500_000 or (processes > 1 and not contents) else 1)
        ]
        out[f"{name}_rows_per_second"] = _summary([size / seconds for seconds in times], 0)
    return out


def _sound(report: Any) -> None:
    assert report.problems == [], report.problems[:3]


def _searching(ledger: Ledger, searches: int) -> dict[str, Any]:
    rng = random.Random(7)
    out: dict[str, Any] = {}
    for language, chinese, common in (("zh", True, _ZH), ("en", False, _EN)):
        gap = "" if chinese else " "

        def some(chinese: bool = chinese, common: Sequence[str] = common, gap: str = gap) -> str:
            pair = f"{rng.choice(common)} {_word(rng.randrange(50), chinese)}"
            phrase = f'"{_word(rng.randrange(50), chinese)}{gap}{rng.choice(common)}"'
            return rng.choice((rng.choice(common), _word(rng.randrange(20_000), chinese), pair, phrase))

        times = _times(ledger, [some() for _ in range(searches)])
        out[f"search_{language}_p50_ms"] = round(times[len(times) // 2], 2)
        out[f"search_{language}_p95_ms"] = round(times[int(len(times) * 0.95)], 2)
        # the worst that can be asked: four of the commonest words in a row that hardly ever stand so
        worst = _times(ledger, [f'"{gap.join(rng.sample(common[:20], 4))}"' for _ in range(9)])
        out[f"search_{language}_worst_phrase_ms"] = round(worst[len(worst) // 2], 2)
    middle = ledger.query("SELECT max(seq) / 2 FROM ledger")[0][0]
    for name, page in (
        ("page_newest_ms", {}), ("page_in_the_middle_ms", {"before": middle}), ("page_flagged_ms", {"verdict": "block", "before": middle}),
    ):  # fmt: skip
        out[name] = _summary([1000 * _seconds(lambda p=page: ledger.list_turns(limit=20, **p)) for _ in range(9)])  # type: ignore[misc]
    return out


def _times(ledger: Ledger, queries: list[str]) -> list[float]:
    """Milliseconds of each query (the best of three), the fastest first."""
    return sorted(min(1000 * _seconds(lambda q=q: ledger.search(q)) for _ in range(3)) for q in queries)  # type: ignore[misc]


def _proving(ledger: Ledger) -> dict[str, Any]:
    leaves = [leaf for (leaf,) in ledger.query("SELECT leaf FROM ledger ORDER BY seq")]
    return {
        "tree_leaves_per_second": round(len(leaves) / _seconds(lambda: Frontier().extend(leaves))),
        "proof_ms": round(1000 * _seconds(lambda: inclusion_proof(leaves, len(leaves) // 2)), 2),
    }


def _committing(ledger: Ledger, count: int) -> dict[str, Any]:
    """Single events through the whole append path, each durable before the next; the disk is done with the filling before it begins."""
    if hasattr(os, "sync"):
        os.sync()
    times = sorted(_seconds(lambda: ledger.record_event("access", {"what": "bench"})) for _ in range(count))
    return {
        "durable_commits_per_second": round(count / sum(times)),
        "durable_p50_ms": round(1000 * times[count // 2], 2),
        "durable_p99_ms": round(1000 * times[min(count - 1, int(count * 0.99))], 2),
    }


def _erasing(ledger: Ledger) -> dict[str, Any]:
    """One turn erased without a trace: the search index is written anew, and the whole file is searched for what was erased."""
    turn = ledger.list_turns(limit=1)[0].turn
    return {"erase_one_turn_seconds": round(_seconds(lambda: redact(ledger, turn, "bench")), 2)}


def _summary(values: list[float], digits: int = 2) -> dict[str, float]:
    """The median of several measurements, and their spread."""
    some = [round(f(values), digits or None) for f in (statistics.median, min, max)]
    return {**dict(zip(("median", "low", "high"), some, strict=True)), "runs": len(values)}


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
