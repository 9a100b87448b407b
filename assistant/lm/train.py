"""The training loop: read a batch, compute how surprised the model is, follow the gradient, and never lose more than the last few minutes.

    ĝ = ∇ mean surprise, cut to length ≤ clip                      the direction
    m = β₁ m + (1 − β₁) ĝ       v = β₂ v + (1 − β₂) ĝ²              its average, and the average of its square
    θ = θ − η (m̂ / (√v̂ + ε) + λ θ)                                 AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); λ = 0 is Adam

The rate η rises linearly over `warmup` steps and falls along half a cosine to `floor` · η. One device, several, or several machines run
this same code: under `torchrun` the parameters are spread over the processes (FSDP2) and each reads its share of every batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from assistant.errors import ModelError, UsageError
from assistant.lm import checkpoint, spread
from assistant.lm.batches import IGNORE, Batch, Batches
from assistant.lm.lstm import LSTM
from assistant.lm.objective import Objective


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of one run."""

    steps: int = 1000
    batch: int = 16
    """Windows a step, over all processes and all rounds of accumulation."""
    context: int = 128
    """Tokens a window."""
    accumulate: int = 1
    """Rounds in which a batch is read, where it does not fit into memory at once."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    rate: float = 2e-3
    floor: float = 0.1
    """The last rate, as a part of the highest."""
    warmup: int = 50
    weight_decay: float = 0.1
    """Of matrices, by AdamW; norms and biases are never decayed."""
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA devices that have it, float32 elsewhere."""
    evaluate_every: int = 100
    sample_every: int = 200
    save_every: int = 200
    save_seconds: float = 120.0
    """A checkpoint is also written when this much time has passed since the last one."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "context", "accumulate", "evaluate_every", "sample_every", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise UsageError(f"batch ({self.batch}) must be a multiple of accumulate ({self.accumulate})")
        if not 0 < self.rate <= 1 or not 0 <= self.floor <= 1 or self.warmup < 0:
            raise UsageError("rate must be above 0 and at most 1, floor between 0 and 1, warmup 0 or more")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.clip > 0 and self.weight_decay >= 0):
            raise UsageError("beta1 and beta2 must be at least 0 and below 1, clip above 0, weight_decay 0 or more")
        if self.optimizer not in ("adamw", "adam") or self.precision not in ("auto", "float32", "bfloat16"):
            raise UsageError("optimizer must be adamw or adam, precision auto, float32 or bfloat16")

    def rate_at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        way = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(way, 1.0))))


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step was taken."""

    step: int
    loss: float
    """Mean surprise of the batch's targets, in nats."""
    rate: float
    gradient: float
    """The gradient's length before it was cut."""
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The model was tested on what it does not learn from."""

    step: int
    loss: float

    @property
    def perplexity(self) -> float:
        """e^loss: between how many equally likely tokens it hesitates."""
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the model writes now after a prompt, always taking the likeliest token."""

    step: int
    prompt: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: Path


Event = Stepped | Evaluated | Sampled | Saved


def initialise(model: nn.Module, seed: int) -> None:
    """Random weights as in GPT-2: normal with deviation 0.02, what is added to the residual stream less by √(2 · layers).

    An LSTM has no norms that would put small numbers right: its embedding is uniform within ±0.1 (Zaremba et al. 2014, arXiv:1409.2329),
    its matrices within ±1/√H, and its forget gates begin open (Jozefowicz et al. 2015).
    """
    generator = torch.Generator().manual_seed(seed)
    layers: int = getattr(model.config, "n_layers")  # noqa: B009  (nn.Module declares every attribute a module or tensor)
    for name, p in model.named_parameters():
        if isinstance(model, LSTM):
            bound = 0.1 if "embedding" in name else 1 / math.sqrt(model.config.hidden)
            nn.init.uniform_(p, -bound, bound, generator=generator)
            if "bias_ih" in name:  # the order of gates is i, f, g, o
                nn.init.ones_(p.data[model.config.hidden : 2 * model.config.hidden])
        elif p.dim() > 1:
            added = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if added else 0.02, generator=generator)


