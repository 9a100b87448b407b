"""Which method of explaining tells the truth about this model? `pellucid evaluate explain`; and the fitting of learned attention."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from assistant.lm.engine import Engine
from assistant.lm.scoring import ReplyScorer
from assistant.turn import Message, Sampling
from explain import attention, balanced, evaluation, faithfulness, gradients, perturbation, sampling
from explain.attributing import METHODS
from explain.compare import spearman
from explain.problem import Problem
from explain.units import characters, group

REPLY_TOKENS = 24
CONTEXTCITE_SUBSETS = 32
RIDGE = 0.5
"""Of the coefficients of learned attention, by cross-validation over the prompts they are fitted on."""
SANITY_ORDERS, SANITY_STEPS = 4, 8
PEERS: dict[str, Callable[[Problem], Sequence[float]]] = {
    "captum: token replaced": lambda problem: replaced(problem),
    "inseq: attention": lambda problem: listened(problem),
}
"""What other programs do by default and this one does not offer. (The gradient norm and input × gradient are inseq's as well, and
input × gradient is Captum's own.)"""
COMPARED = (
    balanced.NAME, perturbation.NAME, sampling.CONTEXTCITE, attention.LEARNED, gradients.NORM, gradients.PRODUCT, attention.ROLLOUT, *PEERS,
)  # fmt: skip
OFFERED = (*(name for name in COMPARED if name not in PEERS), sampling.SHAPLEY, gradients.INTEGRATED)
"""What must depend on the model's weights."""
Progress = Callable[[str, float | None], None]


def replaced(problem: Problem) -> list[float]:
    """Captum's LLMAttribution as it comes: each piece's tokens replaced by token 0 instead of deleted."""
    target = problem.differentiable("captum: token replaced")
    row = []
    with torch.inference_mode():
        whole = float(target.log_probs_of(target.prompt_ids.unsqueeze(0))[0, problem.rows].sum())
        for unit in problem.features:
            ids = target.prompt_ids.clone()
            for start, end in unit.spans:
                ids[start:end] = 0
            row.append(whole - float(target.log_probs_of(ids.unsqueeze(0))[0, problem.rows].sum()))
    return row


def listened(problem: Problem) -> list[float]:
    """inseq's `attention`: the mean weight over all layers and heads, summed over the reply."""
    weights = problem.attentive("inseq: attention").attention().float().cpu().mean((0, 1))
    asking = [problem.target.prompt_length - 1 + row for row in problem.rows]
    return cast("list[float]", attention.by_piece(problem, weights[asking].sum(0, keepdim=True))[0].tolist())


def problem_of(engine: Engine, prompt: str, *, seed: int = 0) -> Problem:
    """A prompt in the model's chat format with its own greedy reply, cut into words (Chinese: characters)."""
    rendered = engine.render([Message("user", prompt)], reserve=REPLY_TOKENS)
    generation = engine.generate(rendered, Sampling(temperature=0, max_tokens=REPLY_TOKENS))
    reply = [token.id for token in generation] or [next(iter(engine.tokenizer.eos))]
    tokenizer = engine.tokenizer

    def piece(i: int) -> bytes:
        return tokenizer.bytes_of(i) or tokenizer.text_of(i).encode()

    roles = [p.role or "format" for p in rendered.pieces]
    units = characters(group([piece(i) for i in rendered.ids], roles))
    outputs = group([piece(i) for i in reply], [""] * len(reply))
    return Problem(
        ReplyScorer(engine.model, rendered.ids, reply), [u for u in units if u.role != "format" and u.text.strip()], outputs, roles,
        baseline_id=engine.neutral_id, seed=seed,
    )  # fmt: skip


def evaluate(
    engine: Engine,
    prompts: Mapping[str, Sequence[str]],
    coefficients: torch.Tensor | None,
    progress: Progress = lambda what, fraction: None,
) -> dict[str, Any]:
    """Per method: LDS with its 95 % interval (all, and per language), the drop without the best three pieces, and seconds a prompt.

    prompts: language → prompts. `random` is the mean of what random scores reach.
    """
    measured, done, total = [], 0, sum(map(len, prompts.values()))
    for language, texts in prompts.items():
        for text in texts:
            measured.append({"language": language, "methods": measure(engine, text, done, coefficients)})
            done += 1
            progress(f"{done} of {total} prompts", done / total)
    return summary(engine.info.name, engine.info.dtype, measured)


def measure(engine: Engine, text: str, number: int, coefficients: torch.Tensor | None) -> dict[str, dict[str, float]]:
    """Per method and for `random`, on one prompt: LDS, the drop without the best three pieces, the seconds, and `met`, the share of the
    subsets it is judged on that the method had scored itself: chance with few pieces. `number` seeds what is random."""
    problem = problem_of(engine, text)
    problem.coefficients = coefficients
    masks, actual = evaluation.outcomes(problem)
    judged = {row.numpy().tobytes() for row in masks.bool()}
    count = len(problem.features)
    whole = float(problem.total(problem.everything))
    rng = random.Random(number)
    rows = {"random": [rng.random() for _ in range(count)]}
    seconds: dict[str, float] = {}
    met: dict[str, float] = {}
    for method in (m for m in COMPARED if m != attention.LEARNED or coefficients is not None):
        problem.known.clear()
        problem.samples = CONTEXTCITE_SUBSETS if method == sampling.CONTEXTCITE else 0
        began = time.perf_counter()
        rows[method] = scores(problem, method)
        seconds[method] = time.perf_counter() - began
        met[method] = len(judged & problem.known.keys()) / len(judged)
    out: dict[str, dict[str, float]] = {}
    for method, row in rows.items():
        without = problem.everything.clone()
        without[0, faithfulness.strongest(row, faithfulness.TOP)] = 0.0
        lds, drop = evaluation.datamodelling_score(row, masks, actual), whole - float(problem.total(without))
        out[method] = {"lds": lds, "drop": drop, **({"seconds": seconds[method], "met": met[method]} if method in seconds else {})}
    return out


def scores(problem: Problem, method: str) -> list[float]:
    """What a method of `COMPARED` or `OFFERED` says of each piece, for all that is explained."""
    if method in PEERS:
        return list(PEERS[method](problem))
    return cast("list[float]", np.sum(METHODS[method].run(problem).rows, 0).tolist())


def summary(model: str, dtype: str, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `measure` found on each prompt ({language, methods}), put together."""
    counts: dict[str, int] = {}
    for found in measured:
        counts[found["language"]] = counts.get(found["language"], 0) + 1
    methods = [m for m in (*COMPARED, "random") if measured and m in measured[0]["methods"]]
    rows = {}
    for method in methods:
        of = [(found["language"], found["methods"][method]) for found in measured]
        scores = {language: [values["lds"] for other, values in of if other == language] for language in counts}
        rows[method] = _row(scores, [values["drop"] for _, values in of], [values["seconds"] for _, values in of if "seconds" in values])
        if all("met" in values for _, values in of):
            rows[method]["met"] = sum(values["met"] for _, values in of) / len(of)
    return {
        "model": model, "dtype": dtype, "prompts": counts, "subsets_a_prompt": evaluation.SUBSETS, "reply_tokens": REPLY_TOKENS,
        "contextcite_subsets": CONTEXTCITE_SUBSETS, "methods": rows,
    }  # fmt: skip


def _row(scores: dict[str, list[float]], drops: list[float], seconds: list[float] | None) -> dict[str, Any]:
    everything = [value for values in scores.values() for value in values]
    mean, low, high = evaluation.interval(everything)
    row: dict[str, Any] = {"lds": mean, "lds_95": [low, high]}
    for language, values in scores.items():
        if values:
            mean, low, high = evaluation.interval(values)
            row |= {f"lds_{language}": mean, f"lds_{language}_95": [low, high]}
    row["drop_top3_nats"] = sum(drops) / len(drops)
    if seconds:
        row["seconds"] = sorted(seconds)[len(seconds) // 2]
    return row


def randomised(
    engine: Engine, prompts: Sequence[str], coefficients: torch.Tensor | None, progress: Progress = lambda what, fraction: None
) -> dict[str, Any]:
    """The model-randomisation check (Adebayo et al. 2018, arXiv:1810.03292): per method, the mean rank correlation of the scores for this
    model with those for one whose matrices were shuffled. What explains the model falls to about 0; what only looks at the text does not.
    """
    chosen = [m for m in OFFERED if m != attention.LEARNED or coefficients is not None]
    problems = [problem_of(engine, text) for text in prompts]
    model = engine.model
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in shuffled.parameters():
        if parameter.dim() > 1:
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.data = parameter.data.flatten()[order].view_as(parameter)
    found: dict[str, list[float]] = {m: [] for m in chosen}
    for i, problem in enumerate(problems):
        target = problem.target
        assert isinstance(target, ReplyScorer)
        problem.coefficients, problem.steps = coefficients, SANITY_STEPS
        other = replace(
            problem, target=ReplyScorer(shuffled, target.prompt_ids.tolist(), target.ids[target.prompt_length :].tolist()), known={}
        )
        for method in chosen:
            for one in (problem, other):
                one.samples = SANITY_ORDERS if method == sampling.SHAPLEY else CONTEXTCITE_SUBSETS if method == sampling.CONTEXTCITE else 0
            found[method].append(spearman(scores(problem, method), scores(other, method)))
        progress(f"{i + 1} of {len(problems)} prompts", (i + 1) / len(problems))
    rows = {}
    for method, values in found.items():
        mean, low, high = evaluation.interval(values)
        rows[method] = {"correlation": mean, "correlation_95": [low, high]}
    return {"model": engine.info.name, "prompts": len(problems), "methods": rows}


def fit(engine: Engine, prompts: Sequence[str], *, subsets: int = 24, progress: Progress = lambda what, fraction: None) -> dict[str, Any]:
    """The coefficients of learned attention for this model, as they are stored."""
    features, masks, actual = [], [], []
    for i, text in enumerate(prompts):
        problem = problem_of(engine, text)
        features.append(attention.powers(attention.by_piece(problem, attention.taken(problem))))
        mask, outcome = evaluation.outcomes(problem, subsets, seed=i)
        masks.append(mask)
        actual.append(outcome)
        progress(f"{i + 1} of {len(prompts)} prompts", (i + 1) / len(prompts))
    theta = evaluation.fit_heads(features, masks, actual, ridge=RIDGE)
    return {
        "model": engine.info.name, "sha256": engine.info.sha256, "method": attention.LEARNED, "prompts": len(prompts),
        "subsets_a_prompt": subsets, "coefficients": [float(f"{value:.4g}") for value in theta.tolist()],
    }  # fmt: skip


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines and `#` comments are left out. Raises OSError or UnicodeDecodeError."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
