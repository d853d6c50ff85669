"""What a silo demands of secure sums: read from its node config, whatever a server proposes."""

from __future__ import annotations

from flwr.app import Context

from fedvemoe_app.errors import SettingError
from fedvemoe_app.flower.messages.consent import simulated
from fedvemoe_app.secagg.spec import MIN_SILOS, MODES, Mode, Policy


def policy(context: Context) -> Policy:
    """Return what this silo's node config demands.

    ``accepted-privacy`` lists modes by comma; where it says nothing, a silo of a simulation takes
    part in all, any other in ``secagg`` alone. ``require-confirm``, ``min-silos`` and
    ``min-survivors`` are demands on sessions of ``secagg``.

    Raises
    ------
    SettingError
        For a value that is none of these.
    """
    return Policy(
        modes=_modes(context),
        phases=("sum",),
        min_silos=_at_least(context, "min-silos"),
        min_survivors=_at_least(context, "min-survivors"),
        require_confirm=_flag(context, "require-confirm"),
    )


def _modes(context: Context) -> tuple[Mode, ...]:
    default = ",".join(MODES) if simulated(context) else "secagg"
    accepted = str(context.node_config.get("accepted-privacy", default))
    modes = tuple(mode.strip() for mode in accepted.split(","))
    unknown = set(modes) - set(MODES)
    if unknown:
        raise SettingError(f"accepted-privacy of this silo: {sorted(unknown)} are not {MODES}")
    return modes  # type: ignore[return-value]


def _at_least(context: Context, key: str) -> int:
    value = context.node_config.get(key, MIN_SILOS)
    if type(value) is not int or value < MIN_SILOS:
        raise SettingError(
            f"{key} = {value} of this silo: must be a whole number of at least {MIN_SILOS}"
        )
    return value


def _flag(context: Context, key: str) -> bool:
    value = context.node_config.get(key, False)
    if not isinstance(value, bool):
        raise SettingError(f"{key} = {value} of this silo: must be true or false, without quotes")
    return value
