"""A recipe's sources as token ids: read, cleaned, split into what is learnt and what is only tested on, encoded.

Which documents are held out is decided by the hash of their text, so the same text is on the same side in every run, whatever stands beside
it. Conversations are written in the format that the finished model will be asked in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from assistant.errors import UsageError
from assistant.lm.batches import Document
from assistant.lm.bpe import CONTROL, END, train_tokenizer, wrap
from assistant.lm.chat_format import FORMATS, ChatFormat
from assistant.lm.tokenizer import ByteTokenizer
from assistant.training import corpus, hygiene
from assistant.training.corpus import Source, Text
from assistant.training.recipe import Recipe
from assistant.turn import Message

FORMAT = "chatml"
TOKENIZER_SAMPLE = 50_000_000
"""Characters that a vocabulary is made from; more change nothing."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a run reads."""

    train: list[Document]
    validation: list[Document]
    tokenizer: Tokenizer
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts, hashes and licences, for the data card."""

    @property
    def sha256(self) -> str:
        """The identity of what is learnt, token by token."""
        digest = hashlib.sha256()
        for document in self.train:
            digest.update(len(document.ids).to_bytes(4, "little") + document.ids.tobytes())
            digest.update(b"" if document.learn is None else document.learn.tobytes())
        return digest.hexdigest()


def gather(recipe: Recipe, say: Callable[[str], None] = lambda line: None) -> Corpus:
    """Read, clean and encode. Raises UsageError for files that cannot be learnt from."""
    texts, origin, rows = read_all(recipe.sources)
    for row in rows:
        say(f"{row['file']}: {row['documents']} documents")
    cleaned = hygiene.clean(texts, scrub=recipe.scrub, deduplicate=recipe.deduplicate)
    removed = cleaned.exact + cleaned.near
    say(f"{len(cleaned.texts)} documents; {removed} were there twice; {sum(cleaned.personal.values())} finds of personal data replaced")
    tokenizer = _tokenizer(recipe, cleaned.texts)
    split = wrap(tokenizer)
    train: list[Document] = []
    validation: list[Document] = []
    for number, text in zip(cleaned.kept, cleaned.texts, strict=True):
        document, repeat = encode(text, split), recipe.sources[origin[number]].repeat
        if repeat == 1 and held_out(text, recipe.validation):  # what is repeated is there to be learnt by heart
            validation.append(document)
        else:
            train += [document] * repeat
    if not train:
        raise UsageError("there is nothing to learn from: every document is held out; give more text, or a smaller validation part")
    facts = {
        "sources": rows,
        "documents": {"learnt": len(train), "held_out": len(validation)},
        "tokens": {"learnt": _tokens(train), "held_out": _tokens(validation)},
        "removed": {"exact_duplicates": cleaned.exact, "near_duplicates": cleaned.near},
        "personal_data_replaced": cleaned.personal,
        "vocabulary": split.size,
        "tokenizer_sha256": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
    }
    return Corpus(train, validation, tokenizer, facts)


def read_all(sources: Sequence[Source]) -> tuple[list[Text], list[int], list[dict[str, Any]]]:
    """The documents of all sources, the number of the source that each comes from, and what the data card says of every source."""
    texts: list[Text] = []
    origin: list[int] = []
    rows = []
    for number, source in enumerate(sources):
        found = corpus.read(source)
        texts += found
        origin += [number] * len(found)
        rows.append(
            {
                "file": source.path.name, "sha256": corpus.sha256(source.path), "licence": source.licence or "not stated",
                "kind": source.kind, "repeat": source.repeat, "documents": len(found), "characters": sum(len(t.key) for t in found),
            }
        )  # fmt: skip
    return texts, origin, rows


def _tokens(documents: Sequence[Document]) -> int:
    return sum(len(d.ids) for d in documents)


def held_out(text: Text, part: float) -> bool:
    """Whether a document is only tested on."""
    digest = hashlib.sha256(text.key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") < part * 2**64


def _tokenizer(recipe: Recipe, texts: Sequence[Text]) -> Tokenizer:
    if recipe.tokenizer is not None:
        try:
            given = Tokenizer.from_file(str(recipe.tokenizer))
        except Exception as error:  # the library raises bare exceptions
            raise UsageError(f"{recipe.tokenizer} is no tokenizer.json ({error}): give one that `pellucid train` wrote") from error
        if missing := [token for token in CONTROL if given.token_to_id(token) is None]:
            raise UsageError(f"{recipe.tokenizer} lacks the token {missing[0]}: give one that `pellucid train` wrote")
        return given

    def pieces() -> Any:
        left = TOKENIZER_SAMPLE
        for text in texts:
            for piece in [m.text for m in text.messages] or [text.text]:
                yield piece
                left -= len(piece)
            if left < 0:
                return

    return train_tokenizer(pieces(), recipe.sizes.vocabulary)


def encode(text: Text, tokenizer: ByteTokenizer, style: ChatFormat | None = None) -> Document:
    """A document as ids; it begins with the token that stands between documents."""
    if not text.messages:
        return Document(np.array([tokenizer.ids[END], *tokenizer.encode(text.text)], np.int32))
    ids, _ = encode_chat(text.messages, style or FORMATS[FORMAT], tokenizer)
    return Document(np.array([tokenizer.ids[END], *ids], np.int32))


def encode_chat(messages: Sequence[Message], style: ChatFormat, tokenizer: ByteTokenizer) -> tuple[list[int], list[bool]]:
    """A conversation as ids, and which of them the assistant has to find by itself: its words, and the token that ends its message.

    The ids are those that the engine feeds when the same conversation is asked for, followed by the last reply.
    """
    last = messages[-1]
    pieces = style.render(messages[:-1], tokenizer)
    ids = [piece.id for piece in pieces]
    learn = [False] * len(ids)
    if not style.prelude:  # a format that makes replies begin with something shows earlier replies without it
        for i, piece in enumerate(pieces[:-1]):
            if piece.role == "assistant":
                learn[i] = True
                learn[i + 1] = learn[i + 1] or pieces[i + 1].role is None
    end = [tokenizer.ids[style.close[0]]] if style.close and style.close[0] in tokenizer.ids else []
    reply = [*tokenizer.encode(last.text), *end]
    return ids + reply, learn + [True] * len(reply)


def facts_of(recipe: Recipe) -> dict[str, Any]:
    """The numbers of a recipe, for the data card."""
    return {"model": asdict(recipe.sizes), "training": asdict(recipe.plan), "validation": recipe.validation}
