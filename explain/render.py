"""An `Attribution` for people: a heat-map for the terminal and a self-contained HTML page. Texts must be made safe by the caller
(`Attribution` from a sanitised copy); HTML escapes everything itself.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from explain.attribution import Attribution

_SUPERSCRIPT = "¹²³"
TOP = len(_SUPERSCRIPT)


def strengths(scores: Sequence[float]) -> list[float]:
    """Each score as a share of the largest magnitude, in −1…1; all zero when nothing scores."""
    largest = max((abs(s) for s in scores), default=0.0)
    return [s / largest if largest else 0.0 for s in scores]


def top(scores: Sequence[float]) -> list[int]:
    """The indices of the highest positive scores, best first, at most three."""
    return [i for i in sorted(range(len(scores)), key=lambda i: scores[i], reverse=True)[:TOP] if scores[i] > 0]


def terminal(attribution: Attribution, *, colour: bool, rows: int = 10) -> str:
    """The heat-map over the prompt, the highest-scored pieces, and the quality card, as lines of text.

    Orange speaks for the reply, blue against; the three strongest carry ¹²³ and (with colour) an underline, so that it reads without
    colour as well.
    """
    totals, words = attribution.totals, attribution.input_tokens
    roles = attribution.input_roles or ("",) * len(words)
    best, shades = top(totals), strengths(totals)
    lines: list[str] = [f"{attribution.target} ← {attribution.method}: {''.join(attribution.output_tokens)!r}", ""]
    text, previous = "", None
    for i, (word, role) in enumerate(zip(words, roles, strict=True)):
        if role == "format":
            previous = None
            continue
        if role != previous:
            text += ("\n" if text else "") + f"[{role}] "
            previous = role
        mark = _SUPERSCRIPT[best.index(i)] if i in best else ""
        text += (_paint(word, shades[i], i in best) if colour else word) + mark
    lines += [*text.split("\n"), ""]
    width = 24
    for i in sorted(range(len(words)), key=lambda i: abs(totals[i]), reverse=True)[:rows]:
        if totals[i]:
            bar = "█" * max(1, round(abs(shades[i]) * width))
            lines.append(f"{totals[i]:+8.2f}  {bar:<{width}}  {words[i].strip() or repr(words[i])}")
    return "\n".join([*lines, "", *card(attribution)])


def card(attribution: Attribution) -> list[str]:
    """The quality card in words."""
    q = attribution.quality
    out = ["a view of the inside, not an attribution"] if q.get("view") == "inside" else []
    out += [f"quality: {q['grade']}"] if "grade" in q else []
    if q.get("grade") == "not supported":
        out.append("  this explanation is no better than a random one: do not rely on it")
    if "deletion_drop" in q:
        what = "logit of the category" if "action" in q else "reply"
        out.append(
            f"  without the {TOP} strongest pieces the {what} loses {q['deletion_drop']:.2f} nats"
            f" (random pieces: {q['deletion_random_mean']:.2f})"
        )
    if "deletion_drop_1" in q:
        out.append(f"  without the strongest alone {q['deletion_drop_1']:.2f}, without five {q['deletion_drop_5']:.2f}")
    if "insertion_rise" in q:
        out.append(f"  the {TOP} strongest alone bring {q['insertion_rise']:.2f} nats (random pieces: {q['insertion_random_mean']:.2f})")
    if attribution.errors:
        out.append(f"  standard error of a score: at most {max(attribution.errors):.2f} nats")
    if q.get("stability", 1.0) < 1:
        out.append(f"  under another seed the order of the pieces agrees by {q['stability']:.2f} (rank correlation)")
    if q.get("format_share") is not None:
        out.append(f"  {q['format_share']:.0%} fell on template tokens, which are not shown")
    if q.get("marked"):
        out.append(f"  words that people would mark: {', '.join(q['marked'])}")
    if "not_marked" in q:
        out.append(f"  words that people would mark are not known: {q['not_marked']}")
    if "counterfactual" in q:
        out += [f"  {name}: {q['counterfactual'][name]}" for name in ("necessary", "sufficient", "flip")]
    if "completeness_error" in q:
        out.append(f"  the scores miss the true difference by {q['completeness_error']:.1%}")
    if "generator_gap_mean" in q:
        out.append(f"  explainer and generator differ by {q['generator_gap_mean']:.4f} nats a token")
    if "seconds" in q:
        cost = f"  {q['forwards']} sequences, {q['seconds']:.1f} s" if "forwards" in q else f"  {q['seconds']:.2f} s"
        out.append(cost + (f", {q['joules']:.0f} J ({q['energy_source']})" if q.get("joules") is not None else ""))
    return out


def _paint(word: str, strength: float, underline: bool) -> str:
    weight = min(abs(strength), 1.0)
    red, green, blue = (230, 120, 20) if strength >= 0 else (40, 110, 220)
    shade = ";".join(str(round(30 + (c - 30) * weight)) for c in (red, green, blue))
    style = f"48;2;{shade};38;2;255;255;255" if weight > 0.05 else "0"
    return f"\x1b[{style}{';1;4' if underline else ''}m{word}\x1b[0m"


def html_page(attribution: Attribution, title: str = "Pellucid explanation") -> str:
    """One self-contained page: no script from elsewhere, no remote load; the scores of a piece appear when it is pointed at.

    Pointing at a piece of the reply shows that piece's own row, else the page shows the whole reply.
    """
    data = json.dumps(attribution.to_dict(), ensure_ascii=True).replace("<", "\\u003c")
    words = "".join(
        f'<span class="in {html.escape(role)}" id="i{i}">{html.escape(word)}</span>'
        for i, (word, role) in enumerate(
            zip(attribution.input_tokens, attribution.input_roles or ("",) * len(attribution.input_tokens), strict=True)
        )
    )
    reply = "".join(
        f'<span class="out" data-row="{i}" tabindex="0">{html.escape(w)}</span>' for i, w in enumerate(attribution.output_tokens)
    )
    lines = "".join(f"<li>{html.escape(line.strip())}</li>" for line in card(attribution))
    return _PAGE.format(title=html.escape(title), words=words, reply=reply, card=lines, data=data, method=html.escape(attribution.method))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body {{ font: 16px/1.7 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }}
.text {{ white-space: pre-wrap; border: 1px solid #ccc; border-radius: 8px; padding: 1rem; }}
.format {{ color: #999; font-size: 80%; }} .top {{ text-decoration: underline; font-weight: 600; }}
.out:hover, .out:focus {{ outline: 2px solid #e67814; cursor: pointer; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16181c; color: #ddd; }} }}
</style></head><body><h1>{title}</h1><p>{method}: orange speaks for the reply, blue against it; underlined are the three strongest.
Point at a piece of the reply to see where that piece came from.</p>
<h2>Prompt</h2><div class="text">{words}</div><h2>Reply</h2><div class="text">{reply}</div><h2>Quality</h2><ul>{card}</ul>
<script type="application/json" id="data">{data}</script><script>
const a = JSON.parse(document.getElementById("data").textContent);
function show(rows) {{
  const t = a.input_tokens.map((_, i) => rows.reduce((s, r) => s + a.scores[r][i], 0));
  const m = Math.max(1e-9, ...t.map(Math.abs)), best = [...t.keys()].sort((x, y) => t[y] - t[x]).slice(0, 3).filter(i => t[i] > 0);
  t.forEach((v, i) => {{ const e = document.getElementById("i" + i);
    e.style.background = v >= 0 ? `rgba(230,120,20,${{v / m}})` : `rgba(40,110,220,${{-v / m}})`;
    e.classList.toggle("top", best.includes(i)); e.title = v.toFixed(3) + " nats"; }});
}}
const all = [...a.scores.keys()]; show(all);
document.querySelectorAll(".out").forEach(e => {{
  for (const n of ["mouseenter", "focus"]) e.addEventListener(n, () => show([+e.dataset.row]));
  for (const n of ["mouseleave", "blur"]) e.addEventListener(n, () => show(all)); }});
</script></body></html>
"""
