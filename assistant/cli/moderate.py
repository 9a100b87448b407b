"""`pellucid moderate`: verdicts on texts, one or many, without any model of language."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click

from assistant.cli.cluster_options import cluster_options, hash_of, wants_file, work_through
from assistant.cli.common import Progress, echo_json, load_settings, read_text
from assistant.errors import UsageError
from assistant.language import clean_intake
from assistant.tui.sanitize import sanitize
from safety.verdict import Action

AT_ONCE = 64
"""Texts of a file that are read together."""


@click.command()
@click.argument("text", required=False)
@click.option("--jsonl", metavar="FILE|-", help="One object a line: text, role (prompt or response); a response may have its prompt.")
@click.option("--role", type=click.Choice(["prompt", "response"]), default="prompt", help="What TEXT is.")
@click.option("--policy", help="The safety policy: strict, balanced, open.")
@click.option("--explain", "with_tokens", is_flag=True, help="Add `tokens`: how much each piece of the text weighed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--strict", is_flag=True, help="Exit with 12 when TEXT was flagged.")
@cluster_options
def moderate(
    text: str | None, jsonl: str | None, role: str, policy: str | None, with_tokens: bool, as_json: bool, strict: bool,
    output: Path | None, cluster: str | None, workers: int,
) -> None:  # fmt: skip
    """Judge TEXT (- reads standard input), or with --jsonl one text a line: one verdict a line, in the same order."""
    if (text is None) == (jsonl is None):
        raise UsageError("give either a TEXT or --jsonl FILE")
    settings = load_settings(policy=policy)
    if wants_file(output, cluster):
        if jsonl is None or jsonl == "-":
            raise UsageError("--output needs --jsonl FILE: a run that is cut goes on with the rows of a file")
        from assistant.cluster.jobs import Moderation

        job, source = Moderation(settings, with_tokens), f"{hash_of(jsonl)} {role}"
        work_through(
            job, _checked(rows(jsonl), role), output, source=source, cluster=cluster, workers=workers, total=None, what="texts judged"
        )
        return
    from assistant.loading import load_guard

    guard = load_guard(settings, Progress())

    def judge(content: str, kind: str, prompt: str = "") -> dict[str, Any]:
        content = clean_intake(content)
        verdict = guard.filter_prompt(content) if kind == "prompt" else guard.moderate(content, prompt=prompt)
        out = verdict.to_dict()
        if with_tokens:
            out["tokens"] = guard.explain(content, "prompt" if kind == "prompt" else "response")
        return out

    if jsonl is not None:
        progress, done = Progress(), 0
        for batch in _batches(_checked(rows(jsonl), role)):
            for kind in ("prompt", "response"):
                guard.prepare([clean_intake(row["text"]) for row in batch if row["role"] == kind and not row.get("prompt")], kind)
            for row in batch:
                click.echo(json.dumps(judge(row["text"], row["role"], str(row.get("prompt", ""))), ensure_ascii=sys.stdout.isatty()))
            done += len(batch)
            if sys.stderr.isatty():
                progress(f"{done} texts judged", None)
        progress.done()
        return
    assert text is not None
    verdict = judge(read_text(text), role)
    if as_json or with_tokens:
        echo_json(verdict)
    else:
        click.echo(f"{verdict['action']} {verdict['score']:.2f}" + (f" {sanitize(verdict['reason'])}" if verdict["reason"] else ""))
    if verdict["action"] == Action.BLOCK:
        sys.exit(10 if role == "prompt" else 11)
    if strict and verdict["action"] != Action.ALLOW:
        sys.exit(12)


def _checked(found: Iterator[tuple[int, dict[str, Any]]], role: str) -> Iterator[dict[str, Any]]:
    """The rows, each with its role. Raises UsageError naming the line of one that has no text."""
    for number, row in found:
        kind = row.get("role", role)
        if not isinstance(row.get("text"), str) or kind not in ("prompt", "response"):
            raise UsageError(f"line {number}: needs `text` and a `role` of prompt or response")
        yield {**row, "role": kind}


def _batches(found: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows, so many at once as the encoder reads together."""
    size = AT_ONCE
    while batch := list(islice(found, size)):
        yield batch


def rows(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file or of standard input, with their line numbers. Raises UsageError naming a line that is none."""
    if source == "-":
        yield from _parse(sys.stdin.buffer)
        return
    path = Path(source).expanduser()
    try:
        with path.open("rb") as handle:
            yield from _parse(handle)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror or error}") from error


def _parse(handle: IO[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(handle, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"line {number} is not a JSON object")
        yield number, row
