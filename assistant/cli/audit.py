"""`pellucid audit`: list, show, search, verify and export the log, without ever loading a model.

Every command takes `--db PATH` and `--json`. Exit codes: 0 ok, 1 findings, 2 usage, 3 unreadable, 4 tampered.
"""

from __future__ import annotations

import click

from assistant.cli import audit_erase, audit_out, audit_proof, audit_read, audit_review
from assistant.cli.audit_common import AuditGroup


@click.group(cls=AuditGroup)
def audit() -> None:
    """Look into the log, check it, search it, export it."""


for _command in (
    *audit_read.COMMANDS, *audit_proof.COMMANDS, *audit_erase.COMMANDS, *audit_review.COMMANDS, *audit_out.COMMANDS,
):  # fmt: skip
    audit.add_command(_command)
