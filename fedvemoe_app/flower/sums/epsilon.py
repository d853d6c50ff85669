"""What noised sums have spent: the accountant of Flower, which composes by Renyi divergences.

Flower's accountant wraps Google's ``dp-accounting`` (the extra ``dp``). Each sum is one Gaussian
mechanism of multiplier z on one silo's clipped upload. No amplification by sampling is claimed:
the server draws a round's sample and knows it, and assessments go to all silos.
"""

from __future__ import annotations

from flwr.serverapp import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    SamplingMethod,
)

from fedvemoe_app.config_groups.dp import DpSettings
from fedvemoe_app.errors import SettingError

ORDERS = (*(1.0 + i / 20 for i in range(1, 200)), *range(11, 64), *(2.0**i for i in range(6, 25)))
"""Renyi orders over which epsilon is minimised: finer than the library's own, which round up."""


class Spending:
    """Counts the sums of a run.

    Parameters
    ----------
    settings
        Of the run's differential privacy.
    silos
        How many take part in the run.

    Raises
    ------
    SettingError
        Where the accountant's library is not installed.

    """

    def __init__(self, settings: DpSettings, silos: int) -> None:
        self.sums = 0
        self._event = GaussianPrivacyEvent(settings.dp_noise, silos, silos)
        relation, sampling = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
        privacy = PrivacyConfig(settings.dp_delta, silos, relation, sampling)
        try:
            from flwr.serverapp import RdpAccountant

            self._accountant = RdpAccountant(privacy, orders=ORDERS)
        except ImportError as error:
            raise SettingError(
                f'dp = "{settings.dp}" needs the accountant\'s library: '
                "pip install -e '.[dp]', or set dp = off"
            ) from error

    def spend(self) -> float:
        """Count one more sum and return epsilon of all so far, at the run's delta."""
        self.sums += 1
        self._accountant.compose(self._event)
        return self._accountant.get_privacy_spent().epsilon
