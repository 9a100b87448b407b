"""Signing checkpoints: with an OpenSSH key through `ssh-keygen`, or natively as a C2SP signed note (extra `sign`).

No key is kept or made here: the auditor's own key signs, and its public half is all that checking needs.
"""

from __future__ import annotations

import base64
import re
import subprocess
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from assistant.errors import PellucidError, UsageError
from assistant.store.checkpoint import ORIGIN, Checkpoint, Signature, keep_outside
from assistant.store.ledger import Ledger

Method = Literal["ssh", "ed25519"]
NAMESPACE = "pellucid-checkpoint"
_ED25519 = b"\x01"
_PUBLIC_KEY = re.compile(r"(?:^|\s)((?:ssh-|ecdsa-|sk-)[\w@.-]+)\s+([A-Za-z0-9+/=]+)")


class SigningError(PellucidError):
    """A checkpoint could not be signed, or its signature could not be checked."""

    exit_code = 3


def sign(ledger: Ledger, checkpoint: Checkpoint, key: Path, method: Method) -> Checkpoint:
    """Sign a checkpoint of the log and keep the signature in the log and outside it."""
    signature = _sign_ssh(checkpoint, key) if method == "ssh" else _sign_native(checkpoint, key)
    with ledger.transaction(), ledger.exclusive() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO signature VALUES (?, ?, ?, ?)",
            (checkpoint.size, signature.method, signature.signer, signature.text),
        )
    signed = replace(checkpoint, signatures=(*checkpoint.signatures, signature))
    keep_outside(signed, ledger.path)
    return signed


def latest(ledger: Ledger) -> Checkpoint | None:
    """The newest checkpoint kept in the log, with its signatures."""
    from assistant.store.checkpoint import parse_note

    rows = ledger.query("SELECT size, note, ts FROM checkpoint ORDER BY size DESC LIMIT 1")
    if not rows:
        return None
    size, note, ts = rows[0]
    signatures = ledger.query("SELECT method, signer, signature FROM signature WHERE size = ?", (size,))
    try:
        return replace(parse_note(note), ts=ts, signatures=tuple(Signature(*row) for row in signatures))
    except ValueError as error:
        raise SigningError(f"the newest checkpoint cannot be read ({error}): run `pellucid audit verify`") from error


def is_signed_by(checkpoint: Checkpoint, key: Path) -> bool:
    """Whether one of the signatures is that of the public key (or of one of the allowed signers) in the file `key`."""
    keys = read_public_keys(key)
    return any(
        _check_ssh(checkpoint, signature, keys) if signature.method == "ssh" else _check_native(checkpoint, signature, keys)
        for signature in checkpoint.signatures
    )


def read_public_keys(path: Path) -> list[tuple[str, str]]:
    """The (type, base64) public keys in a `.pub` or allowed-signers file. Raises UsageError when there are none."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the public key {path} cannot be read: {error}") from error
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    keys = [(match[1], match[2]) for line in lines if (match := _PUBLIC_KEY.search(line)) and _is_base64(match[2])]
    if not keys:
        raise UsageError(f"{path} holds no OpenSSH public key: give the .pub file of the signer")
    return keys


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False


def _sign_ssh(checkpoint: Checkpoint, key: Path) -> Signature:
    result = _run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE], checkpoint.note)
    if result.returncode != 0:
        raise SigningError(f"ssh-keygen could not sign with {key}: {_last_line(result.stderr)}")
    print_ = _run(["ssh-keygen", "-l", "-f", str(key)], "").stdout.split()
    return Signature("ssh", print_[1] if len(print_) > 1 else key.name, result.stdout)


def _check_ssh(checkpoint: Checkpoint, signature: Signature, keys: list[tuple[str, str]]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        allowed, armored = Path(folder, "allowed"), Path(folder, "signature")
        allowed.write_text("".join(f"auditor {kind} {key}\n" for kind, key in keys), "ascii")
        armored.write_text(signature.text, "utf-8")
        command = ["ssh-keygen", "-q", "-Y", "verify", "-f", str(allowed), "-I", "auditor", "-n", NAMESPACE]
        return _run([*command, "-s", str(armored)], checkpoint.note).returncode == 0


def _sign_native(checkpoint: Checkpoint, key: Path) -> Signature:
    ed25519, serialization = _cryptography()
    try:
        private = serialization.load_ssh_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SigningError(f"the key {key} cannot be used: {error}") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise SigningError(f"{key} is no Ed25519 key: make one with `ssh-keygen -t ed25519`")
    raw = serialization.Encoding.Raw
    public = private.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    name = ORIGIN + checkpoint.log
    blob = _key_id(name, public) + private.sign(checkpoint.note.encode())
    return Signature("ed25519", name, f"— {name} {base64.b64encode(blob).decode()}\n")


def _check_native(checkpoint: Checkpoint, signature: Signature, keys: list[tuple[str, str]]) -> bool:
    ed25519, _ = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        _, name, encoded = signature.text.strip().split(" ")
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        return False
    for kind, key in keys:
        public = base64.b64decode(key)[-32:]  # the wire form ends with the raw key
        if kind == "ssh-ed25519" and blob[:4] == _key_id(name, public):
            try:
                ed25519.Ed25519PublicKey.from_public_bytes(public).verify(blob[4:], checkpoint.note.encode())
            except InvalidSignature:
                continue
            return True
    return False


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def _cryptography() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise SigningError("native signatures need the extra: pip install 'pellucid[sign]'; or use --method ssh") from error
    return ed25519, serialization


def _run(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise SigningError("ssh-keygen was not found: install OpenSSH, or use --method ed25519") from error
    except subprocess.TimeoutExpired as error:
        raise SigningError("ssh-keygen did not answer within two minutes") from error


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it gave no reason"
