from __future__ import annotations

import contextlib
import dataclasses
import math

import pytest
import torch

from fedvemoe_app.data.batches import collate
from fedvemoe_app.model import head
from fedvemoe_app.model.training import b_gradient, fit
from tests.model import tiny

ROWS = tiny.examples(6)
TOKENS = sum(row.targets for row in ROWS)
WEIGHTS = torch.tensor([0.7, 0.3])


def whole(rows=ROWS):
    return collate(rows, range(len(rows)), pad=tiny.EOS)


def one_step(experts, *, slots=(2, 0), weights=WEIGHTS, rows=ROWS, **options):
    """One full-batch step of plain gradient descent: delta is minus the gradient."""
    settings = {"factor": "both", "learning_rate": 1.0, "row_cap": 10_000} | options
    return fit(
        experts,
        iter([whole(rows)]),
        slots,
        weights,
        steps=1,
        optimizer="sgd",
        max_grad_norm=math.inf,
        **settings,
    )


def plain_experts(experts, base, slots, folder):
    for slot in slots:
        experts.save(slot, folder / str(slot))
    return [tiny.plain_adapter(base, folder / str(slot)) for slot in slots]


def posterior(log_lik, weights, gamma=1.0):
    return torch.softmax(weights.log()[:, None] + log_lik.detach().double() / gamma, dim=0)


