"""Checks a Pellucid log that was exported as JSON lines. One file; needs Python 3.8 or newer and nothing else.

python verify.py LOG.jsonl [--root HEX] [--checkpoint NOTE]

Every record must have its number and canonical form, every text must match what its record vouches for, missing texts
must be named by a redact record, and the RFC 9162 tree over all records must have the root that the footer states.
Compare that root with one you received from elsewhere: a forger can write a footer too. Exit code 0: sound. 3:
unreadable. 4: not sound.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import struct
import sys
from typing import Any, Iterator  # noqa: UP035  (Python 3.8)


def sha256(data: bytes) -> bytes:
    """The 32 bytes of a SHA-256."""
    return hashlib.sha256(data).digest()


def commitment(seq: int, part: str, codec: str, salt: bytes, body: bytes) -> str:
    """What a record vouches for in place of a text: its salted hash, filled up to 64 bytes to hide its length. Hexadecimal."""
    name = f"{part}:{codec}".encode()
    head = struct.pack(">QBQ", seq, len(name), len(body)) + name + salt
    return sha256(b"pellucid/content/v1\x00" + head + body + bytes(-len(body) % 64)).hex()


class Tree:
    """The right edge of the RFC 9162 tree."""

    def __init__(self) -> None:
        self.size = 0
        self.edge: list[bytes] = []

    def add(self, record: str) -> None:
        """The next record, as its canonical text."""
        node, carry = sha256(b"\x00" + record.encode()), self.size
        while carry & 1:
            node = sha256(b"\x01" + self.edge.pop() + node)
            carry >>= 1
        self.edge.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root over all records so far."""
        root = self.edge[-1] if self.edge else sha256(b"")
        for left in reversed(self.edge[:-1]):
            root = sha256(b"\x01" + left + root)
        return root


class Check:
    """One walk over an export; `problems` says what is wrong, in order."""

    def __init__(self, lines: Iterator[str], want: dict[int, bytes]) -> None:
        self.tree, self.texts, self.want = Tree(), 0, want
        self.missing: list[tuple[int, str]] = []
        self.erased: set[tuple[int, str]] = set()
        self.problems: list[str] = []
        header = read(next(lines))["header"]
        if header["format"] != "pellucid-ledger/1":
            raise ValueError("this is no export of a Pellucid log")
        self.log, footer = str(header["log"]), None
        for line in lines:
            entry = read(line)
            if footer is not None:
                self.problems.append("there is something after the footer")
                break
            if "footer" in entry:
                footer = entry["footer"]
            else:
                self.entry(entry)
        for seq, part in self.missing:
            if (seq, part) not in self.erased:
                self.problems.append(f"record {seq}: the {part} is missing without an erasure")
        self.problems += [f"the checkpoint covers {at} records: the export is shorter" for at in want if at > self.tree.size]
        stated = (self.tree.size, self.tree.size, self.tree.root().hex())
        if footer is None:
            self.problems.append("the export is cut off: it has no footer")
        elif (header["size"], footer["size"], footer["root"]) != stated:
            self.problems.append("the footer states another size or root")

    def entry(self, entry: dict[str, Any]) -> None:
        """The next line of the export: a record and the texts that belong to it."""
        seq, text = self.tree.size + 1, entry["record"]
        record = read(text)
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if not entry["seq"] == record["seq"] == seq or canonical != text:
            self.problems.append(f"record {seq}: it has another number, or is not in canonical form")
        self.tree.add(text)
        vouched = record.get("content", {})
        for part, kept in entry["content"].items():
            body = kept["text"].encode() if "text" in kept else base64.b64decode(kept["base64"], validate=True)
            self.texts += 1
            if commitment(seq, part, kept["codec"], bytes.fromhex(kept["salt"]), body) != vouched.get(part):
                self.problems.append(f"record {seq}: the {part} is not the one that was logged")
        self.missing += [(seq, part) for part in vouched if part not in entry["content"]]
        if record["kind"] == "redact":
            self.erased.update((at, part) for at, part in record["erases"])
        if seq in self.want and self.tree.root() != self.want[seq]:
            self.problems.append(f"the first {seq} records are not those of the checkpoint")


def read(text: str) -> Any:
    """A line of JSON. Raises ValueError, also where a key appears twice."""
    return json.loads(text, object_pairs_hook=without_duplicates)


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError when a key appears twice: two readers could see two records."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Check a Pellucid log exported as JSON lines.")
    parser.add_argument("file")
    parser.add_argument("--root", help="the root that the whole log must have, in hexadecimal")
    parser.add_argument("--checkpoint", help="a checkpoint note received from elsewhere")
    options = parser.parse_args()
    want: dict[int, bytes] = {}
    try:
        if options.checkpoint:
            with open(options.checkpoint, encoding="utf-8") as note:
                _, size, root = note.read().split("\n")[:3]
            want[int(size)] = base64.b64decode(root, validate=True)
        with open(options.file, encoding="utf-8") as lines:
            check = Check(iter(lines), want)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        print(f"unreadable: {ascii(error)[:300]}", file=sys.stderr)
        return 3
    found = check.tree.root().hex()
    if options.root and options.root.lower() != found:
        check.problems.append("the root is not the one you gave")
    for problem in check.problems:
        print(ascii(problem))
    print(
        f"{'NOT SOUND' if check.problems else 'ok'}: log {check.log!a}, {check.tree.size} records, "
        f"{check.texts} texts, erased ({len(check.missing)}), root {found}"
    )
    return 4 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main())
