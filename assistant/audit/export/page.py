"""The log as one HTML page that needs no network and runs nothing: figures with plots, then the turns.

Everything from the log is escaped, control characters are made visible, and a content security policy forbids whatever
might slip through.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape

from assistant.audit.export.rows import turns
from assistant.audit.plain import plain, when
from assistant.audit.stats import By, Group, group, judged, latencies
from assistant.audit.verify import log_name
from assistant.store.ledger import Filter, Ledger
from assistant.turn import Turn
from safety.verdict import Verdict

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 }
table { border-collapse: collapse } th, td { padding: .15rem .8rem .15rem 0; text-align: right }
th:first-child, td:first-child { text-align: left }
article { border-top: 1px solid #8886; padding: .6rem 0 }
header { font-size: .85rem; opacity: .8 } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0 }
.prompt { font-weight: 600 } .allow { color: #287d3c } .caution, .redact { color: #a66a00 } .block { color: #c0262d }
.erased { font-style: italic; opacity: .6 } svg { display: block; margin: .4rem 0 1rem }
.all { fill: #8fa8c8 } .flagged { fill: #c0262d } text { font: 11px system-ui, sans-serif; fill: currentColor }
"""
_GROUPS: tuple[By, ...] = ("day", "verdict", "category", "language", "model")
_MOST_BARS = 40


def lines(ledger: Ledger, which: Filter) -> Iterator[str]:
    """The page, piece by piece."""
    digest = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width">\n'
        f"<title>Pellucid audit</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>Audit of the log {_e(log_name(ledger))}</h1>\n"
    )
    for by in _GROUPS:
        groups = group(ledger, by, which.since, which.until)
        yield f"<h2>Turns by {by}</h2>\n{_plot(groups[-_MOST_BARS:] if by == 'day' else groups[:_MOST_BARS])}"
        yield _table(groups)
    yield _quality(ledger, which)
    yield "<h2>Turns</h2>\n"
    for turn, ended in turns(ledger, which):
        yield _article(turn, ended)
    yield "</body></html>\n"


def _plot(groups: Sequence[Group]) -> str:
    """Horizontal bars as SVG: all turns, and the flagged ones over them."""
    most = max((g.turns for g in groups), default=1)
    rows = []
    for i, g in enumerate(groups):
        y = 18 * i
        name = _e(g.name if len(g.name) <= 24 else g.name[:23] + "…")
        rows.append(
            f'<text x="0" y="{y + 12}">{name}</text>'
            f'<rect class="all" x="180" y="{y + 2}" height="12" width="{400 * g.turns / most:.1f}"/>'
            f'<rect class="flagged" x="180" y="{y + 2}" height="12" width="{400 * g.flagged / most:.1f}"/>'
            f'<text x="{186 + 400 * g.turns / most:.1f}" y="{y + 12}">{g.turns} ({g.flagged})</text>'
        )
    return f'<svg width="680" height="{18 * len(groups) + 4}" role="img">{"".join(rows)}</svg>\n'


def _table(groups: Sequence[Group]) -> str:
    rows = "".join(
        f"<tr><td>{_e(g.name)}</td><td>{g.turns}</td><td>{g.flagged}</td><td>{g.prompt_tokens}</td>"
        f"<td>{g.reply_tokens}</td><td>{g.mean_seconds:.2f}</td><td>{g.joules:.1f}</td></tr>\n"
        for g in groups
    )
    heads = "".join(f"<th>{h}</th>" for h in ("", "turns", "flagged", "tokens in", "out", "s per turn", "joules"))
    return f"<table><tr>{heads}</tr>\n{rows}</table>\n"


def _quality(ledger: Ledger, which: Filter) -> str:
    texts = [f"{name} {value:.2f} s" for name, value in latencies(ledger, which.since, which.until).items()]
    out = f"<p>Seconds per reply: {', '.join(texts)}</p>\n" if texts else ""
    for j in judged(ledger):
        if j.reviewed and j.false_positive_rate is not None:
            rate = f"{100 * j.false_positive_rate:.1f} %"
            out += f"<p>Reviewed {j.side}s: {j.reviewed}; falsely flagged: {rate} of those that people call safe.</p>\n"
    return out


def _article(turn: Turn, ended: int) -> str:
    asked = _text("prompt", turn.prompt, "prompt" in turn.erased)
    answered = _text("reply", turn.reply, "reply" in turn.erased)
    verdicts = _verdict("prompt", turn.prompt_verdict)
    if turn.output_verdict is not None:
        verdicts += " · " + _verdict("reply", turn.output_verdict)
    return (
        f'<article id="{_e(turn.id)}"><header>{when(turn.created_us)} · {_e(turn.id)} · {_e(turn.model.name)} · '
        f"{_e(turn.finish)} · {turn.usage.reply_tokens} tokens · {verdicts}</header>\n{asked}{answered}</article>\n"
    )


def _text(name: str, text: str, erased: bool) -> str:
    return f'<pre class="erased">{name} erased</pre>\n' if erased else f'<pre class="{name}">{_e(text)}</pre>\n'


def _verdict(side: str, verdict: Verdict) -> str:
    action = verdict.action.value
    why = f" ({_e(verdict.category)} {verdict.score:.2f}{': ' + _e(verdict.reason) if verdict.reason else ''})"
    return f'{side} <span class="{action}">{action}</span>{why if action != "allow" else ""}'


def _e(text: str) -> str:
    return escape(plain(text), quote=True)
