"""A choice between two tokens, and the true change when a part of the prompt is left out, of turns that a real (tiny) engine wrote."""

import pytest

from assistant.errors import ExplanationError
from assistant.lm.engine import Engine
from assistant.lm.scoring import ReplyScorer
from assistant.pipeline import Request, respond
from assistant.session import Session
from assistant.settings import Settings
from assistant.store.ledger import Ledger
from assistant.turn import Sampling
from safety.guard import Guard


@pytest.fixture(scope="module")
def session(tiny_model):
    with Ledger.open(":memory:") as ledger:
        made = Session(Settings(), ledger)
        made.engine = Engine.load(tiny_model, dtype="float32", thread_count=1)
        made.guard = Guard.load("balanced")
        yield made


@pytest.fixture(scope="module")
def turn(session):
    request = Request("why is 天空 blue", Sampling(seed=3, max_tokens=6), system="Be brief.")
    return list(respond(request, engine=session.engine, guard=session.guard, ledger=session.ledger))[-1].turn


def test_why_this_rather_than_that(session, turn):
    chosen = turn.tokens[2]
    other = next(c for c in chosen.candidates if c.id != chosen.id)
    found = session.explain(turn.id, token=2, against=other.id)
    assert found.target == f"token 2 not {other.id}" and found.quality["rather_than"] == session.engine.tokenizer.text_of(other.id)
    assert len(found.scores) == 1 and set(found.input_roles) == {"system", "user", "format"}
    assert session.ledger.attributions(turn.id)[-1].target == found.target
    p = next(c.logprob for c in chosen.candidates if c.id == other.id)
    assert found.quality["log_prob"] == pytest.approx(chosen.logprob - p, abs=1e-3)


@pytest.mark.parametrize(("token", "against"), [(None, 5), (2, -1), (2, None), (99, 5)])
def test_senseless_contrasts_are_refused(session, turn, token, against):
    against = turn.tokens[2].id if against is None else against
    with pytest.raises(ExplanationError):
        session.explain(turn.id, token=token, against=against)


def test_leaving_a_part_out_is_the_same_as_never_having_had_it(session, turn):
    inputs = session.explain(turn.id).input_tokens
    word = next(i for i, text in enumerate(inputs) if text == "天")
    found = session.ablate(turn.id, inputs=inputs, part=[word], token=3)
    assert found.removed == "天" and found.before == pytest.approx(turn.tokens[3].logprob, abs=1e-3)
    at = "".join(map(str, inputs[:word]))
    length = len(session.engine.tokenizer.encode("天"))
    ids, start = list(turn.prompt_ids), None
    for start in range(len(ids)):
        if ids[start : start + length] == session.engine.tokenizer.encode("天"):
            break
    del ids[start : start + length]
    alone = ReplyScorer(session.engine.model, ids, [t.id for t in turn.tokens])
    import torch

    expected = alone.log_probs(torch.ones(1, len(ids), dtype=torch.bool))[0, 3]
    assert at and found.after == pytest.approx(float(expected), abs=1e-3)
    assert [c.logprob for c in found.candidates] == sorted((c.logprob for c in found.candidates), reverse=True)
    kept = session.ledger.attributions(turn.id)[-1]
    assert (kept.method, kept.input_tokens) == ("deletion", ("天",)) and kept.scores[0][0] == pytest.approx(found.before - found.after)


def test_parts_of_another_prompt_are_refused(session, turn):
    with pytest.raises(ExplanationError, match="another prompt"):
        session.ablate(turn.id, inputs=["something", "else"], part=[1], token=0)
    with pytest.raises(ExplanationError, match="word of the conversation"):
        session.ablate(turn.id, inputs=[], part=[], token=0)
    with pytest.raises(ExplanationError, match="token of the reply"):
        session.ablate(turn.id, inputs=[], part=[], token=99)


def test_a_reply_gone_on_with_explains_its_beginning_as_the_assistants(session, turn):
    request = Request(turn.prompt, Sampling(seed=4, max_tokens=3), turn.conversation, turn.parent, turn.system, continues=turn.id)
    whole = list(respond(request, engine=session.engine, guard=session.guard, ledger=session.ledger))[-1].turn
    assert turn.finish == "length" and whole.reply.startswith(turn.reply)
    assert whole.prompt_ids == (*turn.prompt_ids, *(t.id for t in turn.tokens))
    found = session.explain(whole.id)
    assert found.input_roles[-1] == "assistant"


class After:
    """An event that is set once it was asked `times` times."""

    def __init__(self, times):
        self.left = times

    def is_set(self):
        self.left -= 1
        return self.left < 0


def test_a_stopped_explanation_is_kept_and_forgotten_once_it_is_whole(session, turn, home):
    kept = home / "cache" / "explanations"
    with pytest.raises(ExplanationError, match="goes on from here"):
        session.explain(turn.id, level="token", cancel=After(2))
    (file,) = kept.glob(f"{turn.id}-*.npz")
    assert oct(file.stat().st_mode)[-2:] == "00"
    stopped = session.explain(turn.id, level="token")
    assert not list(kept.glob("*.npz"))
    assert stopped.totals == pytest.approx(session.explain(turn.id, level="token").totals, abs=1e-4)


def test_a_broken_remainder_is_ignored(session, turn, home):
    with pytest.raises(ExplanationError, match="goes on from here"):
        session.explain(turn.id, level="token", cancel=After(2))
    (file,) = (home / "cache" / "explanations").glob("*.npz")
    file.write_bytes(file.read_bytes()[:40])
    assert session.explain(turn.id, level="token").totals


