"""One record, one byte form."""

from __future__ import annotations

import pytest

from assistant.store import canonical
from assistant.store.commitment import commit


def test_form() -> None:
    text = canonical.encode({"b": [1, True, None], "a": {"z": 0.1, "é": "中\x00\ud800"}})
    assert text == '{"a":{"z":"0.1","é":"中␀\ufffd"},"b":[1,true,null]}'
    assert canonical.encode(canonical.decode(text)) == text
    assert canonical.decode('{"a":"\\\\u0000\\u0001"}') == {"a": "\\u0000\x01"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"a": 1}',
        '{"b":1,"a":2}',
        '{"a":1.5}',
        '{"a":NaN}',
        '{"a":1e400}',
        "[]",
        "",
        '{"a":"\\u00e9"}',
        '{"a":"\\u0000"}',
        '{"a":"\\ud800"}',
        '{"a":"\ud800"}',
        '{"\\u0000":1}',
        '{"a":{"b":1,"b":1}}',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        canonical.decode(text)


def test_a_commitment_depends_on_all_it_covers() -> None:
    base = (7, "prompt", "text", b"s" * 32, b"body")
    hashes = {commit(*base)}
    for other in (
        (8, *base[1:]),
        (7, "reply", *base[2:]),
        (7, "prompt", "json", *base[3:]),
        (*base[:3], b"t" * 32, b"body"),
    ):
        hashes.add(commit(*other))
    hashes |= {commit(*base[:4], body) for body in (b"bodx", b"body\0", b"", b"body" + bytes(60))}
    assert len(hashes) == 9


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    texts = [canonical.encode({"seq": i, "text": "天气" * i}).encode() for i in range(5)]
    assert canonical.loads_many(texts) == [canonical.loads(text) for text in texts]
    for broken in (b'{"seq":1', b'{"seq":1},{"seq":2}', b""):
        with pytest.raises(ValueError):
            canonical.loads_many([texts[0], broken, texts[1]])
