"""How a conversation is laid out for a model: which control tokens stand between the messages.

The formats are ours, chosen by the SHA-256 of the template that the model file carries, or named by a person or by the file. No template
is ever executed: templates are programs in an untrusted file. A model with an unknown template is refused for chat (`--raw` still works).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assistant.errors import ModelError
from assistant.lm.tokenizer import ByteTokenizer
from assistant.turn import Message, Role

FORMAT = -1  # the `message` of a piece that belongs to no message


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a prompt and where it comes from."""

    id: int
    role: Role | None
    """None for tokens of the format itself."""
    message: int = FORMAT
    """Which message, counted from 0."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids as they will be fed, each with its origin, and what had to be left out to fit the context."""

    pieces: tuple[Piece, ...]
    dropped_turns: int = 0
    """Earlier turns left out, oldest first."""
    dropped_tokens: int = 0
    """Tokens cut from the middle of the last prompt because it alone was too long."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids as they will be fed."""
        return tuple(piece.id for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A way to write messages down. `open`, `close` and `generate` name control tokens and plain text around each message."""

    name: str
    open: Callable[[Role], list[str]]
    close: list[str]
    default_system: str = ""
    """What the model was trained to see when no system prompt is given."""
    begin: tuple[str, ...] = ()
    prelude: tuple[str, ...] = ()
    """What the assistant's message is made to begin with."""
    control: tuple[str, ...] = ()
    """The control tokens it needs in the vocabulary."""
    trim: bool = False
    """Whether messages lose the spaces and line breaks at their ends."""
    folds_system: bool = False
    """The model knows no system role: the system prompt is the beginning of the first message, with an empty line after it."""

    def render(self, messages: Sequence[Message], tokenizer: ByteTokenizer) -> list[Piece]:
        """The conversation as pieces, ending where the assistant's reply begins."""
        pieces: list[Piece] = []
        for text, role, origin in self.layout(messages):
            pieces += self._markup([text], tokenizer) if role is None else [Piece(i, role, origin) for i in tokenizer.encode(text)]
        return pieces

    def layout(self, messages: Sequence[Message]) -> list[tuple[str, Role | None, int]]:
        """The same as texts: what is written, whose it is (None: the format's own), and of which message, counted from 0."""
        if self.default_system and (not messages or messages[0].role != "system"):
            messages, offset = [Message("system", self.default_system), *messages], 1
        else:
            offset = 0
        texts: list[tuple[str, Role | None, int]] = [(part, None, FORMAT) for part in self.begin]
        joined = False  # to a system prompt that opened the message
        for number, message in enumerate(messages):
            origin = number - offset if number >= offset else FORMAT
            if not joined:
                opening = self.open("user" if self.folds_system and message.role == "system" else message.role)
                texts += [(part, None, FORMAT) for part in opening]
            role = message.role if origin != FORMAT else None
            texts.append((message.text.strip() if self.trim else message.text, role, origin))
            joined = self.folds_system and message.role == "system" and number + 1 < len(messages)
            texts += [(part, None, FORMAT) for part in (["\n\n"] if joined else self.close)]
        return [*texts, *((part, None, FORMAT) for part in [*self.open("assistant"), *self.prelude])]

    def _markup(self, parts: Sequence[str], tokenizer: ByteTokenizer) -> list[Piece]:
        out: list[Piece] = []
        for part in parts:
            known = part in self.control or (part in self.prelude and part in tokenizer.ids)
            ids = [tokenizer.ids[part]] if known else tokenizer.encode(part)
            out += [Piece(i, None) for i in ids]
        return out

    def fits(self, tokenizer: ByteTokenizer) -> bool:
        """Whether the vocabulary has every control token that the format needs."""
        return all(tokenizer.ids.get(token) in tokenizer.control for token in self.control)


def _chatml(name: str, default_system: str = "", think: bool = False) -> ChatFormat:
    """OpenAI's chat markup language as these models use it. `think`: an empty thinking step is written for the model."""
    return ChatFormat(
        name, lambda role: ["<|im_start|>", role + "\n"], ["<|im_end|>", "\n"], default_system,
        prelude=("<think>", "\n\n", "</think>", "\n\n") if think else (), control=("<|im_start|>", "<|im_end|>"),
    )  # fmt: skip


FORMATS: dict[str, ChatFormat] = {
    style.name: style
    for style in (
        _chatml("chatml"),
        _chatml("chatml-smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        _chatml("chatml-qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        _chatml("chatml-qwen3", think=True),
        ChatFormat(  # Llama 3; 3.1 and later put two dates before the system prompt, which a person can write there
            "llama3", lambda role: ["<|start_header_id|>", role, "<|end_header_id|>", "\n\n"], ["<|eot_id|>"],
            begin=("<|begin_of_text|>",), trim=True,
            control=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
        ChatFormat(  # Gemma 2 and 3
            "gemma", lambda role: ["<start_of_turn>", "model\n" if role == "assistant" else role + "\n"], ["<end_of_turn>", "\n"],
            begin=("<bos>",), trim=True, folds_system=True, control=("<bos>", "<start_of_turn>", "<end_of_turn>"),
        ),
    )
}  # fmt: skip

BY_TEMPLATE = {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": "chatml-smollm2"}
"""SHA-256 of a chat template → the format that renders the same."""


def choose(name: str, template: str | None, tokenizer: ByteTokenizer, model: str) -> ChatFormat:
    """The format called `name`, or for an empty name the one for the model's chat template.

    Raises ModelError when the template is missing or unknown, or the vocabulary lacks the format's control tokens.
    """
    if not name:
        if not template:
            raise ModelError(f"{model} has no chat template: it continues text, so use it with --raw")
        name = BY_TEMPLATE.get(hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest(), "")
    elif name not in FORMATS:
        raise ModelError(f"there is no chat format {name!r}: choose {', '.join(FORMATS)}")
    found = FORMATS.get(name)
    if found is None:
        raise ModelError(
            f"{model} has a chat template that Pellucid does not know: name its format with --chat-format, or use it with --raw"
        )
    if not found.fits(tokenizer):
        raise ModelError(f"{model}: the vocabulary lacks the control tokens of its {found.name} format: fetch the model again")
    return found
