"""`pellucid audit`: list, show, search, verify and export the log, without ever loading a model.

Every command takes `--db PATH` and `--json`. Exit codes: 0 ok, 1 findings, 2 usage, 3 unreadable, 4 tampered.
"""

from __future__ import annotations

import click

from assistant.cli import audit_erase, audit_keep, audit_out, audit_proof, audit_read, audit_replay, audit_review
from assistant.cli.audit_common import AuditGroup


@click.group(cls=AuditGroup)
def audit() -> None:
    """Look into the log, check it, search it, export it."""


_MODULES = (audit_read, audit_proof, audit_replay, audit_erase, audit_review, audit_out, audit_keep)
for _command in (command for module in _MODULES for command in module.COMMANDS):
    audit.add_command(_command)
