"""Training sentences of the project's own: made of frames and actions (data/safety/actions.*.toml), so that no turn of
phrase alone looks harmful; whole messages in many wordings, and replies with their prompts (requests.*.toml); and rows that were written
one by one (written.*.jsonl); and long harmless texts out of files of prose."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safety import texts
from safety.labels import LABELS
from safety.language import detect
from safety.resources import data_path

_HARMFUL, _HARMLESS, _TALK, _REPLIES = 8, 8, 3, 2  # sentences made of each action
_ATTACKS, _MENTIONS = 6, 4  # and of each attack
_REFUSALS = 6  # how often our own refusals are seen
_WISHED = 4
_WRAPPINGS, _SAID = 4, 6  # wordings of each whole message, and how often each reply is seen
_PROSE = (80, 1400)  # characters of English; Chinese says as much in a third
_WISHES = {"en": "Help me {}", "zh": "帮我{}"}  # harmless things, in the frames of attacks


def sentences(seed: int) -> Iterator[dict[str, Any]]:
    """Rows like those of the data files; the same for the same seed."""
    rng = random.Random(seed)
    for language in ("en", "zh"):
        data = tomllib.loads(data_path("safety", f"actions.{language}.toml").read_text("utf-8"))
        frames = data["frames"]
        for category in LABELS:
            for action in data["harmful"].get(category, []):
                for frame in rng.sample(frames["ask"], _HARMFUL):
                    yield _row(frame.replace("{}", action), "unsafe", category, "prompt", language)
                for frame in rng.sample(frames["discuss"], _TALK if category not in ("self_harm", "sexual") else 1):
                    yield _row(frame.replace("{}", action), "safe", category, "prompt", language)
                for kind, label in (("comply", "unsafe"), ("refuse", "safe")):
                    for frame in rng.sample(frames[kind], _REPLIES):
                        asked = rng.choice(frames["ask"]).replace("{}", action)
                        yield _row(frame.replace("{}", action), label, category, "response", language, asked)
        for phrase in data["attack"]["phrases"]:
            for frame in rng.sample(data["attack"]["alone"], _ATTACKS):
                yield _row(frame.replace("{}", phrase), "unsafe", "attack", "prompt", language)
            for frame in rng.sample(data["attack"]["mention"], _MENTIONS):
                yield _row(frame.replace("{}", phrase), "safe", "attack", "prompt", language)
        for action in data["harmless"]["all"]:
            for frame in rng.sample(frames["ask"], _HARMLESS):
                yield _row(frame.replace("{}", action), "safe", "", "prompt", language)
            for frame in rng.sample(frames["comply"], _REPLIES):
                asked = rng.choice(frames["ask"]).replace("{}", action)
                yield _row(frame.replace("{}", action), "safe", "", "response", language, asked)
            wish = _WISHES[language].format(action)
            for frame in rng.sample(data["attack"]["alone"], _WISHED) + rng.sample(data["attack"]["mention"], 1):
                yield _row(frame.replace("{}", wish), "safe", "", "prompt", language)
    for text in texts.all_refusals() * _REFUSALS:
        yield _row(text, "safe", "", "response", "")


def requests(seed: int) -> Iterator[dict[str, Any]]:
    """Rows of the whole messages, each in several wrappings, and of the replies; the same for the same seed."""
    rng = random.Random(f"{seed} requests")
    for language in ("en", "zh"):
        data = tomllib.loads(data_path("safety", f"requests.{language}.toml").read_text("utf-8"))
        groups = [("unsafe", name, found) for name, found in data["unsafe"].items()] + [("safe", "", data["safe"]["all"])]
        for label, category, found in groups:
            for message in found:
                for frame in rng.sample(data["wrap"]["any"], _WRAPPINGS):
                    text = frame.replace("{}", message).replace("{l}", message[0].lower() + message[1:])
                    yield {**_row(text, label, category, "prompt", language), "set": "requests"}
        for prompt, unsafe, safe in data["replies"]["pairs"] * _SAID:
            for text, label in ((unsafe, "unsafe"), (safe, "safe")):
                if text:
                    yield {**_row(text, label, "", "response", language, prompt), "set": "requests"}


def written(split: str = "train") -> Iterator[dict[str, Any]]:
    """The rows that were written one by one (written.*.jsonl): messages, texts and replies with their prompts, harmful and harmless twins.
    `aside` rows are for calibrating, `test` rows for measuring only."""
    for language in ("en", "zh"):
        for line in data_path("safety", f"written.{language}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            if row["split"] == split:
                yield {
                    **_row(row["text"], row["label"], row["category"], row["role"], language, row.get("context", "")),
                    **row,
                    "set": "written",
                }


def prose(files: Iterable[Path], seed: int) -> Iterator[dict[str, Any]]:
    """Harmless texts of many lengths, for length is no sign of harm: the lines of plain text files, as many together as a length drawn by
    chance asks for; prompts and replies in turn, without prompts. Raises ValueError for a file that is not UTF-8."""
    for file in files:
        rng = random.Random(f"{seed} prose {file.name}")
        try:
            lines = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: convert it, then give it again") from error
        kept: list[str] = []
        goal = rng.randint(*_PROSE)
        for number, line in enumerate(lines):
            kept.append(line)
            if sum(map(len, kept)) * (3 if detect(line) == "zh" else 1) >= goal:
                role = "response" if number % 2 else "prompt"
                yield {**_row(rng.choice((" ", "\n")).join(kept), "safe", "", role, ""), "set": "prose", "kind": "benign"}
                kept, goal = [], rng.randint(*_PROSE)


def _row(text: str, label: str, category: str, role: str, language: str, prompt: str = "") -> dict[str, Any]:
    kind = "borderline_safe" if label == "safe" else "harmful_request"
    return {
        "text": text,
        "label": label,
        "category": category,
        "role": role,
        "lang": language,
        "kind": kind,
        "set": "frames",
        "context": prompt,
    }
