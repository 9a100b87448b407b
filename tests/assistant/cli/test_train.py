"""From text files to a model that answers, by the command line."""

import json

import pytest

from assistant.cli.main import main

TEXT = "今天天气很好。\n\nThe weather is nice today.\n\n你好，今天想聊点什么？\n\nHello, how are you?\n"
SMALL = ["--width", "16", "--layers", "1", "--heads", "2", "--steps", "4", "--batch", "2", "--context", "12", "--vocabulary", "300",
         "--validation", "0", "--threads", "1"]  # fmt: skip


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code, *capsys.readouterr()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    return path


def test_a_model_is_trained_stored_noted_and_used(tmp_path, text, capsys):
    code, out, said = run(capsys, "train", text, "--output", tmp_path / "m", *SMALL, "--prompt", "今天", "--licence", "CC0-1.0", "--json")
    assert code == 0, said
    card = json.loads(out)
    assert card["sources"][0]["licence"] == "CC0-1.0" and card["result"]["steps"] == 4 and card["tokens"]["learnt"] > 50
    kept = {p.name for p in (tmp_path / "m").iterdir()}
    model = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert kept == model | {"card.json", "MODEL_CARD.md", "losses.png", "losses.html"}
    assert "step 4" in said and "今天" in said
    code, out, said = run(
        capsys, "ask", "--model", tmp_path / "m", "--raw", "今天天气", "--temperature", "0", "--max-tokens", "3", "--json"
    )
    assert code == 0 and json.loads(out)["model"]["name"] == "m", said
    code, out, said = run(capsys, "--model", tmp_path / "m", "ask", "--raw", "今天天气", "--max-tokens", "1", "--json")
    assert code == 0 and json.loads(out)["model"]["name"] == "m", said
    from assistant.paths import database_file
    from assistant.store.ledger import Ledger

    with Ledger.open(database_file(), read_only=True) as ledger:
        rows = ledger._connection.execute("SELECT record FROM ledger").fetchall()
    noted = [r for r in (json.loads(row[0]) for row in rows) if r["kind"] == "training"]
    assert [r["weights"] for r in noted] == [card["weights_sha256"]]
    code, _, said = run(capsys, "train", text, "--output", tmp_path / "m", *SMALL)
    assert code == 2 and "there is a model in" in said


def test_the_lstm_is_stored_and_compared(tmp_path, text, capsys):
    for arch in ("transformer", "lstm"):
        code, _, said = run(capsys, "train", text, "--output", tmp_path / arch, *SMALL, "--arch", arch, "--no-log")
        assert code == 0, said
    code, out, said = run(
        capsys, "evaluate", "lm", tmp_path / "transformer", tmp_path / "lstm", "--text", text, "--prompt", "今天", "--json"
    )  # fmt: skip
    assert code == 0, said
    ours, theirs = json.loads(out)
    assert ours["tokens"] == theirs["tokens"] and abs(ours["parameters"] / theirs["parameters"] - 1) < 0.05
    code, out, _ = run(capsys, "evaluate", "lm", tmp_path / "transformer", "--text", text)
    assert code == 0 and "perplexity" in out and "▸" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--width", "0"], "at least 1"),
        (["--width", "15"], "cannot be shared by 2 heads"),
        (["--rate", "nan"], "rate must be above 0"),
        (["--vocabulary", "10"], "at least 259"),
        (["--context", "5000"], "fewer than one context of 5000"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--encoding", "utf-99"], "no encoding"),
        (["--batch", "3", "--accumulate", "2"], "multiple of accumulate"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, text, capsys, arguments, said):
    code, out, told = run(capsys, "train", text, "--output", tmp_path / "m", *SMALL, *arguments)
    assert code == 2 and not out
    assert said in told.splitlines()[-1], told


def test_a_vocabulary_is_used_again_and_a_strange_one_refused(tmp_path, text, capsys):
    code, _, said = run(capsys, "train", text, "--output", tmp_path / "a", *SMALL, "--no-log")
    assert code == 0, said
    vocabulary = tmp_path / "a" / "tokenizer.json"
    code, _, said = run(capsys, "train", text, "--output", tmp_path / "b", *SMALL, "--no-log", "--tokenizer", vocabulary)
    assert code == 0 and (tmp_path / "b" / "tokenizer.json").read_bytes() == vocabulary.read_bytes(), said
    strange = tmp_path / "strange.json"
    strange.write_text(vocabulary.read_text("utf-8").replace("<|im_end|>", "<|odd|>"), "utf-8")
    for path, wrong in ((strange, "lacks the token <|im_end|>"), (text, "is no tokenizer.json")):
        code, _, said = run(capsys, "train", text, "--output", tmp_path / "c", *SMALL, "--no-log", "--tokenizer", path)
        assert code == 2 and wrong in said, said


def test_a_recipe_that_is_wrong_says_where(tmp_path, capsys):
    recipe = tmp_path / "r.toml"
    for content, said in (
        ("[model]\nwidht = 3", "there is no 'widht'"),
        ("[model]\nwidth = 'x'", "width must be a int"),
        ("[odd]\n", "there is no table [odd]"),
        ("[[data.sources]]\nkind = 'text'", "every source needs a file"),
        ("[[data.sources]]\nfile = 'a.txt'\nkind = 'odd'", "kind must be"),
        ("[model", "cannot read the recipe"),
        ("", "nothing to learn from"),
    ):
        recipe.write_text(content, "utf-8")
        code, _, told = run(capsys, "train", "--config", recipe, "--output", tmp_path / "m")
        assert code == 2 and said in told, told


def test_the_shipped_recipe_reads_its_text():
    from assistant.training import corpus, recipe

    found = recipe.read(recipe.preset("tiny-zh-en"), {"steps": 3})
    assert found.plan.steps == 3 and found.plan.context == 64
    counts = [len(corpus.read(source)) for source in found.sources]
    assert counts[0] > 40_000 and all(counts) and all(source.licence for source in found.sources)


def test_each_architecture_learns_at_the_rate_that_is_best_for_it(tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"今天天气很好，有{i}只鸟。" for i in range(60)), "utf-8")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        "[model]\nwidth = 16\nlayers = 1\nheads = 2\nvocabulary = 300\n[training]\nsteps = 6\nbatch = 2\ncontext = 12\nwarmup = 1\n"
        "[data]\nvalidation = 0.3\n[[data.sources]]\nfile = 'lines.txt'\nsplit = 'line'\n", "utf-8",
    )  # fmt: skip
    common = ["evaluate", "architectures", "--config", recipe, "--threads", "1"]
    rates = ["--rate", "1e-7", "--rate", "1e-2", "--trial", "5"]
    code, out, said = run(capsys, *common, "--output", tmp_path / "o", *rates, "--json")
    assert code == 0, said
    found = json.loads(out)
    for row in found.values():
        assert set(row["tried"]) == {"1e-07", "0.01"} and row["tried"]["0.01"] < row["tried"]["1e-07"] and row["rate"] == 0.01
    assert abs(found["lstm"]["parameters"] / found["transformer"]["parameters"] - 1) < 0.1
    assert found["lstm"]["tokens_read"] == found["transformer"]["tokens_read"]
    code, out, said = run(capsys, *common, "--output", tmp_path / "p")
    assert code == 0 and "validation perplexity" in out and "tried" in out, said
    recipe.write_text(recipe.read_text("utf-8").replace("0.3", "0.0"), "utf-8")
    code, _, said = run(capsys, *common, "--output", tmp_path / "q", *rates)
    assert code == 2 and "no text is held out" in said
