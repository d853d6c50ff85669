"""The Python API: a run's experts answer as they did when it was evaluated."""

from __future__ import annotations

import gc
import json
import math
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from fedvemoe_app.api import LoadedRun, load_run
from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.task import Instance, Task
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.evaluation.suite import answer
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.mixtures import Mixture
from fedvemoe_app.served import serve
from fedvemoe_app.silo import Silo, open_silo
from tests.federation import DEFINITION, SILOS
from tests.model.tiny import randomise

QUESTIONS = ["ash birch", "oak pine", "elm holly"]
HALVES = {0: 0.5, 1: 0.5}
PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"


@pytest.fixture(scope="module")
def loaded(ended_run: Run) -> Iterator[LoadedRun]:
    with load_run(ended_run.folder) as run:
        yield run


@pytest.fixture(scope="module")
def silo(ended_run: Run) -> Silo:
    """A silo of the run; its experts are whatever was loaded last."""
    return open_silo(RunConfig.from_flat(ended_run.config), 2, SILOS)


@pytest.fixture(scope="module")
def talkative(
    ended_run: Run, silo: Silo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedRun]:
    """The run with random experts, for a small base that was trained has little to say."""
    folder = tmp_path_factory.mktemp("talkative") / "run"
    shutil.copytree(ended_run.folder, folder)
    experts = silo.family.experts
    randomise(experts, scale=0.2)
    for slot in (0, 1):
        experts.save(slot, folder / "experts" / f"slot_{slot:02d}")
    with load_run(folder) as run:
        yield run


def test_experts_and_journal(loaded: LoadedRun, ended_run: Run) -> None:
    assert [expert.slot for expert in loaded.experts] == [0, 1]
    assert sum(expert.prior for expert in loaded.experts) == pytest.approx(1.0)
    assert all((expert.folder / "adapter_config.json").is_file() for expert in loaded.experts)
    assert loaded.rounds == ended_run.rounds
    assert (loaded.tasks, loaded.clients) == (ended_run.tasks, ended_run.clients)
    assert loaded.events == ended_run.events
    assert loaded.folder == ended_run.folder


@pytest.mark.parametrize("weights", [{0: 0.7, 1: 0.3}, {1: 1.0}])
def test_answers_are_those_of_the_evaluation(
    weights: dict[int, float], talkative: LoadedRun, silo: Silo
) -> None:
    share = 0.1
    for expert in talkative.experts:
        silo.family.experts.load_folder(expert.slot, expert.folder)
    examples = silo.family.data.test
    predict = torch.tensor([weights.get(slot, 0.0) for slot in (0, 1, 2)], dtype=torch.float64)
    expected = answer(silo.family, examples, list(weights), predict[list(weights)], share, 5)
    found = talkative.generate(
        [example.instance.input for example in examples],
        definition=DEFINITION,
        mixture=Mixture(weights, share),
        max_new_tokens=5,
    )
    assert [each.text for each in found] == expected
    assert len(set(expected)) > 1


def test_perplexity_is_that_of_the_journal(loaded: LoadedRun, ended_run: Run, silo: Silo) -> None:
    row = ended_run.last_clients["silo-02"]
    found = loaded.perplexity(silo.family.data.test, client="silo-02")
    assert row["ppl"] is not None
    assert math.log(found) == pytest.approx(math.log(row["ppl"]), abs=1e-5)
    assert found < loaded.perplexity(silo.family.data.test, mixture="base")


def test_a_task_is_scored_on_its_test_part(loaded: LoadedRun, silo: Silo) -> None:
    instances = tuple(example.instance for example in silo.family.data.test)
    task = Task("mine", DEFINITION, (), {"train": (), "test": instances})
    ours, theirs = (
        loaded.perplexity(what, client="silo-02") for what in (task, silo.family.data.test)
    )
    assert ours == pytest.approx(theirs)
    with pytest.raises(SettingError, match="no examples"):
        loaded.perplexity([])
    instance = Instance("0", "ash birch", ("ash",))
    other = Task("other", DEFINITION, (), {"test": (instance,)})
    assert loaded.perplexity(other) != pytest.approx(ours)


