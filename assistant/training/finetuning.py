"""A model that exists learns conversations: all its weights, or a low-rank adapter beside them. Only what the assistant says is learnt."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from assistant.errors import UsageError
from assistant.lm import checkpoint, lora
from assistant.lm.batches import Document, Packed
from assistant.lm.engine import Engine
from assistant.lm.saving import save
from assistant.lm.train import Event, Plan, Saved, Trainer
from assistant.training import hygiene
from assistant.training.corpus import Source
from assistant.training.documents import encode_chat, read_all
from assistant.training.documents import held_out as is_held_out
from assistant.training.runs import VALIDATION_TOKENS, Work, identity
from assistant.turn import Message


@dataclass(frozen=True, slots=True)
class Method:
    """What of the model changes."""

    rank: int = 8
    """Of the adapter; 0 trains all weights."""
    alpha: float = 16.0
    targets: tuple[str, ...] = lora.TARGETS
    merged: bool = False
    """Store a whole model with the adapter added, instead of the adapter."""
    half: bool = False
    """Store the adapter's numbers as float16."""
    words: int = 0
    """While an adapter is trained, only so many entries of the vocabulary compete to be the next token: those of the conversations, and the
    most frequent others. 0: all."""


def competing(learnt: Sequence[Document], count: int, vocabulary: int) -> tuple[int, ...]:
    """The entries of the vocabulary that take part in the loss: all that occur, then by number (byte pairs are numbered as they were
    merged, the most frequent first) up to `count`; none named means all."""
    if not count or count >= vocabulary:
        return ()
    seen = {int(i) for document in learnt for i in np.unique(document.ids)}
    rest = (i for i in range(vocabulary) if i not in seen)
    return (*sorted(seen), *itertools.islice(rest, max(count - len(seen), 0)))


class FineTuning(Work):
    """Conversations for a loaded model (with dense float32 weights)."""

    command = "finetune"

    def __init__(
        self, engine: Engine, base: str, sources: Sequence[Source], plan: Plan, method: Method, output: Path, *,
        validation: float = 0.02, chats: Sequence[str] = (), scrub: bool = True, deduplicate: bool = True, watts: float = 5.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        """Raises UsageError for files that cannot be learnt from, ModelError for a model without a chat format."""
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file: give a folder with --output")
        if not (output / checkpoint.NAME).exists() and any((output / n).exists() for n in ("config.json", lora.DESCRIPTION)):
            raise UsageError(f"there is a model in {output} already: choose another --output")
        if plan.context > engine.model.config.context_length:
            raise UsageError(f"this model reads {engine.model.config.context_length} tokens at most: give a --context up to that")
        self.engine, self.base, self.method, self.style = engine, base, method, engine.chat_format
        self.chats = list(chats)
        facts, learnt, tested = self._gather(sources, plan.context, validation, scrub, deduplicate)
        say(f"{len(learnt)} conversations to learn from, {len(tested)} to test on")
        model = engine.model
        model.requires_grad_(True)
        if method.rank:
            lora.prepare(model, method.rank, method.alpha, method.targets, plan.seed)
        data = Packed(learnt, plan.context, plan.batch, plan.seed)
        test = Packed(tested, plan.context, plan.batch, plan.seed) if tested else None
        count = min(int(np.ceil(test.steps_per_epoch)), max(VALIDATION_TOKENS // (plan.context * plan.batch), 1)) if test else 0
        trainer = Trainer(
            model, data, plan, output, validation=[test.batch(i) for i in range(count)] if test else [],
            prompts=[[p.id for p in self.style.render([Message("user", text)], engine.tokenizer)] for text in chats],
            end=engine.tokenizer.eos | {engine.tokenizer.ids[t] for t in self.style.control},
            identity=identity(plan, asdict(method), engine.info.sha256, facts["corpus_sha256"]),
            words=competing(learnt, method.words, model.config.vocab_size) if method.rank else (),
        )  # fmt: skip
        super().__init__(output, plan, trainer, facts, watts)
        if trainer.resume():
            say(f"going on after step {trainer.step}")

    def _gather(
        self, sources: Sequence[Source], context: int, validation: float, scrub: bool, deduplicate: bool
    ) -> tuple[dict[str, Any], list[Document], list[Document]]:
        texts, origin, rows = read_all(sources)
        for number, text in zip(origin, texts, strict=True):
            if not text.messages:
                raise UsageError(f"{sources[number].path.name} holds plain text ({text.text[:20]!r}): give conversations, with messages")
        cleaned = hygiene.clean(texts, scrub=scrub, deduplicate=deduplicate)
        learnt: list[Document] = []
        tested: list[Document] = []
        digest, too_long = hashlib.sha256(), 0
        for number, text in zip(cleaned.kept, cleaned.texts, strict=True):
            ids, learn = encode_chat(text.messages, self.style, self.engine.tokenizer)
            document = Document(np.array(ids, np.int32), np.array(learn, np.bool_))
            digest.update(document.ids.tobytes())
            if not any(learn[1 : context + 1]):
                too_long += 1
                continue
            repeat = sources[origin[number]].repeat
            if repeat == 1 and is_held_out(text, validation):
                tested.append(document)
            else:
                learnt += [document] * repeat
        if not learnt:
            raise UsageError(f"no reply lies within the first {context} tokens of its conversation: give a larger --context")
        facts = {
            "sources": rows, "base": self.engine.info.name, "base_sha256": self.engine.info.sha256,
            "documents": {"learnt": len(learnt), "held_out": len(tested)},
            "tokens": {"learnt": sum(int(d.learn.sum()) for d in learnt if d.learn is not None),
                       "read": sum(len(d.ids) for d in learnt)},
            "removed": {"exact_duplicates": cleaned.exact, "near_duplicates": cleaned.near, "reply_beyond_context": too_long},
            "personal_data_replaced": cleaned.personal, "corpus_sha256": digest.hexdigest(),
        }  # fmt: skip
        return facts, learnt, tested

    def events(self) -> Iterator[Event]:
        """As any training; with every checkpoint the adapter is stored as it is then, and can be tried."""
        for event in super().events():
            if isinstance(event, Saved) and event.step and self.method.rank and not self.method.merged:
                self.store(dict(self.trainer.model.named_parameters()))
            yield event

    def text(self, prompt: int, ids: Sequence[int]) -> str:
        """A sample in words."""
        return f"{self.chats[prompt]} → {self.engine.tokenizer.decode(ids)}"

    def numbers(self) -> dict[str, Any]:
        """What was trained, for the card."""
        return {**asdict(self.method), "trained_parameters": self.parameters}

    def store(self, weights: dict[str, Tensor]) -> Path:
        """Write the adapter, or the whole model."""
        engine, method, folder = self.engine, self.method, self.output
        if method.rank:
            thin = {name: t for name, t in weights.items() if name.endswith((".a", ".b"))}
            adapter = lora.Adapter(
                folder.name, self.base, engine.info.sha256, method.rank, method.alpha, method.targets, self.style.name, "", thin
            )
            if not method.merged:
                lora.save(folder, adapter, half=method.half)
                return folder / lora.WEIGHTS
            lora.merge(engine.model, adapter)
            lora.undo(engine.model)
        save(
            engine.model, engine.tokenizer, folder, chat_format=self.style.name,
            notes={"languages": list(engine.languages), "base": engine.info.name, "base_sha256": engine.info.sha256},
        )  # fmt: skip
        return folder / "model.safetensors"
