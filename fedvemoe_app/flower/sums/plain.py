"""Plain sums (``privacy = none``): float vectors added in the order of the silos' names.

The order makes the result independent of who answered first: a reply that comes early is held until
those before it have come. Nothing else is held back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from functools import partial

import torch
from flwr.app import Message, RecordDict
from torch import Tensor

from fedvemoe_app.em.shapes import Shapes
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import LONGEST_HEADER, get_tensors
from fedvemoe_app.flower.sums.account import Account
from fedvemoe_app.flower.sums.exchange import Answer
from fedvemoe_app.flower.sums.one_reply import OneReplyGrid, Tally


class SummingGrid(OneReplyGrid):
    """Adds what silos send in the clear.

    A silo that replies with an error, with numbers that are not finite, or not at all within
    the timeout is listed among the failures and is no part of the sums.
    """

    def sum(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Tensor], Tally]:
        """Exchange these messages, by silo, for the sums of the replies."""
        account = Account()
        shapes = Template.told(next(iter(sent.values())).content) if sent else None
        account.sent(sent.values())
        sums: dict[str, Tensor] = {}
        held: dict[str, Answer] = {}
        order = deque(sorted(sent))
        for name, answer in self.collect(sent, timeout, most_bytes(shapes)):
            held[name] = answer
            del answer
            while order and order[0] in held:
                first = order.popleft()
                account.take(first, held.pop(first), partial(_add, sums, shapes))
        return sums, account.tally(len(sent) - len(account.failures))


def most_bytes(shapes: Shapes | None) -> int:
    """Return the bytes that sums of these shapes have at most; 0 where none were asked for."""
    return sum(8 * math.prod(shape) for shape in (shapes or {}).values()) + 3 * LONGEST_HEADER


def _add(sums: dict[str, Tensor], shapes: Shapes | None, content: RecordDict) -> None:
    """Add in place; a summand of other names or shapes, or not finite, is refused whole.

    Where no shapes were told beforehand, those of the first summand count.
    """
    summand = get_tensors(content, "sums")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in summand.values()):
        raise RunError("its numbers are not finite")
    found = {key: tuple(tensor.shape) for key, tensor in summand.items()}
    expected = shapes or {key: tuple(tensor.shape) for key, tensor in sums.items()}
    if expected and found != expected:
        raise RunError("its sums have other names or shapes than were asked for")
    for key, tensor in summand.items():
        sums[key] = sums[key] + tensor.double() if key in sums else tensor.double()
