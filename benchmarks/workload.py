"""The work that both ways do: a silo's own examples, and random experts to apply to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from fedvemoe_app.data.batches import Batch, Example, by_length, shuffled
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.seeds import stream
from fedvemoe_app.silo import Silo

SPREAD = 0.02  # of the entries of B: about what a few rounds of training make of them
PROBED = {"short": 32, "long": 8}
STEPS = {"short": 6, "long": 2}
ANSWERED = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """Batches of one length class, and the prompts to answer.

    ``probe`` are in the order of their examples, so that log-likelihoods come in one order.
    """

    length: str
    probe: tuple[Batch, ...]
    train: tuple[Batch, ...]
    prompts: tuple[tuple[int, ...], ...]


def short(silo: Silo) -> Workload:
    """Return a part of the silo's own round."""
    data = silo.family.data
    return _workload(silo, "short", (*data.probe, *data.top_up), data.train)


def long(silo: Silo, tokens: int) -> Workload:
    """Return the same with earlier examples before each prompt, up to ``tokens`` tokens in all."""
    data = silo.family.data
    return _workload(
        silo,
        "long",
        _after_others((*data.probe, *data.top_up), tokens),
        _after_others(data.train, tokens),
    )


def _after_others(examples: Sequence[Example], tokens: int) -> list[Example]:
    """Put the tokens of the examples before it in front of each, the last ``tokens`` of all."""
    everything: list[int] = []
    joined = []
    for example in examples:
        everything += example.ids
        ids = tuple(everything[-tokens:])
        joined.append(replace(example, ids=ids, prompt=len(ids) - example.targets))
    return [example for example in joined if len(example.ids) == tokens] or joined


def _workload(
    silo: Silo, length: str, probe: Sequence[Example], train: Sequence[Example]
) -> Workload:
    size = silo.family.training.batch_size
    pad = silo.family.experts.backbone.tokenizer.pad_token_id
    every = max(1, len(probe) // PROBED[length])
    probed = sorted(probe[::every][: PROBED[length]], key=lambda example: len(example.ids))
    batches = shuffled(train, size, pad, stream(silo.family.seed, "benchmark", length))
    return Workload(
        length=length,
        probe=tuple(by_length(probed, size, pad)),
        train=tuple(islice(batches, STEPS[length])),
        prompts=tuple(example.ids[: example.prompt] for example in probed[:ANSWERED]),
    )


def token_rows(batches: Sequence[Batch], experts: int) -> int:
    """Return padded tokens times experts: what goes through the base, once each."""
    return experts * sum(batch.input_ids.numel() for batch in batches)


def random_experts(experts: Experts, seed: int) -> dict[str, Tensor]:
    """Return factors [K, ...] in which no two experts are alike and none is zero."""
    start = experts.initial(seed)
    for name, stack in start.items():
        drawn = stream(seed, "benchmark", name).normal(0.0, SPREAD, stack.shape)
        stack += stack.new_tensor(drawn)
    return start
