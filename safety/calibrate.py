"""How far n-grams and encoder are believed, fitted on rows that taught neither: `fit_blend(rows, ensemble)`.

A logistic regression for each kind and language: no part may speak for harm by being low, length may only speak against
it, and the n-grams may weigh no more than the encoder: the rows come from the sources that taught both, and runs of
characters that were seen before flatter more than meaning does. Rows weigh as traffic does, not as the files happen to:
half of the weight lies on everyday messages. Long texts are made of the rows, harmless ones and ones with something
harmful somewhere inside, and answers of everyday questions with everyday replies and of harmful ones with refusals,
because the files hold few of them. Then the offset is lowered, where need be, until at most the allowed shares of
harmless rows are cautioned; of replies, as the moderator reads them while they grow.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from safety import texts as replies
from safety.ensemble import FEATURES, KINDS, Ensemble
from safety.evaluate import average_precision, calibration_error, recall_at
from safety.labels import lesson
from safety.language import detect
from safety.moderate import Moderator
from safety.normalize import base_view
from safety.policy import Tiers, load_policy
from safety.scan import Scanner

ALLOWED = {"everyday": 0.01, "borderline": 0.15, "long": 0.03, "refusal": 0.01}
"""The shares of everyday messages, of harmless ones that sound harmful, of long ones and of refusals that may be cautioned."""
CAUTION = 0.2
"""The risk, as a logit, at which the balanced policy begins to caution."""
SHARES = {
    "everyday": 3.0, "borderline": 1.0, "unsafe": 2.0, "safe post": 0.6, "unsafe post": 0.6,
    "long": 0.6, "long unsafe": 0.4, "refusal": 0.4,
}  # fmt: skip
"""How much each kind of row weighs as a whole."""
_NOISY = {"xsafety": 0.3, "diasafety": 0.1}
"""Sets whose rows are labelled by their category, or are unsafe in a tone that people answer each other in and no assistant, and how much
such a row weighs."""
_TRIED = {"gptfuzz_responses", "jade_responses"}
"""Sets whose harmless replies answer harmful prompts: they are called benign, but everyday they are not."""
_LEAST = 1e-3  # no score is surer than this
_RIDGE = 1e-4
_GAIN = 0.01  # of average precision, before replies are read with their prompts
_AT_ONCE = 256
_MOST = {
    "everyday": 700, "borderline": 300, "unsafe": 350, "safe post": 150, "unsafe post": 150,
    "long": 40, "long unsafe": 20, "refusal": 80,
}  # fmt: skip
_LONG = (1200, 4000)  # characters of English; Chinese says as much in a third
"""Rows of each kind, for each role and language; more would cost time and change little."""
NAMES = ("n-grams", "encoder", "encoder unsafe")  # and the length


def fit_blend(
    rows: Iterable[Mapping[str, Any]], ensemble: Ensemble, say: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The blend by `kind.language`, and what was measured: each part alone and the blend."""
    groups = _grouped(rows)
    blend: dict[str, list[float]] = {}
    measured: dict[str, Any] = {}
    for key, found_rows in groups.items():
        kind, lang = key.split(".")
        made = answers(groups, lang) if kind == "answer" else long_texts(found_rows, lang)
        members = _sample([*found_rows, *made])
        kinds = [_kind(row) for row in members]
        unsafe = np.array(["unsafe" in kind for kind in kinds])
        if unsafe.all() or not unsafe.any() or kinds.count("everyday") < 20:
            if kind == "answer":
                say(f"{key}: too few replies with their prompts, replies are read alone")
                continue
            raise ValueError(f"too few {lang} {kind} rows to calibrate with: add harmless (kind `benign`) and unsafe ones")
        seen = parts(members, ensemble, kind, lang)
        trust = np.array([_NOISY.get(row.get("set", ""), 1.0) for row in members])
        whole = {kind: float(trust[np.array([k == kind for k in kinds])].sum()) for kind in set(kinds)}
        weight = np.array([SHARES[kind] / whole[kind] for kind in kinds]) * trust
        found = _regress(seen, unsafe, weight)
        risk = seen @ found[:FEATURES] + found[FEATURES]
        over, fitted = 0.0, [*map(float, found[:FEATURES]), float(found[FEATURES])]
        trial = {f"response.{other}": fitted for other in ("zh", "en")} | blend | {key: fitted}
        for name in ALLOWED.keys() - {"long"}:
            calm = [i for i, known in enumerate(kinds) if known == name and trust[i] == 1.0]
            if len(calm) >= 20:
                mine = risk[calm] if kind == "prompt" else grown([members[i] for i in calm], ensemble, kind, trial)
                over = max(over, float(np.quantile(mine, 1 - ALLOWED[name])) - CAUTION)
        long = seen[:, 3] > 0
        long &= np.array([k == "long" for k in kinds])
        if long.any():  # what is too high there, length has to answer for
            each = (risk[long] - over - CAUTION) / seen[long, 3]
            found[3] -= max(0.0, float(np.quantile(each, 1 - ALLOWED["long"])))
            risk = seen @ found[:FEATURES] + found[FEATURES]
        if kind == "answer" and not _gains(
            seen, found, parts(members, ensemble, "response", lang), blend[f"response.{lang}"], unsafe, kinds
        ):
            say(f"{key}: reading the prompt as well gains nothing, replies are read alone")
            continue
        blend[key] = [*map(float, found[:FEATURES]), float(found[FEATURES]) - over]
        columns = {**{name: seen[:, i] for i, name in enumerate(NAMES)}, "blend": risk - over}
        measured[key] = {
            "rows": {kind: kinds.count(kind) for kind in SHARES},
            "weights": [round(float(value), 3) for value in blend[key]],
            "lowered": round(over, 3),
            "ece": round(calibration_error(unsafe, 1 / (1 + np.exp(-columns["blend"]))), 3),
            "flagged": {name: round(float((columns["blend"][np.array([k == name for k in kinds])] > 0).mean()), 4) for name in set(kinds)},
            **{name: _figures(values, unsafe, kinds) for name, values in columns.items()},
        }
        say(f"{key}: {measured[key]['weights']}, lowered by {over:.2f}")
    return blend, measured


