"""The worked example of docs/strategies.md, added as the page says and run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.report.journal import Run
from fedvemoe_app.strategies.registry import FLOWER, STRATEGIES, method_of
from tests.federation import Settings, federate

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the page's strategy to the registry."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(source.splitlines()) <= 35
    decaying = ModuleType("decaying")
    monkeypatch.setitem(sys.modules, "decaying", decaying)
    exec(compile(source, str(PAGE), "exec"), decaying.__dict__)
    monkeypatch.setitem(STRATEGIES, "decaying", decaying.method)


def adapter(run: Run) -> dict[str, Tensor]:
    return load_file(run.folder / "experts" / "slot_00" / "adapter_model.safetensors")


def test_the_example_of_the_page_runs_and_does_what_it_says(
    example: None, settings: Callable[..., Settings]
) -> None:
    quick = {"num-server-rounds": 1, "generate-examples": 0, "target-modules": "q_proj"}
    mine, fedavg = (
        federate({**settings(), **quick, "strategy": name}) for name in ("decaying", "fedavg")
    )
    assert mine.rounds[1]["strategy"] == "decaying"
    for name, tensor in adapter(fedavg).items():
        if "lora_B" in name:  # which starts at zero
            torch.testing.assert_close(adapter(mine)[name], 0.5 * tensor)


def test_the_page_and_the_setting_name_every_strategy() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in STRATEGIES)
    declared = RunConfig.__dataclass_fields__["rounds"].default_factory  # type: ignore[union-attr]
    meaning = declared.__dataclass_fields__["strategy"].metadata["meaning"]  # type: ignore[union-attr]
    assert meaning == " | ".join([*STRATEGIES, f"{FLOWER}<ClassName>"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_method_bears_its_own_name(name: str) -> None:
    assert method_of(RunConfig.from_flat({"strategy": name})).name == name