class Trainer:
    """One run: iterate over `run()` for its events. Deterministic on one device: the same seed and data give the same weights."""

    def __init__(
        self, model: nn.Module, data: Batches, plan: Plan, folder: Path, *, validation: Sequence[Batch] = (),
        prompts: Sequence[Sequence[int]] = (), end: frozenset[int] = frozenset(), compiled: bool = False, identity: str = "",
        words: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """`validation` and `prompts` are what the model is tested on; samples stop at a token of `end`. `identity` names data and sizes: a
        checkpoint of another identity is refused. `words`: see `Objective`."""
        self.model, self.data, self.plan, self.path = model, data, plan, folder / checkpoint.NAME
        self.validation, self.prompts, self.end, self.identity = list(validation), prompts, end, identity
        self.step = self.began = 0
        """Steps done, and those done before this process took over."""
        self.losses: list[float] = []
        self.validations: list[tuple[int, float]] = []
        self.seconds = 0.0
        self.device = next(model.parameters()).device
        self.objective: nn.Module = spread.over_processes(Objective(model, words))
        decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
        plain = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
        decay = plan.weight_decay if plan.optimizer == "adamw" else 0.0
        groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
        fused = not spread.active()
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.rate, betas=(plan.beta1, plan.beta2), fused=fused)
        for block in getattr(model, "blocks", ()) if compiled else ():
            block.compile()  # block by block: one compilation serves all of them

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one. Raises UsageError when it belongs to another run."""
        if not self.path.exists():
            return False
        header, tensors = checkpoint.load(self.path)
        if header["identity"] != self.identity:
            raise UsageError(
                "the checkpoint belongs to another corpus, model or plan: give the same command as before, or another --output"
            )
        checkpoint.restore(self.model, self.optimizer, tensors)
        self.began = header["step"]
        self.step, self.losses, self.seconds = header["step"], header["losses"], header["seconds"]
        self.validations = [(step, loss) for step, loss in header["validations"]]
        return True

    def save(self) -> Saved:
        """Write a checkpoint. Raises UsageError when the disk is full; the previous checkpoint stays."""
        tensors = checkpoint.state(self.model, self.optimizer)
        header = {
            "identity": self.identity, "plan": asdict(self.plan), "step": self.step, "losses": self.losses,
            "validations": self.validations, "seconds": self.seconds,
        }  # fmt: skip
        if spread.first():
            checkpoint.save(self.path, header, tensors)
        return Saved(self.step, self.path)

    def run(self) -> Iterator[Event]:
        """Train to the last step. Raises ModelError when the loss is no number any more; the last checkpoint is from before that."""
        plan = self.plan
        if not self.path.exists():
            yield self.save()  # whether the disk can hold it is known before hours of work
        saved = time.monotonic()
        while self.step < plan.steps:
            yield self.advance()
            last = self.step == plan.steps
            if self.validation and (last or self.step % plan.evaluate_every == 0):
                loss = self.evaluate()
                self.validations.append((self.step, loss))
                yield Evaluated(self.step, loss)
            if self.prompts and (last or self.step % plan.sample_every == 0):
                for number, ids in enumerate(self.prompts):
                    yield Sampled(self.step, number, tuple(self.sample(ids)))
            if last or self.step % plan.save_every == 0 or (not spread.active() and time.monotonic() - saved > plan.save_seconds):
                yield self.save()
                saved = time.monotonic()

    def advance(self) -> Stepped:
        """Take one step."""
        began, plan = time.perf_counter(), self.plan
        batch = self.data.batch(self.step)
        count = int((batch.targets != IGNORE).sum())
        share = batch.part(spread.rank(), spread.size())
        self.objective.train()
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for i in range(plan.accumulate):
            with self._precision():
                surprise = self.objective(share.part(i, plan.accumulate).to(self.device))
            (surprise * (spread.size() / max(count, 1))).backward()  # gradients are averaged over processes
            total += surprise.detach()
        loss = float(spread.summed(total)) / max(count, 1)
        gradient = float(checkpoint.whole(nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip)))
        if not math.isfinite(loss) or not math.isfinite(gradient):
            kept = checkpoint.load(self.path)[0]["step"] if self.path.exists() else 0
            raise ModelError(
                f"the loss is no number any more at step {self.step + 1} (loss {loss}, gradient {gradient}): the checkpoint of step {kept} "
                "is good; train again with a lower --rate, or look at the text of that step"
            )
        rate = plan.rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.losses.append(loss)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        return Stepped(self.step, loss, rate, gradient, batch.ids.numel(), seconds)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean surprise of the validation's targets, in nats."""
        self.objective.eval()
        total, count = torch.zeros((), device=self.device), 0
        for batch in self.validation:
            count += int((batch.targets != IGNORE).sum())
            with self._precision():
                total += self.objective(batch.part(spread.rank(), spread.size()).to(self.device))
        spread.settle(self.objective)
        return float(spread.summed(total)) / max(count, 1)

    @torch.no_grad()
    def sample(self, ids: Sequence[int], limit: int = 24) -> list[int]:
        """The likeliest continuation of `ids`, at most `limit` tokens. Every process computes the same."""
        self.objective.eval()
        out: list[int] = []
        while len(out) < limit:
            seen = torch.tensor([[*ids, *out][-self.plan.context :]], device=self.device)
            best = int(self.objective(Batch(seen, seen), last=True)[0].argmax())
            if best in self.end:
                break
            out.append(best)
        spread.settle(self.objective)
        return out

    def _precision(self) -> AbstractContextManager[object]:
        kind = self.plan.precision
        if kind == "auto" and not (self.device.type == "cuda" and torch.cuda.is_bf16_supported()):
            return nullcontext()
        return nullcontext() if kind == "float32" else torch.autocast(self.device.type, torch.bfloat16)
