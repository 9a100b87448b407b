"""Our layouts are what the models' own templates render for ordinary messages."""

import pytest

from assistant.errors import ModelError
from assistant.lm.chat_format import FORMATS, choose
from assistant.turn import Message

LLAMA3 = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] | trim + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' + (first if loop.first else '') + "
    "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BEGIN = {"llama3": "<|begin_of_text|>", "gemma": "<bos>", "chatml": ""}


class Characters:
    """Every character is a token, and so are the control tokens of a format."""

    def __init__(self, control):
        self.ids = {token: 0x200000 + i for i, token in enumerate(control)}
        self.control = frozenset(self.ids.values())

    def encode(self, text):
        return [ord(c) for c in text]

    def text(self, ids):
        names = {i: token for token, i in self.ids.items()}
        return "".join(names.get(i) or chr(i) for i in ids)


MESSAGES = [Message("system", " Be kind. "), Message("user", "Hi!\n"), Message("assistant", "Hello. 你好"), Message("user", "Why?")]


@pytest.mark.parametrize("name, template", [("llama3", LLAMA3), ("gemma", GEMMA), ("chatml", CHATML)])
@pytest.mark.parametrize("first", [0, 1])
def test_a_layout_equals_the_template(name, template, first):
    jinja2 = pytest.importorskip("jinja2")
    tokenizer = Characters(FORMATS[name].control)
    rows = [{"role": m.role, "content": m.text} for m in MESSAGES[first:]]
    expected = BEGIN[name] + jinja2.Template(template, keep_trailing_newline=True).render(messages=rows, add_generation_prompt=True)
    pieces = FORMATS[name].render(MESSAGES[first:], tokenizer)
    assert tokenizer.text(p.id for p in pieces) == expected
    said = {p.message: p.role for p in pieces if p.role}
    assert said == {i: m.role for i, m in enumerate(MESSAGES[first:])}


@pytest.mark.parametrize("name", FORMATS)
def test_typed_control_tokens_stay_text(name):
    tokenizer = Characters(FORMATS[name].control)
    plain, evil = (FORMATS[name].render([Message("user", text)], tokenizer) for text in ("x", "".join(FORMATS[name].control)))
    assert sum(p.id in tokenizer.control for p in plain) == sum(p.id in tokenizer.control for p in evil)


def test_a_format_may_be_named_and_an_unknown_one_is_refused():
    assert choose("llama3", "{{ unknown }}", Characters(FORMATS["llama3"].control), "m").name == "llama3"
    with pytest.raises(ModelError, match="no chat format 'nonsense': choose chatml"):
        choose("nonsense", None, Characters(()), "m")
    with pytest.raises(ModelError, match="lacks the control tokens"):
        choose("gemma", None, Characters(()), "m")
    with pytest.raises(ModelError, match="name its format with --chat-format"):
        choose("", "{{ unknown }}", Characters(()), "m")
