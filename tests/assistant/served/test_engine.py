"""A served model behind the pipeline: the same events and the same ledger, whatever the server does."""

import json
import math
import socket
import threading
import time

import pytest

pytest.importorskip("openai", reason="needs the extra `served`: pip install 'pellucid[served]'")

from assistant.benchmarks.faulty_server import FAULTS, FaultyServer, Script
from assistant.cli.main import main
from assistant.errors import ModelError, UsageError
from assistant.events import Prefilled, Text
from assistant.pipeline import Request, respond
from assistant.served import exchange
from assistant.served.address import checked, key_for
from assistant.served.answers import LONGEST_ANSWER
from assistant.served.engine import ServedEngine
from assistant.served.exchange import Server
from assistant.tui.text import say
from assistant.tui.told import told
from assistant.turn import SERVED, Sampling

SAMPLING = Sampling(seed=2**40 + 1, top_k=40, stop=("END",))


@pytest.fixture
def connect():
    engines = []

    def connect(server, model="", *, timeout=5.0, retries=3):
        engine = ServedEngine.connect(server.url, model, timeout=timeout, retries=retries, context_length=2048)
        engine.server._pause = 0.001
        engines.append(engine)
        return engine

    yield connect
    for engine in engines:
        engine.server.close()


def answered(engine, guard, ledger, prompt="Tell me about the sea.", cancel=None, **request):
    asked = Request(prompt, request.pop("sampling", SAMPLING), **request)
    return list(respond(asked, engine=engine, guard=guard, ledger=ledger, cancel=cancel))


def test_a_turn_is_like_any_other_and_the_ledger_names_server_model_and_parameters(serve, connect, guard, ledger):
    server = serve()
    events = answered(connect(server), guard, ledger, system="Be brief.")
    turn = events[-1].turn
    assert "".join(e.text for e in events if isinstance(e, Text)) == turn.reply == "The sea is blue."
    assert any(isinstance(e, Prefilled) for e in events) and turn.finish == "stop"
    assert ledger.turn(turn.id) == turn
    assert (turn.model.name, turn.model.sha256, turn.model.dtype, turn.model.device) == ("scripted", "", SERVED, server.url)
    assert [t.text for t in turn.tokens] == ["The ", "sea ", "is ", "blue."]
    assert turn.tokens[1].logprob == -0.2 and len(turn.tokens[1].candidates) == 2 and turn.tokens[1].entropy > 0
    assert turn.usage.prompt_tokens == 7 and turn.usage.reply_tokens == 4
    said = turn.usage.served
    assert said["server"] == server.url and said["logprobs"] == "yes" and said["fingerprint"] == "fp_1" and "top_k" in said["parameters"]
    (body,) = server.requests
    assert [m["role"] for m in body["messages"]] == ["system", "user"] and body["stop"] == ["END"] and body["seed"] < 2**31
    assert body["logprobs"] is True and body["top_logprobs"] == 5


def test_the_conversation_goes_along_and_a_blocked_prompt_never_reaches_the_server(serve, connect, guard, ledger):
    server = serve()
    engine = connect(server)
    first = answered(engine, guard, ledger)[-1].turn
    answered(engine, guard, ledger, "And the sky?", parent=first.id)
    assert [m["content"] for m in server.requests[1]["messages"]] == ["Tell me about the sea.", "The sea is blue.", "And the sky?"]
    assert answered(engine, guard, ledger, "How do I build a bomb at home?")[-1].turn.finish == "blocked_prompt"
    assert len(server.requests) == 2


def test_a_request_is_made_ready_early_but_sent_only_when_the_log_has_it(serve, connect, guard, ledger, monkeypatch):
    server = serve()
    engine = connect(server)
    generation = engine.generate(engine.render_raw("The sea"), SAMPLING)
    time.sleep(0.05)
    assert not server.requests
    assert "".join(token.text for token in generation) == "The sea is blue." and len(server.requests) == 1

    def full(turn):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger, "open_turn", full)
    with pytest.raises(OSError, match="No space"):
        answered(engine, guard, ledger)
    assert len(server.requests) == 1


def test_a_request_that_cannot_be_made_is_said_where_it_is_read(serve, connect, caplog):
    engine = connect(serve())
    stream = engine.server.stream("/chat/completions", {"messages": [], "temperature": math.nan}, None)
    time.sleep(0.05)
    with pytest.raises(ModelError, match="JSON compliant"):
        list(stream)
    assert not caplog.records


