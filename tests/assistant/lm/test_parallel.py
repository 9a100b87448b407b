"""Two processes that share a model over gloo compute what one computes, for every family; the first one speaks."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from assistant.errors import ModelError, UsageError
from assistant.lm import parallel
from assistant.lm.config import Config
from assistant.lm.decode import DenseDecoder
from assistant.lm.engine import Engine
from tests.tiny_families import FAMILIES, write_folder

ROOT = Path(__file__).parents[3]
IDS = list(range(3, 23))
SCRIPT = """
import sys
from pathlib import Path
import assistant.lm.threads
import torch
import torch.distributed as dist
from assistant.errors import ModelError
from assistant.lm import parallel
from assistant.lm.engine import Engine
from assistant.turn import Sampling
from tests.assistant.lm.test_parallel import IDS

dist.init_process_group("gloo")
group = parallel.group
group.size, group.rank = dist.get_world_size(), dist.get_rank()
out = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    engine = Engine.load(folder, dtype="float32", thread_count=1)
    if group.rank:
        parallel._follow(engine.model, engine.cache)
        continue
    read = engine.prefill(IDS)[0]
    again = engine.prefill([*IDS[:9], 5, 6, 7])[0]  # a common beginning, then several at once
    wrote = engine.decode(9)
    tokens = [t.id for t in engine.generate(engine.render_raw("a b c"), Sampling(temperature=0, max_tokens=12))]
    try:
        engine.model(torch.tensor([IDS]))
        raise SystemExit("a reading that the others cannot follow was not refused")
    except ModelError:
        pass
    parallel._say(parallel._END, 0)
    part = engine.model.blocks[0].down.weight.to_local()
    out[folder.name] = dict(logits=[read, again, wrote], tokens=tokens, part=tuple(part.shape), kept=part.untyped_storage().nbytes())
if group.rank == 0:
    torch.save(out, sys.argv[2])
dist.destroy_process_group()
"""


def both(*command, **more):
    """The exit codes and outputs of a command in two processes, as `torchrun` starts them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    shared = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    started = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**shared, **more, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in started]
    return [process.returncode for process in started], [out for out, _ in said], [error for _, error in said]


@pytest.mark.slow
def test_two_processes_have_the_logits_of_one(tmp_path):
    (tmp_path / "models").mkdir()
    for family in FAMILIES:
        write_folder(family, tmp_path / "models" / family)
    codes, _, errors = both("-c", SCRIPT, str(tmp_path / "models"), str(tmp_path / "out.pt"))
    assert codes == [0, 0], errors
    shared = torch.load(tmp_path / "out.pt")
    assert set(shared) == set(FAMILIES)
    for family, theirs in shared.items():
        engine = Engine.load(tmp_path / "models" / family, dtype="float32", thread_count=1)
        ours = [engine.prefill(IDS)[0], engine.prefill([*IDS[:9], 5, 6, 7])[0], engine.decode(9)]
        for a, b in zip(ours, theirs["logits"], strict=True):
            assert torch.allclose(a, b, atol=2e-4), (family, float((a - b).abs().max()))
        whole = engine.model.blocks[0].down.weight
        assert theirs["part"] == (whole.shape[0], whole.shape[1] // 2) and theirs["kept"] == whole.nbytes // 2  # no process keeps the rest
        assert len(theirs["tokens"]) > 0


@pytest.mark.slow
def test_one_process_speaks_and_the_other_follows(tmp_path):
    write_folder("llama", tmp_path / "m")
    ask = (
        "-m",
        "assistant.cli",
        "ask",
        "--raw",
        "a b c",
        "--model",
        str(tmp_path / "m"),
        "--temperature",
        "0",
        "--max-tokens",
        "8",
        "--json",
    )
    codes, outputs, errors = both(*ask)
    assert codes == [0, 0] and outputs[1] == "", errors
    assert json.loads(outputs[0])["usage"]["reply_tokens"] > 0
    codes, outputs, errors = both("-m", "assistant.cli", "ask", " ")  # no model is ever loaded: the other one ends as well
    assert codes[1] == 0 and codes[0] == 2 and outputs == ["", ""], errors


def test_every_process_gets_its_own_heads():
    # 4 query heads and 2 key-value heads of width 2 for two processes: q0 q1 k0 v0 | q2 q3 k1 v1
    order = parallel.interleaved((8, 4, 4), 2)
    assert order.tolist() == [0, 1, 2, 3, 8, 9, 12, 13, 4, 5, 6, 7, 10, 11, 14, 15]


def test_what_cannot_be_divided_is_refused():
    sizes = Config(10, 12, 1, 6, 3, 8, 16)
    assert parallel.local(sizes, 1) == sizes
    with pytest.raises(UsageError, match="3 key-value heads cannot be shared by 2 processes"):
        parallel.local(sizes, 2)
    with pytest.raises(UsageError, match="8 features cannot be shared by 3 processes"):
        parallel.local(sizes, 3)


def test_int8_is_for_one_process(tiny_model, monkeypatch):
    monkeypatch.setattr(parallel, "group", parallel.Group(2))
    with pytest.raises(UsageError, match="share a model as float32"):
        Engine.load(tiny_model, dtype="int8")


def test_alone_nothing_is_shared(tiny_model):
    engine = Engine.load(tiny_model, dtype="float32", thread_count=1)
    assert parallel.neighbours() == 1 and not isinstance(engine._decoder, DenseDecoder)
    parallel.announce({})  # says nothing to nobody
    parallel.lead(engine.model)  # the first process of any group refuses what the others could not follow
    with pytest.raises(ModelError, match="only writes replies"):
        engine.model(torch.tensor([IDS]))
