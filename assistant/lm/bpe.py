"""A byte-level BPE vocabulary of one's own (Sennrich et al. 2016, arXiv:1508.07909; over bytes as in GPT-2).

It begins with the 256 bytes, so no text is ever unknown, and joins the most frequent neighbours until the vocabulary is full.
While it is trained, every Chinese character stands apart: joins inside characters are learnt, joins between them never. Otherwise half a
sentence could be written in other tokens than the sentence that begins with it (今天天 | 气很好, but 今天 | 天气), which a small model
would not know again. What it does afterwards is plain GPT-2 cutting, which llama.cpp knows as `gpt-2`: joins that were never learnt need no
rule against them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from assistant.errors import UsageError
from assistant.lm.tokenizer import ByteTokenizer, bytes_of_byte_level

END, OPEN, CLOSE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END, OPEN, CLOSE)
"""Between documents (and before the first), and round the messages of a conversation."""
SMALLEST = 256 + len(CONTROL)
_HAN = Regex(r"\p{Han}")


def train_tokenizer(texts: Iterable[str], size: int, longest: int = 24) -> Tokenizer:
    """A vocabulary of at most `size` tokens, none longer than `longest` bytes. The same texts give the same vocabulary."""
    if size < SMALLEST:
        raise UsageError(f"a vocabulary needs at least {SMALLEST} entries, for every byte and control token: ask for more than {size}")
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(_HAN, "isolated"), cut])
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[AddedToken(t, special=True, normalized=False) for t in CONTROL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), max_token_length=longest, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(f"{END} $A", None, [(END, tokenizer.token_to_id(END))])
    return tokenizer


def wrap(tokenizer: Tokenizer) -> ByteTokenizer:
    """The same as the engine uses it: user text can never become a control token."""
    entries = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    control = [i for token, i in entries if token in CONTROL]
    pieces = [bytes_of_byte_level(token) for token, _ in entries]
    ends = [i for token, i in entries if token in (END, CLOSE)]
    return ByteTokenizer(tokenizer, [token for token, _ in entries], pieces, control, ends)
