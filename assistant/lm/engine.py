"""A loaded model, ready to be talked to: messages to ids, ids to a reply. Knows nothing of safety, storage or screens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from assistant.lm import threads  # before torch

import torch  # isort: skip
from torch import Tensor, nn

from assistant.errors import ModelError, UsageError
from assistant.lm import batch, kernels, lora, memory, parallel, prefill, speculate, weights
from assistant.lm.chat_format import ChatFormat, Piece, Prompt, choose
from assistant.lm.decode import decoder
from assistant.lm.energy import Meter
from assistant.lm.generate import Generation, Writer
from assistant.lm.kv_cache import KVCache
from assistant.lm.pace import Pace
from assistant.lm.source import open_source
from assistant.lm.tokenizer import ByteTokenizer
from assistant.lm.transformer import Block, Transformer
from assistant.turn import Message, ModelInfo, Sampling

Progress = Callable[[str, float | None], None]

DEFAULT_CONTEXT = 2048
PREFILL_CHUNK = 512
"""Longer prompts are read in pieces of this many tokens, so that attention never needs memory for all pairs at once."""


class Engine:
    """One model on one device with one conversation's cache. Not thread-safe: one caller at a time."""

    concurrent = False

    def __init__(
        self,
        model: Transformer,
        packed: list[weights.PackedBlock] | None,
        tokenizer: ByteTokenizer,
        info: ModelInfo,
        *,
        template: str | None = None,
        chat_format: str = "",
        begin: Sequence[int] = (),
        languages: Sequence[str] = (),
        context_length: int = DEFAULT_CONTEXT,
        watts_per_core: float = 5.0,
        load_seconds: float = 0.0,
        suiting: kernels.Kernels = kernels.USUAL,
    ) -> None:
        self.model, self.tokenizer, self.info = model, tokenizer, info
        self.languages = tuple(languages)
        self._template, self._format_name = template, chat_format
        if context_length < 1:
            raise UsageError(f"a context of {context_length} tokens holds nothing: ask for at least 64")
        self.context_length = min(context_length, model.config.context_length)
        # what a person asked for and does not get is said (`language.notices`); the default is no wish
        self.context_asked = context_length if context_length != DEFAULT_CONTEXT else self.context_length
        self.load_seconds = load_seconds
        self.device = model.norm.device
        self.cache = KVCache(model.config, self.context_length, self.device)
        self.kernels = suiting
        self._decoder = decoder(model, packed, self.cache, suiting)
        self.speculator = speculate.speculator(self._decoder)
        """Reads several tokens at once where the text repeats itself; None: one by one."""
        self._pace = Pace(
            torch.get_num_threads() if self.device.type == "cpu" else 1,
            comparable=lambda: self.speculator is None or self.speculator.plain,
        )
        self._begin = tuple(begin)
        self._watts = watts_per_core
        self._fresh = True
        self.watch: Callable[[Tensor], float] | None = None
        """What is told of every token from its hidden state (D,): a probe's risk. Not part of the model."""

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        thread_count: int = 0,
        context_length: int = DEFAULT_CONTEXT,
        watts_per_core: float = 5.0,
        languages: Sequence[str] | None = None,
        chat_format: str = "",
        packed_folder: Path | None = None,
        adapters: Sequence[lora.Adapter] = (),
        progress: Progress = lambda what, fraction: None,
    ) -> Engine:
        """Load a .gguf file or a model folder; packed weights are kept in `packed_folder` for the next time.

        `adapters` are added to the weights as these are read: the model is another one then, and has a SHA-256 of its own. What the
        file's own 4-bit codes would serve is rounded to int8 instead (on CUDA it stays bfloat16).
        Raises ModelError when it is missing, damaged, not understood, does not fit into memory, or is not what an adapter was trained on.
        """
        began = time.perf_counter()
        torch.set_num_threads(thread_count or max(threads.available_cores() // parallel.neighbours(), 1))
        name = name or (path.resolve().name if path.is_dir() else path.stem)
        progress(f"reading {name}", 0.0)
        source = open_source(path)
        config, tokenizer = source.config(), source.tokenizer()
        if config.vocab_size != tokenizer.size:
            raise ModelError(f"{path.name}: {tokenizer.size} tokens for {config.vocab_size} embeddings: fetch the model again")
        if any(not 0 <= i < config.vocab_size for i in source.begin()):
            raise ModelError(f"{path.name}: its begin token is none of its {config.vocab_size} tokens: fetch the model again")
        target, sha256 = parallel.own(pick_device(device)), source.sha256()
        shared = parallel.group.size
        identity = lora.identity(sha256, adapters)
        here = packed_folder if target.type == "cpu" and shared == 1 else None
        suiting = kernels.choose(here, weights=source.weights(), processes=shared)
        kind = pick_dtype(dtype, target, shared == 1 and weights.packable(source, config), suiting.dtype)
        if adapters and kind in PACKED:
            kind = "int8" if target.type == "cpu" else "bfloat16"
        if shared > 1 and kind == "int8":
            raise UsageError("several processes share a model as float32, bfloat16 or float16: use --dtype auto")
        if target.type == "cpu":
            memory.check(name, source.weights() * parallel.neighbours() // shared, kind)

        def change(number: int, block: nn.Module) -> None:
            for adapter in adapters:
                lora.merge_block(block, number, adapter)
            if shared > 1:
                parallel.cut(cast(Block, block), target)

        try:
            model, packed = weights.load(
                source, config, DENSE[kind], target, pack=kind in PACKED, int8=kind == "int8", packed_folder=packed_folder, sha256=sha256,
                change=change,
                progress=lambda fraction: progress(f"loading {name}", fraction),
            )  # fmt: skip
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise memory.too_large(name, kind) from error
        if shared > 1:
            model.config = parallel.local(config, shared)
            parallel.lead(model)
        return cls(
            model,
            packed,
            tokenizer,
            ModelInfo(name, identity, kind, str(target)),
            template=source.template,
            begin=source.begin(),
            languages=source.languages if languages is None else languages,
            chat_format=next((a.chat_format for a in reversed(adapters) if a.chat_format), chat_format or source.chat_format),
            context_length=context_length,
            watts_per_core=watts_per_core,
            load_seconds=time.perf_counter() - began,
            suiting=suiting,
        )

    def meter(self) -> Meter:
        """A new energy meter for work of this engine."""
        return Meter(self._watts)

    @property
    def neutral_id(self) -> int:
        """A token that says nothing, for baselines: a space."""
        return self.tokenizer.encode(" ")[0]

    @property
    def chat_format(self) -> ChatFormat:
        """How messages are laid out. Raises ModelError for a model that cannot chat."""
        return choose(self._format_name, self._template, self.tokenizer, self.info.name)

    def render(self, messages: Sequence[Message], *, reserve: int) -> Prompt:
        """The conversation as token ids, with room for `reserve` tokens of reply (a quarter of the context at most).

        What does not fit is dropped visibly: the oldest turns first, then the middle of the last prompt; never the system prompt.
        Raises UsageError when the system prompt alone is too long.
        """
        room = self.context_length - min(reserve, self.context_length // 4)
        style, kept, dropped = self.chat_format, list(messages), 0
        system = 1 if kept and kept[0].role == "system" else 0
        pieces = style.render(kept, self.tokenizer)
        while len(pieces) > room and len(kept) - system > 1:
            del kept[system : system + 2]  # one turn: its prompt and its reply
            dropped += 1
            pieces = style.render(kept, self.tokenizer)
        excess = len(pieces) - room
        if excess > 0:
            last = [i for i, piece in enumerate(pieces) if piece.message == len(kept) - 1]
            if excess >= len(last):
                raise UsageError(f"the system prompt is too long for a context of {self.context_length} tokens: shorten it")
            start = last[0] + (len(last) - excess) // 2
            pieces = pieces[:start] + pieces[start + excess :]
        shift = 2 * dropped
        if shift:  # message numbers count from the conversation's beginning, dropped ones included
            pieces = [Piece(p.id, p.role, p.message + shift if p.message >= system else p.message) for p in pieces]
        return Prompt(tuple(pieces), dropped, max(excess, 0))

    def render_raw(self, text: str) -> Prompt:
        """The ids of a text to be continued, without any chat format; the beginning is cut when it is too long."""
        ids = self.tokenizer.encode(text)
        room = self.context_length - self.context_length // 4 - len(self._begin)
        cut = max(len(ids) - room, 0)
        pieces = [Piece(i, None) for i in self._begin] + [Piece(i, "user", 0) for i in ids[cut:]]
        if not pieces:
            raise UsageError("there is nothing to continue: give some text")
        return Prompt(tuple(pieces), 0, cut)

    def generate(self, prompt: Prompt, sampling: Sampling, *, cancel: threading.Event | None = None) -> Generation:
        """A reply in the making; iterate over it. A temperature above 0 needs `sampling.seed`."""
        return self.generate_ids(prompt.ids, sampling, eos=self._ends(prompt), cancel=cancel)

    def _ends(self, prompt: Prompt) -> frozenset[int]:
        """The tokens that end a reply to `prompt`."""
        eos = self.tokenizer.eos
        if any(piece.role is None for piece in prompt.pieces[len(self._begin) :]):  # a chat: its control tokens end it too
            eos = eos | {self.tokenizer.ids[t] for t in self.chat_format.control}
        return eos

    def generate_ids(
        self, ids: Sequence[int], sampling: Sampling, *, eos: frozenset[int], cancel: threading.Event | None = None
    ) -> Generation:
        """`generate` for plain ids; the reply ends at any of `eos`."""
        load_seconds, self._fresh = (self.load_seconds if self._fresh else 0.0), False
        watch = self.watch
        return Generation(
            ids,
            sampling,
            prefill=self.prefill,
            decode=self.speculator or self._decoder,
            tokenizer=self.tokenizer,
            eos=eos,
            room=self.context_length - len(ids),
            meter=self.meter(),
            pace=self._pace,
            load_seconds=load_seconds,
            cancel=cancel,
            watch=None if watch is None else lambda: watch(self._decoder.state[0]),
        )

    def generate_batch(
        self, prompts: Sequence[Prompt], samplings: Sequence[Sampling], *, slots: int = 8, cancel: threading.Event | None = None
    ) -> Iterator[batch.BatchReply]:
        """The replies to many prompts, `slots` of them in flight at a time, each as soon as it has ended (see `batch.run`).

        Every reply has the tokens that `generate` gives for the same prompt and seed. With dense weights the sums of a matrix product may
        come out in another order, so that two candidates as good as equal can change places; with quantised ones not even that.
        """

        def writer(ids: Sequence[int], sampling: Sampling) -> Writer:
            room = self.context_length - len(ids)
            return Writer(sampling, self.tokenizer, ends[tuple(ids)], min(sampling.max_tokens, room))

        ends = {prompt.ids: self._ends(prompt) for prompt in prompts}
        yield from batch.run(
            self._decoder, [prompt.ids for prompt in prompts], samplings, prefill=self.prefill, writer=writer, slots=slots, cancel=cancel,
        )  # fmt: skip

    def decode(self, token: int) -> Tensor:
        """Read one more token; returns the logits (V,) after it."""
        return self._decoder(token)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> tuple[Tensor, int]:
        """Read `ids`; returns the logits (V,) after the last one, and how many tokens were in the cache already."""
        cached = self.cache.keep_prefix(ids)
        self.cache.reserve(len(ids))
        rest = list(ids[cached:])
        if len(rest) == 1:
            return self._decoder(rest[0]), cached
        for start in range(0, len(rest), PREFILL_CHUNK):
            chunk = rest[start : start + PREFILL_CHUNK]
            past, new = self.cache.length, len(chunk)
            positions = torch.arange(past, past + new, device=self.device)
            mask = None
            if past:  # a query at position p looks at keys 0 … p
                mask = torch.arange(past + new, device=self.device) <= positions.unsqueeze(1)
                mask = mask.view(1, 1, new, past + new)
            if (read := prefill.reader(self.model, columns=self.kernels.columns)) is not None:
                last = read(self.model, torch.tensor(chunk), self.cache, mask)
            else:
                batch = torch.tensor([chunk], device=self.device)
                last = self.model(batch, positions=positions.unsqueeze(0), mask=mask, cache=self.cache)[0, -1]
            self.cache.advance(chunk)
        logits: Tensor = self.model.logits(last)
        return logits, cached


PACKED = ("int4", "int4+bfloat16")
"""The dtypes that decode from packed int4 copies of the blocks; what stands after the + reads prompts."""
DENSE = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.bfloat16, "int4": torch.float32,
    "int4+bfloat16": torch.bfloat16,
}  # fmt: skip
"""The precision of the dense weights for each `dtype`; with int4 they only read prompts and serve gradients, int8 has dense embeddings
only."""


def pick_device(name: str) -> torch.device:
    """The device named, or for `auto` CUDA, then MPS, then the CPU. Raises UsageError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"the device {name!r} is not available here: use auto or cpu") from error
    return device


def pick_dtype(name: str, device: torch.device, packable: bool, suiting: str = "int4") -> str:
    """The number format to compute with; `auto` takes the fastest one that keeps the file's precision on this device: `suiting` on the
    CPU for a file of 4-bit codes. On CUDA int4 reads prompts in bfloat16."""
    if name == "auto":
        if device.type == "cpu":
            return suiting if packable else "float32"
        return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float16"
    if name == "int8" and device.type != "cpu":
        raise UsageError("dtype int8 is for the CPU: use --dtype auto")
    if name in PACKED:
        if not packable or not (device.type == "cpu" or _has_int4(device)):
            raise UsageError(
                "dtype int4 needs a Q4_0, Q4_1 or Q4_K model file, and the CPU or a CUDA device of compute capability 8: use --dtype auto"
            )
        return name if device.type == "cpu" else PACKED[1]
    return name


def _has_int4(device: torch.device) -> bool:
    """Whether torch's int4 kernel runs on this CUDA device."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
