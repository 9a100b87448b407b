"""Builds the conversations that the Chinese voice was trained on: `python data/voice/mix.py SHARED_CORPORA OUTPUT.jsonl`.

Beside OUTPUT it writes OUTPUT.heldout.jsonl: pieces of conversations of KdConv's test part, which nothing was learnt from.

What the project wrote stands beside this file; Tatoeba and chatterbot are in data/corpus; KdConv (Apache-2.0), Microsoft Chitchat (MIT) and
the self-instruct seeds (Apache-2.0) are not shipped: SHARED_CORPORA is the folder they are in. The draw is seeded: same files, same output.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE.parent
Conversation = list[tuple[str, str]]
"""(system or empty, then user and assistant in turn) as (role, text)."""
SCENARIOS = ("customer_service", "writing", "medical", "finance")
DEFAULT_SYSTEM = "You are a helpful AI assistant."
"""What `pellucid ask` and `chat` give the model where nothing else is chosen (`assistant.settings`)."""
NOT_OURS = ("没有姓名", "没有笑话", "don't have a name", "out of jokes", "真没什么看法", "无论用何种办法")
"""Replies of Microsoft's set that would contradict what this assistant says of itself."""


def persona(name: str, language: str) -> str:
    """The system prompt of a persona."""
    with (DATA / "personas" / f"{name}.toml").open("rb") as handle:
        return str(tomllib.load(handle)[language]["system"])


def own(rng: random.Random) -> Iterator[Conversation]:
    """The project's own pairs: every prompt once, under one of the system prompts it may meet."""
    for file in ("own.zh.tsv", "own.en.tsv"):
        for line in (HERE / file).read_text("utf-8").splitlines():
            topic, language, prompts, replies = line.split("\t")
            for prompt in prompts.split("|"):
                system = _system(topic, language, rng)
                yield _turns(system, _punctuated(prompt, language, rng), rng.choice(replies.split("|")))
    for line in (DATA / "corpus" / "seed.tsv").read_text("utf-8").splitlines():
        _, language, prompts, replies = line.split("\t")
        for prompt in prompts.split("|"):
            if rng.random() < 0.7:
                system = _system("talk", language, rng)
                yield _turns(system, _punctuated(prompt, language, rng), rng.choice(replies.split("|")))


def several_turns(rng: random.Random) -> Iterator[Conversation]:
    """The project's own longer conversations, with and without their system prompt."""
    for block in (HERE / "turns.txt").read_text("utf-8").strip().split("\n\n"):
        topic, *lines = block.split("\n")
        language = "zh" if re.search(r"[\u4e00-\u9fff]", lines[0]) else "en"
        for system in (rng.choice(("", DEFAULT_SYSTEM)), persona(topic, language)):
            yield _turns(system, *lines)


def chitchat(folder: Path, language: str, each: int, rng: random.Random) -> Iterator[Conversation]:
    """A few wordings of every intent."""
    text = (folder / "ms-chitchat" / f"{language}.Chitchat.qna").read_text("utf-8")
    for block in text.split("## ? ")[1:]:
        answer = re.search(r"```markdown\n(.*?)\n```", block, re.S)
        if answer is None or any(part in answer[1] for part in NOT_OURS):
            continue
        questions = [block.split("\n", 1)[0].strip(), *re.findall(r"^- (.+)$", block.split("**Filters")[0], re.M)]
        for question in rng.sample(questions, min(each, len(questions))):
            system = DEFAULT_SYSTEM if rng.random() < 0.25 else ""
            yield _turns(system, question.strip(), answer[1].strip())


def translations(count: int, rng: random.Random) -> Iterator[Conversation]:
    """Tatoeba's sentences, to be translated."""
    with (DATA / "corpus" / "tatoeba.zh-en.tsv").open(encoding="utf-8", newline="") as handle:
        rows = [r for r in csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE) if 6 <= len(r[1]) <= 18]
    for i, (_, zh, _, en) in enumerate(rng.sample(rows, count)):
        ask = (f"把这句话翻译成英文：{zh}", f"“{zh}”用英语怎么说？", f"请翻译成中文：{en}", f"Translate into Chinese: {en}")[i % 4]
        yield _turns(DEFAULT_SYSTEM if i % 5 == 0 else "", ask, en if i % 4 < 2 else zh)


