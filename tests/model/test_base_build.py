from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedvemoe_app.data import builtin
from fedvemoe_app.data.batches import by_length, encode
from fedvemoe_app.data.task import Instance, Task
from fedvemoe_app.errors import BaseModelError, DataError, SettingError
from fedvemoe_app.model import base_build
from fedvemoe_app.model.base_build import build_base, builtin_base


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    return builtin.public_tasks()[:3]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDVEMOE_CACHE", str(tmp_path))
    return tmp_path


class Calls:
    """Counts the training steps reported."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, step: int, steps: int, loss: float) -> None:
        self.losses.append(loss)
        assert (step, steps) == (len(self.losses), steps)


def test_the_folder_is_a_standard_model_with_its_tokenizer(
    tasks: tuple[Task, ...], cache: Path
) -> None:
    folder = build_base(tasks, steps=2)
    assert folder.parent == cache / "bases"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert not tokenizer.chat_template
    assert model.config.vocab_size == len(tokenizer)
    linears = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert all(layer.in_features % 64 == 0 for layer in linears)
    text = "Grüße, 世界!\nunseen words"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_training_lowers_the_loss(tasks: tuple[Task, ...]) -> None:
    calls = Calls()
    build_base(tasks, steps=25, on_progress=calls)
    assert len(calls.losses) == 25
    assert calls.losses[-1] < 0.6 * calls.losses[0]


def test_a_second_call_finds_the_first(tasks: tuple[Task, ...]) -> None:
    folder = build_base(tasks, steps=1)
    again = Calls()
    assert build_base(tasks, steps=1, on_progress=again) == folder
    assert again.losses == []


def test_the_same_build_twice_gives_the_same_bytes(
    tasks: tuple[Task, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = []
    for name in ("one", "two"):
        monkeypatch.setenv("FEDVEMOE_CACHE", str(tmp_path / name))
        torch.manual_seed(len(manifests))
        manifests.append((build_base(tasks, steps=2) / base_build.MANIFEST).read_text())
    assert manifests[0] == manifests[1]


def test_building_leaves_the_callers_randomness_alone(tasks: tuple[Task, ...]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_base(tasks, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_determines_the_result_names_the_folder(tasks: tuple[Task, ...]) -> None:
    folders = {
        build_base(tasks, steps=1),
        build_base(tasks, steps=2),
        build_base(tasks, steps=1, seed=1),
        build_base(tasks[:2], steps=1),
    }
    assert len(folders) == 4


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_a_damaged_entry_is_built_again(tasks: tuple[Task, ...], damage: str) -> None:
    folder = build_base(tasks, steps=1)
    intact = (folder / base_build.MANIFEST).read_text()
    weights = folder / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif damage == "remove":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / base_build.MANIFEST).write_text("{")
    calls = Calls()
    assert build_base(tasks, steps=1, on_progress=calls) == folder
    assert len(calls.losses) == 1
    assert (folder / base_build.MANIFEST).read_text() == intact


def test_an_interrupted_build_leaves_nothing_behind(tasks: tuple[Task, ...], cache: Path) -> None:
    def interrupt(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base(tasks, steps=2, on_progress=interrupt)
    assert [path for path in (cache / "bases").iterdir() if path.is_dir()] == []


def test_two_builders_at_once_build_one(tasks: tuple[Task, ...]) -> None:
    calls = (Calls(), Calls())
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda call: build_base(tasks, steps=3, on_progress=call), calls))
    assert folders[0] == folders[1]
    assert sorted(len(call.losses) for call in calls) == [0, 3]


def test_long_and_real_looking_tasks_are_cut_to_fit(cache: Path) -> None:
    story = " ".join(f"word{number}" for number in range(600))
    train = tuple(Instance(f"i{n}", f"{story} {n}", ("naïve — yes",)) for n in range(6))
    task = Task("long", "Say whether the story ends.", (), {"train": train})
    folder = build_base([task], steps=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    recipe = json.loads((folder / base_build.MANIFEST).read_text())["recipe"]
    assert len(encode(tokenizer, task, train[0], recipe["seq_len"]).ids) == recipe["seq_len"]


def test_user_errors_name_the_setting(
    tasks: tuple[Task, ...], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingError, match=r"size = 'huge'.*tiny, small"):
        build_base(tasks, size="huge")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="steps = 0"):
        build_base(tasks, steps=0)
    with pytest.raises(DataError, match="no task has a training instance"):
        build_base([Task("t", "d", (), {"train": ()})])
    (cache / "file").write_text("")
    monkeypatch.setenv("FEDVEMOE_CACHE", str(cache / "file"))
    with pytest.raises(BaseModelError, match="FEDVEMOE_CACHE"):
        build_base(tasks, steps=1)


@pytest.mark.slow
def test_the_builtin_base_knows_its_public_part_and_not_the_houses_styles() -> None:
    folder = builtin_base()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)

    def nats(tasks: tuple[Task, ...]) -> float:
        examples = [encode(tokenizer, t, i, 64) for t in tasks for i in t.splits["train"][:40]]
        total, count = 0.0, 0
        for batch in by_length(examples, 2000, tokenizer.pad_token_id):
            with torch.no_grad():
                loss = model(input_ids=batch.input_ids, labels=batch.labels).loss
            targets = int((batch.labels[:, 1:] != -100).sum())
            total, count = total + loss.item() * targets, count + targets
        return total / count

    assert nats(builtin.public_tasks()) < 0.6
    assert nats(builtin.tasks()) > 1.5
