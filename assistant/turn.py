"""The values a conversation is made of. Pure data: ids are given by the pipeline, storage is the ledger's concern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from assistant.errors import UsageError
from safety.verdict import Verdict

SERVED = "served"
"""The `dtype` of a model that a server runs: in which numbers, it does not say."""

Role = Literal[
    "system",  # how the assistant is to behave
    "user",  # what the person wrote
    "assistant",  # what the model replied
]

Finish = Literal[
    "stop",  # the model ended its reply, or a stop string was met
    "length",  # max_tokens or the context was reached
    "stopped",  # the person stopped it; the part written is kept
    "blocked_prompt",  # the filter stopped the prompt: nothing was generated
    "blocked_output",  # the reply was withdrawn by moderation
    "error",  # the engine failed; the part written is kept
    "interrupted",  # the program died in mid-reply; recovered at the next start
]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation as the model is shown it."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. With `temperature` 0 the likeliest token always wins."""

    temperature: float = 0.2
    top_k: int = 40
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 0.9
    """Keep the smallest set of tokens whose probability reaches this; 1 keeps all."""
    min_p: float = 0.05
    """Keep tokens at least this fraction as likely as the likeliest; 0 keeps all."""
    repetition_penalty: float = 1.05
    """Divide the logits of tokens already seen by this; 1 is none (Keskar et al. 2019)."""
    seed: int | None = None
    """An unsigned 64-bit number; None draws one, which is then logged."""
    max_tokens: int = 512
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, 10.0), ("top_k", 0, 10**6), ("top_p", 0.0, 1.0), ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.1, 10.0), ("max_tokens", 1, 10**6),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise UsageError(f"{name} must be between {low} and {high}, not {value}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise UsageError(f"seed must be between 0 and {2**64 - 1}, not {self.seed}")
        if any(not s for s in self.stop):
            raise UsageError("a stop string must not be empty")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply cost."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of the prompt's tokens were already in the key-value cache."""
    reply_tokens: int = 0
    load_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    joules: float | None = None
    energy_source: str = "none"
    """`measured:rapl`, `measured:nvml`, `estimated: …` with its assumption, or `none`."""
    served: Mapping[str, str] = field(default_factory=dict)
    """Of a served reply: server, attempts, the parameters it was sent and those it refused, what the server said of itself."""

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 when nothing was decoded."""
        return self.reply_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The usage under its public JSON names."""
        out = {**asdict(self), "tokens_per_second": round(self.tokens_per_second, 3)}
        return out if self.served else {name: value for name, value in out.items() if name != "served"}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model answered, precisely enough to replay it."""

    name: str
    sha256: str
    """Of its file; empty for a served model, which shows no file."""
    dtype: str
    """Its number format, or `served`."""
    device: str
    """What it ran on, or the address of the server."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token the model could have written, with its log-probability in nats."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class ReplyToken:
    """One generated token. `text` is empty while a character is still incomplete."""

    index: int
    id: int
    text: str
    logprob: float
    """Natural log of its probability under the model (before temperature and truncation); NaN where a server does not tell it."""
    entropy: float
    """Of the model's distribution at this step, in nats; for a served model a lower bound from the candidates, or NaN."""
    candidates: tuple[Candidate, ...] = ()
    risk: float | None = None
    """How risky the reply looks to the model's probe after this token, 0 to 1; None without a probe, and for the last token, which
    the model never reads."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and what became of it."""

    id: str
    conversation: str
    prompt: str
    """As passed on: with placeholders where the filter redacted."""
    reply: str
    """What was shown in the end. A blocked reply is replaced by the refusal."""
    finish: Finish
    prompt_verdict: Verdict
    output_verdict: Verdict | None
    usage: Usage
    model: ModelInfo
    sampling: Sampling
    """With the seed that was really used."""
    system: str = ""
    parent: str | None = None
    """The turn this one follows; two turns with one parent are siblings (branches)."""
    tokens: tuple[ReplyToken, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    """The token ids exactly as fed to the model."""
    created_us: int = 0
    """Microseconds since 1970, UTC."""
    raw: bool = False
    """Plain continuation without a chat format."""
    language: str = ""
    """`zh` or `en`, of the prompt."""
    notices: tuple[str, ...] = field(default=())
    erased: tuple[str, ...] = ()
    """Which parts were erased from the log (`prompt`, `reply` …); they come back empty."""
    client: str = ""
    """Whose key asked, as a pseudonym (`Ledger.pseudonym`), where the program serves several; empty for the person at this machine."""
    earlier: tuple[Message, ...] = ()
    """What the model was shown before the prompt where a client brought its own conversation along, instead of a parent in the log."""

    @property
    def in_context(self) -> bool:
        """Whether later turns show this one to the model: blocked turns never are, nor turns whose text was erased."""
        return self.finish not in ("blocked_prompt", "blocked_output") and not {"prompt", "reply"} & set(self.erased)
