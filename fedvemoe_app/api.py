"""The Python API: open a finished run, ask its experts, read its journal.

    from fedvemoe_app.api import load_run

    with load_run("runs/one") as run:
        print(run.mixture("silo-00"))
        print(run.generate(["ash birch"], client="silo-00")[0].text)

The base is loaded once, when it is first needed; leaving the block frees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from fedvemoe_app.data.batches import Example
from fedvemoe_app.data.task import Task
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.model.answers import Answer, OnPiece
from fedvemoe_app.model.room import free_memory
from fedvemoe_app.onboarding import Onboarding, onboard
from fedvemoe_app.report import mixtures
from fedvemoe_app.report.export import export_run
from fedvemoe_app.report.journal import Run, read_run
from fedvemoe_app.report.mixtures import Mixture
from fedvemoe_app.report.rows import ClientRow, EventRow, RoundRow, TaskRow
from fedvemoe_app.served import ServedBank, questions_of, serve, settings_here

Weights = Mixture | Mapping[int, float] | str
"""Whose mixture answers: a ``Mixture``, weights by slot, or text as ``0=0.7,2=0.3`` or ``base``."""


@dataclass(frozen=True, slots=True)
class Expert:
    """An expert that was alive at the end: its slot, its PEFT folder, its prior weight."""

    slot: int
    folder: Path
    prior: float


def load_run(folder: Path | str, **machine: bool | int | str) -> LoadedRun:
    """Open a run's folder.

    Parameters
    ----------
    machine
        Settings of this machine in place of the run's: ``model_name`` (where the same base lies
        here), ``device``, ``dtype``, ``use_4bit``, ``use_8bit``, ``torch_threads``, ``row_cap``.

    Raises
    ------
    RunError
        If the folder holds no run, or no experts.
    SettingError
        If a setting is unknown or belongs to the run.
    """
    return LoadedRun(read_run(Path(folder)), machine)


class LoadedRun:
    """A run that has ended: its journal, its experts, and what they answer.

    Use it as a context manager, or ``close`` it, to free the base.
    """

    def __init__(self, journal: Run, machine: Mapping[str, bool | int | str]) -> None:
        self._journal = journal
        self.config = settings_here(journal.settings(), machine)
        self._adapters = mixtures.living(journal.folder)
        self._served: ServedBank | None = None
        self._closed = False

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._journal.folder

    @property
    def rounds(self) -> Sequence[RoundRow]:
        """The rows of ``rounds.jsonl``."""
        return self._journal.rounds

    @property
    def tasks(self) -> Sequence[TaskRow]:
        """The rows of ``tasks.jsonl``."""
        return self._journal.tasks

    @property
    def clients(self) -> Sequence[ClientRow]:
        """The rows of ``clients.jsonl``; none under aggregate reporting."""
        return self._journal.clients

    @property
    def events(self) -> Sequence[EventRow]:
        """The rows of ``events.jsonl``."""
        return self._journal.events

    @cached_property
    def prior(self) -> Mixture:
        """The bank's prior: the best guess for a silo of which nothing is known."""
        return mixtures.prior(self._journal, self._adapters)

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The living experts, in order of slot."""
        weights = self.prior.weights
        return tuple(Expert(slot, path, weights[slot]) for slot, path in self._adapters.items())

    def mixture(self, client: str) -> Mixture:
        """Return what a silo believed at the end, over shared experts alone.

        Raises
        ------
        RunError
            If the run says nothing of that silo.
        """
        return mixtures.of_client(self._journal, client, self._adapters)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        client: str | None = None,
        mixture: Weights | None = None,
        definition: str | Sequence[str] = "",
        max_new_tokens: int | None = None,
        on_piece: OnPiece | None = None,
    ) -> list[Answer]:
        """Answer prompts greedily, all in one stacked batch where memory allows.

        Parameters
        ----------
        client, mixture
            Whose mixture answers: a silo's, or given weights by slot (also as text ``0=0.7,2=0.3``
            or ``base``). With neither, the bank's prior.
        definition
            The task's definition, put before each prompt as in training; one, or one a prompt.
        on_piece
            Is told of each piece of text as it is written.

        Raises
        ------
        RunError, SettingError
            If the mixture cannot be had, a prompt is no text or too long for the base, or
            ``max_new_tokens`` is below 1.
        """
        questions = questions_of(prompts, definition)
        most = self.config.evaluation.max_new_tokens if max_new_tokens is None else max_new_tokens
        if type(most) is not int or most < 1:
            raise SettingError(f"max_new_tokens = {most!r}: must be a whole number, at least 1")
        chosen = self._chosen(client, mixture)
        return self._bank.answer(questions, chosen, max_new_tokens=most, on_piece=on_piece)

    def perplexity(
        self,
        examples: Task | Sequence[Example],
        *,
        client: str | None = None,
        mixture: Weights | None = None,
    ) -> float:
        """Return exp(nats per target token) of the examples, or of a task's test part.

        The predictive mixture never looks at the token it predicts; see ``generate`` for
        ``client`` and ``mixture``.

        Raises
        ------
        RunError, SettingError
            If the mixture cannot be had, or ``examples`` are none.
        """
        chosen = self._chosen(client, mixture)
        if not isinstance(examples, Task) and not all(isinstance(e, Example) for e in examples):
            raise SettingError("perplexity: give a Task, or a sequence of encoded Examples")
        rows = self._bank.encoded(examples) if isinstance(examples, Task) else examples
        ppl = self._bank.score(rows, chosen).ppl
        if ppl is None:
            raise SettingError("perplexity: there are no examples, so no token to score")
        return ppl

    def onboard(self, data: str | Path, *, regret: bool = True) -> Onboarding:
        """Say what the bank is worth to a silo with the tasks in ``data``; nothing is kept.

        ``regret`` trains a copy of its best expert for a few steps, to see what is missing.

        Raises
        ------
        DataError
            If ``data`` is no usable task file or folder.
        """
        return onboard(self._bank, self.prior, str(data), regret=regret)

    def export(self, output: Path | str, *, merge: int | None = None) -> Path:
        """Write every expert as a PEFT folder with a model card, and ``mixture.json``.

        With ``merge``, also the base with that expert merged in, as a transformers folder.

        Raises
        ------
        RunError
            If ``output`` is there already, or there is no expert ``merge``.
        """
        return export_run(self._journal, self.config, Path(output), merge=merge)

    @property
    def _bank(self) -> ServedBank:
        if self._closed:
            raise RunError(f"{self.folder} was closed: open it again with load_run")
        if self._served is None:
            base = str(self._journal.manifest.get("base") or "")
            self._served = serve(self.config, self._adapters, base)
        return self._served

    def _chosen(self, client: str | None, mixture: Weights | None) -> Mixture:
        if client is not None and mixture is not None:
            raise SettingError("client and mixture both say who answers: give one of them")
        if client is not None:
            return self.mixture(client)
        if mixture is None:
            return self.prior
        if isinstance(mixture, Mixture):
            return mixtures.checked(mixture.weights, self._adapters, mixture.share)
        if isinstance(mixture, str):
            return mixtures.parse(mixture, self._adapters)
        return mixtures.checked(mixture, self._adapters)

    def close(self) -> None:
        """Free the base; the journal can still be read."""
        self._closed = True
        if self._served:
            self._served.experts.close()
            self._served = None
            free_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
