from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedvemoe_app.model.backbone import Backbone, load_backbone
from fedvemoe_app.model.experts import Experts
from tests.model import tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with a random base for each architecture."""
    root = tmp_path_factory.mktemp("bases")
    return {kind: tiny.build(kind, root / kind) for kind in tiny.KINDS}


@pytest.fixture(scope="session")
def backbones(folders: dict[str, str]) -> dict[str, Backbone]:
    return {kind: load_backbone(folder, device="cpu") for kind, folder in folders.items()}


@pytest.fixture
def attach(backbones: dict[str, Backbone]) -> Iterator[Callable[..., Experts]]:
    """Attach experts to a base for one test."""
    made: list[Experts] = []

    def attach(base: Backbone | str = "llama", **options: Any) -> Experts:
        backbone = backbones[base] if isinstance(base, str) else base
        settings = {"slots": 3, "rank": 4, "alpha": 8.0} | options
        made.append(Experts(backbone, **settings))
        return made[-1]

    yield attach
    for experts in made:
        experts.close()
