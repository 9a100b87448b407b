"""Training in other processes: killed without warning, and two that share the parameters."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import assistant.lm.threads
import torch
torch.set_num_threads(1)
from assistant.lm import spread
from assistant.lm.batches import Stream
from assistant.lm.train import Plan, Stepped, Trainer, initialise
from assistant.lm.transformer import Transformer
from tests.assistant.lm.test_training import SIZES, documents

folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
spread.begin(torch.device("cpu"))
plan = Plan(steps=12, batch=4, context=12, rate=1e-2, warmup=3, save_every=5)
model = Transformer(SIZES)
initialise(model, 0)
data = Stream(documents(), 12, 4)
run = Trainer(model, data, plan, folder, validation=[data.batch(3)], prompts=[[0, 1, 2]], identity="x")
resumed = run.resume()
for event in run.run():
    if isinstance(event, Stepped) and event.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
samples = run.sample([0, 1, 2])
if spread.first():
    (folder / "result.json").write_text(json.dumps([run.losses, run.validations, samples, resumed, spread.size()]))
spread.end()
"""


def start(folder, kill_at=-1, **environment):
    folder.mkdir(exist_ok=True)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(kill_at)], cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    done = start(folder)
    assert done.wait(120) == 0, done.stderr.read()
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(straight, tmp_path):
    killed = start(tmp_path / "cut", kill_at=8)
    assert killed.wait(120) == -signal.SIGKILL
    again = start(tmp_path / "cut")
    assert again.wait(120) == 0, again.stderr.read()
    losses, validations, samples, resumed, _ = result(tmp_path / "cut")
    assert resumed and [losses, validations, samples] == result(straight)[:3]
    assert (tmp_path / "cut" / "checkpoint.npz").stat().st_size == (straight / "checkpoint.npz").stat().st_size


@pytest.mark.slow
def test_two_processes_have_the_loss_of_one(straight, tmp_path):
    """FSDP2 over gloo: each process keeps half of the parameters and reads half of every batch; a checkpoint is whole again."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])

    def both(kill_at=-1):
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [start(tmp_path / "two", kill_at, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]

    for process in both(kill_at=8):
        assert process.wait(180) == -signal.SIGKILL, process.stderr.read()
    for process in both():
        assert process.wait(180) == 0, process.stderr.read()
    losses, validations, samples, resumed, size = result(tmp_path / "two")
    alone = result(straight)
    assert resumed and size == 2
    assert losses == pytest.approx(alone[0], rel=1e-4)
    assert [loss for _, loss in validations] == pytest.approx([loss for _, loss in alone[1]], rel=1e-4)
    assert samples == alone[2]
