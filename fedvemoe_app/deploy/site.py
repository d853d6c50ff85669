"""The folder of a consortium on one machine: keys, each silo's data and node config, settings.

```
keys/      ca.crt server.pem server.key  <silo>.node(.pub)  <silo>.pem  roster.json
data/      <silo>/train.jsonl ...        what that silo alone reads
nodes/     <silo>.toml  <silo>/          its SuperNode's node config and FLWR_HOME
server/    tasks.txt  state.db           all that the server holds
logs/      superlink.log  <silo>.log  run.log
run/       the run's folder
```
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedvemoe_app.config import RunConfig
from fedvemoe_app.deploy import keys
from fedvemoe_app.deploy.holdings import write_holdings, write_tasks_of
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.programs.processes import toml
from fedvemoe_app.settings import Value

LOOPBACK = "127.0.0.1"
RUN = "run"


@dataclass(frozen=True, slots=True)
class Site:
    """Where things lie, and the silos' names."""

    folder: Path
    silos: tuple[str, ...] = ()

    @property
    def keys(self) -> Path:
        """All keys; between hosts each goes to its owner alone."""
        return self.folder / "keys"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / RUN

    def log(self, of: str) -> Path:
        """Return the log of a program."""
        return self.folder / "logs" / f"{of}.log"

    def node_key(self, silo: str) -> Path:
        """Return a SuperNode's private key."""
        return self.keys / f"{silo}.node"

    def node_config(self, silo: str) -> Path:
        """Return a SuperNode's node config."""
        return self.folder / "nodes" / f"{silo}.toml"

    def home(self, of: str) -> Path:
        """Return the FLWR_HOME and neutral working directory of a program."""
        return self.folder / "nodes" / of


def prepare(folder: Path, config: RunConfig, silos: int) -> tuple[Site, RunConfig]:
    """Lay out a consortium in a new folder; return it, and the settings of its run.

    Raises
    ------
    RunError
        Where the folder is there already or cannot be made.
    FedVemoeError
        Where the bank of the settings cannot be dealt out.
    """
    _make(folder)
    held = write_holdings(folder / "data", config.data, config.output.seed, silos)
    site = Site(folder, tuple(silo.name for silo in held))
    for place in ("logs", "server", "nodes"):
        (folder / place).mkdir()
    write_tasks_of(folder / "server" / "tasks.txt", held)
    keys.write_certificates(site.keys, (LOOPBACK, "localhost"))
    consortium_key = keys.write_identities(site.keys, site.silos)
    for index, silo in enumerate(held):
        keys.write_node_key(site.node_key(silo.name))
        site.home(silo.name).mkdir()
        node: dict[str, Value] = {
            "partition-id": index,
            "data-path": str(folder / "data" / silo.name),
            "state-path": str(folder / "states" / silo.name),
            "device": config.model.device,
            "category": silo.category,
            "reporting": replace(config.output, roster=keys.ROSTER).reports,
            "identity-key": str(site.keys / f"{silo.name}.pem"),
            "roster": str(site.keys / keys.ROSTER),
            "consortium-key": consortium_key,
        }
        if Path(config.model.model_name).exists():
            node["model-path"] = config.model.model_name
        site.node_config(silo.name).write_text(toml(node), encoding="utf-8")
    return site, _server_settings(site, config, consortium_key)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"{folder} is there already: choose another --folder") from None
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}") from None


def _server_settings(site: Site, config: RunConfig, consortium_key: str) -> RunConfig:
    """Return the settings of the run: nothing in them leads the server to data."""
    data = replace(
        config.data,
        dataset_name="held by each silo",
        client_task_mode="keyword",
        keyword_file="",
        assignment_file="",
        tasks_file=str(site.folder / "server" / "tasks.txt"),
    )
    output = replace(
        config.output,
        log_dir=str(site.folder),
        run_name=RUN,
        roster=str(site.keys / keys.ROSTER),
        consortium_key=consortium_key,
    )
    return replace(config, data=data, output=output)
