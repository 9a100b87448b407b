"""One turn with everything that was decided about it, as plain data under public names: for `audit show` and the
exports.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from assistant.store.ledger import Ledger
from assistant.turn import Turn


def turn_dict(ledger: Ledger, turn: Turn, *, tokens: bool = False) -> dict[str, Any]:
    """The turn, its verdicts, usage and reviews; with `tokens` also the reply token by token."""
    out: dict[str, Any] = {
        "turn": turn.id,
        "conversation": turn.conversation,
        "parent": turn.parent,
        "siblings": [id_ for id_ in ledger.siblings(turn.id) if id_ != turn.id],
        "created_us": turn.created_us,
        "language": turn.language,
        "system": turn.system,
        "prompt": turn.prompt,
        "reply": turn.reply,
        "finish": turn.finish,
        "erased": list(turn.erased),
        "notices": list(turn.notices),
        "prompt_verdict": turn.prompt_verdict.to_dict(),
        "output_verdict": turn.output_verdict.to_dict() if turn.output_verdict else None,
        "model": asdict(turn.model),
        "sampling": asdict(turn.sampling),
        "raw": turn.raw,
        "usage": turn.usage.to_dict(),
        "attributions": [f"{a.method} of {a.target}" for a in ledger.attributions(turn.id)],
        "records": [
            {"seq": seq, "kind": kind, "leaf": leaf.hex()}
            for seq, kind, leaf in ledger.query("SELECT seq, kind, leaf FROM ledger WHERE turn = ? ORDER BY seq", (turn.id,))
        ],
    }
    if tokens:
        out["prompt_ids"] = list(turn.prompt_ids)
        out["tokens"] = [asdict(token) for token in turn.tokens]
    return out
