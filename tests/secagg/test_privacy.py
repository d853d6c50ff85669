"""What the server sees tells nothing but the sum: uniform words, worlds that look alike.

The server removes each survivor's own mask in the end, so what must hide a silo from it are the
pair masks alone. Removed by hand, each turned a test here red: pair masks; own masks (an upload
whose sender then counts as dropped); a key per lane; masks of a fresh session.
"""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedvemoe_app.secagg.layout import Field, Lanes, Layout
from fedvemoe_app.secagg.masks import apply_masks
from fedvemoe_app.secagg.transcript import adds, mask_stream
from tests.secagg.consortium import Run, memory_of, names, seed_of, shown_for, zeros

SIZE = 20_000


def p_value(words: NDArray[np.generic]) -> float:
    """Chi-square of the bytes against uniform, 255 degrees of freedom."""
    counts = np.bincount(np.frombuffer(words.tobytes(), np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))


def seen_by_server(run: Run, layout: Layout, uploads: dict[str, Lanes]) -> dict[str, Lanes]:
    """Uploads with the survivors' own masks taken off: all that a server of dropouts 0 learns."""
    seeds: dict[str, bytes] = {}
    masked = _masked(run, layout, uploads, seeds)
    for name, lanes in masked.items():
        binding = memory_of(run.clients[name]).sessions[0].binding
        for lane, words in lanes.items():
            apply_masks(words, plus=[], minus=[mask_stream(seeds[name], binding, lane)])
    return masked


def _masked(
    run: Run, layout: Layout, uploads: dict[str, Lanes], seeds: dict[str, bytes]
) -> dict[str, Lanes]:
    masked = {}
    for name, inbox in run.share().items():
        client = run.clients[name]
        seeds[name] = memory_of(client).sessions[0].seed
        client.receive(inbox)
        lanes = {lane: words.copy() for lane, words in uploads[name].items()}
        masked[name] = client.mask(run.spec.session, shown_for(layout), lanes)
    return masked


CONTENT = {
    "zeros": np.zeros(SIZE),
    "maxima": np.full(SIZE, 1e9),
    "sparse": np.where(np.arange(SIZE) % 1000 == 0, 1.0, 0.0),
}


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("content", CONTENT)
def test_uploads_are_uniform_with_and_without_own_masks(content: str, bits: int) -> None:
    run = Run.of(3, bits=bits)
    layout = Layout(
        (Field("x", (SIZE,), "tensors"), Field("s", (SIZE,), "statistics")), run.spec.ring
    )
    values = {"x": CONTENT[content], "s": np.clip(CONTENT[content], 0, 1e8)}
    uploads = {name: layout.encode(values, seed_of(name)) for name in run.clients}
    assert all(p_value(words) < 1e-9 for words in uploads["silo-00"].values())
    for see in (seen_by_server, partial(_masked, seeds={})):
        again = Run.of(3, bits=bits)
        for lanes in see(again, layout, uploads).values():
            assert all(p_value(words) > 1e-7 for words in lanes.values())


def test_lanes_silos_and_sessions_have_masks_of_their_own() -> None:
    """Masked zeros: any two streams that coincide would show the difference of two uploads.

    The first four bytes alone are compared: later ones take carries, by the width of the words.
    """
    found = []
    for _ in range(2):
        run = Run.of(4)
        layout = Layout(
            (Field("x", (64,), "tensors"), Field("s", (32,), "statistics")), run.spec.ring
        )
        nothing = {name: zeros(layout) for name in run.clients}
        for lanes in _masked(run, layout, nothing, {}).values():
            found += [words.tobytes()[:4] for words in lanes.values()]
        run = Run.of(4)
        for lanes in seen_by_server(run, layout, nothing).values():
            found += [words.tobytes()[:4] for words in lanes.values()]
    assert len(set(found)) == len(found) == 32


def test_a_dropped_silos_upload_stays_hidden_by_its_own_mask() -> None:
    """Its mask key is revealed; were it late and not lost, the server could remove pair masks."""
    run = Run.of(3)
    layout = Layout((Field("x", (SIZE,), "tensors"),), run.spec.ring)
    seeds: dict[str, bytes] = {}
    nothing = {name: zeros(layout) for name in run.clients}
    masked = _masked(run, layout, nothing, seeds)
    total = sum((lanes["tensors"] for lanes in masked.values()), np.zeros(SIZE + 4, "<u4"))
    # All pair masks cancel in the sum of everybody, so what is left are the own masks.
    assert p_value(total) > 1e-7