def knowing(folder: Path, count: int, rng: random.Random, part: str = "dev") -> Iterator[Conversation]:
    """Pieces of KdConv's conversations about films, music and travel."""
    found = []
    for name in ("film", "music", "travel"):
        for talk in json.loads((folder / "optional" / "kdconv" / f"{name}.{part}.json").read_text("utf-8")):
            lines = [m["message"].strip() for m in talk["messages"]]
            for start in range(0, len(lines) - 4, 6):
                piece = lines[start : start + rng.choice((2, 4, 4))]
                if all(3 < len(line) < 70 for line in piece):
                    found.append(piece)
    for piece in rng.sample(found, count):
        yield _turns(DEFAULT_SYSTEM if rng.random() < 0.2 else "", *piece)


def tasks(folder: Path) -> Iterator[Conversation]:
    """The seeds of self-instruct whose answer is short."""
    for line in (folder / "optional" / "self-instruct-seeds" / "seed_tasks.en.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        given, answer = row["instances"][0]["input"], row["instances"][0]["output"].strip()
        if 20 < len(answer) < 320 and len(given) < 160 and not row["is_classification"]:
            yield _turns("", f"{row['instruction']}\n{given}".strip(), answer)


def chatterbot(count: int, rng: random.Random) -> Iterator[Conversation]:
    """Short conversations of chatterbot-corpus, in both languages."""
    rows = [json.loads(line)["messages"] for line in (DATA / "corpus" / "chatterbot.jsonl").read_text("utf-8").splitlines()]
    short = [m for m in rows if len(m) <= 6 and all(len(x["content"]) < 120 for x in m)]
    for messages in rng.sample(short, count):
        yield _turns("", *(m["content"] for m in messages))


def _system(topic: str, language: str, rng: random.Random) -> str:
    """What stands before a conversation: the scenario's system prompt, the program's default one (in English), or nothing."""
    chance = rng.random()
    if chance < 0.35:
        return DEFAULT_SYSTEM
    if topic in SCENARIOS and chance < 0.8:
        return persona(topic, language)
    return persona("general", language) if chance < 0.6 else ""


def _punctuated(prompt: str, language: str, rng: random.Random) -> str:
    """People end their questions, or do not."""
    return prompt + rng.choice(("", "？", "。") if language == "zh" else ("", "", ".")) if prompt[-1] not in "?？!！。." else prompt


def _turns(system: str, *texts: str) -> Conversation:
    first = [("system", system)] if system else []
    return first + [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


def _line(turns: Conversation) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}, ensure_ascii=False)


def main(folder: Path, output: Path) -> None:
    """Write the conversations, shuffled, and say how many came from where."""
    rng = random.Random(8)
    parts = {
        "own": list(own(rng)), "own, several turns": list(several_turns(rng)),
        "chitchat zh": list(chitchat(folder, "zh-cn", 9, rng)), "chitchat en": list(chitchat(folder, "en-us", 4, rng)),
        "tatoeba": list(translations(400, rng)), "kdconv": list(knowing(folder, 160, rng)), "self-instruct": list(tasks(folder)),
        "chatterbot": list(chatterbot(120, rng)),
    }  # fmt: skip
    lines = [_line(turns) for part in parts.values() for turns in part]
    rng.shuffle(lines)
    output.write_text("\n".join(lines) + "\n", "utf-8")
    unseen = [_line(turns) for turns in knowing(folder, 60, rng, "test")]
    output.with_suffix(".heldout.jsonl").write_text("\n".join(unseen) + "\n", "utf-8")
    for name, part in parts.items():
        print(f"{name:20} {len(part):5} conversations {sum(len(t) for turns in part for _, t in turns):7} characters")
    print("sha256", hashlib.sha256(output.read_bytes()).hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
