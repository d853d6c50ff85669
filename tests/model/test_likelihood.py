from __future__ import annotations

import pytest
import torch

from fedvemoe_app.data.batches import by_length, collate
from fedvemoe_app.model import head
from fedvemoe_app.model.likelihood import token_log_lik
from tests.model import tiny

ROWS = tiny.examples(7)
LENGTHS = [row.targets for row in ROWS]


def probe(experts, *, slots=(0, 1, 2), most=36, row_cap=10_000):
    batches = by_length(ROWS, most, pad=tiny.EOS)
    return token_log_lik(experts, batches, slots, row_cap=row_cap)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_stacked_experts_equal_separate_peft_adapters(kind, attach, folders, tmp_path):
    experts = attach(kind)
    tiny.randomise(experts)
    found, lengths = probe(experts, slots=[1, 2, 0])
    assert found.dtype == torch.float64
    assert lengths.tolist() == LENGTHS
    for j, slot in enumerate([1, 2, 0]):
        experts.save(slot, tmp_path / str(slot))
        plain = tiny.plain_adapter(folders[kind], tmp_path / str(slot))
        with torch.no_grad():
            expected = tiny.plain_log_lik(plain, ROWS)
        assert tiny.relative_error(found[:, j], expected) < 1e-5


@pytest.mark.parametrize("row_cap", [1, 20, 45, 70, 10_000])
@pytest.mark.parametrize("most", [1, 36, 10_000])
def test_how_rows_and_experts_are_cut_changes_nothing(attach, row_cap, most):
    experts = attach()
    tiny.randomise(experts)
    whole, lengths = probe(experts, most=10_000)
    parts, same_lengths = probe(experts, most=most, row_cap=row_cap)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    assert torch.equal(lengths, same_lengths)


def test_no_forward_pass_exceeds_the_row_cap(attach, monkeypatch):
    experts = attach()
    seen = []
    base = type(experts.backbone.model.base_model)
    forward = base.forward

    def counting(self, input_ids, **options):
        seen.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(base, "forward", counting)
    probe(experts, row_cap=60)
    assert max(seen) <= 60
    assert len(seen) < 3 * 7  # and rows do share passes


def test_chunks_of_the_head_change_nothing(attach, monkeypatch):
    experts = attach()
    tiny.randomise(experts)
    whole, _ = probe(experts)
    monkeypatch.setattr(head, "ENTRIES_CPU", 3 * 60 * 2)
    chunked, _ = probe(experts)
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-6)


def test_padding_is_never_read(attach):
    experts = attach()
    tiny.randomise(experts)
    one, _ = token_log_lik(experts, [collate(ROWS, [0, 1, 2], pad=3)], [0], row_cap=10_000)
    other, _ = token_log_lik(experts, [collate(ROWS, [0, 1, 2], pad=9)], [0], row_cap=10_000)
    assert torch.equal(one, other)


def test_no_batches_give_no_tokens(attach):
    log_lik, lengths = token_log_lik(attach(), [], [0, 1], row_cap=10)
    assert log_lik.shape == (0, 2)
    assert lengths.shape == (0,)
