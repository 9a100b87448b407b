"""The number of threads follows what the cores have to give, and no reply depends on it."""

from __future__ import annotations

import pytest

from assistant.lm.engine import Engine  # before torch
from assistant.lm.pace import Pace, ladder, one_thread
from assistant.turn import Message, Sampling

import torch  # isort: skip


class World:
    """Cores of which some are taken: a token takes 40 ms over the threads that have a core, ten times that where one has none."""

    def __init__(self, cores):
        self.cores, self.taken, self.now, self.threads, self.seen, self.awakening = cores, 0, 0.0, cores, [], 0.0
        self.pace = Pace(cores, clock=lambda: self.now, use=self.use)
        self.pace.begin()

    def use(self, threads):
        self.threads = threads

    def write(self, tokens, hiccup=()):
        """The threads of each of so many tokens."""
        self.seen = []
        for number in range(tokens):
            self.pace.token(lambda number=number: self.decode(0.3 if number in hiccup else 0.0))
        return self.seen

    def decode(self, extra):
        free = self.cores - self.taken
        awake = self.awakening if self.seen and self.threads > self.seen[-1] else 0.0
        self.now += (0.04 / self.threads if self.threads <= free else 0.4) + extra + awake
        self.seen.append(self.threads)


def test_the_ladder_names_every_number_worth_trying():
    assert [ladder(n) for n in (1, 2, 3, 4, 8, 12)] == [[1], [2, 1], [3, 2, 1], [4, 3, 2, 1], [8, 7, 4, 2, 1], [12, 11, 6, 3, 1]]


@pytest.mark.parametrize("cores", [2, 4, 8])
def test_all_threads_work_while_the_cores_are_free(cores):
    world = World(cores)
    assert sum(threads < cores for threads in world.write(500)) <= 2  # one comparison


@pytest.mark.parametrize("hiccup", [{20}, {20, 50, 51 + 60}])
def test_a_single_slow_token_changes_nothing(hiccup):
    world = World(2)
    world.write(10)
    assert set(world.write(200, hiccup)) == {2}


@pytest.mark.parametrize(("cores", "taken", "best"), [(2, 1, {1}), (4, 1, {3}), (8, 1, {7}), (8, 3, {4}), (4, 3, {1})])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_taken_core_costs_some_tokens_and_never_the_reply(cores, taken, best, from_the_start):
    world = World(cores)
    if not from_the_start:
        world.write(50)
    world.taken = taken
    seen = world.write(400)
    assert sum(threads in best for threads in seen) > 0.9 * 400
    assert seen.count(cores) < 12


def test_all_threads_are_back_once_the_core_is_free_again():
    world = World(2)
    world.taken = 1
    world.write(1000)  # the wait between trials is at its longest
    world.taken = 0
    began = world.now
    while world.write(1) == [1] or world.write(1) == [1]:
        assert world.now - began < 10
    assert sum(threads == 1 for threads in world.write(200)) <= 2


def test_the_first_tokens_of_a_reply_are_slow_and_tell_nothing():
    world = World(2)
    for _ in range(5):
        world.pace.begin()
        assert sum(threads == 1 for threads in world.write(200, {0, 1})) <= 2
        world.pace.end()


def test_a_thread_that_takes_a_token_to_wake_is_taken_back():
    world = World(2)
    world.awakening = 0.05  # one thread takes 40 ms, two 20 and the first time 70
    world.taken = 1
    assert world.write(50)[-1] == 1
    world.taken = 0
    assert set(world.write(400)[-300:]) == {2}


def test_the_rest_of_the_program_has_all_threads_after_a_reply():
    world = World(2)
    world.taken = 1
    world.write(20)
    world.pace.end()
    assert world.threads == 2


def test_one_thread_at_a_time_and_the_others_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.model
def test_a_reply_has_the_same_bits_whatever_the_threads(default_model):
    engine = Engine.load(default_model, dtype="int4", thread_count=2)
    prompt = engine.render([Message("user", "Tell me about rain.")], reserve=64)
    sampling = Sampling(seed=3, max_tokens=40)
    replies = []
    for pattern in ([2], [2], [1], [1, 2]):  # the first brings the cache to where the others begin
        numbers = iter(range(1000))

        class Changing(Pace):
            def token(self, decode, pattern=pattern, numbers=numbers):
                torch.set_num_threads(pattern[next(numbers) % len(pattern)])
                return decode()

        generation = engine.generate(prompt, sampling)
        generation._pace = Changing(2)
        replies.append([(token.id, token.logprob) for token in generation])
    assert len(replies[1]) == 40
    assert replies[1] == replies[2] == replies[3]
