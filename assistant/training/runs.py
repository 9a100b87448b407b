"""A run from its recipe to a folder that the engine loads: gather, build, train (or go on), store, write down what was done."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from assistant.errors import ModelError, UsageError
from assistant.lm import checkpoint, spread
from assistant.lm.batches import Batch, Document, Stream
from assistant.lm.bpe import END, wrap
from assistant.lm.chat_format import FORMATS
from assistant.lm.energy import Meter
from assistant.lm.lstm import LSTM, LSTMConfig, matching
from assistant.lm.saving import save
from assistant.lm.tokenizer import ByteTokenizer
from assistant.lm.train import Event, Plan, Trainer, initialise
from assistant.lm.transformer import Config, Transformer
from assistant.training import card, plot
from assistant.training.corpus import sha256
from assistant.training.documents import FORMAT, Corpus, gather
from assistant.training.recipe import Recipe, Sizes
from assistant.training.stored_lstm import save_lstm
from assistant.turn import Message

VALIDATION_TOKENS = 32_768
"""Of what is held out, at most so much is tested on."""
_CADENCE = ("evaluate_every", "sample_every", "save_every", "save_seconds")


class Work(ABC):
    """A training with its folder. Iterate over `events()`, then `finish()`."""

    command = "train"

    def __init__(self, output: Path, plan: Plan, trainer: Trainer, facts: dict[str, Any], watts: float) -> None:
        self.output, self.plan, self.trainer, self.facts = output, plan, trainer, facts
        self.parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        self.meter = Meter(watts)

    @property
    def tokens(self) -> int:
        """How many tokens are learnt from."""
        return int(self.facts["tokens"]["learnt"])

    @property
    def hint(self) -> str:
        """What to do with the result."""
        return f"try `pellucid ask --model {self.output} TEXT`"

    @abstractmethod
    def text(self, prompt: int, ids: Sequence[int]) -> str:
        """A sample in words."""

    @abstractmethod
    def store(self, weights: dict[str, Tensor]) -> Path:
        """Write what was learnt (by parameter name) into the folder; returns the file with the weights."""

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """What the model is, for the card."""

    def events(self) -> Iterator[Event]:
        """Train to the end. Whoever stops iterating should call `keep`."""
        self.meter.start()
        yield from self.trainer.run()
        self.meter.stop()

    def keep(self) -> None:
        """Write a checkpoint now, because the run is interrupted."""
        self.trainer.save()

    def finish(self) -> dict[str, Any]:
        """Store the model, the curve and the card; returns the card. The checkpoint has served. Raises ModelError."""
        trainer = self.trainer
        weights = {name: checkpoint.whole(p) for name, p in trainer.model.named_parameters()}
        joules, source = self.meter.read()
        seen = trainer.step * self.plan.batch * self.plan.context
        here = (trainer.step - trainer.began) * self.plan.batch * self.plan.context
        described = {
            "name": self.output.resolve().name, "command": self.command, **self.facts,
            "model": self.numbers(), "training": asdict(self.plan),
            "result": {
                "steps": trainer.step, "tokens_read": seen, "loss": trainer.losses[-1],
                "validation_loss": trainer.validations[-1][1] if trainer.validations else None,
                "seconds": trainer.seconds, "tokens_per_second": seen / max(trainer.seconds, 1e-9),
                "joules_since_the_last_start": joules, "energy_source": source,
                "joules_per_million_tokens": joules / here * 1e6 if joules is not None and here else None,
            },
        }  # fmt: skip
        if spread.first():
            described["weights_sha256"] = sha256(self.store(weights))
            try:
                card.write(self.output, described)
                curve(self.output, trainer, described["name"])
                trainer.path.unlink(missing_ok=True)
            except OSError as error:
                raise ModelError(f"cannot write into {self.output} ({error.strerror}): make room and try again") from error
        return described


class Run(Work):
    """A model from nothing."""

    def __init__(
        self, recipe: Recipe, output: Path, *, device: torch.device, compiled: bool = False, watts: float = 5.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        """Raises UsageError for files that cannot be learnt from, and for an `output` that holds something else."""
        check_output(output)
        device = spread.begin(device)
        self.recipe, plan = recipe, recipe.plan
        self.corpus: Corpus = gather(recipe, say if spread.first() else lambda line: None)
        self.tokenizer: ByteTokenizer = wrap(self.corpus.tokenizer)
        model = build(recipe.sizes, self.tokenizer.size, plan.context)
        initialise(model, plan.seed)
        data = Stream(self.corpus.train, plan.context, plan.batch, plan.seed)
        self.texts = [*recipe.prompts, *recipe.chats]
        prompts = [self._prompt(text, chat) for chat, texts in ((False, recipe.prompts), (True, recipe.chats)) for text in texts]
        corpus_sha256 = self.corpus.sha256
        trainer = Trainer(
            model.to(device), data, plan, output, validation=held_out(self.corpus.validation, plan), prompts=prompts,
            end=self.tokenizer.eos, compiled=compiled,
            identity=identity(plan, asdict(recipe.sizes), corpus_sha256, self.corpus.facts["tokenizer_sha256"]),
        )  # fmt: skip
        super().__init__(output, plan, trainer, {**self.corpus.facts, "corpus_sha256": corpus_sha256}, watts)
        if trainer.resume() and spread.first():
            say(f"going on after step {trainer.step}")

    @property
    def hint(self) -> str:
        """What to do with the result."""
        if self.recipe.sizes.arch == "lstm":
            return "compare it with `pellucid evaluate lm`"
        return f"try `pellucid ask --model {self.output} --raw TEXT`"

    def _prompt(self, text: str, chat: bool) -> list[int]:
        begin = [self.tokenizer.ids[END]]
        if not chat:
            return begin + self.tokenizer.encode(text)
        return begin + [piece.id for piece in FORMATS[FORMAT].render([Message("user", text)], self.tokenizer)]

    def text(self, prompt: int, ids: Sequence[int]) -> str:
        """A sample in words."""
        return self.texts[prompt] + " → " * (prompt >= len(self.recipe.prompts)) + self.tokenizer.decode(ids)

    def numbers(self) -> dict[str, Any]:
        """What the model is, for the card."""
        return {**asdict(self.recipe.sizes), "parameters": self.parameters}

    def store(self, weights: dict[str, Tensor]) -> Path:
        """Write the weights, the configuration and the tokenizer."""
        model = build(self.recipe.sizes, self.tokenizer.size, self.plan.context)
        model.load_state_dict(weights, strict=False)  # a tied head is the embedding
        if isinstance(model, LSTM):
            save_lstm(model, self.corpus.tokenizer, self.output)
        else:
            assert isinstance(model, Transformer)
            save(model, self.tokenizer, self.output, chat_format=FORMAT, notes={"languages": list(self.recipe.languages)})
        return self.output / "model.safetensors"


def identity(plan: Plan, *parts: Any) -> str:
    """A name for everything that decides what a run gives, so that a checkpoint is never taken for another's."""
    numbers = {name: value for name, value in asdict(plan).items() if name not in _CADENCE}
    first, *rest = parts
    return hashlib.sha256(json.dumps([first, numbers, *rest], sort_keys=True).encode()).hexdigest()


