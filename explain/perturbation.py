"""Explaining by leaving out: what happens to the reply's log-probability when a piece of the prompt is not there?

Captum's FeatureAblation (Zeiler & Fergus 2014, arXiv:1311.2901) drives it, over our own forward function: one feature per unit,
all variants in batches, all reply tokens scored by each. Captum's wrapper for language models is not used: its default path feeds
the whole sequence again on top of the cache with current `transformers` and silently scores something else.
"""

from __future__ import annotations

import warnings

from captum.attr import FeatureAblation
from torch import Tensor

from explain.problem import Problem, Scores

NAME = "ablation"


def ablate(problem: Problem) -> Scores:
    """A row per output: its log-probability with everything there, minus the same without the feature, in nats."""
    return Scores(problem.per_output(matrix(problem)), [unit.text for unit in problem.outputs], {"removal": "deleted"})


def matrix(problem: Problem) -> Tensor:
    """(T, F): the same for every single reply token."""
    count = len(problem.features)
    with warnings.catch_warnings():  # of a batch larger than the number of features
        warnings.simplefilter("ignore")
        result: Tensor = FeatureAblation(problem.forward).attribute(
            problem.everything, baselines=0, perturbations_per_eval=min(problem.batch, count)
        )
    return result.reshape(problem.target.reply_length, count).float().cpu()
