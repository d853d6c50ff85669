"""One run of a study in a process of its own: the whole federation, without Ray or SuperLink.

``python -m benchmarks.one_run --silos N [--away JSON] key=value ...``
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from flwr.app import Message
from flwr.clientapp import ClientApp

from benchmarks.studies import Away
from fedvemoe_app.client_app import app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.flower.server.run import run
from fedvemoe_app.overrides import gather


class Comings(InProcessGrid):
    """Silos that come and go: those away neither answer nor are seen among the nodes."""

    def __init__(self, app: ClientApp, config: RunConfig, silos: int, away: Away) -> None:
        super().__init__(app, config.to_flat(), silos, tamper=self._lost)
        self._away = away
        self._round = -1

    def get_node_ids(self) -> list[int]:
        """Return the ids of the silos within reach; at first, of all that will ever be."""
        return [node for node in self.contexts if self._round < 0 or not self._gone(node)]

    def _lost(self, message: Message, reply: Message) -> Message | None:
        if message.metadata.group_id.isdigit():
            self._round = int(message.metadata.group_id)
        return None if self._gone(message.metadata.dst_node_id) else reply

    def _gone(self, node: int) -> bool:
        return self._away.gone(silo_name(node - 1), max(self._round, 0))  # the hello is before it


def main(
    settings: Annotated[list[str], typer.Argument(help="Settings as key=value.")],
    silos: Annotated[int, typer.Option(min=1)] = 12,
    away: Annotated[str, typer.Option(help="Silos out of reach, as JSON.")] = "{}",
) -> None:
    """Run a federation in this process and print its folder."""
    config = RunConfig.from_flat(gather(RunConfig, None, settings))
    absence = Away(**{key: _tuple(value) for key, value in json.loads(away).items()})
    print(run(Comings(app, config, silos, absence), config))


def words(away: Away) -> str:
    """Return ``away`` as the option takes it."""
    return json.dumps(asdict(away))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    typer.run(main)
