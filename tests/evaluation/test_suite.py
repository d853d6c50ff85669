"""A silo's test: proper predictive probabilities, counted once per task and summed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fedvemoe_app.data.batches import Example
from fedvemoe_app.data.encoded import EncodedTasks
from fedvemoe_app.data.task import Instance
from fedvemoe_app.em.round import Belief
from fedvemoe_app.evaluation import suite
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.model.backbone import load_backbone
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.family import LanguageFamily, Training
from tests.model import tiny

WEIGHTS = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)  # slot 1 is not used
BELIEF = Belief(WEIGHTS, WEIGHTS, share=0.1)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experts]:
    """Four experts that disagree, on a random base."""
    folder: Path = tmp_path_factory.mktemp("base") / "llama"
    backbone = load_backbone(tiny.build("llama", folder), device="cpu")
    made = Experts(backbone, slots=4, rank=4, alpha=8.0)
    tiny.randomise(made, scale=0.3)
    yield made
    made.close()


def family(
    experts: Experts, test: list[Example], answered: list[Example] | None = None
) -> LanguageFamily:
    data = EncodedTasks((), (), (), tuple(test), tuple(answered or ()))
    training = Training(steps=1, batch_size=4, learning_rate=0.1)
    return LanguageFamily("silo-00", experts, data, training, row_cap=2_000, seed=0)


def example(prompt: list[int], answer: list[int], task: str = "task") -> Example:
    return Example((*prompt, *answer), len(prompt), task, Instance(task, "", ("w1 w2", "w3")))


def nats_by_hand(experts: Experts, row: Example, belief: Belief) -> float:
    """Return -log p of an answer, token by token: predict, see, update, share."""
    slots = [0, 2, 3]
    prior = belief.predict[slots].numpy()
    logits = []
    for slot in slots:
        with torch.no_grad(), experts.active([slot]) as model:
            logits.append(model(input_ids=torch.tensor([row.ids])).logits[0].double())
    log_p = torch.stack(logits).log_softmax(dim=-1).numpy()
    weights, total = prior, 0.0
    for t in range(row.prompt, len(row.ids)):
        likelihood = np.exp(log_p[:, t - 1, row.ids[t]])
        total -= math.log(weights @ likelihood)
        posterior = weights * likelihood / (weights @ likelihood)
        weights = (1 - belief.share) * posterior + belief.share * prior
    return total


def test_likelihoods_equal_a_computation_by_hand(experts: Experts) -> None:
    rows = tiny.examples(6, seed=2)
    scores = suite.evaluate(family(experts, rows), BELIEF, max_new_tokens=2)
    nll = sum(nats_by_hand(experts, row, BELIEF) for row in rows)
    assert scores["task"].nll == pytest.approx(nll, rel=1e-5)
    assert scores["task"].tokens == sum(row.targets for row in rows)
    assert (scores["task"].sequences, scores["task"].examples) == (6, 0)


def test_the_scores_of_tasks_add_up_to_the_pooled_one(experts: Experts) -> None:
    rows = tiny.examples(9, seed=3)
    named = [example(list(r.ids[: r.prompt]), list(r.ids[r.prompt :]), f"t{i % 3}")
             for i, r in enumerate(rows)]  # fmt: skip
    scores = suite.evaluate(family(experts, named, named), BELIEF, max_new_tokens=2)
    together = suite.evaluate(family(experts, rows, rows), BELIEF, max_new_tokens=2)
    assert set(scores) == {"t0", "t1", "t2"}
    total, whole = pool(scores.values()), together["task"]
    assert total.nll == pytest.approx(whole.nll)
    assert (total.tokens, total.sequences, total.examples) == (
        (whole.tokens, whole.sequences, whole.examples)
    )
    assert [score.sequences for score in scores.values()] == [3, 3, 3]
    nats = sum(nats_by_hand(experts, row, BELIEF) for row in named)
    assert total.ppl == pytest.approx(math.exp(nats / total.tokens), rel=1e-5)


@pytest.mark.parametrize("seen", [[], [4], [4, 9, 2]])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_next_token_has_one_probability_distribution(
    seen: list[int], share: float, experts: Experts
) -> None:
    """p(seen + v) / p(seen) sums to one over v: no weight may have looked at v."""
    prompt = [5, 6, 7]
    words = range(tiny.EOS + 1)
    rows = [example(prompt, [*seen, word], str(word)) for word in words]
    belief = Belief(WEIGHTS, WEIGHTS, share)
    scores = suite.evaluate(family(experts, rows), belief, max_new_tokens=1)
    before = 0.0
    if seen:
        known = suite.evaluate(family(experts, [example(prompt, seen)]), belief, max_new_tokens=1)
        before = known["task"].nll
    total = sum(math.exp(before - scores[str(word)].nll) for word in words)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_experts_without_weight_change_nothing(experts: Experts) -> None:
    rows = tiny.examples(4, seed=5)
    before = suite.evaluate(family(experts, rows), BELIEF, max_new_tokens=1)
    names = experts.shapes
    kept = experts.state([1])
    experts.load({name: torch.ones(1, *shape[1:]) for name, shape in names.items()}, [1])
    after = suite.evaluate(family(experts, rows), BELIEF, max_new_tokens=1)
    experts.load(kept, [1])
    assert before == after


def test_answers_are_scored_by_their_best_reference(
    experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [example([5], [6], task) for task in ("right", "other", "half", "wrong")]
    answers = [[1, 2, tiny.EOS], [3], [1, 3], [9]]
    asked = {}

    def generate(experts: Experts, prompts: list[list[int]], *rest: object, **options: object):
        asked.update(prompts=prompts, rest=rest, options=options)
        return answers

    monkeypatch.setattr(suite, "generate", generate)
    scores = suite.evaluate(family(experts, [], rows), BELIEF, max_new_tokens=7)
    assert scores["right"] == Score(rouge_l=1.0, exact_match=1, examples=1)
    assert scores["other"] == Score(rouge_l=1.0, exact_match=1, examples=1)
    assert 0 < scores["half"].rouge_l < 1
    assert scores["half"].exact_match == 0
    assert scores["wrong"] == Score(examples=1)
    assert asked["prompts"] == [(5,)] * 4
    slots, weights, share = asked["rest"]
    assert (slots, weights.tolist(), share) == ([0, 2, 3], [0.5, 0.3, 0.2], 0.1)
    assert asked["options"]["max_new_tokens"] == 7


def test_a_silo_without_test_data_has_no_scores(experts: Experts) -> None:
    assert suite.evaluate(family(experts, []), BELIEF, max_new_tokens=1) == {}


def test_a_silos_own_expert_is_one_more_of_the_mixture(experts: Experts) -> None:
    """It lies in the last slot; goes red when it is left out of likelihoods or of answers."""
    rows = tiny.examples(5, seed=6)
    shared = WEIGHTS.clone()
    shared[3] = 0.0
    belief = Belief(shared, shared, share=0.1, private=0.2)
    own, same = (
        suite.evaluate(family(experts, rows, rows), one, max_new_tokens=4)
        for one in (belief, BELIEF)
    )
    assert own == same
    assert suite.predicting(family(experts, rows), belief)[0] == [0, 2, 3]


@pytest.mark.parametrize("private", [0.0, 0.4])
def test_the_own_expert_is_scored_in_the_same_pass(experts: Experts, private: float) -> None:
    rows = tiny.examples(6, seed=2)
    shared = torch.tensor([0.7, 0.0, 0.3, 0.0], dtype=torch.float64) * (1 - private)
    belief = Belief(shared, shared, share=0.1, private=private)
    nobody = Belief(torch.zeros_like(shared), shared, share=1.0, private=1.0)
    silo = family(experts, rows)
    passes = []
    handle = experts.backbone.model.model.layers[0].register_forward_pre_hook(
        lambda *_: passes.append(1)
    )
    expected = suite.evaluate(silo, belief, max_new_tokens=1)
    once = len(passes)
    scores, alone = suite.evaluate_with_own(silo, belief, max_new_tokens=1)
    assert len(passes) == 2 * once
    handle.remove()
    assert scores["task"].nll == pytest.approx(expected["task"].nll, rel=1e-6)
    by_itself = suite.evaluate(silo, nobody, max_new_tokens=1)["task"]
    assert alone.nll == pytest.approx(by_itself.nll, rel=1e-6)
    assert (alone.tokens, alone.sequences) == (by_itself.tokens, by_itself.sequences)