def check_output(output: Path) -> None:
    """Raises UsageError when a model, or something that is no folder, is there already."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: give a folder with --output")
    if (output / "config.json").exists() and not (output / checkpoint.NAME).exists():
        raise UsageError(f"there is a model in {output} already: choose another --output")


def build(sizes: Sizes, vocab_size: int, context: int) -> nn.Module:
    """The model of these sizes, not yet initialised. Raises UsageError for sizes that do not fit together."""
    heads = sizes.kv_heads or sizes.heads
    ffn = sizes.ffn or -(-sizes.width * 8 // 3 // 64) * 64
    try:
        if sizes.width % sizes.heads:
            raise ValueError(f"a width of {sizes.width} cannot be shared by {sizes.heads} heads")
        config = Config(
            vocab_size=vocab_size, width=sizes.width, n_layers=sizes.layers, n_heads=sizes.heads, n_kv_heads=heads, ffn_width=ffn,
            context_length=context, tied=not sizes.untied,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"these sizes make no model: {error}") from error
    if sizes.arch == "transformer":
        return Transformer(config)
    if sizes.hidden:
        return LSTM(LSTMConfig(vocab_size, sizes.width, sizes.hidden, sizes.layers, context, sizes.dropout))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Transformer(config).parameters())
    return LSTM(matching(parameters, vocab_size, sizes.width, min(sizes.layers, 2), context))


def held_out(documents: Sequence[Document], plan: Plan) -> list[Batch]:
    """What is tested on, as batches; none when it is shorter than one context."""
    if sum(len(d.ids) for d in documents) <= plan.context:
        return []
    data = Stream(documents, plan.context, plan.batch, plan.seed)
    count = min(int(data.steps_per_epoch), max(VALIDATION_TOKENS // (plan.context * plan.batch), 1))
    return [data.batch(i) for i in range(max(count, 1))]


def curve(folder: Path, trainer: Trainer, title: str) -> None:
    """Write the curve of a run as PNG and HTML. Raises OSError."""
    if trainer.losses:
        plot.png(folder / "losses.png", trainer.losses, trainer.validations, title)
        plot.page(folder / "losses.html", trainer.losses, trainer.validations, title)


def check_compiler() -> None:
    """Raises UsageError where torch could not compile: it needs a C++ compiler."""
    import shutil

    if not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        raise UsageError("--compile needs a C++ compiler (g++ or clang++): install one, or train without --compile")