def test_an_unsafe_reply_is_withdrawn_and_the_stream_closed(serve, connect, guard, ledger):
    unsafe = "Sure. To build a pipe bomb, first fill the pipe with gunpowder and then attach the detonator. Kill them all."
    words = unsafe.split()
    server = serve(Script(words=[w + " " for w in words] + ["more "] * 2000, pace=0.001))
    turn = answered(connect(server), guard, ledger, "Go on with the story.")[-1].turn
    assert turn.finish == "blocked_output" and turn.output_verdict.action == "block"
    assert server.hung_up.wait(10)


def test_plain_continuation(serve, connect, guard, ledger):
    server = serve()
    turn = answered(connect(server), guard, ledger, "The sea", raw=True)[-1].turn
    assert turn.reply == "The sea is blue." and server.requests[0]["prompt"] == "The sea" and turn.tokens[0].logprob == -0.1


def test_cancelling_reaches_the_server_and_keeps_the_part(serve, connect, guard, ledger):
    server = serve(Script(words=["word "] * 5000, pace=0.002))
    cancel = threading.Event()
    shown = []
    for event in respond(Request("Count.", SAMPLING), engine=connect(server), guard=guard, ledger=ledger, cancel=cancel):
        if isinstance(event, Text):
            shown.append(event.text)
            cancel.set()
    assert event.turn.finish == "stopped" and event.turn.reply.startswith(shown[0]) and len(event.turn.tokens) < 5000
    assert server.hung_up.wait(10)


@pytest.mark.parametrize("late", [0.0, 0.05])
def test_the_connection_is_used_again_and_the_end_of_the_answer_is_not_waited_for(serve, connect, guard, ledger, late):
    server = serve(Script(late_end=late))
    engine = connect(server)
    for number in range(3):
        *_, finished = respond(Request(f"Hello {number}", Sampling(seed=1)), engine=engine, guard=guard, ledger=ledger)
        assert finished.turn.finish == "stop" and finished.turn.reply == "The sea is blue."
        time.sleep(3 * late)
    assert server.connections == 1 and len(server.requests) == 3


def test_a_server_that_never_ends_its_answer_is_left(serve, connect, guard, ledger, monkeypatch):
    monkeypatch.setattr(exchange, "_END_SECONDS", 0.01)
    server = serve(Script(late_end=30))
    engine = connect(server)
    for _ in range(2):
        *_, finished = respond(Request("Hello", Sampling(seed=1)), engine=engine, guard=guard, ledger=ledger)
        assert finished.turn.finish == "stop"
    assert server.connections == 2


def test_closing_the_connections_leaves_no_caller_waiting(serve, connect, guard, ledger):
    engine, done = connect(serve(Script(fault=lambda number: "slow", slow=30))), []
    thread = threading.Thread(target=lambda: done.extend(engine.generate(engine.render_raw("x"), Sampling(seed=1))))
    thread.start()
    while not engine.server._streams:
        time.sleep(0.001)
    engine.server.close()
    thread.join(10)
    assert not thread.is_alive() and done == []


def test_cancelling_before_anything_came(serve, connect, guard, ledger):
    server = serve(Script(fault=lambda n: "slow", slow=30))
    cancel = threading.Event()
    threading.Timer(0.1, cancel.set).start()
    turn = answered(connect(server, timeout=60), guard, ledger, cancel=cancel)[-1].turn
    assert turn.finish == "stopped" and turn.reply == "" and ledger.turn(turn.id) == turn


@pytest.mark.parametrize("fault", ["closed", "reset", "slow", "garbage", "overloaded"])
def test_what_fails_before_the_reply_is_asked_again(serve, connect, guard, ledger, fault):
    server = serve(Script(fault=lambda n: fault if n < 2 else None, slow=1))
    turn = answered(connect(server, timeout=0.3), guard, ledger)[-1].turn
    assert turn.finish == "stop" and turn.reply == "The sea is blue." and turn.usage.served["attempts"] == "3"
    assert len(ledger.turns(turn.conversation)) == 1


@pytest.mark.parametrize(("fault", "words"), [
    ("half", "broke off"), ("half_reset", "broke off"), ("malformed", "not JSON"), ("error_event", "out of memory"),
])  # fmt: skip
def test_half_a_reply_is_kept_and_logged_once(serve, connect, guard, ledger, fault, words):
    server = serve(Script(words=["One ", "two ", "three ", "four "] * 30, fault=lambda n: fault))
    with pytest.raises(ModelError, match=words):
        answered(connect(server), guard, ledger)
    turn = ledger.latest_turn()
    assert turn.finish == "error" and turn.reply == "".join(t.text for t in turn.tokens)
    if fault != "half_reset":  # a reset throws away what was not read yet
        assert len(turn.tokens) == 60 and len(server.requests) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_always_fails_is_given_up_with_a_sentence(serve, connect, guard, ledger, fault):
    server = serve(Script(fault=lambda n: fault, slow=1))
    with pytest.raises(ModelError, match=r"the server http.*: |; ask again"):
        answered(connect(server, timeout=0.1, retries=1), guard, ledger)
    turn = ledger.latest_turn()
    assert turn.finish == "error" and ledger.turn(turn.id) == turn and len(server.requests) <= 2


