from __future__ import annotations

import warnings

import pytest
import torch
from transformers import GenerationConfig

from fedvemoe_app.model.generation import FixedShareMixture, generate
from tests.model import tiny

PROMPTS = [list(row.ids[: row.prompt]) for row in tiny.examples(5, seed=11)]
WEIGHTS = torch.tensor([0.6, 0.4])


def next_log_p(experts, slots, tokens):
    """[m, V] log-probabilities of the next token by a full pass, without cache or padding."""
    with torch.no_grad(), experts.active(slots) as model:
        rows = torch.tensor([tokens]).repeat(len(slots), 1)
        return model(input_ids=rows).logits[:, -1].double().log_softmax(-1)


def naive(experts, prompt, slots, weights, eps, count):
    """The mixture decoded token by token; also the experts that would have ruled alone."""
    prior, share, tokens = weights.double(), weights.double(), list(prompt)
    while len(tokens) < len(prompt) + count:
        p = next_log_p(experts, slots, tokens).exp()
        token = int((share @ p).argmax())
        if token == tiny.EOS:
            break
        tokens.append(token)
        posterior = share * p[:, token] / (share @ p[:, token])
        share = (1 - eps) * posterior + eps * prior
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0])
def test_the_answer_is_the_naive_mixtures(kind, eps, attach):
    experts = attach(kind)
    tiny.randomise(experts, scale=0.15)
    found = generate(experts, PROMPTS, [2, 0], WEIGHTS, eps, max_new_tokens=8)
    expected = [naive(experts, prompt, [2, 0], WEIGHTS, eps, 8) for prompt in PROMPTS]
    assert found == expected


def test_eps_and_the_second_expert_do_matter(attach):
    experts = attach()
    tiny.randomise(experts, scale=0.15)
    answers = [
        generate(experts, PROMPTS, [2, 0], weights, eps, max_new_tokens=8)
        for weights, eps in [
            (WEIGHTS, 0.0),
            (WEIGHTS, 1.0),
            (torch.tensor([1.0, 0.0]), 0.0),
            (torch.tensor([0.0, 1.0]), 0.0),
        ]
    ]
    assert all(answers[i] != answers[j] for i in range(4) for j in range(i))


def test_one_expert_generates_as_plain_peft_does(attach, folders, tmp_path):
    experts = attach()
    tiny.randomise(experts)
    experts.save(1, tmp_path)
    plain = tiny.plain_adapter(folders["llama"], tmp_path)
    greedy = GenerationConfig(max_new_tokens=8, eos_token_id=tiny.EOS, pad_token_id=tiny.EOS)
    found = generate(experts, PROMPTS, [1], torch.ones(1), 0.1, max_new_tokens=8)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            output = plain.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=greedy
            )[0, len(prompt) :].tolist()
        assert answer == [token for token in output if token != tiny.EOS]


def test_answers_stop_at_eos_each_for_itself(attach):
    experts = attach()
    tiny.randomise(experts)
    free = generate(experts, PROMPTS, [0, 1], WEIGHTS, 0.1, max_new_tokens=8)
    stop = max(free, key=len)[2]
    settings = experts.backbone.model.generation_config
    settings.eos_token_id = [tiny.EOS, stop]
    try:
        stopped = generate(experts, PROMPTS, [0, 1], WEIGHTS, 0.1, max_new_tokens=8)
    finally:
        settings.eos_token_id = [tiny.EOS]
    cut = [answer[: answer.index(stop)] if stop in answer else answer for answer in free]
    assert stopped == cut
    assert cut != free
    assert len({len(answer) for answer in cut}) > 1


@pytest.mark.parametrize("row_cap", [1, 25, 10_000])
def test_batches_and_order_change_no_answer(attach, row_cap):
    experts = attach()
    tiny.randomise(experts)
    expected = generate(experts, PROMPTS, [0, 1], WEIGHTS, 0.1, max_new_tokens=5)
    found = generate(
        experts, PROMPTS[::-1], [0, 1], WEIGHTS, 0.1, max_new_tokens=5, row_cap=row_cap
    )
    assert found == expected[::-1]


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_every_prediction_sums_to_one_and_looks_only_back(eps):
    generator = torch.Generator().manual_seed(0)
    mixture = FixedShareMixture(torch.tensor([0.5, 0.3, 0.2]), eps)
    ids = torch.randint(0, 9, (2, 4), generator=generator)
    for _ in range(5):
        scores = 3 * torch.randn(3 * 2, 9, generator=generator)
        mixed = mixture(ids.repeat(3, 1), scores)
        torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(6))
        assert torch.equal(mixed[:2], mixed[2:4])
        ids = torch.cat([ids, torch.randint(0, 9, (2, 1), generator=generator)], dim=1)


def test_a_bad_token_moves_weight_to_the_expert_that_foresaw_it():
    mixture = FixedShareMixture(torch.tensor([0.5, 0.5]), eps=0.2)
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    mixture(torch.tensor([[0], [0]]), p.log())
    mixed = mixture(torch.tensor([[0, 1], [0, 1]]), p.log())
    second = 0.8 * (0.8 / 0.9) + 0.2 * 0.5
    expected = (1 - second) * p[0] + second * p[1]
    torch.testing.assert_close(mixed[0].exp(), expected)


def test_nothing_is_said_on_the_way(attach, capfd):
    experts = attach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(experts, PROMPTS, [0, 1], WEIGHTS, 0.1, max_new_tokens=3)
    assert capfd.readouterr() == ("", "")


def test_no_prompts_no_answers(attach):
    assert generate(attach(), [], [0], torch.ones(1), 0.0, max_new_tokens=3) == []
