"""Random two-layer bases of three architectures, examples, and plain PEFT as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fedvemoe_app.data.batches import Example
from fedvemoe_app.data.task import Instance
from fedvemoe_app.em.family import Fit
from fedvemoe_app.model.experts import Experts

KINDS = ("llama", "qwen2", "gpt2")
WORDS = 57
EOS = WORDS + 1
# Wide enough that experts disagree and greedy choices are no near-ties.
_SPREAD = 0.2


def build(kind: str, folder: Path, *, hidden: int = 64) -> str:
    """Write a base of ``kind`` with its tokenizer; return the folder's name."""
    torch.manual_seed(7)
    model = _model(kind, hidden)
    model.save_pretrained(folder)
    tokenizer(eos="<eos>").save_pretrained(folder)
    return str(folder)


def tokenizer(eos: str | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer that splits at spaces; words are w0, w1, ..."""
    vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<unk>": WORDS, "<eos>": EOS}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token=eos)


def _model(kind: str, hidden: int) -> LlamaForCausalLM | Qwen2ForCausalLM | GPT2LMHeadModel:
    if kind == "gpt2":
        config: PreTrainedConfig = GPT2Config(
            vocab_size=EOS + 1,
            n_embd=hidden,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=_SPREAD,
            bos_token_id=EOS,
            eos_token_id=EOS,
        )
        return GPT2LMHeadModel(config)
    shape = {
        "vocab_size": EOS + 1,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": _SPREAD,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    return Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))


def examples(count: int, seed: int = 0) -> list[Example]:
    """Return random examples of various lengths; no two are alike."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        prompt, answer = rng.integers(2, 9), rng.integers(1, 6)
        ids = (*rng.integers(0, WORDS, prompt + answer).tolist(), EOS)
        made.append(Example(ids, int(prompt), "task", Instance(str(i), "", ("",))))
    return made


def randomise(experts: Experts, seed: int = 3, scale: float = 0.1) -> dict[str, Tensor]:
    """Fill all slots with different random factors and return them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: scale * torch.randn(shape, generator=generator)
        for name, shape in experts.shapes.items()
    }
    experts.load(tensors)
    return tensors


def plain_adapter(base: str, adapter: Path) -> PeftModel:
    """Return the stock model with one saved adapter, as any PEFT user would load it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter), is_trainable=True).eval()


def plain_log_lik(model: PeftModel, rows: Sequence[Example]) -> Tensor:
    """Return [N] log-likelihoods by the model's own full logits, one example at a time."""
    parts = []
    for row in rows:
        ids = torch.tensor(row.ids)
        log_p = model(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
        positions = torch.arange(row.prompt, len(ids))
        parts.append(log_p[positions - 1, ids[positions]])
    return torch.cat(parts)


def plain_gradient(model: PeftModel, loss: Tensor) -> dict[str, Tensor]:
    """Return a plain adapter's gradients under our tensor names."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            path = name.removeprefix("base_model.model.").removesuffix(".default.weight")
            found[path.replace("lora_", "")] = parameter.grad.clone()
    return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest deviation over the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def assert_same_fit(found: Fit, expected: Fit, *, loss: float) -> None:
    """Check that two trainings moved the experts alike; ``loss`` is the loss's relative error."""
    assert found.tokens == expected.tokens
    assert found.loss == pytest.approx(expected.loss, rel=loss)
    torch.testing.assert_close(found.mean_alpha, expected.mean_alpha, rtol=1e-5, atol=1e-6)
    for name, delta in expected.delta.items():
        assert relative_error(found.delta[name], delta) < 2e-5
