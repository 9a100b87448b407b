"""Going on with a reply that was cut: the prompt is what the model had read and written, and its own turn is still open."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from assistant.errors import UsageError
from assistant.turn import Turn

if TYPE_CHECKING:
    from assistant import engines
    from assistant.lm.chat_format import Prompt
    from assistant.lm.engine import Engine

CUT = ("length", "stopped", "interrupted", "error")
"""How a reply ends that can be gone on with."""


def require_cut(turn: Turn) -> None:
    """Raises UsageError for a reply that is complete, empty, withdrawn or erased."""
    if turn.finish not in CUT or not turn.reply or not turn.in_context:
        raise UsageError("this reply was not cut: only one that was stopped, failed or reached the limit can be gone on with")


def open_reply(asked: engines.Prompt, turn: Turn, by: engines.Engine) -> Prompt:
    """`asked` with the reply of `turn` behind it, as the assistant's turn that has not ended.

    Where the model and the prompt are the same, the very tokens of the reply; else its text is read anew. Raises UsageError when
    nothing could follow in this context, and for a served model: a server opens a reply of its own.
    """
    from dataclasses import replace

    from assistant.lm.chat_format import Piece

    require_cut(turn)
    if not asked.ids:
        raise UsageError("a served model cannot go on with a cut reply: ask again")
    prompt, engine = cast("Prompt", asked), cast("Engine", by)
    ids = [token.id for token in turn.tokens]
    written = "".join(token.text for token in turn.tokens)
    if turn.model.sha256 != engine.info.sha256 or not turn.reply.endswith(written) or not ids:
        ids = engine.tokenizer.encode(turn.reply)
    elif begun := turn.reply.removesuffix(written):  # it was itself a continuation
        ids = [*engine.tokenizer.encode(begun), *ids]
    message = max((piece.message for piece in prompt.pieces), default=0) + 1
    pieces = (*prompt.pieces, *(Piece(id, "assistant", message) for id in ids))
    if len(pieces) >= engine.context_length:
        raise UsageError(f"the reply fills the context of {engine.context_length} tokens: begin a new conversation")
    return replace(prompt, pieces=pieces)
