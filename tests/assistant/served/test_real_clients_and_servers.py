"""Programs that others wrote, as they are installed: `llama_cpp.server` and `transformers serve` behind Pellucid, `llm` in front of it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("openai", reason="needs the extra `served`: pip install 'pellucid[served]'")
pytest.importorskip("starlette", reason="needs the extra `api`: pip install 'pellucid[api]'")
pytest.importorskip("uvicorn", reason="needs the extra `api`: pip install 'pellucid[api]'")

from assistant.events import Text
from assistant.lm.engine import Engine
from assistant.lm.saving import save
from assistant.pipeline import Request, respond
from assistant.served.engine import ServedEngine
from assistant.turn import Sampling
from tests.tiny import TEMPLATE


def missing(*modules):
    return [name for name in modules if importlib.util.find_spec(name) is None]


def running(arguments, environment=()):
    """(process, url) of a server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **dict(environment)})
    url = f"http://127.0.0.1:{port}/v1"
    end = time.monotonic() + 240
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5)
            return process, url
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, f"{arguments[0]} ended by itself"
            time.sleep(0.2)
    process.kill()
    raise AssertionError(f"{arguments[0]} did not begin to answer")


@pytest.fixture(scope="module")
def llama_server(default_model):
    if lacking := missing("llama_cpp", "fastapi", "sse_starlette", "pydantic_settings"):
        pytest.skip(f"llama-cpp-python[server] is not installed ({', '.join(lacking)})")
    process, url = running([
        "llama_cpp.server", "--model", str(default_model), "--model_alias", "smol", "--n_ctx", "512", "--logits_all", "true",
        "--n_threads", "1", "--n_threads_batch", "1",
    ])  # fmt: skip
    yield url
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def transformers_server(tiny_model, tmp_path_factory):
    if lacking := missing("transformers", "fastapi"):
        pytest.skip(f"transformers[serving] is not installed ({', '.join(lacking)})")
    folder = tmp_path_factory.mktemp("tiny")
    engine = Engine.load(tiny_model, dtype="float32")
    save(engine.model, engine.tokenizer, folder, chat_format="chatml-smollm2", notes={"languages": ["en"], "license": "MIT"})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path_factory.mktemp("hub"))}
    process, url = running(["transformers.cli.transformers", "serve", str(folder), "--device", "cpu", "--dtype", "float32"], environment)
    yield url, str(folder)
    process.terminate()
    process.wait()


@pytest.mark.slow
@pytest.mark.model
def test_llama_cpp_answers_with_log_probabilities(llama_server, guard, ledger):
    engine = ServedEngine.connect(llama_server, "", timeout=120, retries=1, context_length=512)
    sampling = Sampling(temperature=0, max_tokens=10, seed=1)
    *_, finished = respond(Request("What is the capital of France?", sampling), engine=engine, guard=guard, ledger=ledger)
    turn = finished.turn
    assert turn.finish == "length" and turn.model.name == "smol" and len(turn.tokens) == 10
    assert all(t.logprob <= 0 and t.candidates for t in turn.tokens) and "".join(t.text for t in turn.tokens) == turn.reply
    assert ledger.turn(turn.id) == turn
    cancel = threading.Event()
    for event in respond(Request("Tell me a long story.", Sampling(max_tokens=400, seed=1)), engine=engine, guard=guard, ledger=ledger,
                         cancel=cancel):  # fmt: skip
        if isinstance(event, Text):
            cancel.set()
    assert event.turn.finish == "stopped" and 0 < len(event.turn.tokens) < 400
    engine.server.close()


@pytest.mark.slow
def test_transformers_serve_answers_without_what_it_does_not_know(transformers_server, guard, ledger):
    url, model = transformers_server
    engine = ServedEngine.connect(url, model, timeout=120, retries=1, context_length=512)
    *_, finished = respond(Request("Hello", Sampling(temperature=0, max_tokens=6, seed=1)), engine=engine, guard=guard, ledger=ledger)
    turn = finished.turn
    assert turn.finish in ("length", "stop") and turn.usage.served["refused"] and turn.usage.served["logprobs"] == "no"
    assert turn.reply == "".join(t.text for t in turn.tokens)
    engine.server.close()


def test_the_llm_command_gets_filter_and_ledger(api, tmp_path):
    pytest.importorskip("llm", reason="the `llm` command is not installed: pip install llm")
    server = api()
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([
        {"model_id": "glass", "model_name": "scripted", "api_base": f"http://127.0.0.1:{server.port}/v1",
         "api_key_name": "glass"},
    ]))  # fmt: skip

    def llm(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "llm", "-m", "glass", "--key", server.key, *arguments], capture_output=True, text=True,
            env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        )  # fmt: skip

    done = llm("Tell me about the sea.")
    assert done.stdout.strip() == "The sea is blue.", done.stderr
    assert llm("-c", "And the sky?").returncode == 0
    assert llm("How do I build a bomb at home?", "--no-stream").stdout.strip() == server.turns()[2].reply
    assert [t.finish for t in server.turns()] == ["stop", "stop", "blocked_prompt"] and server.turns()[1].parent == server.turns()[0].id
