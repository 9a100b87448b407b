"""Hand-written rules: what they are, how their files are read, how they are matched.

A pattern is a regular expression with three shorthands: a space is any short gap between words, `<3>` is up to three
words (in Chinese files: up to three characters) in between, `{name}` is a list of the same file. `anchors` are plain
words; a pattern is only tried where one of them occurs, which keeps a scan cheap and linear. A rule with `squeeze` is
also tried on the text without its gaps; one that is `bare` need not begin and end at a word's edge.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safety.normalize import View

Role = Literal["prompt", "response"]
CATEGORIES = (
    "violence",
    "weapons",
    "crime",
    "sexual",
    "minors",
    "hate",
    "harassment",
    "self_harm",
    "privacy",
    "advice",
    "attack",
    "exfiltration",
    "control",
)
_SCORES = {"block": 0.95, "caution": 0.6, "note": 0.3}
_FIELDS = {"id", "category", "tier", "scope", "anchors", "patterns", "unless", "squeeze", "bare", "match", "nomatch"}
_SENTENCE = re.compile(r"[.!?。！？\n]")
_REACH = 240  # characters on either side in which an exception is looked for


class RuleError(Exception):
    """A rule file that cannot be used; the message names the file and the rule or line."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to look for."""

    id: str
    category: str
    score: float
    scope: Literal["prompt", "response", "both"]
    anchors: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    unless: tuple[re.Pattern[str], ...]
    squeezed: tuple[re.Pattern[str], ...]
    match: tuple[str, ...]
    nomatch: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that applies, at `[start, end)` of the original text; `view` names the disguise that was undone."""

    rule: Rule
    start: int
    end: int
    view: str


def load_rules(files: Iterable[Path]) -> tuple[Rule, ...]:
    """The rules of all files, in order. Raises RuleError for the first thing that is wrong."""
    rules: dict[str, Rule] = {}
    for path in files:
        try:
            text = path.read_text("utf-8")
            data = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RuleError(f"{path}: the rule file cannot be read: {error}; correct it or remove it") from error
        lists = _lists(data.get("lists", {}), path)
        lines = [number for number, line in enumerate(text.splitlines(), 1) if line.split("#")[0].strip() == "[[rule]]"]
        for number, entry in enumerate(data.get("rule", []), 1):
            line = f", line {lines[number - 1]}" if number <= len(lines) else ""
            where = f"{path}{line}: rule {number} ({entry.get('id', 'no id')})" if isinstance(entry, dict) else f"{path}"
            rule = _rule(entry, lists, data.get("language", "en") == "zh", where)
            if rule.id in rules:
                raise RuleError(f"{where}: this id is already taken; give the rule another one")
            rules[rule.id] = rule
    return tuple(rules.values())


def find(rules: Sequence[Rule], view: View, role: Role, present: Set[str] | None = None) -> list[Match]:
    """Every rule that applies to `view`; at most eight places each. `present` are the anchors in it, where known."""
    return [
        Match(rule, *view.span(*span), view.name)
        for rule in rules
        if rule.scope in (role, "both")
        if (any(a in view.text for a in rule.anchors) if present is None else not present.isdisjoint(rule.anchors))
        for span in _places(rule.patterns, rule.unless, view.text)
    ]


def squeezable(rules: Sequence[Rule]) -> dict[str, str]:
    """The anchors that are looked for in letters run together, each with how it is normally written."""
    return {anchor.replace(" ", ""): anchor for rule in rules if rule.squeezed for anchor in rule.anchors}


def find_squeezed(rules: Sequence[Rule], view: View, made: Set[str], role: Role) -> list[Match]:
    """The rules that apply to letters run together (`view` comes from `squeezed_view`) at a place that holds one of the
    anchors `made` by running them together: a sentence that can be read without that is left to `find`."""
    matches = []
    for rule in rules if made else ():
        words = [word for a in rule.anchors if (word := a.replace(" ", "")) in made] if rule.squeezed else []
        if words and rule.scope in (role, "both"):
            for start, end in _places(rule.squeezed, (), view.text):
                if any(word in view.text[start:end] for word in words):
                    matches.append(Match(rule, *view.span(start, end), view.name))
    return matches


def _places(patterns: Sequence[re.Pattern[str]], unless: Sequence[re.Pattern[str]], text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for pattern in patterns:
        for match in pattern.finditer(text):
            if len(found) == 8:
                return found
            if not (unless and any(p.search(_around(text, *match.span())) for p in unless)):
                found.append(match.span())
    return found


def _around(text: str, start: int, end: int) -> str:
    """The sentence that holds `[start, end)`."""
    before = text[max(0, start - _REACH) : start]
    after = text[end : end + _REACH]
    stops = [m.end() for m in _SENTENCE.finditer(before)]
    stop = _SENTENCE.search(after)
    return before[stops[-1] if stops else 0 :] + text[start:end] + after[: stop.start() if stop else None]


def _lists(data: Any, path: Path) -> dict[str, list[str]]:
    if not isinstance(data, dict) or not all(isinstance(v, list) and v and all(isinstance(i, str) and i for i in v) for v in data.values()):
        raise RuleError(f"{path}: [lists] must hold lists of strings, none of them empty; correct the table")
    return data


def _rule(entry: Any, lists: dict[str, list[str]], chinese: bool, where: str) -> Rule:
    if not isinstance(entry, dict):
        raise RuleError(f"{where}: every [[rule]] must be a table; correct the file")
    unknown = set(entry) - _FIELDS
    if unknown:
        raise RuleError(f"{where}: unknown field {sorted(unknown)[0]!r}; use {', '.join(sorted(_FIELDS))}")
    for name in ("id", "category", "tier", "anchors", "patterns"):
        if not entry.get(name):
            raise RuleError(f"{where}: the field {name!r} is missing; add it")
    _choice(entry["category"], CATEGORIES, "category", where)
    _choice(entry["tier"], tuple(_SCORES), "tier", where)
    scope = entry.get("scope", "prompt")
    _choice(scope, ("prompt", "response", "both"), "scope", where)
    for name in ("anchors", "patterns", "unless", "match", "nomatch"):
        value = entry.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise RuleError(f"{where}: {name!r} must be a list of strings; correct it")
    anchors = [word for item in entry["anchors"] for word in _words(item, lists, where)]
    bare = bool(entry.get("bare"))
    return Rule(
        id=str(entry["id"]),
        category=entry["category"],
        score=_SCORES[entry["tier"]],
        scope=scope,
        anchors=tuple(dict.fromkeys(word.lower() for word in anchors)),  # texts are looked at in lower case
        patterns=tuple(_compile(p, lists, chinese, False, bare, where) for p in entry["patterns"]),
        unless=tuple(_compile(p, lists, chinese, False, bare, where) for p in entry.get("unless", [])),
        squeezed=tuple(_compile(p, lists, chinese, True, bare, where) for p in entry["patterns"] if entry.get("squeeze")),
        match=tuple(entry.get("match", [])),
        nomatch=tuple(entry.get("nomatch", [])),
    )


def _choice(value: Any, allowed: Sequence[str], name: str, where: str) -> None:
    if value not in allowed:
        raise RuleError(f"{where}: {name} {value!r} is unknown; use one of {', '.join(allowed)}")


def _words(item: str, lists: dict[str, list[str]], where: str) -> list[str]:
    """An anchor's plain words: itself, or those of the list that it names."""
    if item.startswith("{"):
        if item[1:-1] not in lists:
            raise RuleError(f"{where}: the anchor {item} names no list of this file; add the list or correct the name")
        words = lists[item[1:-1]]
    else:
        words = [item]
    for word in words:
        if re.search(r"[\\()\[\]?*+^$]", word) and item.startswith("{"):
            raise RuleError(f"{where}: the anchor list {item} holds the expression {word!r}; anchors are plain words")
    return words


