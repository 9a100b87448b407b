"""Units are whole characters, whatever the tokens were."""

import random

import pytest

from explain.units import group, is_whole


def test_pieces_of_a_character_are_joined():
    pieces = [b"a", b"\xe5", b"\xa4", b"\xa9", b"\xe6\xb0", b"\x94", b"!"]
    units = group(pieces, ["user"] * 7)
    assert [(u.text, u.start, u.end) for u in units] == [("a", 0, 1), ("天", 1, 4), ("气", 4, 6), ("!", 6, 7)]


def test_a_change_of_role_ends_a_unit_even_inside_a_character():
    units = group([b"\xe5", b"\xa4\xa9"], ["user", "format"])
    assert [(u.text, u.role) for u in units] == [("\ufffd", "user"), ("\ufffd\ufffd", "format")]


def test_roles_must_match():
    with pytest.raises(ValueError, match="2 pieces for 1 roles"):
        group([b"a", b"b"], ["user"])


def test_any_cut_of_any_text_gives_the_text_back():
    rng = random.Random(5)
    for _ in range(300):
        text = "".join(rng.choice("aé天👍🏽 \n") for _ in range(rng.randint(1, 12)))
        data = text.encode()
        cuts = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.randint(0, 6)))) if len(data) > 1 else []
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        units = group(pieces, [""] * len(pieces))
        assert "".join(u.text for u in units) == text
        assert [u.start for u in units] == [0, *(u.end for u in units[:-1])] and units[-1].end == len(pieces)


@pytest.mark.parametrize("data, whole", [(b"", True), (b"a", True), (b"\xc3", False), (b"\xc3\xa9", True), (b"\xf0\x9f\x91", False),
                                         (b"\x80\x80\x80\x80", True)])  # fmt: skip
def test_is_whole(data, whole):
    assert is_whole(data) is whole


def units_of(text, role="user", at=0):
    pieces = [c.encode() for c in text]
    return [type(u)(u.text, u.start + at, u.end + at, role) for u in group(pieces, [role] * len(pieces))]


def test_levels():
    from explain.units import characters, sentences, turns, words

    units = units_of("Hi all. 今天好！ok?")
    assert [u.text for u in characters(units)] == ["Hi", " ", "all", ".", " ", "今", "天", "好", "！", "ok", "?"]
    assert [u.text for u in words(units)] == ["Hi", " ", "all", ".", " ", "今天", "好", "！", "ok", "?"]
    assert [u.text for u in words(units_of("我们的天气很好吗"))] == ["我", "们", "的", "天气", "很", "好", "吗"]
    assert [u.text for u in words(units_of("Привет мир"))] == ["Привет", " ", "мир"]
    assert [u.text for u in sentences(units)] == ["Hi all.", " 今天好！", "ok?"]
    assert [u.text for u in turns(units)] == ["Hi all. 今天好！ok?"]


def test_a_role_is_everything_said_in_it():
    from explain.units import roles

    units, at = [], 0
    for role, text in [("format", "|"), ("user", "One."), ("format", "|"), ("assistant", "Two."), ("format", "|"), ("user", "Three?")]:
        units += units_of(text, role, at)
        at += len(text)
    joined = roles(units)
    user = next(u for u in joined if u.role == "user")
    assert user.spans == ((1, 5), (11, 17)) and user.text == "One. … Three?"
    assert [u.role for u in joined] == ["format", "user", "format", "assistant", "format"]


@pytest.mark.parametrize("limit", [1000, 40, 25, 12, 6, 3])
def test_a_long_conversation_is_joined_from_its_beginning(limit):
    from explain.units import limited

    units, at = [], 0
    messages = [
        ("system", "Be kind."), ("format", "|"), ("user", "One two. Three!"), ("format", "|"), ("assistant", "Four five six."),
        ("format", "|"), ("user", "Last question here?"),
    ]  # fmt: skip
    for role, text in messages:
        units += units_of(text, role, at)
        at += len(text)
    joined, level = limited(units, "format", limit)
    assert "".join(u.text for u in joined) == "".join(u.text for u in units)
    assert [u.start for u in joined] == [0, *(u.end for u in joined[:-1])]
    assert sum(u.role != "format" for u in joined) <= max(limit, 4) and level
    if limit == 25:
        assert [u.text for u in joined if u.role == "user"][-1] == "?"  # the last message is still by token
