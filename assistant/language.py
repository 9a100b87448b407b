"""Which language a text is in, and what every text goes through before anything else looks at it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from assistant.engines import Engine, Prompt

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]+")

_SURROGATES = re.compile("[\ud800-\udfff]")


def detect(text: str) -> Literal["zh", "en"]:
    """`zh` when at least as many Han characters as Latin words are in the text, else `en`."""
    han = len(_HAN.findall(text))
    return "zh" if han and han >= len(_LATIN_WORD.findall(text)) else "en"


def clean_intake(text: str) -> str:
    """`text` without what no database, hash or tokenizer takes: lone surrogates become U+FFFD, NUL becomes its picture ␀."""
    if "\x00" in text:
        text = text.replace("\x00", "\u2400")
    try:
        text.encode()  # far quicker than to look for surrogates, of which there hardly ever are any
    except UnicodeEncodeError:
        text = _SURROGATES.sub("\ufffd", text)
    return text


def notices(language: str, engine: Engine, prompt: Prompt, *, earlier: Sequence[str]) -> tuple[str, ...]:
    """What the person should know before this reply, in their language: what was dropped, and once in a conversation a model without
    Chinese (`earlier`: the languages of its turns so far) and a context shorter than asked for."""
    zh = language == "zh"
    out: list[str] = []
    if zh and "zh" not in earlier and engine.languages and "zh" not in engine.languages:
        from assistant.lm.catalog import chinese_capable, find

        other = find(chinese_capable())
        way = f"在聊天中输入 /model {other.name}，或运行 pellucid --model {other.name}"
        if not other.path.exists():
            way += (
                f"；先获取：pellucid models pull {other.name}（{round(other.size / 1e6)} MB{'，会先显示使用条款' if other.terms else ''}）"
            )
        better = chinese_capable(experimental=False)
        trial, more = (
            (f"（试验性，常会答错；更可靠的是 {better}）", f" (experimental; {better} is better)") if other.experimental else ("", "")
        )
        out.append(
            f"当前模型 {engine.info.name} 只会英语。要用中文对话，请换用 {other.name}{trial}：{way}。"
            f" / {engine.info.name} speaks English only; for Chinese, use {other.name}{more}."
        )
    if not earlier and engine.context_asked > engine.context_length:
        out.append(
            f"要求的上下文是 {engine.context_asked} 个词元，而 {engine.info.name} 最多只有 {engine.context_length} 个：按后者使用。"
            if zh
            else f"A context of {engine.context_asked} tokens was asked for; {engine.info.name} has {engine.context_length}: that is used."
        )
    if prompt.dropped_turns:
        out.append(
            f"对话超过了 {engine.context_length} 个词元的上下文，最早的 {prompt.dropped_turns} 轮没有交给模型。"
            if zh
            else f"The conversation exceeds the context of {engine.context_length} tokens: the oldest {prompt.dropped_turns} "
            "turns were not shown to the model."
        )
    if prompt.dropped_tokens:
        out.append(
            f"输入太长：中间的 {prompt.dropped_tokens} 个词元没有交给模型。"
            if zh
            else f"The prompt is too long: {prompt.dropped_tokens} tokens of its middle were not shown to the model."
        )
    return tuple(out)
