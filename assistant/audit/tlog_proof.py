"""Receipts as C2SP transparency log proofs (`c2sp.org/tlog-proof@v1`): the text that other tools for such logs read, too.

Such a proof is about one record, here the one that ended the turn. What stands behind `extra` nobody vouches for until it is
checked: the record itself (its leaf is SHA-256 of a zero byte and the record's text), the turn's other records with their own
paths, texts with their salts, and signatures that are no lines of a signed note (OpenSSH).
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any

from assistant.store import canonical
from assistant.store.checkpoint import Checkpoint, Signature, parse_note
from assistant.store.records import CLOSING

FIRST_LINE = "c2sp.org/tlog-proof@v1"
SUFFIX = ".tlog-proof"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,17})")


def write(receipt: dict[str, Any]) -> str:
    """A receipt (see `receipt.make_receipt`) as the text of a proof."""
    point = Checkpoint.from_dict(receipt["checkpoint"])
    records = [dict(entry) for entry in receipt["records"]]
    chosen = max(range(len(records)), key=lambda i: (canonical.loads(records[i]["record"])["kind"] in CLOSING, i))
    proof = records[chosen].pop("proof")
    extra = {
        "format": receipt["format"],
        "turn": receipt["turn"],
        "record": chosen,
        "records": records,
        "ts": point.ts,
        "signatures": [{"signer": s.signer, "text": s.text} for s in point.signatures if s.method == "ssh"],
    }
    packed = base64.b64encode(json.dumps(extra, ensure_ascii=False, separators=(",", ":")).encode()).decode()
    lines = [FIRST_LINE, f"extra {packed}", f"index {records[chosen]['seq'] - 1}", *proof]
    return "\n".join(lines) + "\n\n" + point.signed_note


def read(text: str) -> dict[str, Any]:
    """The receipt that a proof holds. Raises ValueError on anything that is no such proof, or has no record with it."""
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    if lines[0] != FIRST_LINE:
        raise ValueError(f"it does not begin with {FIRST_LINE}")
    if len(lines) < 2 or not lines[1].startswith("extra "):
        raise ValueError("the record that it proves does not come with it")
    extra = json.loads(base64.b64decode(lines[1].removeprefix("extra "), validate=True))
    index = _INDEX.fullmatch(lines[2]) if len(lines) > 2 else None
    if index is None:
        raise ValueError("it has no index")
    for line in lines[3:]:
        if len(base64.b64decode(line, validate=True)) != 32:
            raise ValueError("a line of the proof is no SHA-256 hash")
    try:
        records = [dict(entry) for entry in extra["records"]]
        main = records[int(extra["record"])]
        point = parse_note(note)
        ssh = tuple(Signature("ssh", str(s["signer"]), str(s["text"])) for s in extra["signatures"])
        receipt = {"format": extra["format"], "turn": extra["turn"], "records": records}
        point = replace(point, ts=int(extra["ts"]), signatures=(*point.signatures, *ssh))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"what comes with it is not understood ({error!r})") from error
    main |= {"seq": int(index[1]) + 1, "proof": lines[3:]}
    return {**receipt, "checkpoint": point.to_dict()}
