"""Full-text search in Chinese and English, in every branch, under filters."""

from __future__ import annotations

import pytest

from assistant.errors import UsageError
from assistant.store import segment
from assistant.store.ledger import Ledger

from .conftest import log_turn
from .factory import BLOCK

TEXTS = [
    "今天天气很好，我们去公园。",
    "The weather today is very nice",
    "如何训练Transformer模型？使用Adam优化器",
    "自注意力机制 self-attention 解释",
    "天空为什么是蓝色的",
    "客服场景：退款流程",
    "Déjà vu im Café, 100% ｆｕｌｌ ｗｉｄｔｈ",
    "𠮷野家 吃饭",
    "snake_case and C++ and e-mail@example.org",
]


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    for i, text in enumerate(TEXTS):
        log_turn(ledger, id=f"T{i}", prompt=text, reply="…", language="zh" if i in (0, 2, 3, 4, 5) else "en")
    return ledger


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("天气", [0]),
        ("天", [4, 0]),
        ("蓝", [4]),
        ("自注意力", [3]),
        ("注意", [3]),
        ("退款", [5]),
        ("公园。", [0]),
        ("Transformer模型", [2]),
        ("transformer", [2]),
        ("ADAM", [2]),
        ("attention", [3]),
        ("weather", [1]),
        ("weathr", []),
        ("wea*", [1]),
        ("today nice", [1]),
        ('"today is"', [1]),
        ('"is today"', []),
        ("天 -天气", [4]),
        ("cafe", [6]),
        ("deja", [6]),
        ("full width", [6]),
        ("𠮷野", [7]),
        ("snake_case", [8]),
        ("e-mail", [8]),
        ('say "quo', []),
        ("AND OR NOT", []),
        ("气天", []),
        ("NEAR(天)", []),
    ],
)
def test_words(filled: Ledger, query: str, found: list[int]) -> None:
    assert [hit.turn for hit in filled.search(query)] == [f"T{i}" for i in found]


def test_every_character_run_of_a_chinese_text_finds_it(filled: Ledger) -> None:
    text = TEXTS[4]
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            assert "T4" in [hit.turn for hit in filled.search(text[start:end])]


@pytest.mark.parametrize("query", ["", "  ", "？！", "-天气", '""', "*"])
def test_a_search_without_a_word_is_refused(filled: Ledger, query: str) -> None:
    with pytest.raises(UsageError, match="holds no word"):
        filled.search(query)


def test_the_matches_are_marked(filled: Ledger) -> None:
    (hit,) = filled.search("天气")
    assert [hit.snippet[a:b] for a, b in hit.matches] == ["天气"]
    (hit,) = filled.search("CAFE widt*")
    assert [hit.snippet[a:b] for a, b in hit.matches] == ["Café", "ｗｉｄｔｈ"]


def test_a_long_text_is_cut_round_the_match(ledger: Ledger) -> None:
    log_turn(ledger, prompt="x", reply="前" * 500 + "目标" + "后" * 500)
    (hit,) = ledger.search("目标")
    assert hit.side == "reply" and len(hit.snippet) < 120
    assert [hit.snippet[a:b] for a, b in hit.matches] == ["目标"]


def test_all_branches_are_searched(ledger: Ledger) -> None:
    root = log_turn(ledger)
    for i in range(3):
        log_turn(ledger, id=f"B{i}", conversation=root.conversation, parent=root.id, reply="the branch has a unicorn")
    assert [hit.turn for hit in ledger.search("unicorn")] == ["B2", "B1", "B0"]


def test_pages(ledger: Ledger) -> None:
    for i in range(7):
        log_turn(ledger, id=f"P{i}", prompt="同样的问题")
    seen: list[str] = []
    before = None
    while page := ledger.search("问题", limit=3, before=before):
        seen += [hit.turn for hit in page]
        before = page[-1].seq
    assert seen == [f"P{i}" for i in reversed(range(7))]


def test_sides_and_filters(ledger: Ledger) -> None:
    log_turn(ledger, id="A", prompt="苹果", reply="香蕉", language="zh")
    log_turn(ledger, id="B", prompt="香蕉", reply="苹果", language="en", finish="length")
    log_turn(ledger, id="C", prompt="苹果", prompt_verdict=BLOCK, output_verdict=None, finish="blocked_prompt", language="zh")

    def found(**filters: object) -> list[str]:
        return [hit.turn for hit in ledger.search("苹果", **filters)]  # type: ignore[arg-type]

    assert found(side="reply") == ["B"]
    assert found(language="zh") == ["C", "A"]
    assert found(verdict="block") == found(category="weapons") == found(verdict="flagged") == ["C"]
    assert found(finish="length") == ["B"]
    assert found(reviewed=True) == []
    assert found(since=0, until=1) == []
    assert sorted(found(ranked=True)) == ["A", "B", "C"]


def test_segmentation_can_be_repeated() -> None:
    text = "Python教程 ＡＢＣ"
    assert segment.for_index(text).split() == ["Python", "教", "程", "ABC"]
    assert [word.text for word in segment.words(text)] == ["python", "教", "程", "abc"]
