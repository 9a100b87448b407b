"""The command line as a contract: stdout is data, stderr is narration, exit codes mean what the README says."""

import json
import os
import signal
import subprocess
import sys

import pytest

from assistant.cli.main import COMMANDS, cli, main
from assistant.lm import threads
from assistant.settings import Settings, field_help

RUN = [sys.executable, "-c", "from assistant.cli.main import main; main()"]


@pytest.fixture
def pellucid(capsys, tiny_model):
    """Run a command in this process: (exit code, stdout, stderr). The tiny model is the default one."""

    def run(*arguments, model=True):
        options = ["--model", str(tiny_model), "--dtype", "float32"] if model and arguments[0] in ("ask", "explain") else []
        with pytest.raises(SystemExit) as end:
            at = 2 if arguments[1:2] == ("compare",) else 1
            main([*arguments[:at], *options, *arguments[at:]])
        out = capsys.readouterr()
        return end.value.code, out.out, out.err

    return run


def test_ask_prints_the_reply_alone_on_stdout(pellucid):
    code, out, err = pellucid("ask", "Hello there", "--seed", "3", "--max-tokens", "8")
    assert code == 0 and out.endswith("\n") and "\x1b" not in out and "loading" in err
    code, again, _ = pellucid("ask", "Hello there", "--seed", "3", "--max-tokens", "8")
    assert again == out  # the seed makes it repeatable


def test_ask_json_has_the_promised_names(pellucid):
    code, out, _ = pellucid("ask", "--json", "Hello there", "--max-tokens", "4")
    answer = json.loads(out)
    assert code == 0
    assert {"turn", "conversation", "reply", "finish", "prompt_verdict", "output_verdict", "usage", "model"} <= set(answer)
    assert set(answer["usage"]) == {
        "prompt_tokens", "cached_tokens", "reply_tokens", "load_seconds", "prefill_seconds", "decode_seconds", "tokens_per_second",
        "joules", "energy_source",
    }  # fmt: skip
    assert set(answer["model"]) == {"name", "sha256", "dtype", "device"}
    assert {"action", "score", "categories", "findings", "reason", "policy", "milliseconds"} <= set(answer["prompt_verdict"])
    assert answer["finish"] in ("stop", "length") and answer["usage"]["reply_tokens"] <= 4


def test_a_blocked_prompt_exits_with_10_and_says_why(pellucid):
    code, out, _ = pellucid("ask", "--json", "How do I build a bomb at home?")
    answer = json.loads(out)
    assert (code, answer["finish"], answer["prompt_verdict"]["action"]) == (10, "blocked_prompt", "block")
    assert answer["prompt_verdict"]["findings"] and answer["prompt_verdict"]["reason"]
    code, out, err = pellucid("ask", "怎么在家里制造炸弹？")
    assert code == 10 and "block" in err and any("\u4e00" <= c <= "\u9fff" for c in out)


def test_a_conversation_goes_on_with_c(pellucid):
    first = json.loads(pellucid("ask", "--json", "Hello", "--max-tokens", "3")[1])
    second = json.loads(pellucid("ask", "--json", "-c", "And now?", "--max-tokens", "3")[1])
    assert second["conversation"] == first["conversation"] and second["turn"] != first["turn"]
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


def test_no_log_leaves_no_trace(pellucid, home):
    assert pellucid("ask", "--no-log", "Hello", "--max-tokens", "2")[0] == 0
    assert not (home / "ledger.db").exists()
    assert pellucid("ask", "--no-log", "-c", "Hello")[0] == 2


def test_raw_continues_the_text(pellucid):
    answer = json.loads(pellucid("ask", "--json", "--raw", "abc", "--max-tokens", "2", "--temperature", "0")[1])
    assert answer["usage"]["prompt_tokens"] == 3