@pytest.mark.parametrize("checkpointed", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_step_equals_separate_peft_adapters(kind, checkpointed, attach, backbones, tmp_path):
    backbone = dataclasses.replace(backbones[kind], checkpointed=checkpointed)
    experts = attach(backbone)
    tiny.randomise(experts)
    models = plain_experts(experts, backbone.name, [2, 0], tmp_path)
    log_lik = torch.stack([tiny.plain_log_lik(model, ROWS) for model in models])
    alpha = posterior(log_lik, WEIGHTS)
    result = one_step(experts)
    assert result.tokens == TOKENS
    torch.testing.assert_close(result.mean_alpha, alpha.mean(dim=1), rtol=1e-5, atol=1e-6)
    mixture = -(WEIGHTS.log()[:, None] + log_lik.detach()).logsumexp(0).mean()
    assert result.loss == pytest.approx(float(mixture), rel=1e-5)
    for k, model in enumerate(models):
        loss = -(alpha[k] * log_lik[k]).sum() / alpha[k].sum()
        gradients = tiny.plain_gradient(model, loss)
        assert gradients.keys() == result.delta.keys()
        for name, gradient in gradients.items():
            assert tiny.relative_error(-result.delta[name][k], gradient) < 1e-5


def test_checkpointing_does_recompute(attach, backbones):
    runs = []
    layer = backbones["llama"].model.model.layers[0].mlp
    for checkpointed in (False, True):
        experts = attach(dataclasses.replace(backbones["llama"], checkpointed=checkpointed))
        calls = []
        handle = layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        one_step(experts)
        handle.remove()
        runs.append(len(calls))
        assert not any(part.training for part in experts.backbone.model.modules())
        experts.close()
    assert runs == [1, 2]


def test_dropout_stays_off(attach, backbones):
    assert backbones["gpt2"].model.config.resid_pdrop > 0
    backbone = dataclasses.replace(backbones["gpt2"], checkpointed=True)
    experts = attach(backbone)
    start = tiny.randomise(experts)
    first = one_step(experts)
    experts.load(start)
    second = one_step(experts)
    assert first.loss == second.loss


@pytest.mark.parametrize("row_cap", [1, 70, 100])
def test_row_cap_changes_nothing(attach, row_cap):
    experts = attach()
    start = tiny.randomise(experts)
    expected = one_step(experts)
    experts.load(start)
    found = one_step(experts, row_cap=row_cap)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    for name, delta in expected.delta.items():
        assert tiny.relative_error(found.delta[name], delta) < 1e-5


def test_chunks_of_the_head_change_nothing(attach, monkeypatch):
    experts = attach()
    start = tiny.randomise(experts)
    expected = one_step(experts)
    experts.load(start)
    monkeypatch.setattr(head, "ENTRIES_CPU", 2 * 60 * 3)
    found = one_step(experts)
    for name, delta in expected.delta.items():
        assert tiny.relative_error(found.delta[name], delta) < 1e-5


def test_two_silos_make_the_centralised_em_step(attach, folders, tmp_path):
    experts = attach()
    start = tiny.randomise(experts)
    models = plain_experts(experts, folders["llama"], [0, 1], tmp_path)
    silos = [(ROWS[:2], torch.tensor([0.9, 0.1])), (ROWS[2:], torch.tensor([0.2, 0.8]))]
    total, mass, objective = {}, torch.zeros(2), [0.0, 0.0]
    for rows, weights in silos:
        experts.load(start)
        result = one_step(experts, slots=[0, 1], rows=rows, weights=weights, factor="B")
        share = (result.tokens * result.mean_alpha).float()
        mass += share
        for name, delta in result.delta.items():
            total[name] = total.get(name, 0) + share[:, None, None] * delta
        log_lik = torch.stack([tiny.plain_log_lik(model, rows) for model in models])
        alpha = posterior(log_lik, weights)
        objective = [objective[k] - (alpha[k] * log_lik[k]).sum() for k in range(2)]
    for k, model in enumerate(models):
        gradients = tiny.plain_gradient(model, objective[k])
        for name, delta in total.items():
            expected = -gradients[name] / mass[k]
            assert tiny.relative_error(delta[k] / mass[k], expected) < 1e-5


def test_gamma_flattens_the_posterior_but_not_the_loss(attach):
    experts = attach()
    start = tiny.randomise(experts)
    sharp = one_step(experts, weights=torch.tensor([0.5, 0.5]), gamma=1.0)
    experts.load(start)
    flat = one_step(experts, weights=torch.tensor([0.5, 0.5]), gamma=1e6)
    torch.testing.assert_close(flat.mean_alpha, torch.full((2,), 0.5).double(), rtol=1e-4, atol=0)
    assert abs(float(sharp.mean_alpha[0]) - 0.5) > 1e-3
    assert flat.loss == sharp.loss


@pytest.mark.parametrize("factor", ["A", "B"])
def test_only_the_chosen_factor_of_the_chosen_slots_moves(attach, factor):
    experts = attach()
    start = tiny.randomise(experts)
    result = fit(
        experts,
        iter([whole()] * 3),
        [1],
        torch.ones(1),
        factor=factor,
        steps=3,
        learning_rate=1e-2,
        row_cap=10_000,
    )
    assert result.delta.keys() == {name for name in experts.names if name.endswith(factor)}
    for name, stack in experts.state().items():
        assert torch.equal(stack[[0, 2]], start[name][[0, 2]])
        if name in result.delta:
            torch.testing.assert_close(stack[1] - start[name][1], result.delta[name][0])
            assert result.delta[name].any()
        else:
            assert torch.equal(stack, start[name])


def test_training_learns_and_leaves_nothing_behind(attach):
    experts = attach()
    experts.load(experts.initial(0))
    options = {"factor": "B", "steps": 20, "learning_rate": 1e-2, "row_cap": 10_000}
    losses = [fit(experts, iter([whole()] * 20), [0, 1], WEIGHTS, **options).loss for _ in range(2)]
    assert losses[1] < 0.8 * losses[0]
    parameters = list(experts.backbone.model.parameters())
    assert not any(parameter.requires_grad for parameter in parameters)
    assert all(parameter.grad is None for parameter in parameters)
    assert not any(part.training for part in experts.backbone.model.modules())


def test_an_expert_does_not_feel_the_others_gradient_norm(attach):
    experts = attach()
    start = tiny.randomise(experts)
    options = {"factor": "B", "steps": 1, "learning_rate": 1.0, "row_cap": 10_000}
    options |= {"optimizer": "sgd", "max_grad_norm": 0.01}
    result = fit(experts, iter([whole()]), [0, 1], WEIGHTS, **options)
    for k in range(2):
        norm = math.sqrt(sum(float(delta[k].square().sum()) for delta in result.delta.values()))
        assert norm == pytest.approx(0.01, rel=1e-3)
    assert start.keys() == set(experts.names)


def test_the_proximal_term_pulls_towards_the_start(attach):
    experts = attach()
    start = tiny.randomise(experts)
    options = {"factor": "B", "steps": 2, "row_cap": 10_000, "optimizer": "sgd"}
    options |= {"learning_rate": 0.5, "max_grad_norm": math.inf}

    def run(steps, **more):
        experts.load(start)
        batches = iter([whole()] * steps)
        chosen = options | {"steps": steps} | more
        return fit(experts, batches, [0], torch.ones(1), **chosen).delta

    first, free, pulled = run(1), run(2), run(2, proximal=0.4)
    for name in first:  # the second step subtracts lr * mu * (theta - start)
        torch.testing.assert_close(pulled[name], free[name] - 0.5 * 0.4 * first[name])


def test_an_expert_without_weight_stays(attach):
    experts = attach()
    tiny.randomise(experts)
    result = one_step(experts, weights=torch.tensor([1.0, 0.0]))
    assert all(delta[0].any() and not delta[1].any() for delta in result.delta.values())
    assert result.mean_alpha.tolist() == [1.0, 0.0]
    assert math.isfinite(result.loss)


def test_an_error_in_the_middle_leaves_the_base_frozen(attach):
    experts = attach()

    def broken():
        yield whole()
        raise ConnectionError

    options = {"factor": "both", "steps": 2, "learning_rate": 1e-2, "row_cap": 10_000}
    with contextlib.suppress(ConnectionError):
        fit(experts, broken(), [0], torch.ones(1), **options)
    assert not any(p.requires_grad for p in experts.backbone.model.parameters())


@pytest.mark.parametrize("row_cap", [30, 10_000])
def test_b_gradient_is_the_mean_token_losss_gradient(attach, folders, tmp_path, row_cap):
    experts = attach()
    experts.load(experts.initial(0))
    (model,) = plain_experts(experts, folders["llama"], [0], tmp_path)
    expected = tiny.plain_gradient(model, -tiny.plain_log_lik(model, ROWS).mean())
    batches = [collate(ROWS, rows, pad=tiny.EOS) for rows in ([0, 1, 2, 3], [4, 5])]
    found = b_gradient(experts, batches, row_cap=row_cap)
    assert found.keys() == {name for name in experts.names if name.endswith(".B")}
    for name, gradient in found.items():
        assert gradient.shape == experts.shapes[name][1:]
        assert tiny.relative_error(gradient, expected[name]) < 1e-5


@pytest.mark.parametrize("row_cap", [60, 10_000])
def test_with_a_sequence_posterior_an_example_draws_one_expert(attach, folders, tmp_path, row_cap):
    """FedEM's local step by brute force: q_sk ~ w_k exp(sum_t log p_k) weighs whole examples."""
    experts = attach()
    tiny.randomise(experts)
    models = plain_experts(experts, folders["llama"], [2, 0], tmp_path)
    log_lik = torch.stack([tiny.plain_log_lik(model, ROWS) for model in models])
    counts = torch.tensor([row.targets for row in ROWS])
    sums = torch.stack([part.sum(1) for part in log_lik.split(counts.tolist(), dim=1)], dim=1)
    alpha = posterior(sums, WEIGHTS).repeat_interleave(counts, dim=1)
    result = one_step(experts, posterior="sequence", row_cap=row_cap)
    torch.testing.assert_close(result.mean_alpha, alpha.mean(dim=1), rtol=1e-4, atol=1e-5)
    nats = -(WEIGHTS.log()[:, None] + sums.detach()).logsumexp(0).sum() / TOKENS
    assert result.loss == pytest.approx(float(nats), rel=1e-5)
    for k, model in enumerate(models):
        loss = -(alpha[k] * log_lik[k]).sum() / alpha[k].sum()
        gradients = tiny.plain_gradient(model, loss)
        for name, gradient in gradients.items():
            assert tiny.relative_error(-result.delta[name][k], gradient) < 1e-4


def test_the_proximal_term_may_pull_elsewhere(attach):
    experts = attach()
    start = tiny.randomise(experts)
    anchor = {name: stack[[1]] for name, stack in start.items()}
    free = one_step(experts, slots=[0], weights=torch.ones(1)).delta
    experts.load(start)
    options = {"proximal": 0.3, "anchor": anchor}
    pulled = one_step(experts, slots=[0], weights=torch.ones(1), **options).delta
    for name, delta in free.items():
        wanted = delta - 0.3 * (start[name][[0]] - anchor[name])
        torch.testing.assert_close(pulled[name], wanted)
