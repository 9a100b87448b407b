"""Files to documents: plain text, conversations (JSONL), tables of prompts and replies, translated pairs. Knows no tokens.

A file is one of
  text      .txt and everything else; `split` says where a document ends: at a blank line, at every line, or at the end of the file
  chat      .jsonl, one object a line: {"messages": [{"role": "user", "content": …}, …]} or {"text": …}
  topics    .tsv with topic, language, prompt|prompt|…, reply|reply|…: every prompt becomes conversations with the replies
  pairs     .tsv with an id and a text, twice: both texts of every row, each once
Whatever is no text is refused with the place where it stops being text; nothing is skipped in silence.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assistant.errors import UsageError
from assistant.turn import Message

Kind = Literal["auto", "text", "chat", "topics", "pairs"]
Split = Literal["paragraph", "line", "file"]
LONGEST = 20_000
"""Characters of one document; longer ones are cut at the end of a sentence."""
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_ENDS = re.compile(r"(?<=[\n。！？!?])|(?<=\. )")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Text:
    """One document: plain text, or a conversation."""

    text: str
    messages: tuple[Message, ...] = ()

    @property
    def key(self) -> str:
        """What it says, for comparing and hashing."""
        return "\x1e".join(f"{m.role}\x1f{m.text}" for m in self.messages) if self.messages else self.text


@dataclass(frozen=True, slots=True)
class Source:
    """A file and how to read it."""

    path: Path
    kind: Kind = "auto"
    split: Split = "paragraph"
    encoding: str = "utf-8"
    repeat: int = 1
    """How often its documents are learnt in an epoch."""
    longest: tuple[int, int] = (0, 0)
    """Texts of more characters are left out (Chinese, other); 0 keeps all. For pairs and text."""
    licence: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "text", "chat", "topics", "pairs") or self.split not in ("paragraph", "line", "file"):
            raise UsageError(f"{self.path.name}: kind must be auto, text, chat, topics or pairs, split paragraph, line or file")
        if not 1 <= self.repeat <= 1000:
            raise UsageError(f"{self.path.name}: repeat must be between 1 and 1000, not {self.repeat}")


def read(source: Source) -> list[Text]:
    """The documents of a file. Raises UsageError for what is empty, binary, in another encoding, or not of its kind."""
    text = decode(source.path, source.encoding)
    kind = source.kind
    if kind == "auto":
        kind = "chat" if source.path.suffix == ".jsonl" else "text"
    readers = {"text": _text, "chat": _chat, "topics": _topics, "pairs": _pairs}
    found = [d for d in readers[kind](text, source) if d.messages or _short_enough(d.text, source.longest)]
    if not found:
        raise UsageError(f"{source.path.name} is empty: give a file with text")
    return found


def decode(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, line ends as \\n. Raises UsageError for a file that is missing, binary, or in another encoding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}): check the path") from error
    if encoding == "utf-8" and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    if encoding != "utf-16" and len(_CONTROL.findall(data[:1_000_000])) > len(data[:1_000_000]) // 1000:
        raise UsageError(f"{path.name} is not text but a binary file: give text files")
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except LookupError as error:
        raise UsageError(f"there is no encoding {encoding!r}: try utf-8, gb18030, big5 or latin-1") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path.name} is not {encoding} throughout (line {line}{_guess(data, line)}): convert it, or give --encoding"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


def _guess(data: bytes, line: int) -> str:
    """In which encoding a line that is no UTF-8 can be read."""
    found = data.split(b"\n", line)[line - 1]
    try:
        found.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return " may be gb18030"


def _text(text: str, source: Source) -> Iterator[Text]:
    if source.split == "file":
        parts: Sequence[str] = [text]
    elif source.split == "line":
        parts = text.split("\n")
    else:
        parts = re.split(r"\n\s*\n", text)
    for part in parts:
        if part.strip():
            yield from (Text(piece) for piece in cut(part.strip("\n")))


def cut(text: str, longest: int = LONGEST) -> Iterator[str]:
    """`text` in pieces of at most `longest` characters, cut at the end of a sentence where there is one."""
    while len(text) > longest:
        ends = [m.start() for m in _ENDS.finditer(text, longest // 2, longest)]
        at = ends[-1] if ends else longest
        yield text[:at]
        text = text[at:]
    yield text


def _chat(text: str, source: Source) -> Iterator[Text]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source.path.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: this is not JSON: give one object a line") from error
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            yield from (Text(piece) for piece in cut(row["text"]) if piece.strip())
        elif isinstance(row, dict) and isinstance(row.get("messages"), list):
            yield conversation(row["messages"], where)
        else:
            raise UsageError(f"{where}: give an object with messages or text")


def conversation(rows: list[Any], where: str) -> Text:
    """A conversation from its JSON. Raises UsageError for wrong roles, a wrong order, or nothing to learn."""
    messages: list[Message] = []
    for row in rows:
        role, content = (row.get("role"), row.get("content")) if isinstance(row, dict) else (None, None)
        if role not in ROLES:
            raise UsageError(f"{where}: the role {role!r} is not known: use system, user and assistant")
        if not isinstance(content, str) or not content.strip():
            raise UsageError(f"{where}: a message of {role} has no text: give each a content")
        expected = "user" if not messages or messages[-1].role in ("system", "assistant") else "assistant"
        if role != expected and not (role == "system" and not messages):
            raise UsageError(
                f"{where}: after {messages[-1].role if messages else 'the beginning'} comes {role}: user and assistant must take turns"
            )
        messages.append(Message(role, content))
    if not messages or messages[-1].role != "assistant":
        raise UsageError(f"{where}: the conversation does not end with the assistant: there is nothing to learn from it")
    return Text("", tuple(messages))


def _topics(text: str, source: Source) -> Iterator[Text]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) != 4 or not all(c.strip() for c in cells):
            raise UsageError(f"{source.path.name}, line {number}: give topic, language, prompts and replies, with tabs between them")
        replies = cells[3].split("|")
        for prompt in cells[2].split("|"):
            yield from (Text("", (Message("user", prompt), Message("assistant", reply))) for reply in replies)


def _pairs(text: str, source: Source) -> Iterator[Text]:
    seen: set[str] = set()
    for number, row in enumerate(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE), 1):
        if not row:
            continue
        if len(row) != 4:
            raise UsageError(f"{source.path.name}, line {number}: give an id and a text, twice, with tabs between them")
        for sentence in (row[1], row[3]):
            if sentence not in seen:
                seen.add(sentence)
                yield Text(sentence)


def _short_enough(text: str, longest: tuple[int, int]) -> bool:
    limit = longest[0 if re.search(r"[\u4e00-\u9fff]", text) else 1]
    return not limit or len(text) <= limit


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