def sampled(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Prompts and replies of each language by `kind.language`, without posts: as many of each as the blend is fitted on."""
    alone = {key: _sample([row for row in found if row["role"] != "post"]) for key, found in _grouped(rows).items()}
    return {key: kept for key, kept in alone.items() if len({row["label"] for row in kept}) == 2}


def _grouped(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """What can be taken at its word, by `kind.language`; posts are among the prompts and among the replies."""
    groups: dict[str, list[Mapping[str, Any]]] = {f"{kind}.{lang}": [] for kind in KINDS for lang in ("zh", "en")}
    for row in rows:
        if row["role"] == "response" and row.get("context") and _certain(row, with_prompt=True):
            groups[f"answer.{detect(row['text'])}"].append(row)
        if row["role"] != "post" and not _certain(row):
            continue
        for role in ("prompt", "response"):
            if row["role"] in (role, "post"):
                groups[f"{role}.{detect(row['text'])}"].append(row)
    return groups


def parts(rows: Sequence[Mapping[str, Any]], ensemble: Ensemble, kind: str, lang: str) -> NDArray[np.float64]:
    """(rows, FEATURES): what the risk is blended of."""
    role = "prompt" if kind == "prompt" else "response"
    texts = [base_view(row["text"]).text for row in rows]
    if kind == "answer":
        asked = [base_view(str(row["context"])).text for row in rows]
        return np.array([ensemble.parts(text, role, lang, prompt) for text, prompt in zip(texts, asked, strict=True)])
    out = []
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        ensemble.prepare(some, role)
        out += [ensemble.parts(text, role, lang) for text in some]
    return np.array(out)


def grown(rows: Sequence[Mapping[str, Any]], ensemble: Ensemble, kind: str, blend: dict[str, list[float]]) -> NDArray[np.float64]:
    """(rows,): the greatest risk, as a logit, that each reply has while it grows, by the classifiers alone. `kind`: `answer` for replies
    that are read with their prompts."""
    scanner = Scanner((), Ensemble(ensemble.ngrams, ensemble.reader, blend))
    silent = replace(load_policy("open"), tiers=dict.fromkeys(load_policy("open").tiers, Tiers(None, None)))
    out = []
    for row in rows:
        moderator = Moderator(scanner, silent, "", str(row["context"]) if kind == "answer" else "")
        moderator.feed(row["text"])
        score = max(moderator.finish().verdict.categories.values(), default=0.0)
        out.append(math.log((score + _LEAST) / (1 - score + _LEAST)))
    return np.array(out)


def long_texts(rows: Sequence[Mapping[str, Any]], lang: str) -> Iterator[dict[str, Any]]:
    """Long texts made of rows: several everyday ones, every third with a harmful one somewhere among them."""
    rng = random.Random(f"long {lang}")
    calm = [row for row in rows if _kind(row) == "everyday"]
    harmful = [row for row in rows if _kind(row) == "unsafe" and len(row["text"]) < 400]
    if not calm:
        return
    for number in range(3 * _MOST["long"] // 2):
        goal = rng.randint(*_LONG) // (3 if lang == "zh" else 1)
        pieces: list[str] = []
        while sum(map(len, pieces)) < goal:
            pieces.append(rng.choice(calm)["text"])
        unsafe = number % 3 == 0 and bool(harmful)
        if unsafe:
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(harmful)["text"])
        text = rng.choice(["\n", " ", "\n\n"]).join(pieces)
        yield {**calm[0], "text": text, "label": "unsafe" if unsafe else "safe", "made": "long unsafe" if unsafe else "long"}


def answers(groups: Mapping[str, Sequence[Mapping[str, Any]]], lang: str) -> Iterator[dict[str, Any]]:
    """Everyday replies after everyday questions, and our own refusals after harmful ones."""
    rng = random.Random(f"answers {lang}")
    asked = [row["text"] for row in groups[f"prompt.{lang}"] if _kind(row) == "everyday"]
    harmful = [row["text"] for row in groups[f"prompt.{lang}"] if _kind(row) == "unsafe"]
    for row in groups[f"response.{lang}"]:
        if _kind(row) == "everyday" and not row.get("context") and asked:
            yield {**row, "context": rng.choice(asked)}
    said = [text for text in replies.all_refusals() if detect(text) == lang]
    for prompt in rng.sample(harmful, min(len(harmful), _MOST["refusal"])):
        yield {"text": rng.choice(said), "context": prompt, "label": "safe", "kind": "borderline", "role": "response", "made": "refusal"}


def _gains(
    seen: NDArray[np.float64],
    weights: NDArray[np.float64],
    alone: NDArray[np.float64],
    before: Sequence[float],
    unsafe: NDArray[np.bool_],
    kinds: list[str],
) -> bool:
    """Whether replies are told apart better when they are read with their prompt."""
    real = np.array([kind in ("everyday", "borderline", "unsafe") for kind in kinds])
    new, old = (part[real] @ np.asarray(w)[:FEATURES] for part, w in ((seen, weights), (alone, before)))
    return average_precision(unsafe[real], new) > average_precision(unsafe[real], old) + _GAIN


def _figures(values: NDArray[np.float64], unsafe: NDArray[np.bool_], kinds: list[str]) -> dict[str, float]:
    """Without the posts and what was made: the classes of a conversation."""
    asked = np.array([kind in ("everyday", "borderline", "unsafe") for kind in kinds])
    out = {"auprc": average_precision(unsafe[asked], values[asked]), "recall_at_1": recall_at(unsafe[asked], values[asked], 0.01)}
    posts = np.array([kind.endswith("post") for kind in kinds])
    if posts.any():
        out["auprc_posts"] = average_precision(unsafe[posts], values[posts])
    return {name: round(value, 3) for name, value in out.items()}


def _sample(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As many rows of each kind as `_MOST` says, always the same ones, those of noisy sets last."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row.get("set", "") in _NOISY, zlib.crc32(row["text"].encode("utf-8", "replace")))):
        kept.setdefault(_kind(row), []).append(row)
    return [row for kind in sorted(kept) for row in kept[kind][: _MOST[kind]]]


def _certain(row: Mapping[str, Any], *, with_prompt: bool = False) -> bool:
    """Whether the row's label can be taken at its word: replies that are unsafe only in their context, and questions that are
    harmful only in a broad sense, would blur what is measured."""
    taught = lesson(row, with_prompt=with_prompt)
    return taught is not None and taught.weight >= 0.5


def _kind(row: Mapping[str, Any]) -> str:
    if "made" in row:
        return str(row["made"])
    if row["role"] == "post":
        return f"{row['label']} post"
    if row["label"] == "unsafe":
        return "unsafe"
    return "everyday" if row["kind"] == "benign" and row.get("set", "") not in _TRIED else "borderline"


def _regress(x: NDArray[np.float64], y: NDArray[np.bool_], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights, and an offset."""
    inputs, targets, weights = torch.from_numpy(x), torch.from_numpy(y.astype(float)), torch.from_numpy(weight / weight.sum())
    raw = torch.zeros(FEATURES + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        slopes = _slopes(raw)
        risk = inputs @ slopes + raw[FEATURES]
        value = torch.nn.functional.binary_cross_entropy_with_logits(risk, targets, weight=weights, reduction="sum")
        value = value + _RIDGE * (slopes**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = raw.detach()
    return np.append(_slopes(found).numpy(), float(found[FEATURES]))


def _slopes(raw: torch.Tensor) -> torch.Tensor:
    """The n-grams' weight lies between nothing and what both parts of the encoder have together, those two are not negative, and that
    of the length is not positive."""
    read = torch.nn.functional.softplus(raw[1:3])
    return torch.cat([(read.sum() * torch.sigmoid(raw[:1])), read, -torch.nn.functional.softplus(raw[3:FEATURES])])
