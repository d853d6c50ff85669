"""A consortium's folder: what each silo holds, what the server holds, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.bank import open_bank
from fedvemoe_app.deploy.holdings import write_holdings
from fedvemoe_app.deploy.site import prepare
from fedvemoe_app.errors import RunError
from tests.deploy.on_site import listed, node_configs, site_of, tasks_of
from tests.federation import SILOS, Settings


def test_each_silo_has_data_and_keys_of_its_own(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    site, _ = site_of(tmp_path / "site", settings())
    nodes = node_configs(site)
    assert [node["partition-id"] for node in nodes] == list(range(SILOS))
    for key in ("data-path", "identity-key"):
        assert len({node[key] for node in nodes}) == SILOS
    held = [tasks_of(Path(node["data-path"])) for node in nodes]
    assert sum(map(len, held)) == len(set().union(*held)) == 2 * SILOS
    assert listed(site) == sorted(set().union(*held))


def test_the_server_is_told_no_path_to_data(
    settings: Callable[..., Settings], small_bank: Path, tmp_path: Path
) -> None:
    site, flat = site_of(tmp_path / "site", settings())
    told = " ".join(str(value) for value in flat.values())
    assert str(small_bank) not in told
    assert str(site.folder / "data") not in told
    assert flat["roster"] == str(site.keys / "roster.json")


def test_what_is_held_out_stays_held_out(tmp_path: Path) -> None:
    config = RunConfig()
    write_holdings(tmp_path / "data", config.data, 0, SILOS)
    dealt = open_bank("builtin:tasks")
    for silo in sorted((tmp_path / "data").iterdir()):
        own = open_bank(str(silo))
        assert own.problems == ()
        for task in own.load([card.name for card in own.catalogue]):
            (before,) = dealt.load([task.name])
            assert {i.id for i in task.splits["test"]} == {i.id for i in before.splits["test"]}
            assert len(task) == len(before)


def test_several_references_stay_one_question(tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    bank.mkdir()
    rows = ", ".join(
        f'{{"id": "q{i}", "input": "word {i}", "output": ["one {i}", "two {i}"]}}'
        for i in range(60)
    )
    (bank / "code_0.json").write_text(
        f'{{"Definition": ["Say."], "Categories": ["code"], "Instances": [{rows}]}}'
    )
    config = RunConfig.from_flat({"dataset-name": str(bank), "keyword-categories": "code"})
    write_holdings(tmp_path / "data", config.data, 0, 1)
    (task,) = open_bank(str(tmp_path / "data" / "silo-00")).load(["code_0"])
    found = [one for part in task.splits.values() for one in part]
    assert len(found) == 60
    assert {len(one.outputs) for one in found} == {2}


def test_no_folder_is_ever_written_over(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is there already: choose another --folder"):
        prepare(tmp_path, RunConfig.from_flat(settings()), SILOS)