def test_the_pages_example_scores_tasks(ended_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (source,) = (block for block in blocks if "run.perplexity" in block)
    source = source.replace("runs/demo", str(ended_run.folder)).replace("silo-03", "silo-02")
    exec(compile(source, str(PAGE), "exec"), {})
    rows = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2
    assert rows[-1][0] == "mine"
    assert all(float(ppl) > 1 for _, *both in rows for ppl in both)


def test_whose_mixture_answers_matters(talkative: LoadedRun) -> None:
    loaded = talkative

    def texts(**who: object) -> list[str]:
        found = loaded.generate(QUESTIONS, definition=DEFINITION, max_new_tokens=4, **who)  # type: ignore[arg-type]
        return [each.text for each in found]

    assert texts() == texts(mixture=loaded.prior)
    assert texts(client="silo-01") == texts(mixture=loaded.mixture("silo-01"))
    assert texts(mixture="0=1") == texts(mixture={0: 3.0})
    assert texts(mixture="0=1") != texts(mixture="1=1")
    assert texts(mixture="base") not in (texts(mixture="0=1"), texts(mixture="1=1"))


def test_the_definition_is_part_of_the_prompt(loaded: LoadedRun) -> None:
    one, same = (
        loaded.generate(QUESTIONS[:2], definition=given, mixture=HALVES, max_new_tokens=4)
        for given in (DEFINITION, [DEFINITION, DEFINITION])
    )
    assert one == same
    assert one[0].pieces != loaded.generate(QUESTIONS[0], mixture=HALVES)[0].pieces
    with pytest.raises(SettingError, match=r"3 prompts .* 1 definition"):
        loaded.generate(QUESTIONS, definition=[DEFINITION])


def test_what_cannot_be_asked_is_said(loaded: LoadedRun) -> None:
    with pytest.raises(SettingError, match="client and mixture"):
        loaded.generate("ash", client="silo-00", mixture="0=1")
    with pytest.raises(RunError, match=r"no silo silo-0, .* did you mean silo-0"):
        loaded.generate("ash", client="silo-0")
    with pytest.raises(SettingError, match="no expert 2"):
        loaded.generate("ash", mixture=Mixture({2: 1.0}))
    with pytest.raises(SettingError, match=r"ash ash.*tokens.*shorten"):
        loaded.generate("ash " * 5000)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "fewer tokens than none": ({"max_new_tokens": -3}, "max_new_tokens = -3: must be"),
    "no tokens": ({"max_new_tokens": 0}, "max_new_tokens = 0: must be"),
    "text for a weight": ({"mixture": {0: "x"}}, "expert 0 has weight 'x'"),
    "a list for a mixture": ({"mixture": [0.5, 0.5]}, "weights by slot"),
    "a number for a prompt": ({"prompts": [3]}, "prompt = 3: must be text"),
    "a number for a definition": ({"definition": [3]}, "definition = 3: must be text"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_a_reason(what: str, loaded: LoadedRun) -> None:
    given, reason = WRONG[what]
    with pytest.raises(SettingError, match=reason):
        loaded.generate(**{"prompts": "ash", **given})


def test_text_has_no_perplexity_before_it_is_encoded(loaded: LoadedRun) -> None:
    with pytest.raises(SettingError, match="give a Task, or a sequence of encoded Examples"):
        loaded.perplexity("text")  # type: ignore[arg-type]


def test_settings_of_the_run_stay_and_those_of_the_machine_may_change(ended_run: Run) -> None:
    assert load_run(ended_run.folder, device="cpu", row_cap=50).config.rounds.row_cap == 50
    with pytest.raises(SettingError, match="lora-rank belongs to the run"):
        load_run(ended_run.folder, lora_rank=3)
    with pytest.raises(SettingError, match=r"dtype = \"float7\""):
        load_run(ended_run.folder, dtype="float7")


def test_a_run_is_served_in_8_bits_where_its_own_base_had_others(
    ended_run: Run, loaded: LoadedRun, silo: Silo, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    run = tmp_path / "run"
    shutil.copytree(ended_run.folder, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "use-4bit": True}))
    rows = silo.family.data.test
    with load_run(run, use_8bit=True, dtype="float32", device="cpu") as eight:
        found = eight.perplexity(rows, client="silo-02")
    whole = loaded.perplexity(rows, client="silo-02")
    assert found != whole
    assert math.log(found) == pytest.approx(math.log(whole), abs=0.05)
    with pytest.raises(SettingError, match="use-4bit = true and use-8bit = true"):
        load_run(run, use_4bit=True, use_8bit=True)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        load_run(tmp_path)


def test_the_base_is_loaded_once_when_needed_and_freed_at_the_end(ended_run: Run) -> None:
    with patch("fedvemoe_app.api.serve", wraps=serve) as served:
        with load_run(ended_run.folder) as run:
            run.mixture("silo-00")
            assert served.call_count == 0
            run.generate(QUESTIONS)
            run.generate(QUESTIONS)
            assert served.call_count == 1
            model = weakref.ref(run._bank.experts.backbone.model)
            assert model() is not None
        gc.collect()
        assert model() is None
        with pytest.raises(RunError, match="was closed"):
            run.generate("ash")
        assert run.mixture("silo-00").weights
