"""What leaves a run: adapters that plain PEFT reads in a process without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fedvemoe_app.api import LoadedRun, load_run
from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import BaseModelError, RunError
from fedvemoe_app.report.export import export_run
from fedvemoe_app.report.journal import Run

TOKENS = [[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]
STRANGER = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
assert not any(name.startswith("fedvemoe_app") for name in sys.modules)
base, adapter, merged, tokens = json.loads(sys.argv[1])
found = []
for adapted in (True, False):
    model = AutoModelForCausalLM.from_pretrained(base if adapted else merged).eval()
    if adapted:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        found.append(model(input_ids=torch.tensor(tokens)).logits.tolist())
assert not any(name.startswith("fedvemoe_app") for name in sys.modules)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def exported(ended_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "adapters"
    with load_run(ended_run.folder) as run:
        assert run.export(output, merge=1) == output
    return output


def test_a_stranger_gets_the_same_logits_from_adapter_and_merged_base(
    exported: Path, ended_run: Run, small_base: Path
) -> None:
    given = [str(small_base), str(exported / "slot_01"), str(exported / "merged_slot_01"), TOKENS]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
        cwd=exported,
    )
    assert done.returncode == 0, done.stderr
    theirs = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    with load_run(ended_run.folder) as run, torch.no_grad():
        bank = run._bank.experts
        with bank.active([1]) as model:
            ours = model(input_ids=torch.tensor(TOKENS)).logits
        with bank.active([2]) as model:
            bare = model(input_ids=torch.tensor(TOKENS)).logits
    assert (ours - bare).abs().max() > 0.01
    for each in theirs:
        torch.testing.assert_close(each, ours, atol=1e-5, rtol=0)


def test_every_living_expert_has_its_folder_and_its_own_card(
    exported: Path, small_base: Path
) -> None:
    assert {path.name for path in exported.iterdir()} == {
        *("slot_00", "slot_01"),
        *("merged_slot_01", "mixture.json"),
    }
    for slot in (0, 1):
        folder = exported / f"slot_{slot:02d}"
        card = (folder / "README.md").read_text()
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(small_base)
        for word in (f"Expert {slot}", "PeftModel", "--enable-lora", "license", "rank 2"):
            assert word in card
    cards = [(exported / f"slot_{slot:02d}" / "README.md").read_text() for slot in (0, 1)]
    served = [[line for line in card.splitlines() if line.startswith("| code_")] for card in cards]
    assert sum(bool(lines) for lines in served) == 1  # one main expert has the silo's tasks
    assert "license" in (exported / "merged_slot_01" / "README.md").read_text()


def test_mixture_json_holds_prior_and_beliefs(exported: Path, ended_run: Run) -> None:
    content = json.loads((exported / "mixture.json").read_text())
    assert content["experts"] == {"0": "slot_00", "1": "slot_01"}
    assert content["base_fingerprint"] == ended_run.manifest["base"]
    assert sum(content["prior"].values()) == pytest.approx(1.0)
    for name, row in ended_run.last_clients.items():
        silo = content["silos"][name]
        assert list(silo["responsibilities"].values()) == list(row["responsibilities"] or ())[:2]
        assert (silo["active"], silo["share"]) == (row["active"], row["share"])


def test_sums_only_leave_sums_only(ended_run: Run, tmp_path: Path) -> None:
    config = RunConfig.from_flat(ended_run.config)
    output = export_run(replace(ended_run, clients=[]), config, tmp_path / "out")
    assert json.loads((output / "mixture.json").read_text())["silos"] is None
    assert "sums only" in (output / "slot_00" / "README.md").read_text()


def test_nothing_is_written_over(ended_run: Run, tmp_path: Path) -> None:
    run = load_run(ended_run.folder)
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="mine exists already"):
        run.export(tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        run.export(tmp_path / "file" / "out")
    with pytest.raises(RunError, match="no expert 7 to merge; it has 0, 1"):
        run.export(tmp_path / "out", merge=7)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "file"}


def damaged(ended_run: Run, folder: Path) -> LoadedRun:
    shutil.copytree(ended_run.folder, folder)
    (folder / "experts" / "slot_01" / "adapter_model.safetensors").write_bytes(b"half a file")
    return load_run(folder)


def test_a_damaged_expert_is_named_and_leaves_nothing(ended_run: Run, tmp_path: Path) -> None:
    run = damaged(ended_run, tmp_path / "run")
    with pytest.raises(RunError, match=r"slot_01.*damaged"):
        run.export(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    with pytest.raises(RunError, match=r"slot_01.*damaged"):
        run.generate("ash birch")


def test_no_expert_is_merged_into_another_base(
    ended_run: Run, small_base: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(small_base)
    shutil.copytree(small_base, other)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    model.save_pretrained(other)
    with pytest.raises(BaseModelError, match=r"other has fingerprint .* model-name"):
        load_run(ended_run.folder, model_name=str(other)).export(tmp_path / "out", merge=0)
    with pytest.raises(BaseModelError, match=r"other has fingerprint .* model-name"):
        load_run(ended_run.folder, model_name=str(other)).generate("ash birch")
    moved = tmp_path / "moved"
    shutil.copytree(small_base, moved)
    output = load_run(ended_run.folder, model_name=str(moved)).export(tmp_path / "out")
    adapter = output / "slot_00"
    assert json.loads((adapter / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(moved)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(moved), str(adapter))
