"""Privacy settings against the number of silos, before any work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.flower.messages.privacy import fitted

COMPACT = RunConfig(output=replace(RunConfig().output, secagg_bits=16))


def test_short_words_hold_sums_of_sixteen_silos() -> None:
    assert fitted(COMPACT, 16).output.secagg_bits == 16
    with pytest.raises(SettingError, match="16 silos at most, there are 17: set secagg-bits = 32"):
        fitted(COMPACT, 17)


def test_plain_sums_do_not_mind() -> None:
    plain = replace(COMPACT, output=replace(COMPACT.output, privacy="none"))
    assert fitted(plain, 17).output.privacy == "none"


def test_no_other_width() -> None:
    with pytest.raises(SettingError, match="secagg-bits = 24: must be one of: 32, 16"):
        RunConfig.from_flat({"secagg-bits": 24})