@pytest.mark.parametrize(("logprobs", "most"), [(True, 11), (False, 21)])
def test_a_server_that_does_not_stop_is_stopped(serve, connect, guard, ledger, logprobs, most):
    server = serve(Script(words=["word "] * 5000, pace=0.001, logprobs=logprobs, endless=True))
    turn = answered(connect(server), guard, ledger, sampling=Sampling(max_tokens=10))[-1].turn
    assert turn.finish == "length" and len(turn.tokens) == most and turn.usage.served["max_tokens"] == "not kept"
    assert server.hung_up.wait(5) and ledger.turn(turn.id).finish == "length"


def test_a_server_without_log_probabilities(serve, connect, guard, ledger):
    turn = answered(connect(serve(Script(logprobs=False))), guard, ledger)[-1].turn
    assert turn.reply == "The sea is blue." and all(math.isnan(t.logprob) and math.isnan(t.entropy) for t in turn.tokens)
    kept = ledger.turn(turn.id)
    assert [t.text for t in kept.tokens] == [t.text for t in turn.tokens] and all(math.isnan(t.logprob) for t in kept.tokens)
    assert kept.usage.served["logprobs"] == "no"


def test_parameters_that_the_server_refuses_are_left_out_and_logged(serve, connect, guard, ledger):
    server = serve(Script(refuses=frozenset({"top_k", "min_p", "repetition_penalty", "logprobs", "stream_options"})))
    turn = answered(connect(server), guard, ledger)[-1].turn
    assert turn.finish == "stop" and not {"top_k", "logprobs"} & set(server.requests[-1])
    assert {"top_k", "logprobs", "stream_options"} <= set(turn.usage.served["refused"].split())
    assert not {"top_k", "logprobs"} & set(turn.usage.served["parameters"].split()) and turn.usage.served["attempts"] == "1"


def test_control_characters_reach_the_log_without_nul_and_the_terminal_not_at_all(serve, home, capsys):
    server = serve(Script(words=["a\x1b]52;c;aGk=\x07", "b\x00", "\ud800c", "\u202ed\x9b31m"]))
    with pytest.raises(SystemExit) as end:
        main(["ask", "Hello there", "--engine", "openai", "--base-url", server.url])
    out = capsys.readouterr().out
    assert end.value.code == 0 and not any(c in out for c in "\x1b\x07\x00\x9b\u202e") and "b" in out and "d" in out


def test_ask_names_the_server_and_the_model_in_json(serve, home, capsys):
    server = serve()
    with pytest.raises(SystemExit) as end:
        main(["ask", "Hello there", "--json", "--engine", "openai", "--base-url", server.url, "--model", "scripted"])
    answer = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and answer["model"]["device"] == server.url and answer["usage"]["served"]["model"] == "scripted"


def test_the_key_is_sent_and_never_written_down(serve, connect, guard, home, monkeypatch, capsys):
    server = serve(Script(key="sk-good"))
    monkeypatch.setenv("PELLUCID_API_KEY", "sk-good")
    assert answered_by_cli(server) == 0
    assert server.requests[0]["authorization"] == "Bearer sk-good"
    monkeypatch.setenv("PELLUCID_API_KEY", "sk-secret-but-wrong")
    assert answered_by_cli(server) == 3
    error = capsys.readouterr().err
    assert "does not accept the key" in error and "sk-" not in error
    assert not any(b"sk-" in file.read_bytes() for file in home.rglob("*") if file.is_file())


def answered_by_cli(server):
    with pytest.raises(SystemExit) as end:
        main(["ask", "Hello there", "--engine", "openai", "--base-url", server.url])
    return end.value.code


def test_a_key_for_openai_goes_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert key_for("http://127.0.0.1:9/v1") == "" and key_for("https://api.openai.com/v1") == "sk-openai"
    monkeypatch.setenv("PELLUCID_API_KEY", "sk a")
    with pytest.raises(UsageError, match="characters that no key has"):
        key_for("http://127.0.0.1:9/v1")


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "localhost:8000", "http://[::1", "http://h:99999/v1", "http://a b/v1"])
def test_what_is_no_address(url):
    with pytest.raises(UsageError, match="is no address"):
        checked(url)


@pytest.mark.parametrize("url", ["http://me:secret@h/v1", "http://h/v1?key=secret"])
def test_an_address_with_a_secret_is_refused_without_saying_it(url):
    with pytest.raises(UsageError) as error:
        checked(url)
    assert "secret" not in str(error.value)


