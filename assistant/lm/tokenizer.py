"""Text to token ids and back, with the `tokenizers` library: rebuilt from a GGUF file's own vocabulary, or read from a tokenizer.json.

The user's text is always encoded with control tokens switched off: `<|im_end|>` typed by a person becomes ordinary pieces and can
never end a message. Control tokens enter only as ids, from `chat_format.py`.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from assistant.errors import ModelError
from assistant.lm import sentencepiece
from assistant.lm.gguf import GGUFFile

CONTROL = 3  # tokenizer.ggml.token_type of control tokens
USER_DEFINED = 4
MAX_JSON = 128 << 20
"""Bytes of a tokenizer.json; the largest real ones have 35 million."""

# How a text is cut into words before the byte-pair merges, by `tokenizer.ggml.pre`; the patterns are those the models were trained with.
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2}


class ByteTokenizer:
    """A tokenizer whose tokens stand for bytes: one character may be several tokens.

    `vocabulary` names every id, `pieces` are the bytes each stands for; control tokens stand for none.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: Sequence[str], pieces: Sequence[bytes], control: Iterable[int], eos: Iterable[int]
    ) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        self.size = len(vocabulary)
        self.control = frozenset(control)
        self.eos = frozenset(eos)
        self.ids = {token: i for i, token in enumerate(vocabulary)}
        self._bytes = [b"" if i in self.control else piece for i, piece in enumerate(pieces)]

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ByteTokenizer:
        """The tokenizer in the file. Raises ModelError for a kind we do not have, or a vocabulary that does not hold together."""
        kind, pre = file.get("tokenizer.ggml.model", str), file.get("tokenizer.ggml.pre", str, "default")
        if kind != "llama" and (kind != "gpt2" or not (pre in _SPLITS or pre in ("smollm", "gpt-2"))):
            raise ModelError(f"{file.path.name} uses the tokenizer {kind}/{pre}, which is not supported: choose another model")
        vocabulary = file.get("tokenizer.ggml.tokens", list)
        types = file.get("tokenizer.ggml.token_type", list, [1] * len(vocabulary))
        if len(types) != len(vocabulary) or len(set(vocabulary)) != len(vocabulary):
            raise ModelError(f"{file.path.name}: the vocabulary is damaged: fetch the model again")
        control = [i for i, t in enumerate(types) if t == CONTROL]
        extra = [i for i, t in enumerate(types) if t == USER_DEFINED]
        if kind == "llama":
            tokenizer = _scored(file, vocabulary, types)
            pieces = [token.encode() if types[i] == USER_DEFINED else sentencepiece.bytes_of(token) for i, token in enumerate(vocabulary)]
        else:
            tokenizer = _merged(file, vocabulary, pre)
            pieces = [bytes_of_byte_level(token) for token in vocabulary]
        tokenizer.add_special_tokens([AddedToken(vocabulary[i], special=True, normalized=False) for i in control])
        tokenizer.add_tokens([AddedToken(vocabulary[i], normalized=False) for i in extra])
        eos = {file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
        return cls(tokenizer, vocabulary, pieces, control, {i for i in eos if isinstance(i, int) and i < len(vocabulary)})

    @classmethod
    def from_json(cls, path: Path, size: int, eos: Iterable[int | str] = ()) -> ByteTokenizer:
        """The tokenizer in a tokenizer.json, filled up to `size` ids (models have embeddings that no token uses).

        `eos`: ids or names of the tokens that end a reply. Raises ModelError for a kind whose tokens do not stand for bytes, a
        damaged file, and one with more than `size` tokens.
        """
        try:
            if path.stat().st_size > MAX_JSON:
                raise ModelError(f"{path.name} is larger than any tokenizer: fetch the model again")
            text = path.read_text("utf-8")
            tokenizer, described = Tokenizer.from_str(text), json.loads(text)
        except OSError as error:
            raise ModelError(f"cannot read the tokenizer {path}: {error.strerror or error}") from error
        except ModelError:
            raise
        except Exception as error:  # the library raises bare exceptions
            raise ModelError(f"{path.name} is not a tokenizer that can be read: {error}") from error
        decoder = _kinds(described.get("decoder"))
        if "ByteLevel" in decoder:
            piece = bytes_of_byte_level
        elif "ByteFallback" in decoder or "Metaspace" in decoder:
            piece = sentencepiece.bytes_of
        else:
            raise ModelError(f"{path.name}: its tokens do not stand for bytes, which is not supported: choose another model")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        names = {i: token for token, i in tokenizer.get_vocab(with_added_tokens=True).items()}
        if not names or max(names) >= size:
            raise ModelError(f"{path.name}: {max(names, default=-1) + 1} tokens for {size} embeddings: fetch the model again")
        vocabulary = [names.get(i, f"<unused {i}>") for i in range(size)]
        added = tokenizer.get_added_tokens_decoder()
        control = {i for i in range(size) if i not in names} | {i for i, token in added.items() if token.special}
        pieces = [token.encode() if i in added else piece(token) for i, token in enumerate(vocabulary)]
        ends = {names_id for end in eos if (names_id := end if isinstance(end, int) else tokenizer.token_to_id(end)) is not None}
        return cls(tokenizer, vocabulary, pieces, control, {i for i in ends if 0 <= i < size})

    def to_json(self) -> str:
        """The contents of a tokenizer.json that gives the same ids."""
        return str(self._tokenizer.to_str())

    def begin(self) -> tuple[int, ...]:
        """The ids that its own post-processor puts before a text."""
        plain, whole = self._tokenizer.encode("a", add_special_tokens=False).ids, self._tokenizer.encode("a").ids
        return tuple(whole[: next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)])

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, all of it taken as ordinary text. `text` must hold no lone surrogates."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def bytes_of(self, token: int) -> bytes:
        """The bytes a token stands for; none for control tokens."""
        return self._bytes[token]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; control tokens are left out, broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def text_of(self, token: int) -> str:
        """One token on its own, for people: control tokens by name, pieces of a character as U+FFFD."""
        if token in self.control:
            return next(name for name, i in self.ids.items() if i == token)
        return self._bytes[token].decode("utf-8", "replace")


