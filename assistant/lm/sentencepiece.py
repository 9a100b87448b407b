"""SentencePiece vocabularies (Kudo & Richardson 2018, arXiv:1808.06226), as Llama 1/2, Mistral and Gemma have them, with `tokenizers`.

A text is cut into characters, spaces written as ▁; then, again and again, the two neighbours whose joint token has the best score are
joined. That is byte-pair encoding when every way to cut a token in two tokens is a merge, ranked by the score of the whole. Characters
that are no token become their UTF-8 bytes, each a token `<0x..>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers

SPACE = "\u2581"
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6  # tokenizer.ggml.token_type


def build(vocabulary: Sequence[str], scores: Sequence[float], types: Sequence[int], *, prefix: bool) -> Tokenizer:
    """The tokenizer of a vocabulary with scores. `prefix`: a text is taken as if a space came before it.

    Only normal tokens are ever joined, so that no text can become a control token or a byte.
    """
    normal = {token: scores[i] for i, token in enumerate(vocabulary) if types[i] == NORMAL}
    merges = sorted(_merges(normal), key=lambda pair: -normal[pair[0] + pair[1]])
    ids = {token: i for i, token in enumerate(vocabulary)}
    has_bytes = all(f"<0x{b:02X}>" in ids for b in range(256))
    unknown = next((token for i, token in enumerate(vocabulary) if types[i] == 2), "<unk>" if "<unk>" in ids else None)
    tokenizer = Tokenizer(models.BPE(ids, merges, byte_fallback=has_bytes, unk_token=unknown, fuse_unk=True))
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _merges(normal: dict[str, float]) -> Iterator[tuple[str, str]]:
    """All pairs of tokens that together are one; the longer first half first."""
    for token in normal:
        for cut in range(len(token) - 1, 0, -1):
            if token[:cut] in normal and token[cut:] in normal:
                yield token[:cut], token[cut:]


def bytes_of(token: str) -> bytes:
    """The bytes that a token stands for: `<0x0A>` is one byte, everything else is text with ▁ for the space."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace(SPACE, " ").encode("utf-8", "replace")
