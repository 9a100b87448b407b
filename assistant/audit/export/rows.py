"""The turns of the log one after the other, and flat: for the exports that are made of turns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from assistant.store.ledger import Filter, Ledger
from assistant.store.reading import read_turn
from assistant.turn import Turn

_PAGE = 500
COLUMNS: dict[str, type] = {
    "turn": str, "conversation": str, "parent": str, "created": str, "language": str, "model": str, "model_sha256": str,
    "prompt": str, "reply": str, "finish": str, "erased": str, "verdict": str,
    "prompt_action": str, "prompt_score": float, "prompt_category": str,
    "output_action": str, "output_score": float, "output_category": str, "policy": str,
    "prompt_tokens": int, "reply_tokens": int, "prefill_seconds": float, "decode_seconds": float, "joules": float,
    "temperature": float, "top_k": int, "top_p": float, "seed": str,
}  # fmt: skip


def turns(ledger: Ledger, which: Filter, *, tokens: bool = False) -> Iterator[tuple[Turn, int]]:
    """Every closed turn that is meant, oldest first, with the time it ended; tokens only where they are asked for."""
    where, values = which.where()
    last = 0
    while page := ledger.query(
        f"SELECT seq, turn, ts FROM ledger WHERE {where} AND kind <> 'intent' AND seq > ? ORDER BY seq LIMIT {_PAGE}",
        (*values, last),
    ):
        for seq, turn, ts in page:
            last = seq
            with ledger.exclusive() as connection:
                yield read_turn(connection, turn, tokens=tokens), ts


def flat(turn: Turn) -> dict[str, Any]:
    """One turn as a row of `COLUMNS`; None where there is nothing to say."""
    asked, answered, usage, sampling = turn.prompt_verdict, turn.output_verdict, turn.usage, turn.sampling
    worst = max((v for v in (asked, answered) if v is not None), key=lambda v: v.action.severity)
    values = (
        turn.id, turn.conversation, turn.parent,
        datetime.fromtimestamp(turn.created_us / 1e6, UTC).isoformat(timespec="milliseconds"),
        turn.language, turn.model.name, turn.model.sha256, turn.prompt, turn.reply, turn.finish, " ".join(turn.erased),
        worst.action.value, asked.action.value, asked.score, asked.category,
        answered.action.value if answered else None, answered.score if answered else None,
        answered.category if answered else None, asked.policy, usage.prompt_tokens, usage.reply_tokens,
        usage.prefill_seconds, usage.decode_seconds, usage.joules, sampling.temperature, sampling.top_k, sampling.top_p,
        None if sampling.seed is None else str(sampling.seed),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
