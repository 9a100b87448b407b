"""How well does a model converse? What it thinks of good replies, and what it replies itself.

reply perplexity  exp(mean surprise in nats a token) over the assistant's words of conversations that it never saw, each read with its own
                  beginning; against the whole vocabulary. Compares models of one tokenizer and one chat format only.
ended             how many of its own replies it ended by itself, before the limit of tokens
distinct-n        as in `evaluation`
repeated          how many n-grams (n = 4) of a reply stood in the same reply before: a model that goes in circles comes near to 1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from assistant.errors import UsageError
from assistant.language import detect
from assistant.lm.engine import Engine
from assistant.training import corpus
from assistant.training.corpus import Text
from assistant.training.documents import encode_chat
from assistant.training.evaluation import distinct
from assistant.turn import Message, Sampling

Progress = Callable[[str, float | None], None]
ROWS = 64
"""Positions whose scores over the vocabulary are held at once."""
REPEAT = 4


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt of a fixed set."""

    topic: str
    """The persona it is for, or any other word."""
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Conversing:
    """What was found of one model."""

    model: str
    sha256: str
    dtype: str
    judged: Mapping[str, int]
    """Reply tokens that were judged, by language and under `all`."""
    perplexity: Mapping[str, float]
    ended: float
    """The part of its own replies that it ended by itself."""
    tokens: float
    """Mean length of its own replies."""
    distinct: tuple[float, float, float]
    repeated: float
    replies: tuple[str, ...]


def read_questions(path: Path) -> list[Question]:
    """Topic, language and prompt from a table with tabs. Raises UsageError for lines that are none."""
    found = []
    for number, line in enumerate(corpus.decode(path).split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 3 or not all(cells) or cells[1] not in ("zh", "en"):
            raise UsageError(f"{path.name}, line {number}: give topic, language (zh or en) and prompt, with tabs between them")
        found.append(Question(*cells))
    if not found:
        raise UsageError(f"{path.name} holds no prompt: give one a line")
    return found


def repeated(sample: Sequence[int], n: int = REPEAT) -> float:
    """The part of the n-grams of a sample that stood in it before."""
    grams = [tuple(sample[i : i + n]) for i in range(len(sample) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@torch.no_grad()
def surprise(engine: Engine, conversation: Text) -> tuple[float, int]:
    """(nats, tokens) of the assistant's words in a conversation. What lies beyond the model's context is not judged."""
    ids, learn = encode_chat(conversation.messages, engine.chat_format, engine.tokenizer)
    ids, learn = ids[: engine.context_length], learn[: engine.context_length]
    wanted = [i for i in range(1, len(ids)) if learn[i]]
    if not wanted:
        return 0.0, 0
    hidden = engine.model(torch.tensor([ids[:-1]], device=engine.device))[0]
    total = 0.0
    for start in range(0, len(wanted), ROWS):
        places = wanted[start : start + ROWS]
        scores = engine.model.logits(hidden[[i - 1 for i in places]])
        total += float(F.cross_entropy(scores, torch.tensor([ids[i] for i in places], device=scores.device), reduction="sum"))
    return total, len(wanted)


def judge(
    engine: Engine, conversations: Sequence[Text], questions: Sequence[Question], system: Callable[[Question], str], *,
    max_tokens: int = 96, sampling: Sampling | None = None, progress: Progress = lambda what, fraction: None,
) -> Conversing:  # fmt: skip
    """Read the conversations, answer the questions (`system` gives the system prompt of each).

    Without `sampling` always the likeliest token. Raises UsageError for conversations without a reply.
    """
    sums = {"all": [0.0, 0]}
    for number, conversation in enumerate(conversations, 1):
        if not conversation.messages:
            raise UsageError(f"there is plain text among the conversations ({conversation.text[:20]!r}): give messages")
        nats, count = surprise(engine, conversation)
        for name in ("all", detect(conversation.messages[-1].text)):
            row = sums.setdefault(name, [0.0, 0])
            row[0], row[1] = row[0] + nats, row[1] + count
        progress(f"reading replies with {engine.info.name}", number / len(conversations))
    chosen = sampling or Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=max_tokens, seed=1)
    prompts = []
    for question in questions:
        said = system(question)
        messages = [*([Message("system", said)] if said else []), Message("user", question.text)]
        prompts.append(engine.render(messages, reserve=chosen.max_tokens))
    written: dict[int, list[int]] = {}
    texts: dict[int, str] = {}
    ended = 0
    for reply in engine.generate_batch(prompts, [chosen] * len(prompts)):
        written[reply.index], texts[reply.index] = [token.id for token in reply.tokens], reply.text.strip()
        ended += reply.finish == "stop"
        progress(f"replies of {engine.info.name}", len(written) / len(prompts))
    samples = [written[i] for i in range(len(prompts))]
    total = max(len(samples), 1)
    return Conversing(
        engine.info.name, engine.info.sha256, engine.info.dtype, {name: int(count) for name, (_, count) in sums.items()},
        {name: math.exp(min(nats / count, 700.0)) for name, (nats, count) in sums.items() if count},
        ended / total, sum(len(s) for s in samples) / total, (distinct(samples, 1), distinct(samples, 2), distinct(samples, 3)),
        sum(map(repeated, samples)) / total, tuple(texts[i] for i in range(len(prompts))),
    )  # fmt: skip


def rows(found: Sequence[Conversing]) -> list[tuple[str, list[str]]]:
    """The figures as (name, one value a model)."""
    languages = [name for name in ("all", "zh", "en") if any(name in f.perplexity for f in found)]
    out = [
        (f"reply perplexity ({name}, {found[0].judged.get(name, 0):,} tokens)", [f"{f.perplexity.get(name, math.nan):.2f}" for f in found])
        for name in languages
    ]
    out.append(("ended by itself", [f"{f.ended:.0%}" for f in found]))
    out.append(("tokens a reply", [f"{f.tokens:.1f}" for f in found]))
    out += [(f"distinct-{n + 1}", [f"{f.distinct[n]:.3f}" for f in found]) for n in range(3)]
    return [*out, (f"repeated {REPEAT}-grams", [f"{f.repeated:.1%}" for f in found])]


def page(found: Sequence[Conversing], questions: Sequence[Question]) -> str:
    """Figures and replies side by side, as Markdown."""
    names = [f"{f.model} ({f.dtype})" for f in found]
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(found)]
    lines += [f"| {name} | " + " | ".join(values) + " |" for name, values in rows(found)]
    lines += ["", "| | prompt | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(found)]
    for number, question in enumerate(questions):
        cells = [question.text, *(f.replies[number] or "(nothing)" for f in found)]
        lines.append(f"| {question.topic} | " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ⏎ ")