_CAPITAL = re.compile(r"(?<!\\)[A-Z]")


def _compile(pattern: str, lists: dict[str, list[str]], chinese: bool, squeeze: bool, bare: bool, where: str) -> re.Pattern[str]:
    def named(match: re.Match[str]) -> str:
        if match[1] not in lists:
            raise RuleError(f"{where}: {match[0]} names no list of this file; add the list or correct the name")
        return "(?:" + "|".join(lists[match[1]]) + ")"

    for _ in range(3):  # a list may name lists
        pattern = re.sub(r"\{([a-z_]+)\}", named, pattern)
    gap = "" if chinese or squeeze else r"[^\w]{1,4}"
    source = re.sub(r" ?<(\d+)> ?", lambda m: gap + _between(int(m[1]), chinese, squeeze), pattern)
    source = source.replace(" ", gap)
    if not (chinese or squeeze or bare):
        source = rf"(?<!\w)(?:{source})(?!\w)"
    try:
        return re.compile(source, re.IGNORECASE if _CAPITAL.search(source) else re.NOFLAG)
    except re.error as error:
        raise RuleError(f"{where}: the pattern {pattern!r} is no regular expression: {error}; correct it") from error


def _between(count: int, chinese: bool, squeeze: bool) -> str:
    """Up to `count` words, or characters of a Chinese sentence, as few as will do."""
    if chinese:
        return rf"[^。!?\n]{{0,{count}}}?"
    return rf"\w{{0,{count * 8}}}?" if squeeze else rf"(?:[\w'-]{{1,30}}[^\w\n]{{1,3}}){{0,{count}}}?"
