"""A whole run in one process: what its folder holds, and that a seed decides all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.mixture import SHARES
from fedvemoe_app.flower.messages.wire import get_tensors
from fedvemoe_app.report.journal import METRICS, Run
from fedvemoe_app.report.progress import Tail
from tests.federation import HOUSES, SILOS, Settings, federate, without_seconds

LOCAL = {"silo-00": 1.5, "silo-01": 1e6, "silo-02": 2.0, "silo-03": 1e6}
ROUNDS, EVALUATED = 3, (0, 2, 3)


@pytest.fixture(scope="module")
def settings_of_run(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    folder = tmp_path_factory.mktemp("runs")
    baselines = folder / "local.json"
    baselines.write_text(json.dumps({"clients": {silo: {"ppl": p} for silo, p in LOCAL.items()}}))
    return settings_in(
        folder, num_server_rounds=ROUNDS, eval_every=2, local_baseline_json=str(baselines)
    )


@pytest.fixture(scope="module")
def run(settings_of_run: Settings) -> Run:
    return federate(settings_of_run, pictures=True)


def test_the_folder_holds_what_the_contract_names(run: Run) -> None:
    files = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    adapter = ("adapter_config.json", "adapter_model.safetensors")
    assert files == {
        *(f"{name}.json" for name in ("config", "manifest", "summary")),
        *(f"{name}.jsonl" for name in ("rounds", "tasks", "clients", "progress")),
        *(f"experts/slot_{slot}/{file}" for slot in ("00", "01") for file in adapter),
        "plots/expert_utilization.png",
        "plots/worst_client.png",
        "plots/negative_transfer.png",
        "plots/paper_figure.png",
        "report.html",
        "checkpoint/lock",
        *(f"checkpoint/round-{number:04d}.safetensors" for number in (2, 3)),
        *(
            f"checkpoint/silos/silo-{silo:02d}/round-{number:04d}.safetensors"
            for silo in range(SILOS)
            for number in (1, 2, 3)
        ),
    }


def test_config_and_manifest_say_what_was_run(run: Run, settings_of_run: Settings) -> None:
    resolved = {**RunConfig.from_flat(settings_of_run).to_flat(), "c-min": 1, "reporting": "full"}
    assert run.config == resolved
    assert run.manifest["silos"] == SILOS
    assert run.manifest["seed"] == 0
    assert all(len(run.manifest[key]) == 64 for key in ("base", "bank", "code"))


def test_rounds_hold_every_metric_where_evaluated_and_null_elsewhere(run: Run) -> None:
    assert [row["round"] for row in run.rounds] == list(range(ROUNDS + 1))
    for row in run.rounds:
        scores = {name: row[name] for name in METRICS if name != "loss_train"}
        filled = [value is not None for value in scores.values()]
        assert all(filled) if row["round"] in EVALUATED else not any(filled)
        assert (row["loss_train"] is None) == (row["round"] == 0)
        assert row["strategy"] == "fedvemoe"


def test_rounds_account_for_bytes_and_seconds(run: Run) -> None:
    experts = sum(8 + 4 * t.numel() for t in load_file(adapter(run)).values()) * 2
    for row in run.rounds:
        assert row["bytes_down"] > SILOS * experts * 0.9
        assert row["bytes_up"] > 0
        assert all(seconds > 0 for seconds in row["seconds"].values())
    phases = [set(row["seconds"]) for row in run.rounds]
    assert phases == [{"hello", "assess", "sketch", "cluster"}, *[{"train", "assess"}] * ROUNDS]


def test_mass_and_prior_run_over_all_slots(run: Run) -> None:
    for row in run.rounds:
        assert row["mass"] is not None
        assert row["prior"] is not None
        assert (row["k_active"], len(row["mass"]), len(row["prior"])) == (2, 3, 3)
        assert sum(row["mass"]) == pytest.approx(SILOS)
        assert sum(row["prior"]) == pytest.approx(1.0)
        assert (row["mass"][2], row["prior"][2]) == (0.0, 0.0)


def test_training_helps(run: Run) -> None:
    first, *_, last = run.rounds
    assert first["ppl"] is not None
    assert last["ppl"] is not None
    assert last["ppl"] < 0.7 * first["ppl"]


def test_tasks_add_up_to_the_round(run: Run) -> None:
    assert len(run.tasks) == len(EVALUATED) * 8
    for number in EVALUATED:
        rows = [row for row in run.tasks if row["round"] == number]
        assert all(row["task"].startswith(row["category"]) for row in rows)
        assert {row["category"] for row in rows} == set(HOUSES)
        nats = sum(row["tokens"] * math.log(row["ppl"] or 0.0) for row in rows)
        tokens = sum(row["tokens"] for row in rows)
        assert run.rounds[number]["ppl"] == pytest.approx(math.exp(nats / tokens))
        assert all(1 <= row["examples"] <= 6 for row in rows)


def test_clients_say_what_each_silo_is_and_believes(run: Run) -> None:
    assert [(row["round"], row["client"]) for row in run.clients] == [
        (number, f"silo-{i:02d}") for number in EVALUATED for i in range(SILOS)
    ]
    for row in run.clients:
        assert row["category"] == list(HOUSES)[int(row["client"][-2:])]
        assert all(task.startswith(row["category"]) for task in row["tasks"])
        assert row["responsibilities"] is not None
        assert len(row["responsibilities"]) == 3
        assert sum(row["responsibilities"]) == pytest.approx(1.0)
        assert set(row["active"] or ()) <= {0, 1}
        assert row["share"] in SHARES
        assert row["ppl"] is not None
        assert row["negative_transfer"] == pytest.approx(
            math.log(row["ppl"]) - math.log(LOCAL[row["client"]])
        )


def test_the_worst_silo_and_the_share_of_harm_come_from_the_clients(run: Run) -> None:
    for number in EVALUATED:
        rows = [row for row in run.clients if row["round"] == number]
        assert run.rounds[number]["ppl_worst"] == max(row["ppl"] or 0.0 for row in rows)
        harmed = [row for row in rows if (row["negative_transfer"] or 0.0) > 0]
        assert run.rounds[number]["negative_transfer_share"] == len(harmed) / SILOS


def test_the_summary_closes_the_run(run: Run) -> None:
    assert run.summary is not None
    assert run.summary["rounds"] == ROUNDS
    assert run.summary["first"]["ppl"] == run.rounds[0]["ppl"]
    assert run.summary["last"]["ppl"] == run.rounds[-1]["ppl"]
    assert run.summary["silos"] == SILOS
    assert run.events == []
    events = [event["event"] for event in Tail(run.folder / "progress.jsonl").read()]
    assert events[-1] == "finished"
    assert events.count("reply") >= SILOS * (1 + 2 + 2 * ROUNDS)


def adapter(run: Run) -> Path:
    return run.folder / "experts" / "slot_00" / "adapter_model.safetensors"


def test_experts_are_plain_adapters_of_the_base(run: Run, small_base: Path) -> None:
    tokens = torch.tensor([[5, 6, 7, 8]])
    model = AutoModelForCausalLM.from_pretrained(small_base).eval()
    with torch.no_grad():
        plain = model(input_ids=tokens).logits
        adapted = []
        for slot in ("slot_00", "slot_01"):
            expert = PeftModel.from_pretrained(model, str(run.folder / "experts" / slot))
            adapted.append(expert(input_ids=tokens).logits)
            model = expert.unload()
    assert not torch.allclose(adapted[0], plain, atol=1e-3)
    assert not torch.allclose(adapted[0], adapted[1], atol=1e-3)


def test_the_seed_decides_everything_but_the_seconds(settings: Callable[..., Settings]) -> None:
    one, same, other = (
        federate(settings(num_server_rounds=1, generate_examples=0, seed=seed))
        for seed in (0, 0, 1)
    )
    assert without_seconds(one) == without_seconds(same)
    assert (one.tasks, one.clients) == (same.tasks, same.clients)
    assert adapter(one).read_bytes() == adapter(same).read_bytes()
    assert without_seconds(one)[1]["loss_train"] != without_seconds(other)[1]["loss_train"]


VARIANTS: dict[str, Settings] = {
    "both factors at once": {"lora-factors": "both"},
    "only B": {"lora-factors": "B"},
    "softmax rule": {"responsibility-rule": "softmax"},
    "no start": {"start": "none"},
    "one expert": {"k-init": 1, "top-m": 1},
    "another temperature": {"gamma": 2.0},
    "tokens count": {"silo-weight": "tokens", "shrinkage": 0.0},
    "in turn": {"client-task-mode": "round-robin"},
    "one layer": {"target-modules": "q_proj"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_and_learns(variant: str, settings: Callable[..., Settings]) -> None:
    chosen = {"num-server-rounds": 1, "generate-examples": 0, "eval-examples": 3}
    run = federate({**settings(), **chosen, **VARIANTS[variant]})
    before, after = run.rounds
    assert before["ppl"] is not None
    assert after["ppl"] is not None
    assert after["ppl"] < before["ppl"]
    assert after["k_active"] == VARIANTS[variant].get("k-init", 2)


def test_silos_start_in_no_more_clusters_than_can_have_a_crowd(
    settings: Callable[..., Settings],
) -> None:
    """Four silos, crowds of two: the third expert starts without silos."""
    clusters, weights = set[int](), list[Tensor]()

    def watch(message: Message, reply: Message) -> Message:
        kind = message.metadata.message_type
        if kind == "query.cluster":
            clusters.add(get_tensors(reply.content, "sums")["members"].shape[1])
        if kind == "train":
            weights.append(get_tensors(reply.content, "sums")["weight"])
        return reply

    ended = federate(settings(k_init=3, c_min=2, num_server_rounds=1), tamper=watch)
    assert ended.summary
    assert clusters == {2}
    assert [weight.shape for weight in weights] == [(3,)] * SILOS
    assert float(sum(weights)[2]) == 0.0
