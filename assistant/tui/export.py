"""A conversation as a file: Markdown to read, or JSON Lines to process. Never overwrites anything."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from assistant.errors import UsageError
from assistant.tui.branch import Branch
from assistant.tui.format import footer, moment, verdict_words
from assistant.tui.sanitize import sanitize
from assistant.tui.text import say
from assistant.turn import Turn
from safety.verdict import Action

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


def code_blocks(text: str) -> list[str]:
    """The contents of the fenced code blocks of a Markdown text."""
    return [match[2].rstrip("\n") for match in _FENCE.finditer(text)]


def as_markdown(turns: Iterable[Turn], title: str) -> Iterator[str]:
    """The turns to read, sanitised: the file may end up in a terminal."""
    yield sanitize(f"# {title}\n")
    for turn in turns:
        parts = [f"## {say('export.person')} · {moment(turn.created_us)}\n\n{turn.prompt.rstrip()}\n"]
        if turn.prompt_verdict.action is not Action.ALLOW:
            parts.append(f"> {verdict_words(turn.prompt_verdict)} — {turn.prompt_verdict.reason}\n")
        parts.append(f"## {turn.model.name}\n\n{turn.reply.rstrip()}\n\n*{footer(turn)}*\n")
        if turn.output_verdict is not None and turn.output_verdict.action is not Action.ALLOW:
            parts.append(f"> {verdict_words(turn.output_verdict)} — {turn.output_verdict.reason}\n")
        yield sanitize("\n" + "\n".join(parts))


def as_json_lines(turns: Iterable[Turn]) -> Iterator[str]:
    """One object a turn, under the public names of `pellucid ask --json`."""
    for turn in turns:
        fields = {
            "turn": turn.id,
            "conversation": turn.conversation,
            "parent": turn.parent,
            "created_us": turn.created_us,
            "system": turn.system,
            "prompt": turn.prompt,
            "reply": turn.reply,
            "finish": turn.finish,
            "prompt_verdict": turn.prompt_verdict.to_dict(),
            "output_verdict": turn.output_verdict.to_dict() if turn.output_verdict else None,
            "usage": turn.usage.to_dict(),
        }
        yield json.dumps(fields, ensure_ascii=True) + "\n"


def write(branch: Branch, name: str) -> Path:
    """Write `branch` to the file `name`, `.jsonl` or Markdown; without a name to a new file in the working folder."""
    return write_turns(branch.path, name or f"pellucid-{(branch.conversation or 'chat').lower()}.md", branch.title)


def write_turns(turns: Iterable[Turn], name: str, title: str = "") -> Path:
    """Write `turns`, one after the other, to the new file `name`. Raises UsageError when it exists or cannot be written.

    What goes wrong on the way leaves no file behind.
    """
    path = Path(name).expanduser()
    turns = iter(turns)
    first = list(islice(turns, 1))
    title = title or (first[0].prompt.strip().split("\n")[0][:60] if first else "Pellucid")
    everything = chain(first, turns)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(say("error.file_exists", path=path)) from None
    except OSError as error:
        raise UsageError(say("error.cannot_write", path=path, error=error)) from error
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.writelines(as_json_lines(everything) if path.suffix == ".jsonl" else as_markdown(everything, title))
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageError(say("error.cannot_write", path=path, error=error)) from error
        raise
    return path