def worlds(swapped: bool) -> tuple[dict[str, NDArray[np.float64]], dict[str, bytes]]:
    """Two silos use one slot each; which one, is what differs between the worlds."""
    slots = {"silo-00": 0, "silo-01": 1, "silo-02": 1}
    dither = {name: seed_of(name) for name in slots}
    if swapped:
        slots["silo-00"], slots["silo-01"] = 1, 0
        dither["silo-00"], dither["silo-01"] = dither["silo-01"], dither["silo-00"]
    arrays = {}
    for name, slot in slots.items():
        rng = np.random.default_rng(0 if slot == 0 else 1 + (name == "silo-02"))
        arrays[name] = np.zeros((2, 8))
        arrays[name][slot] = rng.standard_normal(8) * 100
    return arrays, dither


def features(lanes: dict[str, Lanes], layout: Layout) -> list[float]:
    """What an attacker would look at: signed sizes, zeros, low bits, per silo and slot."""
    seen: list[float] = []
    for name in sorted(lanes):
        words = lanes[name]["tensors"][:16]
        signed = layout.ring.signed(words).astype(float).reshape(2, 8) / 2.0**31
        seen += [*np.abs(signed).mean(axis=1), *(signed == 0).mean(axis=1), *signed.ravel()]
        seen += (words & 1).tolist()
    return seen


def auc_of_best_guess(masked: bool, runs: int) -> float:
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.arange(runs) % 2)
    rows = []
    for label in labels:
        run = Run.of(3)
        layout = Layout((Field("x", (2, 8), "tensors", (1e-3,)),), run.spec.ring)
        arrays, dither = worlds(bool(label))
        uploads = {n: layout.encode({"x": arrays[n]}, dither[n]) for n in arrays}
        rows.append(features(seen_by_server(run, layout, uploads) if masked else uploads, layout))
    half = runs // 2
    x = np.array(rows)
    guess = LogisticRegression(C=0.1, max_iter=200).fit(x[:half], labels[:half])
    return float(roc_auc_score(labels[half:], guess.decision_function(x[half:])))


def test_an_attacker_tells_worlds_apart_without_masks() -> None:
    """The control: what the next test looks at does give silos away where nothing hides them."""
    assert auc_of_best_guess(masked=False, runs=20) == 1.0


def test_swapped_assignments_look_alike() -> None:
    """AUC 0.5 within 5 standard errors of a test on 100 transcripts."""
    assert abs(auc_of_best_guess(masked=True, runs=200) - 0.5) < 0.29


@pytest.mark.slow
def test_swapped_assignments_look_alike_in_many_transcripts() -> None:
    assert abs(auc_of_best_guess(masked=True, runs=4000) - 0.5) < 0.065


class Constant:
    """A keystream of one word, so that every stream of a tiny ring can be tried."""

    def __init__(self, word: int) -> None:
        self.word = word

    def fill(self, buffer: bytearray, size: int) -> None:
        buffer[:size] = np.full(size // 2, self.word, "<u2").tobytes()


def views(secrets: tuple[int, ...], gone: str = "") -> Counter[tuple[int, ...]]:
    """All views of the server, modulo 4, over all pair masks of the tiny ring.

    Uploads with own masks taken off, and the pair masks with ``gone``, whose key it recovers.
    """
    silos = names(len(secrets))
    pairs = list(itertools.combinations(silos, 2))
    seen: Counter[tuple[int, ...]] = Counter()
    for drawn in itertools.product(range(4), repeat=len(pairs)):
        mask = {frozenset(pair): word for pair, word in zip(pairs, drawn, strict=True)}
        view = []
        for silo, secret in zip(silos, secrets, strict=True):
            words = np.array([secret], "<u2")
            peers = [peer for peer in silos if peer != silo]
            plus = [Constant(mask[frozenset((silo, p))]) for p in peers if adds(silo, p)]
            minus = [Constant(mask[frozenset((silo, p))]) for p in peers if not adds(silo, p)]
            apply_masks(words, plus, minus)
            if silo != gone:
                view.append(int(words[0]) % 4)
        view += [word for pair, word in mask.items() if gone in pair]
        seen[tuple(view)] += 1
    return seen


@pytest.mark.parametrize("gone", ["", "silo-03"])
def test_every_world_with_one_sum_gives_the_same_views(gone: str) -> None:
    """Exhaustive over Z_4, four silos: the multiset of views depends on the sum alone."""
    hidden = (1, 0, 0, 2), (0, 1, 0, 2), (3, 1, 1, 2), (2, 2, 1, 2)
    first, *others = (views(secrets, gone) for secrets in hidden)
    assert all(other == first for other in others)
    assert views((1, 1, 0, 2), gone) != first
