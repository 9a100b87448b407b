"""Receipts as C2SP proofs: checked here by the specification alone, and by the command; forged ones are refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from assistant.audit.tlog_proof import FIRST_LINE
from assistant.cli.audit import audit
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args])


@pytest.fixture
def turn(path: Path) -> str:
    with Ledger.open(path) as ledger:
        turns = [log_turn(ledger, prompt="今天天气怎么样？") for _ in range(4)]
        ledger.record_event("review", {"turn": turns[1].id, "side": "prompt", "label": "safe"})
    return turns[1].id


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, "-C", "auditor"], check=True)
    return path


@pytest.fixture
def proof(path: Path, turn: str, tmp_path: Path) -> Path:
    file = tmp_path / "turn.tlog-proof"
    assert run("receipt", turn, "--db", path, "--with-content", "-o", file).exit_code == 0
    return file


def root_by_the_rfc(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """RFC 6962 section 2.1.1, written down as the recursion it is."""
    if size == 1:
        assert not path
        return leaf
    half = 1 << ((size - 1).bit_length() - 1)
    if index < half:
        return sha256(b"\x01" + root_by_the_rfc(leaf, index, half, path[:-1]) + path[-1]).digest()
    return sha256(b"\x01" + path[-1] + root_by_the_rfc(leaf, index - half, size - half, path[:-1])).digest()


def test_it_is_a_proof_by_the_specification(proof: Path, turn: str) -> None:
    lines = proof.read_text("utf-8").split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1].startswith("extra ") and lines[2].startswith("index ")
    blank = lines.index("")
    origin, size, root = lines[blank + 1 : blank + 4]
    assert origin.startswith("pellucid.local/") and lines[blank + 4] == ""
    extra = json.loads(base64.b64decode(lines[1][6:]))
    entry = extra["records"][extra["record"]]
    record = json.loads(entry["record"])
    assert (record["kind"], record["turn"], record["seq"]) == ("output", turn, int(lines[2][6:]) + 1)
    path = [base64.b64decode(line, validate=True) for line in lines[3:blank]]
    leaf = sha256(b"\x00" + entry["record"].encode()).digest()
    assert root_by_the_rfc(leaf, record["seq"] - 1, int(size), path) == base64.b64decode(root)
    assert [json.loads(e["record"])["kind"] for e in extra["records"]] == ["intent", "output", "review"]


def test_it_is_checked_without_the_log(proof: Path, path: Path, turn: str) -> None:
    shutil.rmtree(path.parent)
    result = run("check-receipt", proof)
    assert result.exit_code == 0 and "今天天气怎么样？" in result.stdout and f"proven: {turn}" in result.stdout
    answer = json.loads(run("check-receipt", proof, "--json").stdout)
    assert (answer["turn"], answer["problems"], answer["trusted"]) == (turn, [], False)


@needs_ssh
@pytest.mark.parametrize("method", ["ssh", "ed25519"])
def test_signed_ones_name_their_signer(path: Path, turn: str, key: Path, tmp_path: Path, method: str) -> None:
    if method == "ed25519":
        pytest.importorskip("cryptography")
    assert run("checkpoint", "--db", path, "--sign", key, "--method", method, "-o", tmp_path / "note").exit_code == 0
    file, other = tmp_path / "signed.tlog-proof", tmp_path / "other"
    assert run("receipt", turn, "--db", path, "-o", file).exit_code == 0
    if method == "ed25519":  # the checkpoint stands there verbatim, with its signature line
        assert file.read_text("utf-8").endswith("\n\n" + (tmp_path / "note").read_text("utf-8"))
        assert "\n— pellucid.local/" in file.read_text("utf-8")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    shutil.rmtree(path.parent)
    assert json.loads(run("check-receipt", file, "--json", "--key", f"{key}.pub").stdout)["trusted"] is True
    assert run("check-receipt", file, "--key", f"{key}.pub", "--checkpoint", tmp_path / "note").exit_code == 0
    assert run("check-receipt", file, "--key", f"{other}.pub").exit_code == 4


def test_forged_ones_are_refused(proof: Path, tmp_path: Path) -> None:
    sound = proof.read_text("utf-8")

    def check(text: str) -> int:
        (tmp_path / "forged").write_text(text, "utf-8")
        return run("check-receipt", tmp_path / "forged").exit_code

    def with_extra(change: Callable[[Any], object]) -> str:
        lines = sound.split("\n")
        extra = json.loads(base64.b64decode(lines[1][6:]))
        change(extra)
        return "\n".join([lines[0], "extra " + base64.b64encode(json.dumps(extra).encode()).decode(), *lines[2:]])

    lines = sound.split("\n")
    other_hash = base64.b64encode(bytes(32)).decode()
    assert check(sound) == 0
    assert check(with_extra(lambda e: None)) == 0
    assert check(sound.replace(lines[3], other_hash)) == 4
    assert check(sound.replace(lines[3] + "\n", "")) == 4
    assert check(sound.replace(lines[3], lines[3] + "\n" + other_hash)) == 4
    assert check(sound.replace(lines[2], "index 0")) == 4
    assert check(with_extra(lambda e: e["records"][1].update(record=e["records"][1]["record"].replace("allow", "block")))) == 4
    assert check(with_extra(lambda e: e["records"][0].update(record=e["records"][0]["record"].replace("allow", "block")))) == 4
    assert check(with_extra(lambda e: e["records"][0]["content"]["prompt"].update(body="5pyq"))) == 4
    assert check(with_extra(lambda e: e.update(turn="another"))) == 4
    for text in (
        FIRST_LINE, FIRST_LINE + "\n", sound.replace(lines[1] + "\n", ""), sound.replace(lines[2], "index 01"),
        sound.replace(lines[2], "index -1"), sound.replace(lines[3], "AA=="), sound.replace(lines[3], "ÿ"),
        sound.partition("\n\n")[0], sound.replace("pellucid.local/", "elsewhere/"),
        with_extra(lambda e: e.pop("records")), with_extra(lambda e: e.update(records=7)), with_extra(lambda e: e.update(record=99)),
        with_extra(lambda e: e.update(record=0)), with_extra(lambda e: e.update(format="x")),
        f"{FIRST_LINE}\nextra {base64.b64encode(b'[' * 100_000).decode()}\nindex 0\n\n",
    ):  # fmt: skip
        assert check(text) == 3, text[:80]
