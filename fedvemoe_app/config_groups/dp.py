"""The settings of differential privacy: off by default, one mechanism in two forms."""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.settings import setting

FORMS = ("off", "central", "local")


@dataclass(frozen=True, slots=True)
class DpSettings:
    """How what leaves a silo is clipped and noised; the unit is one silo."""

    dp: str = setting(
        "off",
        "noise on what silos send: central hides a silo in the sum, local in its own upload too",
        choices=FORMS,
    )
    dp_clip: float = setting(
        1.0, "norm at which all changes of a silo in a round are clipped, as one vector", low=1e-9
    )
    dp_noise: float = setting(
        1.0, "noise multiplier z of each sum: deviation over clip, both groups together", low=1e-3
    )
    dp_statistics_clip: float = setting(
        1.5, "norm at which a silo's statistics are clipped, each in units of its bound", low=1e-3
    )
    dp_statistics_share: float = setting(
        0.1, "share of a training sum's budget 1/z^2 that statistics get", low=0.001, high=0.999
    )
    dp_delta: float = setting(1e-5, "the delta for which epsilon is reported", low=1e-15, high=0.1)
    dp_evaluation: bool = setting(
        False, "let scores, and reports by name, leave exact: epsilon does not cover them"
    )

    @property
    def on(self) -> bool:
        """Whether anything is noised at all."""
        return self.dp != "off"

    @property
    def withholds_scores(self) -> bool:
        """Whether silos keep their scores to themselves."""
        return self.on and not self.dp_evaluation
