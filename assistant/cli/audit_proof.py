"""`audit verify`, `checkpoint`, `receipt` and `check-receipt`: is the log still what was written, and can others see
that?
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from assistant.cli.audit_common import (
    database_options,
    json_option,
    json_text,
    open_ledger,
    plain,
    print_json,
    progress_bar,
    say,
    when,
)

_KEY = click.option("--key", type=click.Path(path_type=Path), help="The signer's public key (.pub or allowed signers).")


@click.command()
@click.option("--content/--no-content", default=True, help="Also compare every text with its commitment.")
@click.option("--checkpoint", "checkpoints", multiple=True, type=click.Path(path_type=Path), help="A checkpoint kept elsewhere.")
@click.option("--outside/--no-outside", default=True, help="Compare with the checkpoints in the state folder.")
@_KEY
@database_options
@click.pass_context
def verify(
    ctx: click.Context,
    db: Path | None,
    as_json: bool,
    content: bool,
    checkpoints: tuple[Path, ...],
    outside: bool,
    key: Path | None,
) -> None:
    """Recompute every hash of the log and say what is not as it was written, and where.

    Exit code 0: all is well. 1: something that only repeats the log is wrong. 3: unreadable. 4: tampered.
    """
    from assistant.audit.verify import all_processors
    from assistant.audit.verify import verify as run

    with open_ledger(db) as ledger:
        report = run(
            ledger,
            contents=content,
            checkpoints=checkpoints,
            outside=outside,
            key=key,
            processes=all_processors(),
            progress=progress_bar("verifying"),
        )
    if as_json:
        print_json(report.to_dict())
    else:
        for problem in report.problems:
            at = f"record {problem.seq}: " if problem.seq is not None else ""
            click.echo(plain(f"{problem.where}: {at}{problem.message}"))
        if report.left_out:
            click.echo(f"… and {report.left_out} more")
        erased = f", erased ({report.erased})" if report.erased else ""
        click.echo(
            f"{report.outcome}: {report.size} records, {report.turns} turns, {report.contents} texts{erased}, "
            f"{report.checkpoints} checkpoints, root {report.root[:16]}"
        )
    if report.exit_code == 1:
        say("nothing that was logged is affected; `pellucid audit doctor --repair` mends what only repeats it")
    ctx.exit(report.exit_code)


@click.command()
@click.option("--sign", "key", type=click.Path(path_type=Path), help="Sign with this private OpenSSH key.")
@click.option(
    "--method", type=click.Choice(["ssh", "ed25519"]), default="ssh", show_default=True,
    help="Through ssh-keygen, or as a C2SP signed note (needs the extra `sign`).",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Also write the note to this file, and the signature of ssh-keygen beside it (.sig).",
)  # fmt: skip
@database_options
def checkpoint(db: Path | None, as_json: bool, key: Path | None, method: Any, output: Path | None) -> None:
    """Pin down the whole log as it is now. Keep what is printed in another place: it proves later what the log held."""
    from assistant.audit import signing
    from assistant.audit.export.target import writing
    from assistant.store.checkpoint import outside_file

    with open_ledger(db, write=True) as ledger:
        point = signing.latest(ledger)
        size = ledger.query("SELECT max(seq) FROM ledger")[0][0]
        if point is None or size > point.size + 1:
            point = ledger.checkpoint()
        if key is not None:
            point = signing.sign(ledger, point, key, method)
    in_ssh = key is not None and method == "ssh"
    native = not in_ssh and any(s.method == "ed25519" for s in point.signatures)
    note = point.signed_note if native else point.note  # a C2SP note bears its signatures, one of ssh-keygen is a file of its own
    if output is not None:
        with writing(output) as file:
            file.write(note)
        if in_ssh:
            beside = output.with_name(output.name + ".sig")
            with writing(beside) as file:
                file.write(next(s.text for s in reversed(point.signatures) if s.method == "ssh"))
            say(f"check it with: ssh-keygen -Y verify -f ALLOWED_SIGNERS -I SIGNER -n {signing.NAMESPACE} -s {beside} < {output}")
    print_json(point.to_dict()) if as_json else click.echo(note, nl=False)
    say(f"kept in {outside_file(point.log)}")


@click.command()
@click.argument("turn")
@click.option("--with-content", is_flag=True, help="Include the texts, so that the receipt shows what was said.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write (0600); stdout when not given.")
@database_options
def receipt(db: Path | None, as_json: bool, turn: str, with_content: bool, output: Path | None) -> None:
    """Prove that a turn stands in the log: a file that anybody can check without the log.

    The file is a C2SP transparency log proof (name it NAME.tlog-proof), or JSON with --json.
    """
    from assistant.audit import tlog_proof
    from assistant.audit.export.target import writing
    from assistant.audit.receipt import is_covered, make_receipt

    with open_ledger(db) as ledger:
        value = make_receipt(ledger, turn, contents=with_content) if is_covered(ledger, turn) else None
    if value is None:
        with open_ledger(db, write=True) as ledger:  # a checkpoint that covers the turn is still to be made
            value = make_receipt(ledger, turn, contents=with_content)
    text = json_text(value, indent=2) + "\n" if as_json else tlog_proof.write(value)
    if output is None:
        click.echo(text, nl=False)
        return
    with writing(output) as file:
        file.write(text)
    say(f"written: {output}")


@click.command("check-receipt")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint you kept, to compare with.")
@_KEY
@json_option
@click.pass_context
def check_receipt(ctx: click.Context, file: Path, as_json: bool, checkpoint: Path | None, key: Path | None) -> None:
    """Check a receipt without the log. FILE is what `audit receipt` wrote, in either form."""
    from assistant.audit import signing
    from assistant.audit.receipt import check_receipt as run
    from assistant.audit.receipt import read_receipt
    from assistant.store.checkpoint import read_checkpoints

    result = run(read_receipt(file))
    problems = list(result.problems)
    trusted = False
    if checkpoint is not None:
        trusted = any((p.log, p.size, p.root) == _identity(result.checkpoint) for p in read_checkpoints(checkpoint))
        if not trusted:
            problems.append(f"its checkpoint is not the one in {checkpoint}")
    if key is not None:
        signed = signing.is_signed_by(result.checkpoint, key)
        trusted = trusted or signed
        if not signed:
            problems.append(f"its checkpoint is not signed by the key in {key}")
    if as_json:
        print_json({
            "turn": result.turn, "log": result.checkpoint.log, "size": result.checkpoint.size,
            "root": result.checkpoint.root.hex(), "trusted": trusted and not problems, "problems": problems,
            "texts": result.texts,
        })  # fmt: skip
    else:
        for problem in problems:
            click.echo(plain(problem))
        for record in result.records:
            click.echo(plain(f"record {record['seq']}: {record['kind']}, {when(record.get('ts', 0))}"))
        for name, text in result.texts.items():
            click.echo(plain(f"{name}: {text}"))
        point = result.checkpoint
        click.echo(f"{'not proven' if problems else 'proven'}: {plain(result.turn)} in log {plain(point.log)} of {point.size}")
    if not problems and not trusted:
        say("the proof holds for its own checkpoint: compare that with one you kept (--checkpoint) or with its signer (--key)")
    ctx.exit(4 if problems else 0)


def _identity(point: Any) -> tuple[str, int, bytes]:
    return point.log, point.size, point.root


COMMANDS = (verify, checkpoint, receipt, check_receipt)
