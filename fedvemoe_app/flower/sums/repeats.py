"""What silos will not do twice, as the server knows it: unmask one model for two lists of silos.

Two such sums would differ by single silos, so silos refuse the second (``secagg.client``). Where a
sum was void although its unmasking had begun, only those that were to be in it are asked again.
Where a model was summed before, as when a bank stands still, a void sum of it stays void.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Message

from fedvemoe_app.flower.messages.words import model_in
from fedvemoe_app.secagg.errors import SecAggAbort

LEFT_OUT = "not asked: the others began to unmask this sum without it"
Sent = Mapping[str, Message]
"""A message to each silo, by name; all show the same model."""


class Repeats:
    """The models of one run that silos have unmasked, and the one they have begun to.

    Parameters
    ----------
    least
        Silos that a sum must hold.

    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._summed: set[bytes] = set()
        self._begun: tuple[bytes, tuple[str, ...]] | None = None

    def narrowed(self, sent: Sent) -> tuple[Sent, dict[str, str]]:
        """Return the messages to those that may be in a sum, and why others may not, by silo.

        SecAggAbort where too few may.
        """
        if self._begun is None or self._begun[0] != model_in(sent):
            self._begun = None
            return sent, {}
        asked = {name: message for name, message in sent.items() if name in self._begun[1]}
        if len(asked) < self._least:
            raise SecAggAbort(f"{len(asked)} of those that began to unmask it, need {self._least}")
        return asked, dict.fromkeys(sent.keys() - asked.keys(), LEFT_OUT)

    def begin(self, model: bytes, survivors: tuple[str, ...]) -> None:
        """Note that silos are asked to unmask a sum of these survivors."""
        self._begun = model, survivors

    def done(self, model: bytes) -> None:
        """Note that the sum was had."""
        self._summed.add(model)
        self._begun = None

    def final(self, sent: Sent) -> bool:
        """Whether a void sum must stay void: its model was summed before."""
        known = model_in(sent) in self._summed
        if known:
            self._begun = None
        return known

    def facts(self) -> dict[str, Any]:
        """Return what it knows, as JSON can hold it."""
        begun = [self._begun[0].hex(), list(self._begun[1])] if self._begun else None
        return {"summed": sorted(model.hex() for model in self._summed), "begun": begun}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Know what ``facts`` returned."""
        self._summed = {bytes.fromhex(model) for model in facts["summed"]}
        model, survivors = facts["begun"] or ("", ())
        self._begun = (bytes.fromhex(model), tuple(survivors)) if model else None
