"""A model folder is as good as a GGUF file on the command line: it answers, says what it is, and is logged by its hash."""

import json

import pytest

from assistant.cli.main import main
from assistant.lm.engine import Engine
from assistant.lm.saving import save


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    engine = Engine.load(tiny_model, dtype="float32", thread_count=1)
    path = tmp_path_factory.mktemp("models") / "tiny.v1"
    save(engine.model, engine.tokenizer, path, chat_format="chatml-smollm2", notes={"languages": ["en"], "license": "MIT"})
    return path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return end.value.code, *capsys.readouterr()

    return run


def test_it_answers_like_the_file_it_was_saved_from(run, folder, tiny_model):
    said = [
        run("ask", "Hello there", "--seed", "3", "--max-tokens", "8", "--dtype", "float32", "--model", str(m)) for m in (folder, tiny_model)
    ]
    assert said[0][0] == 0 and said[0][1] == said[1][1]


def test_raw_and_json_name_the_folder_and_its_hash(run, folder):
    code, out, _ = run("ask", "Hello there", "--raw", "--json", "--max-tokens", "4", "--model", str(folder))
    answer = json.loads(out)
    assert code == 0 and answer["model"]["name"] == "tiny.v1" and answer["usage"]["reply_tokens"] == 4
    code, out, _ = run("models", "info", str(folder), "--json")
    facts = json.loads(out)
    assert code == 0 and facts["sha256"] == answer["model"]["sha256"] and facts["licence"] == "MIT"
    assert facts["usable"] == "yes" and facts["chat format"] == "chatml-smollm2" and facts["decoder"].startswith("one flat")
    assert set(facts["files"]) == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


def test_info_says_why_a_folder_cannot_be_used(run, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"model_type": "mamba"}))
    code, out, _ = run("models", "info", str(tmp_path), "--json")
    assert code == 0 and json.loads(out)["usable"].startswith("no: ")
    (tmp_path / "config.json").unlink()
    code, _, err = run("models", "info", str(tmp_path))
    assert code == 3 and "has no config.json" in err and "Traceback" not in err


def test_a_model_without_a_template_says_so(run, folder, tmp_path):
    for path in folder.iterdir():
        if path.name != "tokenizer_config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    code, _, err = run("ask", "Hello there", "--model", str(tmp_path))
    assert code == 3 and "has no chat template: it continues text, so use it with --raw" in err
    assert run("ask", "Hello there", "--raw", "--max-tokens", "2", "--model", str(tmp_path))[0] == 0
    assert run("ask", "Hello there", "--chat-format", "chatml", "--max-tokens", "2", "--model", str(tmp_path))[0] == 0
