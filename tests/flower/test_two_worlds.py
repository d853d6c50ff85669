"""Two worlds that differ by a swap of two silos' data, as the ServerApp's process sees them.

Everything that two silos send in whole small runs is recorded, and a distinguisher is trained to
tell the worlds apart: by the bytes of each upload in four places, and by how like it is to what
that silo would send in the clear in either world. It must tell them from sums in the clear and from
unmasked words, and must not from masked ones. Sizes must be the same in both worlds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedvemoe_app.flower.messages.wire import arrays_in, size_in_bytes, vector_of
from tests.federation import HOUSES, TASKS_PER_HOUSE, Settings, federate

QUICK: Settings = {
    "c-min": 1,
    "reporting": "aggregate",
    "client-task-mode": "explicit",
    "generate-examples": 0,
    "eval-examples": 2,
    "target-modules": "q_proj",
    "probe-tokens": 30,
    "local-steps": 2,
    "warmup-rounds": 1,
}
ONE, OTHER = 1, 2
"""The nodes whose data are swapped."""
BLOCKS = 4
Features = NDArray[np.float64]
Words = NDArray[Any]
Transcript = list[tuple[Message, Message]]
Uploads = dict[str, list[tuple[Words, Words]]]
"""By kind, in their order, the words of one silo and of the other."""


def assignment(folder: Path, swapped: bool) -> Path:
    """Write who holds which house's tasks."""
    houses = list(HOUSES)
    if swapped:
        houses[0], houses[1] = houses[1], houses[0]
    tasks = {
        f"silo-{i:02d}": [f"{house}_{number}" for number in range(TASKS_PER_HOUSE)]
        for i, house in enumerate(houses)
    }
    path = folder / f"assignment-{swapped}.json"
    path.write_text(json.dumps(tasks))
    return path


def words(reply: Message) -> Words:
    """Return all numbers of a reply in a row: words as signed integers, else as they are."""
    records = sorted(arrays_in(reply.content).items())
    arrays = [vector_of(array) for _, record in records for array in record.values()]
    signed = (a.view(a.dtype.str.replace("u", "i")) if a.dtype.kind == "u" else a for a in arrays)
    return np.concatenate([*signed, np.empty(0)])


def uploads(seen: Transcript) -> Uploads:
    """Return what both silos uploaded."""
    sent: dict[tuple[str, int], list[Words]] = defaultdict(list)
    for message, reply in seen:
        found = words(reply)
        if len(found):
            sent[message.metadata.message_type, message.metadata.dst_node_id].append(found)
    kinds = sorted({kind for kind, _ in sent})
    return {kind: list(zip(sent[kind, ONE], sent[kind, OTHER], strict=True)) for kind in kinds}


def sizes(seen: Transcript) -> list[tuple[str, int, int]]:
    """Return the size of everything that came, with its kind and sender."""
    return [
        (message.metadata.message_type, message.metadata.dst_node_id, size_in_bytes(reply.content))
        for message, reply in seen
    ]


def looks(row: Words) -> Features:
    """Return how bytes look in four places, wherever in a word they stand."""
    found = [float(np.signbit(row).mean())]
    for block in np.array_split(row.astype("<f8").view(np.uint8), BLOCKS):
        found += [(block == 0).mean(), block.mean(), block.std()]
    return np.array(found)


def likeness(row: Words, plain: Words) -> Features:
    """Return how like the upload is to one in the clear: correlation, and equal words."""
    with np.errstate(invalid="ignore"):
        ranks = np.corrcoef(np.argsort(np.argsort(row)), np.argsort(np.argsort(plain)))[0, 1]
    return np.array([np.nan_to_num(ranks), (row == plain).mean()])


Worlds = Sequence[tuple[Uploads, Uploads]]
"""For each seed, the uploads without the swap and with it."""


def auc(found: Worlds, plain: Worlds) -> float:
    """Return how well a distinguisher, trained on all other seeds, tells the worlds of a seed.

    It knows what either world would upload in the clear.
    """
    truths: list[int] = []
    scores: list[float] = []
    for kind in found[0][0]:
        x, y, seeds = [], [], []
        for seed, (pair, known) in enumerate(zip(found, plain, strict=True)):
            for world, sent in enumerate(pair):
                for step, (one, other) in enumerate(sent[kind]):
                    like = [
                        likeness(row, known[1][kind][step][i])
                        - likeness(row, known[0][kind][step][i])
                        for i, row in enumerate((one, other))
                    ]
                    x.append(np.concatenate([*like, looks(one) - looks(other)]))
                    y.append(world)
                    seeds.append(seed)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        truths += y
        scores += list(
            cross_val_predict(
                model,
                np.stack(x),
                y,
                groups=seeds,
                cv=LeaveOneGroupOut(),
                method="decision_function",
            )
        )
    return float(roc_auc_score(truths, scores))


@pytest.fixture(scope="module")
def worlds(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[tuple[Transcript, Transcript]]]:
    """Return everything that the server's process received, by seed and world."""
    folder = tmp_path_factory.mktemp("worlds")

    @cache
    def run(privacy: str, seeds: int, start: str) -> list[tuple[Transcript, Transcript]]:
        def world(seed: int, swapped: bool) -> Transcript:
            seen: Transcript = []

            def watch(message: Message, reply: Message) -> Message:
                seen.append((message, reply))
                return reply

            chosen = {**settings_in(folder, privacy=privacy), **QUICK, "start": start, "seed": seed}
            chosen["assignment-file"] = str(assignment(folder, swapped))
            assert federate(chosen, tamper=watch).events == []
            return seen

        return [(world(seed, False), world(seed, True)) for seed in range(seeds)]

    return run


def distinguished(
    privacy: str, seeds: int, start: str, made: Callable[..., list[tuple[Transcript, Transcript]]]
) -> float:
    found = made(privacy, seeds, start)
    plain = found if privacy == "none" else made("sim", seeds, start)
    one, other = ([(uploads(a), uploads(b)) for a, b in runs] for runs in (found, plain))
    if privacy == "secagg":
        assert all(sizes(a) == sizes(b) for a, b in found)
    return auc(one, other)


@pytest.mark.parametrize("privacy", ["sim", "secagg"])
def test_a_swap_shows_in_plain_words_and_not_in_masked_ones(
    privacy: str, worlds: Callable[..., list[tuple[Transcript, Transcript]]]
) -> None:
    found = distinguished(privacy, 2, "none", worlds)
    if privacy == "sim":
        assert found > 0.95
    else:
        assert abs(found - 0.5) < 0.4  # of twenty uploads: three standard deviations


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["none", "sim", "secagg"])
def test_nor_over_many_seeds(
    privacy: str, worlds: Callable[..., list[tuple[Transcript, Transcript]]]
) -> None:
    """The start's sketches and centroids are among what is recorded."""
    found = distinguished(privacy, 10, "sketch", worlds)
    print(f"AUC of the distinguisher under {privacy}: {found:.3f}")
    if privacy == "secagg":
        assert abs(found - 0.5) < 0.15  # of 160 uploads or more: three standard deviations
    else:
        assert found > 0.95
