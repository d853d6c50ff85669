"""Room in memory: what one pass may hold on a device, learned from passes that did not fit."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from fedvemoe_app.errors import RunError

Found = TypeVar("Found")


@dataclass(slots=True)
class Room:
    """How many token rows (padded tokens times experts) one pass holds; None: not known yet.

    One room belongs to one loaded base and lasts as long: what did not fit once is not tried
    again in the next message.
    """

    most: int | None = None

    def cap(self, row_cap: int) -> int:
        """Return the smaller of a wish and what is known to fit."""
        return row_cap if self.most is None else min(row_cap, self.most)

    def experts(self, length: int, experts: int) -> int:
        """Return how many of ``experts`` fit into one pass with a single sequence."""
        return experts if self.most is None else max(1, min(experts, self.most // length))

    def redo(
        self,
        step: Callable[[int], Found],
        *,
        row_cap: int,
        rows: int,
        least: int,
        undo: Callable[[], None] = lambda: None,
        advice: Callable[[], str] = lambda: "",
    ) -> Found:
        """Return ``step(cap)``; where memory runs out, halve the room and do the step again.

        Parameters
        ----------
        step
            The work in passes of at most ``cap`` token rows. It must draw no random number
            and leave nothing behind when it fails that ``undo`` does not take back.
        row_cap, rows
            The largest pass wished for, and the rows of all the work.
        least
            Rows of the smallest pass there is.
        advice
            What to change, for the error.

        Raises
        ------
        RunError
            If the smallest pass does not fit.
        """
        tried = None
        while True:
            cap = self.cap(min(row_cap, rows))
            smallest = self.most is not None and self.most <= least
            try:
                found = step(cap)
            except torch.OutOfMemoryError as error:
                reason = str(error).partition(". ")[0]
            else:
                if tried is not None:
                    _log(tried, cap)
                return found
            # Only here, with the error and its traceback gone, can what the step held go too.
            undo()
            free_memory()
            if smallest:
                raise RunError(f"not even {least:,} token rows fit ({reason}). {advice()}".strip())
            tried = tried or cap
            self.most = max(least, cap // 2)


def free_memory() -> None:
    """Give back what nobody refers to any more, on the accelerator as well."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _log(tried: int, cap: int) -> None:
    logging.getLogger("flwr").warning(
        "memory ran out in a pass of up to %s token rows; the step was done again in passes of "
        "%s, and later ones are kept to that (row-cap=%s avoids the attempt)",
        f"{tried:,}",
        f"{cap:,}",
        cap,
    )
