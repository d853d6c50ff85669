"""Plain sums (``privacy = none``): float vectors added in the order of the silos' names.

The order makes the result independent of who answered first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Message
from torch import Tensor

from fedvemoe_app.em.shapes import Shapes
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.one_reply import OneReplyGrid, Tally, content_of
from fedvemoe_app.flower.template import Template
from fedvemoe_app.flower.wire import get_facts, get_tensors, size_in_bytes


class SummingGrid(OneReplyGrid):
    """Adds what silos send in the clear.

    A silo that replies with an error, with numbers that are not finite, or not at all within
    the timeout is listed among the failures and is no part of the sums.
    """

    def sum(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Tensor], Tally]:
        """Exchange these messages, by silo, for the sums of the replies."""
        started = time.monotonic()
        replies = self.collect(sent, timeout)
        shapes = Template.told(next(iter(sent.values())).content) if sent else None
        sums, reports, failures, bytes_up = _added(sorted(sent), replies, shapes)
        tally = Tally(
            answered=len(sent) - len(failures),
            failures=failures,
            reports=reports,
            bytes_down=sum(size_in_bytes(message.content) for message in sent.values()),
            bytes_up=bytes_up,
            seconds=time.monotonic() - started,
        )
        return sums, tally


def _added(
    names: list[str], replies: Mapping[str, Message], shapes: Shapes | None
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str], int]:
    """Return sums, reports, failures and bytes of the replies, taken in the order of ``names``."""
    sums: dict[str, Tensor] = {}
    reports: dict[str, Any] = {}
    failures: dict[str, str] = {}
    bytes_up = 0
    for name in names:
        try:
            content = content_of(replies.get(name))
            report = get_facts(content, "report") if "report" in content else None
            _add(sums, get_tensors(content, "sums"), shapes)
        except RunError as error:
            failures[name] = str(error)
            continue
        if report is not None:
            reports[name] = report
        bytes_up += size_in_bytes(content)
    return sums, reports, failures, bytes_up


def _add(sums: dict[str, Tensor], summand: Mapping[str, Tensor], shapes: Shapes | None) -> None:
    """Add in place; a summand of other names or shapes, or not finite, is refused whole.

    Where no shapes were told beforehand, those of the first summand count.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in summand.values()):
        raise RunError("its numbers are not finite")
    found = {key: tuple(tensor.shape) for key, tensor in summand.items()}
    expected = shapes or {key: tuple(tensor.shape) for key, tensor in sums.items()}
    if expected and found != expected:
        raise RunError("its sums have other names or shapes than were asked for")
    for key, tensor in summand.items():
        sums[key] = sums[key] + tensor.double() if key in sums else tensor.double()
