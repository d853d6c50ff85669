"""A silo's node config: what its owner decides, whatever a run or its server asks for.

The table in docs/configuration.md is generated from here. A key that is not known is refused, for a
demand that is misspelt would be no demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from fedvemoe_app.config_groups.dp import FORMS
from fedvemoe_app.config_groups.model import device_fault
from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.spec import MIN_SILOS, MODES, Mode, Policy
from fedvemoe_app.settings import listed, read, setting

NodeConfig = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The keys of a node config; a silo with an ``identity-key`` is one of a deployment."""

    partition_id: int = setting(0, "needed: its number; its name is `silo-` and two digits", low=0)
    num_partitions: int = setting(0, "silos of a simulation; Flower sets it", low=0)
    identity_key: str = setting(
        "",
        "path of its private key; left out, it is simulated, with a key that follows from the seed",
    )
    roster: str = setting("", "path of the consortium's `roster.json`; needed with `identity-key`")
    consortium_key: str = setting(
        "", "the consortium's public key, 64 hex digits; needed with `identity-key`"
    )
    data_path: str = setting(
        "",
        "absolute path of its tasks, community files or rows in the hub's layout; needed with "
        "`identity-key`, for a deployed silo opens no path that a run names",
    )
    model_path: str = setting(
        "",
        "absolute path of its base, whose fingerprint must be the server's; needed with "
        "`identity-key`, unless the run's base is `builtin:*`",
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    category: str = setting("", "a word for reports by name")
    accepted_privacy: str = setting(
        "",
        f"forms of sums it takes part in, by comma, of {', '.join(MODES)}; left out, with an "
        "`identity-key` secagg alone, in a simulation all",
    )
    accepted_dp: str = setting(",".join(FORMS), "forms of noise it takes part in, by comma")
    least_dp_noise: float = setting(0.0, "least `dp-noise` of a run with noise", low=0.0)
    require_confirm: bool = setting(False, "refuse secure sums whose survivors are not signed")
    min_silos: int = setting(MIN_SILOS, "refuse secure sums of fewer silos", low=MIN_SILOS)
    min_survivors: int = setting(
        MIN_SILOS, "refuse secure sums that may hold fewer silos", low=MIN_SILOS
    )
    reporting: str = setting(
        "aggregate", "`full` lets it report by name when a run asks", choices=("aggregate", "full")
    )
    state_path: str = setting(
        "",
        "absolute path of a folder of its own for what must outlive a run: its ledger, and its "
        "part after a failure; left out, it remembers for one run",
    )
    worker: bool = setting(
        True, "whether a process of its own keeps the base between messages; in a simulation none"
    )
    worker_idle: float = setting(
        900.0, "seconds without a message after which that process ends", low=1.0
    )
    worker_folder: str = setting(
        "", "absolute path of the folder for its socket; left out, where the system wants it"
    )

    @classmethod
    def of(cls, config: NodeConfig) -> Self:
        """Read and check a node config.

        Raises
        ------
        SettingError
            For an unknown key, a value of another type or out of bounds, a relative path.
        """
        try:
            found = read(cls, config)
            found._check("identity-key" in config)
        except SettingError as error:
            raise SettingError(f"node config of this silo: {error}") from None
        return found

    @property
    def own_state(self) -> Path | None:
        """Where it keeps what must outlive a run; None where it has no place."""
        return Path(self.state_path) if self.state_path else None

    @property
    def policy(self) -> Policy:
        """What it demands of secure sums; one of a simulation takes part in all forms."""
        modes = listed(self.accepted_privacy) or (("secagg",) if self.identity_key else MODES)
        return Policy(
            modes=cast(tuple[Mode, ...], modes),
            phases=("sum",),
            min_silos=self.min_silos,
            min_survivors=self.min_survivors,
            require_confirm=self.require_confirm,
        )

    def _check(self, deployed: bool) -> None:
        if deployed and not self.identity_key:
            raise SettingError("identity-key is empty: name the file, or leave the key out")
        _among("accepted-privacy", self.accepted_privacy, MODES)
        _among("accepted-dp", self.accepted_dp, FORMS)
        if fault := device_fault(self.device):
            raise SettingError(fault)
        for key, path in (("state-path", self.state_path), ("worker-folder", self.worker_folder)):
            if path and not Path(path).is_absolute():
                raise SettingError(f'{key} = "{path}": must be an absolute path')


def _among(key: str, value: str, known: tuple[str, ...]) -> None:
    unknown = sorted(set(listed(value)) - set(known))
    if unknown:
        raise SettingError(f'{key} = "{value}": {unknown[0]} is none of: {", ".join(known)}')
