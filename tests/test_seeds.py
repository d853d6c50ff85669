"""Random streams depend on the seed and their name, and on nothing else."""

from __future__ import annotations

from fedvemoe_app.seeds import number, stream


def test_numbers_are_the_same_on_every_machine() -> None:
    assert number(0, "sample", 1) == 99_624_621_160_157_845
    assert 0 <= number(7, "x") < 2**63


def test_the_same_name_gives_the_same_stream_whatever_was_drawn_elsewhere() -> None:
    first = stream(0, "sample", 3).standard_normal(5)
    stream(0, "sample", 2).standard_normal(100)
    assert (stream(0, "sample", 3).standard_normal(5) == first).all()


def test_other_seeds_and_names_give_other_streams() -> None:
    paths = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a1"), (0,), (0, "a", "b")]
    assert len({number(*path) for path in paths}) == len(paths)
    assert number(0, "ab", "c") != number(0, "a", "bc")
