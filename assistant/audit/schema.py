"""Whether tables, indexes and triggers are those of the ledger's version, and those that the chain registered."""

from __future__ import annotations

import sqlite3
from hashlib import sha256

from assistant.audit.report import Problem, Report
from assistant.store import canonical, migrations


def check(connection: sqlite3.Connection, report: Report) -> None:
    """Compare the schema with the one expected and with the registry."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    found, expected = migrations.describe(connection), migrations.expected(version)
    for name in sorted(expected.keys() - found.keys()):
        report.add(Problem("schema", f"the {name} is missing"))
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            report.add(Problem("schema", f"the {name} was changed"))
    for name in sorted(found.keys() - expected.keys()):
        acts = name.startswith("trigger")
        report.add(Problem("schema", f"the {name} does not belong to the log", tampered=acts))

    bodies = dict(connection.execute("SELECT id, body FROM registry").fetchall())
    for id_, body in bodies.items():
        if sha256(body.encode()).hexdigest() != id_:
            report.add(Problem("schema", f"the registry entry {id_[:12]} was changed"))
    last = ""
    for seq, text in connection.execute("SELECT seq, record FROM ledger WHERE kind = 'schema' ORDER BY seq").fetchall():
        last = str(_field(text, "schema"))
        if last not in bodies:
            report.add(Problem("schema", f"the schema that record {seq} registered is not in the registry", seq))
    if last != migrations.schema_id(expected):
        report.add(Problem("schema", f"the chain registered another schema than that of version {version}"))


def _field(text: str, name: str) -> object:
    try:
        return canonical.decode(text).get(name)
    except (ValueError, RecursionError):
        return None  # reported as a damaged record by the walk over all records