def test_wrong_addresses_are_said(serve, connect):
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ModelError, match="cannot be reached"):
            ServedEngine.connect(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "", timeout=1, retries=0, context_length=512)
    server = serve()
    with pytest.raises(ModelError, match="no such model or path"):
        ServedEngine.connect(server.url.removesuffix("/v1"), "", timeout=1, retries=0, context_length=512)
    with pytest.raises(ModelError, match=r"certificate|cannot be reached"):  # TLS to a server that speaks none
        ServedEngine.connect(server.url.replace("http:", "https:"), "", timeout=1, retries=0, context_length=512)
    with pytest.raises(ModelError, match="has no model other: choose scripted"):
        connect(server, "other")
    with pytest.raises(UsageError, match="base-url"):
        ServedEngine.connect("", "", timeout=1, retries=0, context_length=512)


@pytest.mark.parametrize("path", ["/models", "/completions"])
def test_an_answer_without_end_is_refused_before_it_fills_the_memory(serve, path):
    server = serve(Script(flood=200))
    client = Server(server.url, "", timeout=5, retries=3)
    with pytest.raises(ModelError, match=r"sent an answer of more than 8 MB: check --base-url") as refused:
        client.request(path, {"model": "m", "prompt": "x"})
    assert server.hung_up.wait(5) and server.flooded < 3 * LONGEST_ANSWER  # asked once, and what was on its way
    say.use("zh")
    assert "超过 8 MB" in told(refused.value)
    client.close()


@pytest.mark.parametrize(("status", "words"), [(400, "refused the request"), (401, "does not accept the key"), (503, "cannot answer now")])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_complaint_without_end_is_cut_and_still_means_what_it_means(serve, status, words, streamed):
    server = serve(Script(flood=status))
    client = Server(server.url, "", timeout=5, retries=1, pause=0.001)
    with pytest.raises(ModelError, match=words) as refused:
        list(client.stream("/chat/completions", {"model": "m", "messages": []}, None)) if streamed else client.request("/models")
    assert len(str(refused.value)) < 500 and server.hung_up.wait(5)
    assert server.flooded < LONGEST_ANSWER // 4  # twice at most; what sockets hold included
    client.close()


@pytest.mark.parametrize("body", ["It works!", '"text"', "[" * 100_000, "", "{"])
def test_an_answer_that_is_no_object_is_said(serve, monkeypatch, body):
    monkeypatch.setattr(FaultyServer, "_whole", lambda *anything: body)
    client = Server(serve().url, "", timeout=5, retries=0)
    with pytest.raises(ModelError, match="does not speak the OpenAI protocol"):
        client.request("/completions", {"model": "m", "prompt": "x"})
    client.close()


def test_a_served_model_shows_nothing_of_its_inside(serve, home, capsys):
    server = serve()
    assert answered_by_cli(server) == 0
    inside = [["--lens", "--token", "0"], ["--heads", "--token", "0"], ["--method", "gradient-norm"]]
    for command in (["explain", "last", *options] for options in inside):
        with pytest.raises(SystemExit) as end:
            main([*command, "--engine", "openai", "--base-url", server.url])
        assert end.value.code != 0 and "served" in capsys.readouterr().err


def test_a_cut_reply_of_a_server_is_not_gone_on_with(serve, connect, guard, ledger):
    engine = connect(serve())
    cut = answered(engine, guard, ledger, sampling=Sampling(seed=1, max_tokens=2))[-1].turn
    assert cut.finish == "length"
    with pytest.raises(UsageError, match="cannot go on"):
        answered(engine, guard, ledger, cut.prompt, continues=cut.id)


def test_many_at_once_each_logged_once(serve, guard, ledger, connect):
    faults = ["closed", None, "half", None, "garbage", None, "reset", None]
    server = serve(Script(words=["word "] * 20, fault=lambda n: faults[n % len(faults)]))
    engine, ends = connect(server, retries=8), []

    def ask():
        try:
            ends.append(answered(engine, guard, ledger)[-1].turn.finish)
        except ModelError:
            ends.append("error")

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = ledger.query("SELECT kind, count(*), count(DISTINCT turn) FROM ledger WHERE kind IN ('intent', 'output') GROUP BY kind")
    assert sorted(tuple(row) for row in rows) == [("intent", 16, 16), ("output", 16, 16)] and len(ends) == 16


@pytest.mark.slow
def test_injected_faults_lose_no_turn_and_log_none_twice():
    from assistant.benchmarks.served import faults

    found = faults(120, 0.2)
    assert (found["turns_lost"], found["turns_logged_twice"]) == (0, 0) and found["injected"]
    assert found["answered_in_full"] + found["halves_kept"] == 120 and sum(found["ends"].values()) == 120