class StreamDecoder:
    """Turns a stream of tokens into text without ever cutting a character: incomplete bytes wait for the next token."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that this token completes; empty while a character is still incomplete."""
        return self._decoder.decode(self._tokenizer.bytes_of(token))

    def finish(self) -> str:
        """What is left: U+FFFD if the stream ended inside a character."""
        return self._decoder.decode(b"", final=True)


def _merged(file: GGUFFile, vocabulary: list[str], pre: str) -> Tokenizer:
    """Byte-level BPE with the merges in the file."""
    pairs = [tuple(m.split(" ")) for m in file.get("tokenizer.ggml.merges", list)]
    if any(len(p) != 2 for p in pairs):
        raise ModelError(f"{file.path.name}: the merges are damaged: fetch the model again")
    try:
        tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(vocabulary)}, pairs, ignore_merges=pre in _SPLITS))
    except Exception as error:  # the library raises bare exceptions for unknown merge parts
        raise ModelError(f"{file.path.name}: the vocabulary and the merges do not fit together: {error}") from error
    if pre in _SPLITS:
        cut: pre_tokenizers.PreTokenizer = pre_tokenizers.Split(Regex(_SPLITS[pre]), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    else:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _scored(file: GGUFFile, vocabulary: list[str], types: list[int]) -> Tokenizer:
    """A SentencePiece vocabulary with the scores in the file."""
    scores = file.get("tokenizer.ggml.scores", list)
    if len(scores) != len(vocabulary) or not all(isinstance(x, float) and math.isfinite(x) for x in scores):
        raise ModelError(f"{file.path.name}: the scores of the vocabulary are damaged: fetch the model again")
    return sentencepiece.build(vocabulary, scores, types, prefix=file.get("tokenizer.ggml.add_space_prefix", bool, True))


def bytes_of_byte_level(token: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary, each written as one printable character; others stand for themselves."""
    try:
        return bytes([_BYTE_OF[c] for c in token])
    except KeyError:
        return token.encode()


def _kinds(part: Any) -> set[str]:
    """The types of a tokenizer.json's decoder and of the steps within it."""
    if not isinstance(part, dict):
        return set()
    steps = part.get("decoders")
    return {str(part.get("type"))}.union(*map(_kinds, steps if isinstance(steps, list) else ()))


def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTE_OF = _byte_alphabet()
