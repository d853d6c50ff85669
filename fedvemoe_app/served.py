"""The experts of a finished run on their base: answers and scores of any mixture of them.

One slot more than there are living experts stays empty: it is the bare base, which takes part in
the same stacked passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedvemoe_app.config import MACHINE, RunConfig
from fedvemoe_app.data.batches import Example, encode, encode_prompt
from fedvemoe_app.data.encoded import EncodedTasks
from fedvemoe_app.data.task import Instance, Task
from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import BaseModelError, SettingError
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.suite import evaluate
from fedvemoe_app.model.answers import Answer, OnPiece, write_answers
from fedvemoe_app.model.backbone import Backbone, load_backbone, require_device
from fedvemoe_app.model.bases import locate
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.family import LanguageFamily, default_row_cap
from fedvemoe_app.model.generation import ROW_CAP
from fedvemoe_app.model.packing import Wish
from fedvemoe_app.overrides import absolute
from fedvemoe_app.report.mixtures import Mixture
from fedvemoe_app.settings import Value, require_known
from fedvemoe_app.silo import experts_on
from fedvemoe_app.terms import training


@dataclass(frozen=True, eq=False)
class ServedBank:
    """Experts by position: ``slots[j]`` is at j, the bare base at ``len(slots)``."""

    config: RunConfig
    experts: Experts
    slots: tuple[int, ...]

    def bank(self, prior: Mixture) -> Bank:
        """Return the living experts as a silo receives them."""
        alive = torch.ones(len(self.slots), dtype=torch.bool)
        weights = [prior.weights[slot] for slot in self.slots]
        state = self.experts.state(range(len(self.slots)))
        return Bank(state, alive, torch.tensor(weights, dtype=torch.float64))

    def belief(self, mixture: Mixture) -> Belief:
        """Return a mixture as weights over all positions, the base's included."""
        weights = torch.zeros(len(self.slots) + 1, dtype=torch.float64)
        for slot, weight in mixture.weights.items():
            weights[self.slots.index(slot)] = weight
        if not mixture.weights:
            weights[-1] = 1.0
        return Belief(weights, weights, mixture.share)

    def family(self, name: str, data: EncodedTasks) -> LanguageFamily:
        """Return a silo's examples under these experts."""
        rows = self.config.rounds.row_cap or default_row_cap(self.experts.backbone.device)
        seed = self.config.output.seed
        packing: Wish = self.config.rounds.packing  # type: ignore[assignment]
        options = training(self.config)
        return LanguageFamily(name, self.experts, data, options, rows, seed, packing=packing)

    def answer(
        self,
        questions: Sequence[tuple[str, str]],
        mixture: Mixture,
        *,
        max_new_tokens: int,
        on_piece: OnPiece | None = None,
    ) -> list[Answer]:
        """Answer questions, each a task's definition and an input, in stacked batches.

        Raises
        ------
        SettingError
            If a prompt and its answer are longer than the base can read.
        """
        prompts = [self._prompt(*question, max_new_tokens) for question in questions]
        positions, weights = _support(self.belief(mixture).predict)
        return write_answers(
            self.experts,
            prompts,
            positions,
            weights,
            mixture.share,
            names=[self.slots[position] for position in positions if position < len(self.slots)],
            max_new_tokens=max_new_tokens,
            row_cap=self.config.rounds.row_cap or ROW_CAP,
            on_piece=on_piece,
        )

    def _prompt(self, definition: str, text: str, new: int) -> list[int]:
        backbone = self.experts.backbone
        task, instance = Task("", definition, (), {}), Instance("", text, ("",))
        tokens = encode_prompt(backbone.tokenizer, task, instance)
        room = getattr(backbone.model.config.get_text_config(), "max_position_embeddings", None)
        if room and len(tokens) + new > room:
            raise SettingError(
                f'the prompt "{text[:40]}..." has {len(tokens)} tokens; with {new} new ones that '
                f"is more than the {room} this base can read: shorten it, or lower max-new-tokens"
            )
        return tokens

    def score(self, examples: Sequence[Example], mixture: Mixture) -> Score:
        """Return the perplexity's sums over the examples' target tokens."""
        data = EncodedTasks((), (), (), test=tuple(examples), answered=())
        family, belief = self.family("", data), self.belief(mixture)
        return pool(evaluate(family, belief, max_new_tokens=1).values())

    def encoded(self, task: Task) -> list[Example]:
        """Return the test examples of a task."""
        tokenizer = self.experts.backbone.tokenizer
        length = self.config.data.seq_len
        return [encode(tokenizer, task, one, length) for one in task.splits["test"]]


def questions_of(
    prompts: str | Sequence[str], definition: str | Sequence[str]
) -> list[tuple[str, str]]:
    """Return each prompt behind its definition; SettingError where they are no texts or unequal."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    each = [definition] * len(texts) if isinstance(definition, str) else list(definition)
    if len(each) != len(texts):
        raise SettingError(f"{len(texts)} prompts have {len(each)} definitions: give one each")
    for name, values in (("prompt", texts), ("definition", each)):
        for value in values:
            if not isinstance(value, str):
                raise SettingError(f"{name} = {value!r}: must be text")
    return list(zip(each, texts, strict=True))


def serve(config: RunConfig, adapters: Mapping[int, Path], fingerprint: str) -> ServedBank:
    """Load the base of a run's settings, and the adapter folders by slot on top of it.

    Raises
    ------
    BaseModelError
        If the base cannot be had, or it is not the one the run was made with (``fingerprint``,
        "" where unknown).
    SettingError
        If this machine does not have the settings' device.
    RunError
        If an adapter folder is damaged.
    """
    backbone = _base(config)
    require_base(backbone.fingerprint, fingerprint, config.model.model_name)
    experts = experts_on(backbone, config.model, len(adapters) + 1)
    for position, folder in enumerate(adapters.values()):
        experts.load_folder(position, folder)
    return ServedBank(config, experts, tuple(adapters))


def require_base(found: str, expected: str, name: str) -> None:
    """Raise BaseModelError where the base is another than the run's."""
    if expected and found != expected:
        raise BaseModelError(
            f"the base {name} has fingerprint {found[:16]}, the run was made on {expected[:16]}: "
            "its experts mean nothing on another base; give the right one with model-name=..."
        )


def settings_here(run: RunConfig, machine: Mapping[str, Value]) -> RunConfig:
    """Return a run's settings with those of this machine; SettingError for any other key."""
    given = {key.replace("_", "-"): value for key, value in machine.items()}
    require_known(given, RunConfig().to_flat())
    for key in given:
        if key not in MACHINE:
            raise SettingError(
                f"{key} belongs to the run and cannot be changed now; this machine's are: "
                f"{', '.join(MACHINE)}"
            )
    if "base-model" in given:  # the run's own model-name must not stand against it
        given["model-name"] = given.pop("base-model")
    for one, other in (("use-4bit", "use-8bit"), ("use-8bit", "use-4bit")):
        if given.get(one) is True:  # nor its own way to hold the base
            given.setdefault(other, False)
    return RunConfig.from_flat({**run.to_flat(), **absolute(given)})


def _base(config: RunConfig) -> Backbone:
    settings = config.model
    require_device(settings.device)  # before a base is built
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    return load_backbone(
        locate(settings.model_name),
        dtype=settings.dtype,  # type: ignore[arg-type]
        bits=settings.bits,
        device=settings.device,
    )


def _support(predict: Tensor) -> tuple[list[int], Tensor]:
    positions = torch.nonzero(predict).flatten().tolist()
    return positions, predict[positions]
