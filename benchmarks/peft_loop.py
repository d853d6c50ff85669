"""The alternatives: K standard PEFT adapters on one base, one after another or row by row.

What a user of PEFT would write, done correctly, with the stock forward pass and full logits:
``set_adapter`` in a loop, or ``adapter_names``, which names the adapter of each row. Training m > 1
experts in a loop takes two passes over the adapters, because ``set_adapter`` takes the gradient
away from all others: one joint backward pass would train the last expert alone, without an error.
Who knows this can switch the gradients on again by hand and needs one pass (``one pass``); with
gradient checkpointing that would be wrong, silently. PEFT refuses ``adapter_names`` in training
mode; in eval mode, which differs by dropout alone, it trains as well (``mixed batch``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from fedvemoe_app.data.batches import IGNORED, Batch
from fedvemoe_app.em.mixture import token_posterior
from fedvemoe_app.model.attachment import adapter_name
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.experts import Factor
from fedvemoe_app.model.training import Optimizer

Parameters = dict[str, nn.Parameter]
Way = Literal["two passes", "one pass", "mixed batch"]


class PeftLoop:
    """Adapter folders, one per slot, on a base of their own.

    Batches, optimiser and clipping are those of the stacked experts, so that what differs is
    how the adapters are applied and where the logits are.
    """

    def __init__(self, backbone: Backbone, folders: Sequence[Path]) -> None:
        self.backbone = backbone
        with warnings.catch_warnings():
            # PEFT asks transformers for a property under its old name.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
            self.model = PeftModel.from_pretrained(
                backbone.model, str(folders[0]), adapter_name(0), is_trainable=True
            )
        for slot, folder in enumerate(folders[1:], start=1):
            self.model.load_adapter(str(folder), adapter_name(slot), is_trainable=True)
        self.model.eval()
        self._experts = [self._expert(slot) for slot in range(len(folders))]
        self._start = [{n: p.detach().clone() for n, p in e.items()} for e in self._experts]

    def _expert(self, slot: int) -> Parameters:
        """Return one adapter's parameters under the names of ``model.experts``."""
        ending = f".{adapter_name(slot)}.weight"
        return {
            name.removeprefix("base_model.model.").removesuffix(ending).replace("lora_", ""): value
            for name, value in self.model.named_parameters()
            if name.endswith(ending)
        }

    @torch.no_grad()
    def reset(self) -> None:
        """Return all adapters to what the folders held."""
        for expert, start in zip(self._experts, self._start, strict=True):
            for name, parameter in expert.items():
                parameter.copy_(start[name])
                parameter.grad = None

    @torch.no_grad()
    def probe(self, batches: Sequence[Batch], slots: Sequence[int]) -> Tensor:
        """Return log-likelihoods [N, K], float64 nats on the CPU, tokens in the batches' order."""
        columns = []
        for slot in slots:
            self.model.set_adapter(adapter_name(slot))
            columns.append(torch.cat([self._log_lik(batch) for batch in batches]))
        return torch.stack(columns, dim=1).double().cpu()

    def _log_lik(self, batch: Batch) -> Tensor:
        """Return [N] nats of the batch's target tokens under the adapter that is set."""
        device = self.backbone.device
        labels = batch.labels.to(device)[:, 1:]
        logits = self.model(input_ids=batch.input_ids.to(device), use_cache=False).logits.float()
        return _of_targets(logits, labels)

    @torch.no_grad()
    def probe_mixed(self, batches: Sequence[Batch], slots: Sequence[int]) -> Tensor:
        """Return the same as ``probe`` from batches whose rows name their adapters."""
        columns = [self._mixed(batch, slots).T for batch in batches]
        return torch.cat(columns).double().cpu()

    def _mixed(self, batch: Batch, slots: Sequence[int]) -> Tensor:
        """Return [m, N] nats of the batch's target tokens, all adapters in one batch."""
        device, sequences = self.backbone.device, len(batch.input_ids)
        logits = self.model(
            input_ids=batch.input_ids.repeat(len(slots), 1).to(device),
            adapter_names=[adapter_name(slot) for slot in slots for _ in range(sequences)],
            use_cache=False,
        ).logits.float()
        labels = batch.labels.to(device)[:, 1:].repeat(len(slots), 1)
        return _of_targets(logits, labels).view(len(slots), -1)

    def fit(
        self,
        batches: Iterable[Batch],
        slots: Sequence[int],
        weights: Tensor,
        *,
        factor: Factor,
        learning_rate: float,
        max_grad_norm: float,
        optimizer: Optimizer = "adamw",
        way: Way = "two passes",
    ) -> dict[str, Tensor]:
        """Train ``factor`` of ``slots`` in place, one step a batch; return the changes [m, ...].

        Names and order are those of ``model.training.fit``'s ``delta``.
        """
        experts = [self._chosen(slot, factor) for slot in slots]
        start = [{n: p.detach().clone() for n, p in expert.items()} for expert in experts]
        update = _optimizer([p for e in experts for p in e.values()], optimizer, learning_rate)
        backward = {
            "two passes": self._backward_in_turn,
            "one pass": self._backward_jointly,
            "mixed batch": self._backward_mixed,
        }[way]
        for batch in batches:
            backward(batch, slots, weights, experts)
            for expert in experts:
                clip_grad_norm_(expert.values(), max_grad_norm)
            update.step()
            update.zero_grad()
        moved = list(zip(experts, start, strict=True))
        return {
            name: torch.stack([now[name].detach() - before[name] for now, before in moved]).cpu()
            for name in experts[0]
        }

    def _chosen(self, slot: int, factor: Factor) -> Parameters:
        endings = (".A", ".B") if factor == "both" else (f".{factor}",)
        return {n: p for n, p in self._experts[slot].items() if n.endswith(endings)}

    def _backward_in_turn(
        self, batch: Batch, slots: Sequence[int], weights: Tensor, experts: list[Parameters]
    ) -> None:
        """Find alpha without gradients (one expert alone has alpha 1), then train each expert."""
        alpha = self._posterior(batch, slots, weights) if len(slots) > 1 else None
        for j, slot in enumerate(slots):
            self._train_only(slot, experts[j])
            log_lik = self._log_lik(batch)
            share = torch.ones_like(log_lik) if alpha is None else alpha[:, j]
            torch.autograd.backward(_loss(log_lik, share))

    def _posterior(self, batch: Batch, slots: Sequence[int], weights: Tensor) -> Tensor:
        return token_posterior(self.probe([batch], slots), weights.double())  # [N, m]

    def _backward_jointly(
        self, batch: Batch, slots: Sequence[int], weights: Tensor, experts: list[Parameters]
    ) -> None:
        """Keep the graphs of all experts, give their gradients back, and go backward once."""
        columns = []
        for slot, expert in zip(slots, experts, strict=True):
            self._train_only(slot, expert)
            columns.append(self._log_lik(batch))
        _let_gradients_reach(experts)
        _backward_mixture(torch.stack(columns), weights)

    def _backward_mixed(
        self, batch: Batch, slots: Sequence[int], weights: Tensor, experts: list[Parameters]
    ) -> None:
        """Take all experts through the base in one batch whose rows name their adapters."""
        for slot, expert in zip(slots, experts, strict=True):
            self._train_only(slot, expert)
        _let_gradients_reach(experts)
        _backward_mixture(self._mixed(batch, slots), weights)

    def _train_only(self, slot: int, chosen: Parameters) -> None:
        """Set the adapter; ``set_adapter`` lets gradients reach both factors, so take one back."""
        self.model.set_adapter(adapter_name(slot))
        for name, parameter in self._experts[slot].items():
            parameter.requires_grad_(name in chosen)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], slot: int, *, max_new_tokens: int
    ) -> list[list[int]]:
        """Return the new tokens of each prompt up to EOS, greedily, by stock ``generate``."""
        self.model.set_adapter(adapter_name(slot))
        padded = self.backbone.tokenizer.pad(
            {"input_ids": [list(prompt) for prompt in prompts]},
            padding_side="left",
            return_tensors="pt",
        ).to(self.backbone.device)
        output = self.model.generate(  # type: ignore[no-untyped-call]
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            max_new_tokens=max_new_tokens,
        )
        stop = set(self.model.generation_config.eos_token_id)
        new = output[:, padded["input_ids"].shape[1] :].tolist()
        return [list(takewhile(lambda token: token not in stop, tokens)) for tokens in new]


def _of_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """Return [N] nats of the ``labels`` [B, T-1] that are targets under ``logits`` [B, T, V]."""
    losses = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="none"
    )
    return -losses.view(labels.shape)[labels != IGNORED]


def _let_gradients_reach(experts: list[Parameters]) -> None:
    for expert in experts:
        for parameter in expert.values():
            parameter.requires_grad_(True)


def _backward_mixture(log_lik: Tensor, weights: Tensor) -> None:
    """Send the losses of all experts backward, given ``log_lik`` [m, N] with their graphs."""
    alpha = token_posterior(log_lik.detach().double().T.cpu(), weights.double())  # [N, m]
    torch.autograd.backward([_loss(row, alpha[:, j]) for j, row in enumerate(log_lik)])


def _loss(log_lik: Tensor, alpha: Tensor) -> Tensor:
    """Return -sum_t alpha_t log p_t / sum_t alpha_t of log-likelihoods and posteriors [N]."""
    return -(alpha.to(log_lik) * log_lik).sum() / alpha.sum().to(log_lik)


def _optimizer(
    parameters: list[nn.Parameter], kind: Optimizer, learning_rate: float
) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate)
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
