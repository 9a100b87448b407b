"""Models of the hub by name, from a hub on loopback: only whole and checked folders, nothing but what a model needs."""

import hashlib
import http.server
import json
import threading

import pytest

from assistant import paths
from assistant.cli.main import main
from assistant.errors import ModelError
from assistant.lm import hub
from assistant.lm.engine import Engine
from assistant.loading import model_file
from assistant.turn import Sampling
from tests.tiny_families import write_folder

COMMIT = "0123456789" * 4


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves `files`; large ones state a SHA-256, as on the hub. `fault` is a function of (path, body) that may spoil the answer."""

    files: dict = {}  # noqa: RUF012
    asked: list = []  # noqa: RUF012
    change = staticmethod(lambda about: about)
    spoil = staticmethod(lambda path, body: body)
    status = 200

    def do_GET(self):
        Hub.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        if Hub.status != 200:
            self.send_error(Hub.status)
        elif self.path == "/api/models/me/tiny/revision/main?blobs=true":
            self.answer(json.dumps(Hub.change(self.about())).encode())
        elif (name := self.path.removeprefix(f"/me/tiny/resolve/{COMMIT}/")) in Hub.files:
            body = Hub.files[name]
            first = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
            self.answer(Hub.spoil(name, body[first:]), len(body) - first, 206 if first else 200)
        else:
            self.send_error(404)

    def about(self):
        siblings = []
        for name, body in Hub.files.items():
            one = {"rfilename": name, "size": len(body), "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
            if name.endswith((".safetensors", ".bin")):
                one["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
            siblings.append(one)
        return {"sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}

    def answer(self, body, length=None, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_folder("mistral", folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def served(home, monkeypatch, model_files):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(home)
    Hub.files = model_files | {"pytorch_model.bin": b"pickle", "README.md": b"# me", "onnx/model.safetensors": b"x", "../up.json": b"{}"}
    Hub.asked, Hub.change, Hub.spoil, Hub.status = [], staticmethod(lambda a: a), staticmethod(lambda path, body: body), 200
    yield
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_by_name_and_runs(served):
    told = []
    path = hub.pull("me/tiny", lambda what, fraction: told.append(fraction))
    assert path == paths.models_dir() / "me--tiny" and told[-1] == 1.0 and told == sorted(told)
    others = {"pytorch_model.bin", "README.md", "onnx/model.safetensors", "../up.json"}
    assert {p.name for p in path.iterdir()} == set(Hub.files) - others | {"pellucid.json"}
    note = json.loads((path / "pellucid.json").read_text())
    assert (note["name"], note["revision"], note["licence"]) == ("me/tiny", COMMIT, "mit")
    assert model_file("me/tiny", print) == (path, None)
    engine = Engine.load(path, dtype="float32", thread_count=1)
    assert len(list(engine.generate(engine.render_raw("The"), Sampling(temperature=0, max_tokens=3)))) > 0
    count = len(Hub.asked)
    assert hub.pull("me/tiny") == path and len(Hub.asked) == count  # it is there already
    assert hub.fetched() == [("me/tiny", path)]
    assert hub.remove("me/tiny") and not path.exists() and not hub.remove("me/tiny")


def test_the_commands_know_models_of_the_hub(served, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["models", *arguments])
        out, err = capsys.readouterr()
        return out.strip() if not end.value.code else err

    assert "run `pellucid models pull me/tiny`" in run("info", "me/tiny")
    assert run("pull", "me/tiny").endswith("me--tiny")
    assert "● me/tiny" in run("list")
    assert json.loads(run("list", "--json"))[-1]["name"] == "me/tiny"
    assert json.loads(run("info", "me/tiny", "--json"))["usable"] == "yes"
    assert run("path", "me/tiny").endswith("me--tiny")
    assert run("remove", "me/tiny") == "" and not hub.fetched()


def test_a_cut_connection_goes_on_where_it_stopped(served):
    Hub.spoil = staticmethod(lambda path, body: body[: len(body) // 2] if path.endswith(".safetensors") else body)
    with pytest.raises(ModelError, match=r"again to go on"):
        hub.pull("me/tiny")
    assert not hub.folder("me/tiny").exists()
    Hub.spoil, Hub.asked = staticmethod(lambda path, body: body), []
    hub.pull("me/tiny")
    again = {path.rsplit("/")[-1]: start for path, start, _ in Hub.asked[1:]}
    assert again["model.safetensors"].startswith("bytes=") and again["model.safetensors"] != "bytes=0-"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_file_is_refused(served, name):
    Hub.spoil = staticmethod(lambda path, body: b"x" * len(body) if path == name else body)
    with pytest.raises(ModelError, match=rf"{name} of me/tiny is not the file it should be"):
        hub.pull("me/tiny")
    assert not hub.folder("me/tiny").exists() and not (paths.models_dir() / ".fetch-me--tiny" / name).exists()


def without(*names):
    return lambda about: about | {"siblings": [s for s in about["siblings"] if s["rfilename"] not in names]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model.safetensors"), "pickled weights are never opened"),
        (without("config.json"), "has no config.json"),
        (without("tokenizer.json"), "has no tokenizer.json"),
        (lambda a: a | {"siblings": [{"rfilename": "q4.gguf", "size": 1}]}, "only .gguf files: download one of them, for example q4.gguf"),
        (lambda a: a | {"sha": "../../etc"}, "cannot be understood"),
        (lambda a: a | {"siblings": [{"rfilename": "config.json"}]}, "cannot be understood"),
        (lambda a: a | {"siblings": 3}, "cannot be understood"),
        (lambda a: [], "cannot be understood"),
        (lambda a: a | {"siblings": [s | {"lfs": None, "blobId": ""} for s in a["siblings"]]}, "did not state a hash"),
        (lambda a: a | {"siblings": [s | {"lfs": {"sha256": "ab", "size": s["size"]}} for s in a["siblings"]]}, "did not state a hash"),
        (lambda a: a | {"siblings": [s | {"size": 10**15, "lfs": None} for s in a["siblings"]]}, "GB of disk"),
    ],
)
def test_a_repository_that_cannot_be_used_is_refused_before_anything_is_fetched(served, change, message):
    Hub.change = staticmethod(change)
    with pytest.raises(ModelError, match=message):
        hub.pull("me/tiny")
    assert len(Hub.asked) == 1 and not hub.folder("me/tiny").exists()


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "set HF_TOKEN"), (403, "accept its terms"), (404, "check the name"), (500, "try again")]
)
def test_a_refusal_says_what_to_do(served, status, hint):
    Hub.status = status
    with pytest.raises(ModelError, match=rf"answered {status}\): .*{hint}"):
        hub.pull("me/tiny")


def test_a_token_opens_closed_models_and_nothing_is_sent_without_one(served, monkeypatch):
    hub.pull("me/tiny")
    assert all(login is None for *_, login in Hub.asked)
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.pull("me/tiny", force=True)
    assert Hub.asked[-1][2] == "Bearer secret"


def test_no_network_is_one_sentence(home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"cannot fetch me/tiny .*check the network"):
        hub.pull("me/tiny")


@pytest.mark.parametrize("name", ["me", "me/", "/me", "a/b/c", "me/tiny.gguf", "../x", "~/x", "me/ti ny", ".hidden/x"])
def test_what_is_no_name_of_the_hub(name):
    assert not hub.is_name(name)


def test_a_folder_that_is_here_is_not_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_name("me/tiny")
    (tmp_path / "me" / "tiny").mkdir(parents=True)
    assert not hub.is_name("me/tiny")
