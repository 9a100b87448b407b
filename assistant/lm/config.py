"""The numbers that define a model, under the names of the papers. A family is nothing but a choice of these flags. Imports no torch.

Llama      the defaults                    Mistral   + a sliding window
Qwen2      + qkv_bias                      Qwen3     + qk_norm
Gemma 3    + qk_norm, post_norms, gelu, embedding_scale, a window in five of six layers with a rotary base of its own
GPT-2      + layer_norm, learned_positions, gelu without a gate, a bias everywhere
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

MAX_LAYERS, MAX_VOCABULARY = 10_000, 10_000_000  # what is laid out before the weights are looked at must be bounded

Activation = Literal[
    "silu",  # x · σ(x)
    "gelu",  # x · Φ(x), with the tanh approximation of Φ (Hendrycks & Gimpel 2016, arXiv:1606.08415)
]

Scaling = Literal[
    "linear",  # every position divided by the factor (Chen et al. 2023, arXiv:2306.15595)
    "llama3",  # slow frequencies divided, fast ones kept, a ramp between (Grattafiori et al. 2024, arXiv:2407.21783)
    "yarn",  # the same idea by the number of turns, and queries and keys a little longer (Peng et al. 2023, arXiv:2309.00071)
    "given",  # the divisors themselves stand in the file
]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are slowed down, so that a model reads texts longer than those it was first trained on."""

    kind: Scaling
    factor: float = 1.0
    original_length: int = 0
    """The context it was first trained on."""
    low: float = 1.0
    """llama3: frequencies with fewer turns than this in the original context are divided. yarn calls it beta_slow."""
    high: float = 4.0
    """llama3: frequencies with more turns than this are kept. yarn calls it beta_fast."""
    magnitude: float = 1.0
    """What cos and sin are multiplied by (yarn)."""
    given: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf or not 0 < self.magnitude < math.inf or not all(0 < x < math.inf for x in self.given):
            raise ValueError("a factor of the rotary scaling is not a positive number")
        if self.kind in ("llama3", "yarn") and (self.original_length < 1 or not 0 < self.low < self.high):
            raise ValueError(f"the {self.kind} scaling of the rotary positions lacks its original context or its two borders")

    def divisors(self, frequencies: list[float]) -> list[float]:
        """By what each of the d/2 `frequencies` (radians a position) is divided."""
        match self.kind:
            case "given":
                return list(self.given)
            case "linear":
                return [self.factor] * len(frequencies)
            case "llama3":
                return [self._llama3(f) for f in frequencies]
            case "yarn":
                return self._yarn(frequencies)

    def _llama3(self, frequency: float) -> float:
        turns = self.original_length * frequency / (2 * math.pi)
        kept = min(max((turns - self.low) / (self.high - self.low), 0.0), 1.0)
        return 1 / ((1 - kept) / self.factor + kept)

    def _yarn(self, frequencies: list[float]) -> list[float]:
        d, base = 2 * len(frequencies), frequencies[1] ** (-len(frequencies)) if len(frequencies) > 1 else 1.0

        def pair(turns: float) -> float:  # the pair that makes so many turns within the original context
            return d * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base)) if base > 1 else 0.0

        first, last = max(math.floor(pair(self.high)), 0), min(math.ceil(pair(self.low)), d - 1)
        ramp = [min(max((i - first) / max(last - first, 1e-3), 0.0), 1.0) for i in range(len(frequencies))]
        return [1 / (slow / self.factor + 1 - slow) for slow in ramp]


@dataclass(frozen=True, slots=True)
class Config:
    """The numbers that define a model. Raises ValueError for sizes that do not fit together."""

    vocab_size: int
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_width: int
    context_length: int
    head_width: int = 0
    """0: width / n_heads."""
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    """Qwen2 adds a bias to the query, key and value projections."""
    qk_norm: bool = False
    """Qwen3 normalises each query and key head."""
    tied: bool = True
    """Whether the output matrix is the embedding matrix."""
    out_bias: bool = False
    ffn_bias: bool = False
    layer_norm: bool = False
    """GPT-2 subtracts the mean and adds a bias in its norms."""
    learned_positions: bool = False
    """GPT-2 adds a learned vector for each position to the embedding, and turns nothing."""
    activation: Activation = "silu"
    gated: bool = True
    """Whether a second projection decides how much of each feature passes."""
    post_norms: bool = False
    """Gemma normalises also what attention and feed-forward give, before it is added."""
    embedding_scale: float = 1.0
    """Gemma multiplies embeddings by √width."""
    query_scale: float = 0.0
    """What q·k is multiplied by; 0: 1/√head_width."""
    attention_softcap: float = 0.0
    """Scores s become cap · tanh(s / cap); 0: they stay."""
    logit_softcap: float = 0.0
    window: int = 0
    """How many positions, itself included, a windowed layer looks back."""
    windowed: tuple[bool, ...] = ()
    """Which layers look at the window only; empty: none."""
    local_rope_base: float = 0.0
    """The rotary base of windowed layers, never scaled; 0: as in the others."""
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        if not self.head_width:
            object.__setattr__(self, "head_width", self.width // self.n_heads)
        sizes = (
            self.vocab_size,
            self.width,
            self.n_layers,
            self.n_heads,
            self.n_kv_heads,
            self.ffn_width,
            self.context_length,
            self.head_width,
        )
        if min(sizes) < 1:
            raise ValueError("every size of a model must be at least 1")
        if self.n_layers > MAX_LAYERS or self.vocab_size > MAX_VOCABULARY:
            raise ValueError(f"{self.n_layers} layers and {self.vocab_size} tokens are more than any model has")
        if self.n_heads % self.n_kv_heads or self.head_width % 2:
            raise ValueError(f"{self.n_heads} heads of width {self.head_width} do not fit {self.n_kv_heads} key-value heads")
        if self.windowed and (len(self.windowed) != self.n_layers or self.window < 1):
            raise ValueError(f"a window of {self.window} positions in {len(self.windowed)} of {self.n_layers} layers")
        numbers = (self.rope_base, self.norm_eps, self.embedding_scale)
        if not all(0 < x < math.inf for x in numbers):
            raise ValueError("its rotary base, the ε of its norms and the scale of its embedding must be positive numbers")
        if not all(0 <= x < math.inf for x in (self.query_scale, self.attention_softcap, self.logit_softcap, self.local_rope_base)):
            raise ValueError("a scale or a cap of its attention is not a number")
        given = self.rope_scaling.given if self.rope_scaling else ()
        if given and len(given) != self.head_width // 2:
            raise ValueError(f"{len(given)} rotary divisors for {self.head_width // 2} pairs")

    def is_windowed(self, layer: int) -> bool:
        """Whether this layer looks at the window only."""
        return bool(self.windowed) and self.windowed[layer]

    @property
    def plain(self) -> bool:
        """Whether the model has the Llama shape (with Qwen's bias or head norms), which the fast paths are written for."""
        return not (
            self.out_bias or self.ffn_bias or self.layer_norm or self.learned_positions or self.post_norms or self.query_scale
            or self.attention_softcap or self.logit_softcap or self.windowed or self.activation != "silu" or not self.gated
            or self.embedding_scale != 1.0
        )  # fmt: skip
