"""A receipt: proof, on one page and without the log, that a turn stands in it.

It holds the turn's records, for each its path up to the root of a checkpoint, and (when asked for) texts with their
salts, so that the holder can show what was said. Whoever has the checkpoint from elsewhere, or the signer's key, can
check it offline. As a file it is a C2SP proof (see `tlog_proof`) or JSON.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant.audit import signing, tlog_proof
from assistant.errors import LedgerError, PellucidError
from assistant.store import canonical
from assistant.store.checkpoint import Checkpoint
from assistant.store.commitment import commit
from assistant.store.ledger import Ledger
from assistant.store.merkle import inclusion_proof, leaf_hash, root_from_proof

FORMAT = "pellucid-receipt/1"
_LARGEST = 64 << 20


class ReceiptError(PellucidError):
    """The file is no receipt."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Checked:
    """What a receipt proves."""

    turn: str
    checkpoint: Checkpoint
    records: list[dict[str, Any]]
    texts: dict[str, str]
    """The texts that come with it and match, by `record number.part`."""
    problems: list[str]


def is_covered(ledger: Ledger, turn_id: str) -> bool:
    """Whether a checkpoint covers all records of the turn already."""
    turn, point = ledger.turn(turn_id).id, signing.latest(ledger)
    return point is not None and bool(point.size >= ledger.query("SELECT max(seq) FROM ledger WHERE turn = ?", (turn,))[0][0])


def make_receipt(ledger: Ledger, turn_id: str, *, contents: bool = False) -> dict[str, Any]:
    """The receipt for a turn, against the newest checkpoint that covers all its records; one is made when none does."""
    turn = ledger.turn(turn_id).id
    rows = ledger.query("SELECT seq, record FROM ledger WHERE turn = ? ORDER BY seq", (turn,))
    point = signing.latest(ledger)
    if point is None or point.size < rows[-1][0]:
        if ledger.read_only:
            raise LedgerError("no checkpoint covers this turn yet: run `pellucid audit checkpoint` first")
        point = ledger.checkpoint()
    leaves = [leaf for (leaf,) in ledger.query("SELECT leaf FROM ledger WHERE seq <= ? ORDER BY seq", (point.size,))]
    entries: list[dict[str, Any]] = []
    for seq, record in rows:
        entry: dict[str, Any] = {
            "seq": seq,
            "record": record,
            "proof": [base64.b64encode(step).decode() for step in inclusion_proof(leaves, seq - 1)],
        }
        if contents:
            entry["content"] = {
                part: {"codec": codec, "salt": salt.hex(), "body": base64.b64encode(body).decode()}
                for part, codec, salt, body in ledger.query("SELECT part, codec, salt, body FROM content WHERE seq = ?", (seq,))
            }
        entries.append(entry)
    return {"format": FORMAT, "turn": turn, "records": entries, "checkpoint": point.to_dict()}


def read_receipt(path: Path) -> Any:
    """The receipt in a file, a C2SP proof or JSON. Raises ReceiptError."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ReceiptError(f"{path} is too large for a receipt")
        text = path.read_text("utf-8")
        value = tlog_proof.read(text) if text.startswith(tlog_proof.FIRST_LINE) else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ReceiptError(f"{path} cannot be read as a receipt: {error}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ReceiptError(f"{path} is no receipt of a Pellucid log")
    return value


def check_receipt(value: Any) -> Checked:
    """Check every proof and text of a receipt. Raises ReceiptError when it is not even one."""
    problems: list[str] = []
    texts: dict[str, str] = {}
    records: list[dict[str, Any]] = []
    try:
        point, turn = Checkpoint.from_dict(value["checkpoint"]), str(value["turn"])
        if not value["records"]:
            problems.append("it holds no record")
        for entry in value["records"]:
            seq, text = int(entry["seq"]), str(entry["record"])
            path = [base64.b64decode(step, validate=True) for step in entry["proof"]]
            try:
                if root_from_proof(leaf_hash(text.encode()), seq - 1, point.size, path) != point.root:
                    problems.append(f"record {seq} is not in the log that the checkpoint describes")
            except ValueError as error:
                problems.append(f"the proof of record {seq} does not fit: {error}")
            record = canonical.decode(text)
            if record.get("turn") != turn or record.get("seq") != seq:
                problems.append(f"record {seq} does not belong to the turn {turn}")
            records.append(record)
            for part, kept in entry.get("content", {}).items():
                body = base64.b64decode(kept["body"], validate=True)
                codec = str(kept["codec"])
                hashed = commit(seq, part, codec, bytes.fromhex(kept["salt"]), body).hex()
                if record.get("content", {}).get(part) != hashed:
                    problems.append(f"the {part} is not the one that record {seq} vouches for")
                elif codec == "text":
                    texts[f"{seq}.{part}"] = body.decode("utf-8", "replace")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ReceiptError(f"the receipt is damaged ({error!r})") from error
    return Checked(turn, point, records, texts, problems)
