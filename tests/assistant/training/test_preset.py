"""今天天气 goes on as 今天天气很好, in both senses: on a few sentences in seconds, and with the shipped recipe in minutes."""

import pytest
import torch

from assistant.lm.engine import Engine
from assistant.training import recipe
from assistant.training.corpus import Source
from assistant.training.runs import Run
from assistant.turn import Message, Sampling
from safety.resources import data_path

GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_tokens=24)


def written(engine, prompt):
    generation = engine.generate(prompt, GREEDY)
    return "".join(token.text for token in generation)


def trained(found, output):
    run = Run(found, output, device=torch.device("cpu"))
    for _ in run.events():
        pass
    run.finish()
    return Engine.load(output, dtype="float32"), run


def test_a_few_sentences_are_learnt_in_seconds(tmp_path):
    numbers = {"width": 32, "layers": 1, "heads": 2, "vocabulary": 420, "context": 24, "batch": 8, "steps": 60, "rate": 2e-2, "warmup": 5}
    source = Source(data_path("corpus", "sentences.txt"), split="line")
    engine, run = trained(recipe.read(None, numbers | {"validation": 0.0}, (source,)), tmp_path / "m")
    assert run.trainer.losses[-1] < 0.4 * run.trainer.losses[0]
    assert written(engine, engine.render_raw("今天天气")).startswith("很好")


@pytest.mark.slow
def test_the_shipped_recipe_greets_in_both_languages(tmp_path):
    engine, _ = trained(recipe.read(recipe.preset("tiny-zh-en"), {}), tmp_path / "m")
    assert written(engine, engine.render_raw("今天天气")).startswith("很好")
    assert "你好" in written(engine, engine.render([Message("user", "你好")], reserve=16))
    assert written(engine, engine.render([Message("user", "Hello")], reserve=16)).startswith(("Hello", "Hi"))