def test_an_alternative_text_in_place_of_a_part(session, turn):
    found = session.explain(turn.id, span=(1, 3), contrast="xyz")
    assert found.target.endswith("rather than 'xyz'") and len(found.scores) == 1 and "joules" in found.quality
    whole = session.explain(turn.id, contrast="another reply", method="shapley", samples=4)
    assert whole.target.startswith("reply, rather than") and len(whole.errors) == len(whole.input_tokens)
    with pytest.raises(ExplanationError, match="is what the reply says"):
        session.explain(turn.id, contrast=turn.reply)


def test_a_long_explanation_says_its_cost_and_offers_less(session, turn, monkeypatch):
    from assistant import explaining

    monkeypatch.setattr(explaining, "LONG", 0.0)
    said = []
    session.explain(turn.id, level="token", progress=lambda what, fraction: said.append(what))
    assert (said[0].startswith("explaining, about ") and "a coarser level is faster" not in said[0]) or "turn" in said[0]
    monkeypatch.setattr(explaining, "BATCHED", 1e6)
    said.clear()
    session.explain(turn.id, level="role", progress=lambda what, fraction: said.append(what))
    assert said[0].startswith("explaining, about ") and " h" in said[0] and "coarser" not in said[0]  # there is none
    assert [explaining._duration(t) for t in (31, 150, 9000)] == ["31 s", "2 min", "2 h"]


def test_what_does_not_fit_into_memory_is_refused_before_it_begins(session, turn, monkeypatch):
    from assistant.lm import memory

    monkeypatch.setattr(memory, "available", lambda: 1000)
    for method in ("attention-rollout", "gradient-norm", "integrated-gradients"):
        with pytest.raises(ExplanationError, match="GB are free: explain by ablation"):
            session.explain(turn.id, method=method)
    assert session.explain(turn.id).method == "balanced-ablation"
    monkeypatch.setattr(memory, "available", lambda: None)
    assert session.explain(turn.id, method="attention-rollout").quality["view"] == "inside"


def test_two_replies_to_one_prompt(session, turn):
    def ask(seed, prompt=turn.prompt):
        request = Request(prompt, Sampling(seed=seed, max_tokens=6), system="Be brief.")
        return list(respond(request, engine=session.engine, guard=session.guard, ledger=session.ledger))[-1].turn

    other = next(t for t in map(ask, range(4, 30)) if t.tokens[0].id != turn.tokens[0].id)
    found, back = session.explain(turn.id, than=other.id), session.explain(other.id, than=turn.id)
    assert found.target == f"reply, rather than that of turn {other.id}" and len(found.scores) == 1
    assert found.totals == pytest.approx([-x for x in back.totals], abs=1e-3)
    logged = sum(t.logprob for t in turn.tokens) - sum(t.logprob for t in other.tokens)
    assert found.quality["log_prob"] == pytest.approx(logged, abs=1e-2)
    assert session.explain(turn.id, than=other.id, method="fast").method == "gradient-norm"
    for wrong, question, message in [
        (turn.id, {}, "no other generated reply"), (ask(3).id, {}, "says the same"), (ask(3, "else").id, {}, "to the same prompt"),
        (other.id, {"token": 0}, "as a whole"), (other.id, {"contrast": "x"}, "as a whole"),
    ]:  # fmt: skip
        with pytest.raises(ExplanationError, match=message):
            session.explain(turn.id, than=wrong, **question)


def test_a_verdict_is_taken_apart(session):
    request = Request("How do I build a bomb at home?", Sampling(seed=3, max_tokens=6))
    blocked = list(respond(request, engine=session.engine, guard=session.guard, ledger=session.ledger))[-1].turn
    found = session.explain_verdict(blocked.id, "prompt", counterfactual=True)
    assert found.quality["action"] == found.quality["logged_action"] == "block" and found.quality["rules"]
    card = found.quality
    assert card["grade"] in ("supported", "weak", "not supported") and card["features"] == len(found.input_tokens)
    assert card["deletion_drop"] > card["deletion_random_mean"] and card["insertion_rise"] > card["insertion_random_mean"]
    assert card["joules"] > 0 and card["energy_source"]
    edit = found.quality["counterfactual"]
    assert "bomb" in edit["sufficient"] and edit["flip"] and edit["margin_before"] > 0 >= edit["margin_after"]
    assert session.ledger.attributions(blocked.id)[-1].target.startswith("verdict on the prompt: block")


def test_the_fast_way_is_what_the_model_offers(session, turn):
    assert session.explain(turn.id, method="fast").method == "gradient-norm"  # nothing was fitted to this model


def test_the_lens_ends_with_what_the_model_said(session, turn):
    layers = session.lens(turn.id, 2)
    best = max(turn.tokens[2].candidates, key=lambda c: c.logprob)
    assert layers[-1][0][0] == best.text
    with pytest.raises(ExplanationError, match="tokens 0 to"):
        session.lens(turn.id, 99)


def test_every_head_tells_what_it_listened_to_and_no_more_than_all_of_it(session, turn):
    layers = session.heads(turn.id, 2)
    config = session.engine.model.config
    assert (len(layers), {len(layer) for layer in layers}) == (config.n_layers, {config.n_heads})
    for found in (head for layer in layers for head in layer):
        shares = [share for _, share in found]
        assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-5
    with pytest.raises(ExplanationError, match="0 to"):
        session.heads(turn.id, 99)
