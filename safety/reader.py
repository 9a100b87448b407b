"""The encoder as the guard uses it: trunk and changes merged into one weight a map, eight bits where the processor can.

Most messages are harmless and look it. After the first layers a gate asks whether anything could be wrong; where it says
no, reading stops there, and scores are estimated from those layers (early exit: Teerapittayanon et al. 2016). Of a long
text only the windows that look worst are read to the end.

Inputs of the linear maps are rounded with fixed steps, measured once in training, so that a text's scores do not depend
on the texts it is read together with. Before rounding, every input channel is divided by a factor that its weights are
multiplied with: large channels give up range to small ones (SmoothQuant, Xiao et al. 2023).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from safety.base_weights import SHA256, BaseWeights, BaseWeightsError
from safety.encoder import LAYERS, ROLES, Trunk, by_length, pad, pool, tokenizer
from safety.labels import LABELS

FORMAT = "pellucid-encoder-1"
OUTPUTS = (*LABELS, "unsafe")
"""What the heads score: the categories, and whether anything is wrong at all."""
TOKENS = 128
"""Tokens read at once, start and end included."""
GROUPS = {"in": ("q", "k", "v"), "ao": ("ao",), "fi": ("fi",), "fo": ("fo",)}
"""Maps that read the same input and are multiplied as one."""
PROMPT = 32
"""Tokens of the prompt that are read together with a reply."""
EARLY = 2
"""Layers before the gate."""
_BUDGET = 1024  # padded tokens in a batch
_Begin = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
_End = Callable[[Tensor], Tensor]
_LEVELS = 127.0  # half of what eight bits hold: sums of products stay inside sixteen bits, outliers have room above


class Reader:
    """Scores of texts, all categories at once. Immutable once loaded; safe to share between threads."""

    def __init__(self, trunk: Trunk, adapted: Mapping[str, Tensor], split: object, inputs: Mapping[str, Tensor] | None) -> None:
        """`inputs` holds for every group of maps `name.smooth`, `name.step` and `name.zero`; None computes in float32."""
        self._trunk, self._split = trunk, split
        self.files: tuple[Path, Path] | None = None
        """Trunk and changes, where they were read from files."""
        self._p = {name: value for name, value in adapted.items() if not name.endswith((".A", ".B"))}
        eight = inputs is not None and torch.backends.quantized.engine in ("x86", "fbgemm", "onednn")
        self._gated = all(f"gate.{role}.w" in adapted for role in ROLES)
        self._maps: dict[str, Callable[[Tensor], Tensor]] = {}
        self._traced: dict[str, tuple[_Begin, _End]] = {}
        """For each role."""
        for layer in range(trunk.layers):
            for group, names in GROUPS.items():
                full = [f"l{layer}.{name}" for name in names]
                weight = torch.cat([trunk.weights[n] + adapted[f"{n}.B"] @ adapted[f"{n}.A"] for n in full])
                bias = torch.cat([adapted[f"{n}.b"] for n in full])
                key = f"l{layer}.{group}"
                if eight and inputs is not None:
                    self._maps[key] = _Rounded(weight, bias, *(inputs[f"{key}.{part}"] for part in ("smooth", "step", "zero")))
                else:
                    self._maps[key] = _dense(weight, bias)
        trunk.weights.clear()  # merged: not needed again

    @classmethod
    def load(cls, base: Path, weights: Path) -> Reader:
        """The shipped changes on the fetched trunk. Raises BaseWeightsError when either is not what it should be."""
        arrays, header = read_weights(weights)
        trunk_file = BaseWeights(base, header.get("base", SHA256))
        adapted = {name[2:]: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items() if name.startswith("p/")}
        inputs = {name[2:]: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items() if name.startswith("i/")}
        try:
            made = cls(Trunk(trunk_file, int(header.get("layers", LAYERS))), adapted, tokenizer(trunk_file), inputs)
        except (KeyError, RuntimeError) as error:
            raise BaseWeightsError(f"{weights}: these weights do not fit the encoder ({error}); install Pellucid again") from error
        made.files = (base, weights)
        return made

    def room(self, prompt: str = "") -> int:
        """Tokens of text that are read at once, beside a prompt that is read with them."""
        return TOKENS - 2 - len(self._before(prompt))

    def tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a (folded) text, without start and end, and the characters each stands for."""
        made = self._split.encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
        return list(made.ids), list(made.offsets)

    def _before(self, prompt: str) -> list[int]:
        """What stands before a reply: its prompt, as the first of a pair."""
        return [*self.tokens(prompt[: 8 * PROMPT])[0][:PROMPT], self._trunk.eos, self._trunk.eos] if prompt else []

    def logits(
        self, texts: Sequence[str], role: str, *, prompt: str = "", whole: bool = False, most: int | None = None
    ) -> NDArray[np.float32]:
        """(texts, OUTPUTS): uncalibrated logits of the beginning of each text, as far as it is read at once, as a reply to
        `prompt` where one is given. `whole` reads everything to the last layer; `most` at most so many of a batch."""
        return self.logits_of(self.rows(texts, prompt), role, whole=whole, most=most)

    def rows(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """The token ids of each text as far as it is read at once, after those of `prompt`; without start and end."""
        before, room = self._before(prompt), self.room(prompt)
        cut = [self._split.encode(text[: 8 * TOKENS], add_special_tokens=False).ids for text in texts]  # type: ignore[attr-defined]
        return [[*before, *ids[:room]] for ids in cut]

    @torch.inference_mode()
    def logits_of(self, ids: Sequence[Sequence[int]], role: str, *, whole: bool = False, most: int | None = None) -> NDArray[np.float32]:
        """`logits` for token ids without start and end."""
        rows = [[self._trunk.bos, *row, self._trunk.eos] for row in ids]
        out = np.zeros((len(rows), len(OUTPUTS)), np.float32)
        for batch in by_length(map(len, rows), _BUDGET):
            out[batch] = self._read([rows[i] for i in batch], role, whole, most).numpy()
        return out

    def _read(self, rows: Sequence[Sequence[int]], role: str, whole: bool, most: int | None) -> Tensor:
        mask: Tensor | None = None
        if len(set(map(len, rows))) == 1:
            ids = torch.tensor(rows)
        else:
            ids, mask = pad(rows, self._trunk.pad)
        words, place = self._trunk.words(ids)
        if whole or not self._gated:
            return self._end(self._trunk.placed(words, place), mask, role, 0)
        traced = self._traced.get(role) if mask is None else None
        x, out, gate = traced[0](words, place) if traced else self._begin(words, place, mask, role)
        further = gate > 0
        if most is not None and int(further.sum()) > most:
            further &= gate >= gate.topk(most).values[-1]
        if further.any():
            x, mask = x[further], None if mask is None else mask[further]
            out[further] = traced[1](x) if traced else self._end(x, mask, role, EARLY)
        return out

    def _begin(self, words: Tensor, place: Tensor, mask: Tensor | None, role: str) -> tuple[Tensor, Tensor, Tensor]:
        """What `Trunk.words` gives → the output of the layers before the gate (texts, length, width), the scores estimated from it, and
        the doubt."""
        x = self._encode(self._trunk.placed(words, place), mask, 0, EARLY)
        pooled = pool(x, mask)
        return x, F.linear(pooled, self._p[f"early.{role}.w"], self._p[f"early.{role}.b"]), self._doubt(pooled, role)

    def _end(self, x: Tensor, mask: Tensor | None, role: str, first: int) -> Tensor:
        """What goes into layer `first` → the scores (texts, OUTPUTS)."""
        return self._heads(pool(self._encode(x, mask, first), mask), role)

    @torch.inference_mode()
    def pooled(self, texts: Sequence[str], role: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(texts, 3 · width) after the first layers, and the logits (texts, OUTPUTS) of the last: what the gate learns from."""
        rows = [
            [self._trunk.bos, *self._before(prompt), *self.tokens(text[: 8 * TOKENS])[0]]
            for text, prompt in zip(texts, prompts, strict=True)
        ]
        rows = [[*row[: TOKENS - 1], self._trunk.eos] for row in rows]
        early, late = torch.zeros(len(rows), 3 * self._trunk.shape.width), torch.zeros(len(rows), len(OUTPUTS))
        for batch in by_length(map(len, rows), _BUDGET):
            ids, mask = pad([rows[i] for i in batch], self._trunk.pad)
            x = self._encode(self._trunk.embed(ids), mask, 0, EARLY)
            early[batch] = pool(x, mask)
            late[batch] = self._heads(pool(self._encode(x, mask, EARLY), mask), role)
        return early, late

    def _doubt(self, pooled: Tensor, role: str) -> Tensor:
        """(texts, 3 · width) after the first layers → (texts,): below 0 nothing can be wrong (see `gate`)."""
        w, b, v, c = (self._p[f"gate.{role}.{name}"] for name in ("w", "b", "v", "c"))
        return F.linear(F.gelu(F.linear(pooled, w, b)), v[None])[:, 0] + c

    def _heads(self, pooled: Tensor, role: str) -> Tensor:
        return F.linear(pooled, self._p[f"head.{role}.w"], self._p[f"head.{role}.b"])

    def _encode(self, x: Tensor, mask: Tensor | None, first: int = 0, last: int | None = None) -> Tensor:
        """As `encoder.encode`, with merged maps: the layers from `first` up to `last`. Without a mask nothing is padding."""
        batch, length, width = x.shape
        bias = None if mask is None else torch.zeros(batch, 1, 1, length).masked_fill(~mask[:, None, None], -math.inf)
        heads, epsilon = self._trunk.shape.heads, self._trunk.shape.epsilon
        for i in range(first, self._trunk.layers if last is None else last):
            at = f"l{i}."
            q, k, v = self._maps[at + "in"](x).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(batch, length, width)
            x = x + self._maps[at + "ao"](mixed)
            x = F.layer_norm(x, (width,), self._p[at + "aln.w"], self._p[at + "aln.b"], epsilon)
            x = x + self._maps[at + "fo"](F.gelu(self._maps[at + "fi"](x)))
            x = F.layer_norm(x, (width,), self._p[at + "oln.w"], self._p[at + "oln.b"], epsilon)
        return x

    @torch.inference_mode()
    def trace(self) -> None:
        """Have everything up to the gate, and everything after it, computed in one call each from now on, where nothing is padding: the
        same numbers, but Python's lock is not asked for between any two of their hundred steps, which takes more than half of the time
        where other threads want it as well."""
        if not self._gated:
            return
        packed = [apply.packed for apply in self._maps.values() if isinstance(apply, _Rounded)]
        width = self._trunk.shape.width
        words, place, x = torch.zeros(3, width), torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, width)
        with warnings.catch_warnings():  # sizes that are read from the input are seen to change with it
            warnings.simplefilter("ignore")
            for role in ROLES:
                begin = _Traced(functools.partial(self._begin, mask=None, role=role), packed)
                end = _Traced(functools.partial(self._end, mask=None, role=role, first=EARLY), packed)
                self._traced[role] = (
                    torch.jit.trace(begin, (words, place), check_trace=False),  # type: ignore[no-untyped-call]
                    torch.jit.trace(end, (x,), check_trace=False),  # type: ignore[no-untyped-call]
                )

    def watch(self, seen: Callable[[str, Tensor], None]) -> None:
        """Call `seen(group, input)` for the input of every group of maps from now on (to measure the rounding steps)."""
        self._traced.clear()
        for key, apply in list(self._maps.items()):

            def watched(x: Tensor, key: str = key, apply: Callable[[Tensor], Tensor] = apply) -> Tensor:
                seen(key, x)
                return apply(x)

            self._maps[key] = watched


def _dense(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: F.linear(x, weight, bias)


class _Rounded:
    """A linear map with weights and inputs in eight bits."""

    def __init__(self, weight: Tensor, bias: Tensor, smooth: Tensor, step: Tensor, zero: Tensor) -> None:
        smoothed = weight * smooth
        scales = (smoothed.abs().amax(1) / 127).clamp(min=1e-8)
        with warnings.catch_warnings():  # torch announces that these types will move to another package
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_channel(smoothed, scales.double(), torch.zeros(len(scales), dtype=torch.long), 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(rounded, bias)
        self._inverse, self._by, self._middle = 1 / smooth, float(step), int(zero)

    def __call__(self, x: Tensor) -> Tensor:
        flat = (x * self._inverse).reshape(-1, x.shape[-1])
        out: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(flat, self._by, self._middle, self.packed)
        return out.view(*x.shape[:-1], -1)


class _Traced(torch.nn.Module):
    """A part of the reading, as tracing wants it: with the packed weights as attributes."""

    def __init__(self, run: Callable[..., Any], packed: Iterable[object]) -> None:
        super().__init__()
        self._run = run
        for i, weights in enumerate(packed):
            setattr(self, f"packed{i}", weights)

    def forward(self, *inputs: Tensor) -> Any:
        """As `run`."""
        return self._run(*inputs)


def measure_inputs(trunk: Trunk, adapted: Mapping[str, Tensor], split: object, texts: Iterable[str]) -> dict[str, Tensor]:
    """For every group of maps the smoothing factors, the rounding step and the zero, from what `texts` bring about."""
    weights = {name: value.clone() for name, value in trunk.weights.items()}
    reader = Reader(trunk, adapted, split, None)
    kept: dict[str, list[Tensor]] = {}
    reader.watch(lambda key, x: kept.setdefault(key, []).append(x.reshape(-1, x.shape[-1])))
    for text in texts:
        reader.logits([text], ROLES[0])
    out: dict[str, Tensor] = {}
    for key, parts in kept.items():
        layer, group = key.split(".")
        x = torch.cat(parts)
        full = [f"{layer}.{name}" for name in GROUPS[group]]
        merged = torch.cat([weights[n] + adapted[f"{n}.B"] @ adapted[f"{n}.A"] for n in full])
        smooth = (x.abs().amax(0).clamp(min=1e-3).sqrt() / merged.abs().amax(0).clamp(min=1e-4).sqrt()).clamp(1e-2, 1e3)
        scaled = x / smooth
        sample = scaled.flatten()[torch.randperm(scaled.numel(), generator=torch.Generator().manual_seed(0))[:2_000_000]]
        low, high = (float(torch.quantile(sample, share)) for share in (0.0001, 0.9999))
        low, high = min(low, 0.0), max(high, 1e-6)
        step = (high - low) / _LEVELS
        out[f"{key}.smooth"], out[f"{key}.step"] = smooth, torch.tensor(step)
        out[f"{key}.zero"] = torch.tensor(float(round(-low / step) + 32))  # room for outliers below as well
    trunk.weights.update(weights)
    return out


def write_weights(path: Path, adapted: Mapping[str, Tensor], inputs: Mapping[str, Tensor], header: Mapping[str, object]) -> str:
    """Write the shipped file, sixteen bits a number; returns its SHA-256."""
    arrays = {f"p/{name}": value.numpy().astype(np.float16) for name, value in adapted.items()}
    arrays |= {f"i/{name}": value.numpy().astype(np.float32) for name, value in inputs.items()}
    text = json.dumps({"format": FORMAT, "base": SHA256, "outputs": list(OUTPUTS), **header}, sort_keys=True)
    arrays["header"] = np.frombuffer(text.encode(), np.uint8)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_weights(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """The arrays and the header of the shipped file. Raises BaseWeightsError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BaseWeightsError(f"{path}: the encoder's weights cannot be read ({error}); install Pellucid again") from error
    if header.get("format") != FORMAT or header.get("outputs") != list(OUTPUTS):
        raise BaseWeightsError(f"{path}: the encoder's weights are of another format than {FORMAT}; install Pellucid again")
    return arrays, header
