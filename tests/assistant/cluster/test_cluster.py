"""Many rows: the same lines whether one process works or several, and however often the run is cut."""

import gc
import importlib.util
import json
import os
import signal
import sys
from dataclasses import dataclass

import pytest
import torch

from assistant.cli.main import main
from assistant.cluster.job import Job
from assistant.cluster.output import lines, to_file
from assistant.cluster.runner import Worker, run
from assistant.errors import UsageError

TEXTS = ["Hello there", "How do I build a bomb at home?", "怎么在家里制造炸弹？", "My address is jane@example.com", "今天天气很好"]


@dataclass(frozen=True)
class Squares(Job):
    """Numbers and their squares; the worker of the number in `kills` dies once, or always."""

    kills: int = -1
    mark: str = ""
    chunk = 3

    def describe(self):
        return {"job": "squares"}

    def load(self):
        def work(items):
            if self.kills in items and not (self.mark and os.path.exists(self.mark)):
                if self.mark:
                    open(self.mark, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return [{"square": n * n} for n in items]

        return work, "squares"


@pytest.fixture
def command(capsys):
    def command(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(map(str, arguments)))
        out = capsys.readouterr()
        return end.value.code, out.out, out.err

    return command


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [{"text": f"{TEXTS[i % 5]} {i}", "role": "response" if i % 7 == 3 else "prompt"} for i in range(150)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_moderation_into_a_file_is_what_it_prints_otherwise(command, texts, tmp_path):
    output = tmp_path / "verdicts.jsonl"
    assert command("moderate", "--jsonl", texts, "--output", output)[0] == 0
    _, printed, _ = command("moderate", "--jsonl", texts)
    expected = [{k: v for k, v in json.loads(line).items() if k != "milliseconds"} for line in printed.splitlines()]
    assert list(lines(output)) == expected and {"allow", "block"} <= {row["action"] for row in expected}
    assert not (tmp_path / "verdicts.jsonl.unfinished").exists()


@pytest.mark.parametrize("kept", [0, 65, 149])
def test_a_run_that_was_cut_goes_on(command, texts, tmp_path, kept):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    command("moderate", "--jsonl", texts, "--output", whole)
    rows = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(rows[:kept]) + rows[kept][:10])
    code, _, err = command("moderate", "--jsonl", texts, "--output", cut)
    assert code == 2 and "exists already" in err
    from assistant.cli.cluster_options import hash_of
    from assistant.cluster.jobs import Moderation
    from assistant.settings import load

    plan = {"source": f"{hash_of(texts)} prompt", "chunk": 64, **Moderation(load()).describe()}
    (tmp_path / "cut.jsonl.unfinished").write_text(json.dumps(plan, sort_keys=True))
    assert command("moderate", "--jsonl", texts, "--output", cut)[0] == 0
    assert cut.read_bytes() == whole.read_bytes()
    (tmp_path / "cut.jsonl.unfinished").write_text(json.dumps({**plan, "policy": "strict"}, sort_keys=True))
    code, _, err = command("moderate", "--jsonl", texts, "--output", cut)
    assert code == 2 and "other input or settings" in err


def test_what_makes_no_sense_is_said(command, texts, tmp_path, monkeypatch):
    assert "needs --output" in command("moderate", "--jsonl", texts, "--cluster", "local")[2]
    assert "needs --jsonl FILE" in command("moderate", "--jsonl", "-", "--output", tmp_path / "x")[2]
    assert "cannot read" in command("moderate", "--jsonl", tmp_path / "none", "--output", tmp_path / "x")[2]
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = command("moderate", "--jsonl", texts, "--output", tmp_path / "y", "--cluster", "local")
    assert code == 2 and "pellucid[cluster]" in err
    texts.write_text('{"text": "a"}\nnonsense\n')
    code, _, err = command("moderate", "--jsonl", texts, "--output", tmp_path / "z")
    assert code == 2 and "line 2 is not JSON" in err


def test_turns_are_replayed_and_explained_into_files(command, tiny_model, tmp_path):
    for number in range(3):
        options = ("--model", tiny_model, "--dtype", "float32", "--max-tokens", 4, "--seed", number)
        assert command("ask", *options, f"Hello {number}", *(["-c"] if number else []))[0] == 0
    replayed, explained = tmp_path / "replayed.jsonl", tmp_path / "explained.jsonl"
    code, _, err = command("audit", "replay", "--sample", 10, "--model", tiny_model, "--output", replayed)
    _, printed, _ = command("audit", "replay", "--sample", 10, "--model", tiny_model, "--json")
    assert code == 0 and "CONSISTENT" in err
    assert [row["turn"] for row in lines(replayed)] == [row["turn"] for row in json.loads(printed)]
    assert [row["outcome"] for row in lines(replayed)] == [row["outcome"] for row in json.loads(printed)]
    options = ("--model", tiny_model, "--dtype", "float32", "--method", "gradient-norm")
    assert command("explain", "batch", "--sample", 10, *options, "--output", explained)[0] == 0
    found = list(lines(explained))
    assert len(found) == 3 and all(row["scores"] and "seconds" not in row["quality"] for row in found)
    assert "give --output" in command("explain", "batch", "--sample", 10)[2]


def test_how_faithful_explanations_are_goes_through_a_file_too(command, tiny_model, tmp_path):
    prompts = tmp_path / "prompts.en.txt"
    prompts.write_text("Hi you\nGo on\n")
    arguments = ("evaluate", "explain", "--prompts", prompts, "--model", tiny_model, "--json")
    _, direct, _ = command(*arguments)
    code, through, _ = command(*arguments, "--output", tmp_path / "rows.jsonl")
    assert code == 0
    direct, through = json.loads(direct), json.loads(through)
    assert direct["prompts"] == through["prompts"] and direct["methods"].keys() == through["methods"].keys()
    for method, row in direct["methods"].items():
        assert row["lds"] == pytest.approx(through["methods"][method]["lds"], abs=1e-4)
    assert "in one process" in command(*arguments, "--sanity", "--output", tmp_path / "more.jsonl")[2]


def test_an_error_in_the_middle_keeps_what_is_done(tmp_path):
    def items():
        yield from range(7)
        raise UsageError("line 8 is bad")

    with pytest.raises(UsageError):
        to_file(Squares(), items(), tmp_path / "out", source="s", cluster=None)
    assert [row["square"] for row in lines(tmp_path / "out")] == [0, 1, 4, 9, 16, 25]
    assert to_file(Squares(), iter(range(8)), tmp_path / "out", source="s", cluster=None) == 8
    assert [row["square"] for row in lines(tmp_path / "out")] == [n * n for n in range(8)]


def test_a_worker_has_one_thread_for_as_long_as_it_lives():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        worker = Worker(Squares())
        worker.stamp()
        gc.collect()
        assert torch.get_num_threads() == 1
        worker.run([1])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `cluster`: pip install 'pellucid[cluster]'")


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_same_bytes(command, texts, tmp_path, workers):
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    command("moderate", "--jsonl", texts, "--output", alone)
    code, _, err = command("moderate", "--jsonl", texts, "--output", together, "--cluster", "local", "--workers", workers)
    assert code == 0, err
    assert together.read_bytes() == alone.read_bytes()


@needs_ray
@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(tmp_path, monkeypatch):
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import the tests
    found = list(run(Squares(10, str(tmp_path / "mark")), range(40), "local", 2))
    assert [row["square"] for part in found for row in part] == [n * n for n in range(40)] and (tmp_path / "mark").exists()
    first = 10 // Squares.chunk * Squares.chunk + 1  # not those that waited behind it
    with pytest.raises(UsageError, match=f"rows {first} and after killed 4 workers"):
        list(run(Squares(10), range(40), "local", 2))


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "a:b"])
def test_a_cluster_that_is_not_there(command, texts, tmp_path, address):
    code, _, err = command("moderate", "--jsonl", texts, "--output", tmp_path / "x", "--cluster", address)
    assert code == 2 and "cannot be reached" in err