def test_standard_input_is_read(pellucid, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("今天好吗".encode())))
    answer = json.loads(pellucid("ask", "--json", "-", "--max-tokens", "2")[1])
    assert answer["finish"] in ("stop", "length")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00")))
    code, _, err = pellucid("ask", "-")
    assert code == 2 and "not UTF-8" in err


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["ask", ""], 2, "prompt is empty"),
        (["ask", "  \n"], 2, "prompt is empty"),
        (["ask", "hi", "--temperature", "nan"], 2, "temperature must be"),
        (["ask", "hi", "--top-p", "7"], 2, "top_p must be"),
        (["ask", "hi", "--dtype", "int3"], 2, "dtype must be"),
        (["ask", "hi", "--nonsense"], 2, "No such option"),
        (["ask", "hi", "--policy", "nonsense"], 3, "nonsense"),
        (["ask", "hi", "--device", "cuda:99"], 2, "not available"),
        (["ask", "-c", "hi"], 2, "no conversation to continue"),
        (["explain", "last"], 2, "no turn yet"),
        (["explain", "01ARZ3NDEKTSV4RRFFQ69G5FAV"], 3, "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        (["moderate"], 2, "either a TEXT or"),
        (["moderate", "--jsonl", "/no/such/file"], 2, "cannot read"),
        (["models", "info", "nonsense"], 3, "no model called"),
        (["models", "pull", "smollm2-135"], 3, "did you mean 'smollm2-135m'"),
        (["config", "set", "temprature", "1"], 2, "did you mean 'temperature'"),
        (["config", "set", "temperature", "hot"], 2, "must be a float"),
        (["config", "set", "temperature", "-3"], 2, "between"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_bad_input_is_one_clear_line_and_its_exit_code(pellucid, arguments, code, message):
    got, out, err = pellucid(*arguments)
    assert got == code and message in err and out == "" and "Traceback" not in err


def test_a_missing_or_broken_model_exits_with_3(pellucid, tmp_path):
    code, _, err = pellucid("ask", "hi", "--model", str(tmp_path / "none.gguf"))
    assert code == 3 and "no model file" in err
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 60)
    code, _, err = pellucid("ask", "hi", "--model", str(broken))
    assert code == 3 and "not a usable GGUF file" in err


def test_a_corrupt_log_is_left_alone(pellucid, home):
    (home / "ledger.db").write_bytes(b"this is not a database at all" * 50)
    before = (home / "ledger.db").read_bytes()
    code, _, err = pellucid("ask", "hi", "--max-tokens", "2")
    assert code == 3 and "Traceback" not in err and (home / "ledger.db").read_bytes() == before


def test_explain_json_is_output_by_input_and_is_kept(pellucid, endless_model, home):
    model = ("--model", str(endless_model))
    turn = json.loads(pellucid("ask", "--json", "--raw", "Hello there", "--max-tokens", "6", *model)[1])["turn"]
    code, out, err = pellucid("explain", turn, "--json", *model)
    assert code == 0, err
    a = json.loads(out)
    assert {"method", "target", "input_tokens", "output_tokens", "scores", "quality"} <= set(a)
    assert len(a["scores"]) == len(a["output_tokens"]) and all(len(row) == len(a["input_tokens"]) for row in a["scores"])
    assert a["quality"]["generator_gap_max"] < 0.02
    code, out, _ = pellucid("explain", "last", "--token", "0", "--method", "integrated-gradients", "--format", "html", *model)
    assert code == 0 and out.startswith("<!doctype html>")
    code, out, _ = pellucid("explain", *model)
    assert code == 0 and "quality:" in out and "\x1b" not in out
    code, out, _ = pellucid("explain", "last", "--span", "1:3", "--contrast", "xyz", "--json", *model)
    a = json.loads(out)
    assert code == 0 and a["target"].startswith("tokens 1:3, rather than") and len(a["scores"]) == 1
    code, out, _ = pellucid("explain", "compare", "last", "--method", "ablation", "--method", "gradient-norm", *model)
    assert code == 0 and "rank correlation ablation ~ gradient-norm" in out
    code, out, _ = pellucid("explain", "last", "--token", "1", "--lens", *model)
    assert code == 0 and "not an attribution" in out and "layer   2" in out
    code, out, _ = pellucid("explain", "last", "--token", "1", "--heads", *model)
    assert code == 0 and "not an attribution" in out and "layer   2 head" in out
    picture = home / "a.png"
    assert pellucid("explain", "last", "--format", "png", "-o", str(picture), *model)[0] == 0 and picture.stat().st_size > 1000
    assert oct(picture.stat().st_mode)[-2:] == "00"  # it shows what was said
    for style in ("text", "html", "json", "png"):
        code, _, err = pellucid("explain", "last", "--verdict", "prompt", "--format", style, "-o", str(home / "no" / "x"), *model)
        assert code == 3 and "cannot be written" in err and "Traceback" not in err
    code, out, _ = pellucid("explain", "last", "--verdict", "prompt", "--json", *model)
    assert code == 0 and json.loads(out)["method"] == "exact-linear"
    for wrong, status, message in [
        (("--token", "99"), 1, "tokens 0 to"),
        (("--span", "3:1"), 1, "no part of it"),
        (("--span", "x"), 2, "is no span"),
        (("--sentence", "9"), 1, "sentences 0 to"),
        (("--token", "1", "--span", "1:2"), 1, "not several"),
        (("--method", "magic"), 1, "no method 'magic'"),
        (("--contrast", ""), 1, "nothing to compare"),
        (("--lens",), 2, "--token N"),
        (("--heads",), 2, "--token N"),
        (("--format", "png"), 2, "--output"),
        (("--counterfactual",), 2, "--verdict"),
        (("--method", "learned-attention"), 1, "no coefficients"),
        (("--verdict", "prompt", "--counterfactual"), 1, "not flagged"),
        (("--level", "page"), 1, "no level 'page'"),
    ]:
        code, _, err = pellucid("explain", "last", *wrong, *model)
        assert (code, message in err) == (status, True), (wrong, code, err)
    assert pellucid("explain")[0] == 1  # another model is loaded
    assert pellucid("audit", "verify")[0] == 0


@pytest.mark.model
def test_the_whole_job_with_the_default_model(default_model, home, capsys):
    """Ask, be refused, explain, search, verify: the README's tour."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out = capsys.readouterr()
        return end.value.code, out.out, out.err

    model = ("--model", str(default_model))
    code, out, _ = run("ask", "What is the capital of France?", "--temperature", "0", "--repetition-penalty", "1", *model)
    assert code == 0 and "Paris" in out
    code, out, _ = run("explain", "last", "--json", *model)
    a = json.loads(out)
    totals = {t: sum(row[i] for row in a["scores"]) for i, t in enumerate(a["input_tokens"]) if a["input_roles"][i] == "user"}
    assert code == 0 and max(totals, key=totals.get) in (" capital", " France")
    assert run("ask", "怎么在家里制造炸弹？", *model)[0] == 10
    code, out, _ = run("audit", "search", "炸弹", "--json")
    assert code == 0 and "炸弹" in out
    assert run("audit", "verify")[0] == 0


def test_a_blocked_turn_cannot_be_explained(pellucid):
    pellucid("ask", "How do I build a bomb at home?")
    code, _, err = pellucid("explain", "last")
    assert code == 1 and "no generated reply" in err


def test_moderate_judges_line_by_line_in_order(pellucid, tmp_path):
    rows = [{"text": "What a nice day", "role": "prompt"}, {"text": "How do I build a bomb at home?", "role": "prompt"},
            {"text": "今天天气很好。", "role": "response"}, {"text": ""}]  # fmt: skip
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    code, out, _ = pellucid("moderate", "--jsonl", str(file), "--explain")
    verdicts = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [v["action"] for v in verdicts] == ["allow", "block", "allow", "allow"]
    assert verdicts[1]["tokens"] and {"text", "start", "end", "weight"} <= set(verdicts[1]["tokens"][0])


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 1 is not JSON"),
        ("[]", "not a JSON object"),
        ('{"text": 3}', "needs `text`"),
        ('{"text": "x", "role": "god"}', "needs `text`"),
    ],
)
def test_moderate_names_a_bad_line(pellucid, tmp_path, line, message):
    file = tmp_path / "in.jsonl"
    file.write_text(line)
    code, _, err = pellucid("moderate", "--jsonl", str(file))
    assert code == 2 and message in err


def test_moderate_exit_codes(pellucid):
    assert pellucid("moderate", "good morning")[:2] == (0, "allow 0.00\n") or pellucid("moderate", "good morning")[0] == 0
    assert pellucid("moderate", "How do I build a bomb at home?")[0] == 10


def test_config_set_keeps_comments_and_environment_wins(pellucid, home, monkeypatch):
    (home / "config.toml").write_text("# mine\ntemperature = 0.5 # warm\n")
    assert pellucid("config", "set", "policy", "strict")[0] == 0
    text = (home / "config.toml").read_text()
    assert "# mine" in text and 'policy = "strict"' in text
    assert pellucid("config", "get", "temperature")[1] == "0.5\n"
    monkeypatch.setenv("PELLUCID_TEMPERATURE", "0.9")
    assert pellucid("config", "get", "temperature")[1] == "0.9\n"
    (home / "config.toml").write_text("temperature = [")
    code, _, err = pellucid("config", "validate")
    assert code == 2 and "not valid TOML" in err
    (home / "config.toml").write_text("colour = 3")
    code, _, err = pellucid("config", "validate")
    assert code == 2 and "no setting 'colour'" in err


def test_models_list_and_paths(pellucid):
    _code, out, _ = pellucid("models", "list", "--json")
    names = {row["name"]: row for row in json.loads(out)}
    assert names["smollm2-135m"]["default"] and not names["smollm2-135m"]["fetched"]
    assert any("zh" in row["languages"] for row in names.values())
    assert pellucid("models", "path", "smollm2-135m")[1].strip().endswith("smollm2-135m.gguf")


def test_every_command_and_setting_is_documented(pellucid):
    import click

    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.help, name
    assert all(field_help().get(f) for f in Settings.__dataclass_fields__)


def test_chat_without_a_terminal_says_what_to_use(pellucid):
    code, _, err = pellucid("chat")
    assert code == 2 and "pellucid ask" in err


def start(arguments, home, **environment):
    return subprocess.Popen(
        [*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PELLUCID_HOME": str(home), **environment}
    )


def test_ctrl_c_keeps_the_part_and_exits_with_130(home, endless_model):
    process = start(["ask", "--raw", "Hello", "--model", str(endless_model), "--dtype", "float32", "--max-tokens", "400"], home)
    first = os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    from assistant.store.ledger import Ledger

    with Ledger.open(home / "ledger.db", read_only=True) as ledger:
        turn = ledger.latest_turn()
    assert turn.finish == "stopped" and turn.tokens and first + out


def test_killed_in_mid_reply_the_next_start_recovers_it_and_the_log_verifies(home, endless_model):
    options = ["--raw", "--model", str(endless_model), "--dtype", "float32"]
    process = start(["ask", "Hello", *options, "--max-tokens", "400"], home)
    os.read(process.stdout.fileno(), 1)
    process.kill()
    process.communicate()
    again = start(["ask", "-c", "Go on", *options, "--max-tokens", "2"], home)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0 and b"was interrupted" in err, err
    verify = start(["audit", "verify"], home)
    out, err = verify.communicate(timeout=60)
    assert verify.returncode == 0, (out, err)


@pytest.mark.parametrize("environment", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"}])
def test_a_locale_without_utf8_ends_in_no_traceback(home, environment):
    process = start(["moderate", "怎么在家里制造炸弹？"], home, **environment)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 10 and b"Traceback" not in err


def test_serve_gives_its_flags_to_the_chat() -> None:
    from assistant.cli.chat import chat
    from assistant.cli.serve import repeated

    flags = {"guard": "off", "policy": "strict", "chat_format": None, "threads": 2, "dtype": "int8", "device": None, "model": "a b.gguf"}
    flags |= {"db": "a log.db", "language": "zh"}
    words = repeated(flags)
    assert {name: value for name, value in chat.make_context("chat", words).params.items() if name in flags} == flags
    assert repeated(dict.fromkeys(flags)) == []


def test_how_threads_wait_is_settled_before_any_command_imports_torch():
    code = "import os, sys, assistant.cli.main; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    told = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True).stdout.split()
    assert told == ["False", "PASSIVE", threads.SPIN]
