"""Nothing that passed the gate can act on a terminal, whatever it was made of and however it was cut."""

import random
import re

import pytest

from assistant.tui.sanitize import StreamSanitizer, one_line, sanitize, unsafe_count

FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\U000e0000-\U000e007f\ud800-\udfff]"
)
ST = "\x1b\\"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cHduZWQ=\x07x", "␛]52;c;cHduZWQ=␇x"),
        (f"\x1b]8;;http://e.example{ST}link\x1b]8;;{ST}", "␛]8;;http://e.example␛\\link␛]8;;␛\\"),
        ("a\x1b[31mred\x1b[0m", "a␛[31mred␛[0m"),
        ("\x9b31mC1", "␛31mC1"),
        ("\x90q\x9c \x9d0;title\x07", "␛q␛ ␛0;title␇"),
        ("abc\u202edef\u2066", "abc⍰def⍰"),
        ("hi\U000e0041\U000e007f", "hi⍰⍰"),
        ("a\r\nb\x0cc\u2028d\x85e\x0bf\u2029g\rh", "a\nb\nc\nd\ne\nf\ng\nh"),
        ("\x00\x7f", "␀␡"),
        ("lone \ud83d surrogate", "lone \ufffd surrogate"),
        ("unterminated \x1b]0;title", "unterminated ␛]0;title"),
        ("今天\t天气👨‍👩‍👧 é \n[/x] [bold]", "今天\t天气👨‍👩‍👧 é \n[/x] [bold]"),
    ],
)
def test_shows_what_would_act(text, shown):
    assert sanitize(text) == shown


def hostile(random_, length=60):
    alphabet = "\x1b\x9b\x9d\x90]8;c[31mPX_^\\\x07ab天\n\r\t\u202e\x0c\u2028\U000e0041\ud800\u2066é👨\u200d"
    return "".join(random_.choice(alphabet) for _ in range(random_.randint(0, length)))


def test_nothing_dangerous_is_left_of_twenty_thousand_random_texts():
    random_ = random.Random(1)
    for _ in range(20_000):
        text = hostile(random_)
        shown = sanitize(text)
        assert not FORBIDDEN.search(shown), ascii(text)
        assert sanitize(shown) == shown
        shown.encode("utf-8")


def test_a_stream_shows_the_same_however_it_is_cut():
    random_ = random.Random(2)
    for _ in range(5_000):
        text, stream, shown, at = hostile(random_), StreamSanitizer(), "", 0
        while at < len(text):
            step = random_.randint(1, 5)
            shown += stream.feed(text[at : at + step])
            at += step
        assert shown + stream.finish() == sanitize(text)


def test_every_character_but_crlf_keeps_its_place():
    random_ = random.Random(3)
    for _ in range(2_000):
        text = hostile(random_).replace("\r\n", "")
        assert len(sanitize(text)) == len(text)


def test_one_line_has_one_line():
    assert one_line(" a\n b\x1b[2J\t c ") == "a b␛[2J c"
    assert one_line("天" * 500, 10) == "天" * 9 + "…"


def test_counts_what_was_made_visible():
    assert unsafe_count("a\x1b[1m\u202eb\r\nc\x0c") == 2


def test_a_megabyte_goes_through():
    text = "今天 \x1b[31m quick\n" * 60_000
    assert sanitize(text).count("␛") == 60_000
