"""What a server can be asked from outside: which words its reply came from, and whether it still finds the reply as likely."""

import json

import pytest

pytest.importorskip("openai", reason="needs the extra `served`: pip install 'pellucid[served]'")

from assistant.benchmarks.faulty_server import Script
from assistant.cli.main import main

ECHO = Script(echoes=True)


@pytest.fixture
def command(capsys):
    def command(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out = capsys.readouterr()
        return end.value.code, out.out, out.err

    return command


@pytest.fixture
def asked(serve, home, command):
    """The flags for a server that has answered one question."""

    def asked(script=ECHO, prompt="Tell me about the sea."):
        server = serve(script)
        flags = ("--engine", "openai", "--base-url", server.url)
        assert command("ask", prompt, *flags)[0] == 0
        return server, flags

    return asked


def test_the_cost_is_said_first_and_the_word_that_mattered_is_found(asked, command):
    server, flags = asked()
    code, out, err = command("explain", "last", "--method", "ablation", "--json", *flags)
    found = json.loads(out)
    assert code == 0 and f"requests to {server.url}" in err
    scores = {word: sum(row[i] for row in found["scores"]) for i, word in enumerate(found["input_tokens"])}
    assert "sea" in max(scores, key=scores.get) and max(scores.values()) == pytest.approx(3.0)
    assert found["quality"]["server"] == server.url and found["quality"]["generator_gap_max"] < 1e-6
    assert found["quality"]["requests"] > len(scores)
    balanced = json.loads(command("explain", "last", "--json", *flags)[1])
    totals = [sum(column) for column in zip(*balanced["scores"], strict=True)]
    assert balanced["method"] == "balanced-ablation" and "sea" in balanced["input_tokens"][totals.index(max(totals))]
    assert max(totals) == pytest.approx(3.0, rel=0.05)  # of a sum, about its weights


@pytest.mark.parametrize(("more", "words"), [
    (["--method", "gradient-norm"], "served model can only be asked from outside"), (["--contrast", "x"], "no contrast"),
    (["--chat-format", "nonsense"], "no chat format"), (["--level", "nonsense"], "no level 'nonsense'"),
])  # fmt: skip
def test_what_needs_a_look_inside_is_refused(asked, command, more, words):
    _, flags = asked()
    code, _, err = command("explain", "last", *more, *flags)
    assert code in (1, 2) and words in err


def test_a_server_that_scores_nothing_is_said(asked, command):
    _, flags = asked(Script())
    code, _, err = command("explain", "last", *flags)
    assert code == 1 and "no log-probabilities of a prompt" in err


def test_numbers_that_are_not_the_logged_ones_are_not_explained(asked, command):
    server, flags = asked(prompt="Tell me about it.")  # what it logged had no such penalty
    code, _, err = command("explain", "last", *flags)
    assert code == 1 and "other log-probabilities than it logged" in err
    assert "other log-probabilities" in err and server.url not in command("explain", "last")[1]


def test_no_conversation_is_sent_to_a_server_that_only_the_log_names(asked, command):
    server, _ = asked()
    before = len(server.requests)
    code, _, err = command("explain", "last")
    assert code == 1 and "which sends the conversation there" in err
    code, out, err = command("audit", "replay", "--sample", "1")
    assert code == 0 and "NOT-REPLAYABLE" in out and "set base_url to it" in err
    assert len(server.requests) == before


def test_control_tokens_in_a_text_are_not_scored_as_text(asked, command):
    _, flags = asked(prompt="Tell me about <|im_end|> and the sea.")
    code, _, err = command("explain", "last", *flags)
    assert code == 1 and "control tokens" in err


def test_replay_scores_again_and_says_so(asked, command, monkeypatch):
    server, _ = asked()
    monkeypatch.setenv("PELLUCID_ENGINE", "openai")
    monkeypatch.setenv("PELLUCID_BASE_URL", server.url)
    code, out, _ = command("audit", "replay", "--sample", "1", "--json")
    (found,) = json.loads(out)
    assert code == 0 and found["outcome"] == "CONSISTENT" and "scored again by the server" in found["reason"]
    assert found["tokens"] == 4 and found["faithful"] and found["safety"]["prompt"] == "same"
    server.script = Script()
    (found,) = json.loads(command("audit", "replay", "--sample", "1", "--json")[1])
    assert found["outcome"] == "NOT-REPLAYABLE" and "no log-probabilities of a prompt" in found["reason"]


def test_replay_of_numbers_that_changed_names_both_reasons(asked, command, monkeypatch):
    server, _ = asked(prompt="Tell me about it.")
    monkeypatch.setenv("PELLUCID_ENGINE", "openai")
    monkeypatch.setenv("PELLUCID_BASE_URL", server.url)
    (found,) = json.loads(command("audit", "replay", "--sample", "1", "--json")[1])
    assert found["outcome"] == "NOT-REPLAYABLE" and "chat format" in found["reason"]
    server2, _ = asked(Script(echoes=True, logprobs=False))
    monkeypatch.setenv("PELLUCID_BASE_URL", server2.url)
    found = json.loads(command("audit", "replay", "--sample", "2", "--json")[1])
    assert any("told no log-probabilities" in row["reason"] for row in found)
