"""One exchange with the silos: messages out, and each reply in as it comes, one upload at a time.

What is larger than a message may be goes out and comes back in parts (``parts``). Whoever sums
sees whole messages, and so does whoever answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.parts import (
    MEGABYTE,
    Plan,
    cut,
    first_of,
    following,
    piece_in,
    size_of,
    whole,
)
from fedvemoe_app.flower.messages.wire import arrays_in, text_size

Answer = RecordDict | RunError
"""What a silo's reply holds, or why there is none."""
Replied = Callable[[str, int, int], None]
"""Called with a silo's name, how many have answered, and how many were asked."""

MOST_TEXTS = 2**23
"""Bytes of all records of text in a reply."""
LONGEST_REASON = 2000
"""Characters of an error's reason that are kept."""
POLL_SECONDS = 0.05
PART_SECONDS = 300.0
"""Longest wait for a part that lies ready: replies of other silos wait, and have their time."""


class Exchange:
    """Carries messages of any size over Flower's grid.

    Parameters
    ----------
    grid
        Flower's grid.
    message_mb
        Megabytes of arrays that one message may carry.
    replied
        Called after each reply, for progress.

    """

    def __init__(self, grid: Grid, message_mb: float, replied: Replied) -> None:
        self._grid = grid
        self._limit = int(message_mb * MEGABYTE)
        self._replied = replied

    def ask(
        self, sent: Mapping[str, Message], timeout: float | None, most: int
    ) -> Iterator[tuple[str, Answer]]:
        """Yield every silo once, as they answer: the content of its reply, or why there is none.

        ``most`` is the bytes of arrays that a reply may have. Replies wait with the SuperLink: here
        are never more at once than one message may carry, or one.
        """
        ready, failed = self._go_ahead(sent, timeout)
        yield from failed.items()
        done = 0  # enumerate() would hold on to the last reply
        for name, reply in self._replies(ready, timeout, most):
            if reply is not None:
                done += 1
                self._replied(name, done, len(ready))
            answer = self._answer(ready[name], reply, timeout, most)
            del reply  # whoever takes the answer holds it alone
            yield name, answer
            del answer

    def _replies(
        self, sent: Mapping[str, Message], timeout: float | None, most: int
    ) -> Iterator[tuple[str, Message | None]]:
        """Yield replies as they come, matched by what they answer: errors carry no sender."""
        ids = list(self._grid.push_messages(list(sent.values())))
        if len(ids) != len(sent):
            raise RunError("SuperLink refused the messages: they are too large for it")
        waiting = {id_: name for id_, name in zip(ids, sent, strict=True) if id_}
        missing = [name for id_, name in zip(ids, sent, strict=True) if not id_]
        late = time.monotonic() + timeout if timeout else float("inf")
        came = True
        while waiting and (came or time.monotonic() < late):
            came = False
            for asked in self._few(list(waiting), most):
                arrived = list(self._grid.pull_messages(asked))
                came = came or bool(arrived)
                time.sleep(0.0 if arrived else POLL_SECONDS)
                while arrived:
                    reply = arrived.pop(0)
                    yield waiting.pop(reply.metadata.reply_to_message_id), reply
                    del reply
        yield from ((name, None) for name in (*waiting.values(), *missing))

    def _few(self, ids: list[str], most: int) -> Iterator[list[str]]:
        """Yield as many of the messages at a time as have replies that fit into one message."""
        size = max(1, self._limit // max(1, most))
        yield from (ids[start : start + size] for start in range(0, len(ids), size))

    def _go_ahead(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Message], dict[str, RunError]]:
        """Send what one message cannot carry; return what is left to send, and who failed."""
        ready, cuts = dict(sent), dict[tuple[int, ...], tuple[Plan, list[bytes]]]()
        rest: dict[str, list[RecordDict]] = {}
        for name, message in sent.items():
            content = message.content
            if size_of(content) > self._limit:
                same = tuple(id(record) for record in arrays_in(content).values())
                if same not in cuts:  # one bank for all silos
                    cuts[same] = cut(content, self._limit)
                plan, pieces = cuts[same]
                ready[name] = _like(message, first_of(content, plan, pieces[0]))
                rest[name] = [
                    following(plan, number, piece) for number, piece in enumerate(pieces)
                ][1:]
        failed = self._in_parts(sent, rest, timeout)
        return {name: ready[name] for name in ready if name not in failed}, failed

    def _in_parts(
        self,
        sent: Mapping[str, Message],
        parts: Mapping[str, list[RecordDict]],
        timeout: float | None,
    ) -> dict[str, RunError]:
        """Send each silo its parts, one after another; return who failed to take one."""
        failed: dict[str, RunError] = {}
        for number in range(max(map(len, parts.values()), default=0)):
            step = {
                name: _like(sent[name], contents[number], "query.ahead")
                for name, contents in parts.items()
                if name not in failed and number < len(contents)
            }
            for name, reply in self._replies(step, timeout, 0):
                taken = _content(reply)
                if isinstance(taken, RunError):
                    failed[name] = taken
        return failed

    def _answer(
        self, message: Message, reply: Message | None, timeout: float | None, most: int
    ) -> Answer:
        """Return what a reply holds, its other parts fetched, or why there is nothing."""
        first = _content(reply)
        if isinstance(first, RunError):
            return first
        try:
            plan = Plan.of(first)
            _require_size(first, plan, most)
            return whole(first, plan, self._fetching(message, plan, timeout)) if plan else first
        except RunError as error:
            return error

    def _fetching(
        self, message: Message, plan: Plan, timeout: float | None
    ) -> Callable[[int], bytes]:
        wait = min(timeout or PART_SECONDS, PART_SECONDS)

        def fetch(number: int) -> bytes:
            request = _like(message, following(plan, number), "query.part", wait)
            ((_, reply),) = self._replies({"": request}, wait, plan.piece)
            content = _content(reply)
            if isinstance(content, RunError):
                raise RunError(f"part {number + 1} of {len(plan.hashes)}: {content}")
            return piece_in(content)

        return fetch


def _content(reply: Message | None) -> Answer:
    if reply is None:
        return RunError("no answer in time")
    if reply.has_error():
        return RunError(_printable(reply.error.reason or "") or f"error {reply.error.code}")
    return reply.content


def _require_size(content: RecordDict, plan: Plan | None, most: int) -> None:
    """Raise RunError where a reply holds more than was asked for, before anything is made of it."""
    found = max(size_of(content), plan.total if plan else 0)
    if found > most:
        raise RunError(f"its arrays are more than was asked for: {found} bytes, not {most}")
    texts = text_size(content)
    if texts > MOST_TEXTS:
        raise RunError(f"its texts are more than any answer needs: {texts} bytes")


def _printable(reason: str) -> str:
    """Return a silo's words on one line of a log: no terminal is to obey them."""
    return "".join(c if c.isprintable() else " " for c in reason[:LONGEST_REASON])


def _like(
    message: Message, content: RecordDict, kind: str = "", ttl: float | None = None
) -> Message:
    """Return a message with other content to the same silo."""
    meta = message.metadata
    return Message(
        content,
        meta.dst_node_id,
        kind or meta.message_type,
        ttl=ttl or meta.ttl,
        group_id=meta.group_id,
    )
