"""What a silo agrees to say of itself. Imported by the door: no heavy imports here."""

from __future__ import annotations

from flwr.app import Context

from fedvemoe_app.config_groups.output import OutputSettings


def simulated(context: Context) -> bool:
    """Whether this silo is one of a simulation: it has no identity key of its own."""
    return "identity-key" not in context.node_config


def reports_in_full(context: Context) -> bool:
    """Whether figures and words of this silo's own may leave it.

    The run must ask for it and, outside a simulation, the silo's node config must allow it with
    ``reporting = "full"``.
    """
    default = OutputSettings()
    asked = OutputSettings(
        reporting=str(context.run_config.get("reporting", default.reporting)),
        roster=str(context.run_config.get("roster", default.roster)),
    )
    return asked.reports == "full" and (
        simulated(context) or context.node_config.get("reporting") == "full"
    )
