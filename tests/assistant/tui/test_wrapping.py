"""Chinese is broken as Chinese is written, English exactly as before."""

import itertools
import random

from rich._wrap import divide_line as plain_divide_line
from rich.cells import cell_len
from textual._wrap import compute_wrap_offsets
from textual.content import Content

from assistant.tui.wrapping import NOT_AT_END, NOT_AT_START, divide_line, install, units

TEXT = "今天天气很好，我们去公园散步。Transformer模型使用自注意力机制，训练用Adam优化器。（测试）“引号”与 mixed English words，结束。"


def lines(text, width):
    edges = [0, *divide_line(text, width), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def test_kinsoku_and_whole_words():
    for width in range(12, 60):
        broken = lines(TEXT, width)
        assert "".join(broken) == TEXT
        for line in broken:
            assert line[0] not in "，。）”"
            assert line.rstrip()[-1] not in "（“"
        assert any("Transformer" in line for line in broken) and any("Adam" in line for line in broken)


def test_any_text_fits_any_width_and_loses_nothing():
    random_ = random.Random(1)
    pool = "今天气很好，。（）“”《》「」 abcDEF-_. 12\u3000👨é"
    for _ in range(20_000):
        text = "".join(random_.choice(pool) for _ in range(random_.randint(0, 60)))
        width = random_.randint(2, 30)
        breaks = divide_line(text, width)
        assert breaks == sorted(set(breaks)) and all(0 < b < len(text) for b in breaks)
        assert all(cell_len(line.rstrip()) <= width for line in lines(text, width)), (text, width)
        assert "".join(text[a:b] for a, b in units(text)) == text


def test_english_breaks_as_before():
    random_ = random.Random(2)
    for _ in range(5_000):
        text = "".join(random_.choice("abc de fgh   ij.,;k") for _ in range(random_.randint(0, 80)))
        for width in (3, 9, 30):
            assert divide_line(text, width) == plain_divide_line(text, width)


def test_no_line_begins_or_ends_wrongly_unless_it_must():
    random_ = random.Random(3)
    for _ in range(3_000):
        text = "".join(random_.choice("今天气很好，。（）《》") for _ in range(40))
        for line in lines(text, 30)[1:]:
            inside = len(line) < 15
            assert not inside or line[0] not in NOT_AT_START or set(line) <= NOT_AT_START | NOT_AT_END | set("今天气很好")


def test_installed_it_reaches_content_and_the_editor():
    install()
    install()
    assert next(line.plain for line in Content(TEXT).wrap(14)) == "今天天气很好，"
    assert compute_wrap_offsets("hello 今天天气很好，我们去公园", 14, 4)[0] == 10


def test_without_folding_a_long_word_sticks_out():
    assert lines("ab " + "x" * 50 + " cd", 10) != lines("ab " + "x" * 50, 10)
    assert divide_line("x" * 50, 10, fold=False) == []
