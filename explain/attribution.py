"""The value every explanation is expressed in: one row of scores per output token, one column per input token. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Attribution:
    """How much each input token added to the log-probability of each output token.

    `scores[o][i]` is in nats: positive means that input `i` made output `o` more likely.
    """

    method: str
    target: str
    """What was explained, e.g. `reply` or `token 3`."""
    input_tokens: tuple[str, ...]
    output_tokens: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    quality: Mapping[str, Any] = field(default_factory=dict)
    """The quality card: method parameters, completeness, seconds, agreement with the generator."""
    input_roles: tuple[str, ...] = ()
    """Parallel to `input_tokens`: `system`, `user`, `assistant` or `format` (template tokens, never attributed)."""
    errors: tuple[float, ...] = ()
    """Standard error of each total, parallel to `input_tokens`, for methods that sample."""

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.output_tokens):
            raise ValueError(f"scores has {len(self.scores)} rows for {len(self.output_tokens)} output_tokens")
        if any(len(row) != len(self.input_tokens) for row in self.scores):
            raise ValueError(f"every row of scores must have {len(self.input_tokens)} columns, one per input token")
        if self.input_roles and len(self.input_roles) != len(self.input_tokens):
            raise ValueError("input_roles must be empty or as long as input_tokens")

    @property
    def totals(self) -> tuple[float, ...]:
        """Per input token, the sum over all output tokens: the attribution of the whole reply."""
        return tuple(sum(row[i] for row in self.scores) for i in range(len(self.input_tokens)))

    def to_dict(self) -> dict[str, Any]:
        """The attribution under its public JSON names."""
        return {
            "method": self.method,
            "target": self.target,
            "input_tokens": list(self.input_tokens),
            "input_roles": list(self.input_roles),
            "output_tokens": list(self.output_tokens),
            "scores": [list(row) for row in self.scores],
            "quality": dict(self.quality),
        } | ({"errors": list(self.errors)} if self.errors else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Attribution:
        """The inverse of `to_dict`. Raises KeyError or ValueError on data that is no attribution."""
        return cls(
            method=str(data["method"]),
            target=str(data["target"]),
            input_tokens=tuple(data["input_tokens"]),
            output_tokens=tuple(data["output_tokens"]),
            scores=tuple(tuple(float(x) for x in row) for row in data["scores"]),
            quality=dict(data["quality"]),
            input_roles=tuple(data.get("input_roles", ())),
            errors=tuple(float(x) for x in data.get("errors", ())),
        )
