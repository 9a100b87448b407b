"""Files to documents: what is text is read, what is not is refused in one sentence that says where."""

import pytest

from assistant.errors import UsageError
from assistant.training import corpus, hygiene
from assistant.training.corpus import LONGEST, Source, Text, read
from assistant.turn import Message


def write(tmp_path, data, name="a.txt"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_text_is_split_as_asked(tmp_path):
    path = write(tmp_path, "\ufeff今天天气很好。\r\n你好！\n\n \nThe weather is nice.\n")
    assert [t.text for t in read(Source(path))] == ["今天天气很好。\n你好！", "The weather is nice."]
    assert [t.text for t in read(Source(path, split="line"))] == ["今天天气很好。", "你好！", "The weather is nice."]
    assert len(read(Source(path, split="file"))) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (bytes(range(256)) * 40, "not text but a binary file"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 400, "not text but a binary file"),
        ("好的\n".encode() + "今天天气很好\n".encode("gb18030"), "line 2 may be gb18030"),
        (b"fine\nstill fine\n\xff\xff\xff", "line 3"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, data, said):
    with pytest.raises(UsageError, match=said) as caught:
        read(Source(write(tmp_path, data)))
    assert "\n" not in str(caught.value)


def test_other_encodings_are_read_when_named_or_marked(tmp_path):
    assert read(Source(write(tmp_path, "今天".encode("gb18030")), encoding="gb18030"))[0].text == "今天"
    assert read(Source(write(tmp_path, "今天".encode("utf-16"))))[0].text == "今天"
    with pytest.raises(UsageError, match="no encoding"):
        read(Source(write(tmp_path, b"x"), encoding="klingon"))
    with pytest.raises(UsageError, match="cannot read"):
        read(Source(tmp_path / "missing.txt"))


def test_a_huge_line_is_cut_at_sentences_and_loses_nothing(tmp_path):
    line = "今天天气很好。" * 20_000
    pieces = read(Source(write(tmp_path, line), split="line"))
    assert "".join(p.text for p in pieces) == line
    assert all(len(p.text) <= LONGEST and p.text.endswith("。") for p in pieces)
    without_ends = "".join(corpus.cut("x" * 50_001))
    assert without_ends == "x" * 50_001


def test_conversations_topics_and_pairs(tmp_path):
    chat = '{"messages":[{"role":"system","content":"s"},{"role":"user","content":"你好"},{"role":"assistant","content":"你好！"}]}\n\n'
    found = read(Source(write(tmp_path, chat + '{"text":"plain"}', "c.jsonl")))
    assert [m.role for m in found[0].messages] == ["system", "user", "assistant"] and found[1].text == "plain"
    topics = write(tmp_path, "greet\tzh\t你好|嗨\t你好！|嗨！\n# a remark\n", "t.tsv")
    assert [tuple(m.text for m in t.messages) for t in read(Source(topics, kind="topics"))] == [
        ("你好", "你好！"), ("你好", "嗨！"), ("嗨", "你好！"), ("嗨", "嗨！"),
    ]  # fmt: skip
    pairs = write(tmp_path, '1\t你好。\t2\tHello.\n1\t你好。\t3\tHi "there.\n4\t很长很长\t5\tmuch too long\n', "p.tsv")
    assert [t.text for t in read(Source(pairs, kind="pairs", longest=(3, 10)))] == ["你好。", "Hello.", 'Hi "there.']


U, A = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([U, {"role": "bot", "content": "b"}], "role 'bot' is not known"),
        ([A, U], "after the beginning comes assistant"),
        ([U, U, A], "after user comes user"),
        ([U], "does not end with the assistant"),
        ([], "does not end with the assistant"),
        ([U, {"role": "assistant", "content": "  "}], "has no text"),
        ([U, {"role": "assistant"}], "has no text"),
        ([U, {"role": "system", "content": "s"}, A], "after user comes system"),
        (["x"], "role None"),
    ],
)
def test_wrong_conversations_say_where(rows, said):
    with pytest.raises(UsageError, match=said) as caught:
        corpus.conversation(rows, "c.jsonl, line 7")
    assert str(caught.value).startswith("c.jsonl, line 7: ")


def test_lines_that_are_no_conversation_say_where(tmp_path):
    for line, said in (("{", "line 2: this is not JSON"), ('{"messages": "x"}', "line 2: give"), ("[]", "line 2: give")):
        with pytest.raises(UsageError, match=said):
            read(Source(write(tmp_path, f'{{"text":"ok"}}\n{line}', "c.jsonl")))
    with pytest.raises(UsageError, match="line 1: give topic"):
        read(Source(write(tmp_path, "a\tb\tc", "t.tsv"), kind="topics"))
    with pytest.raises(UsageError, match="line 1: give an id"):
        read(Source(write(tmp_path, "a\tb\tc", "p.tsv"), kind="pairs"))


LONG = "The history of science is the story of people who looked at the world and asked how it works, again and again. "


def test_duplicates_exact_and_near_are_taken_out_and_short_texts_left_alone():
    texts = [Text(t) for t in ("I am Tom.", "I am Tim.", "i am  tom.", LONG * 2, LONG * 2 + "Yes.", "Nothing like it: " + LONG[::-1])]
    cleaned = hygiene.clean(texts)
    assert cleaned.kept == [0, 1, 3, 5] and (cleaned.exact, cleaned.near) == (1, 1)
    assert hygiene.clean(texts, deduplicate=False).kept == list(range(6))


def test_personal_data_and_secrets_are_replaced_and_counted():
    chat = Text("", (Message("user", "Write to anna@example.org"), Message("assistant", "I wrote to anna@example.org and bob@example.org")))
    cleaned = hygiene.clean([chat, Text("key AKIAIOSFODNN7EXAMPLE")])
    assert [m.text for m in cleaned.texts[0].messages] == ["Write to [EMAIL_1]", "I wrote to [EMAIL_1] and [EMAIL_2]"]
    assert "AKIA" not in cleaned.texts[1].text and cleaned.personal["email"] == 3
    assert hygiene.clean([chat], scrub=False).texts == [chat]
