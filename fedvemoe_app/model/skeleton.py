"""The server's view of the base: names and shapes of its layers, without its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.model.backbone import Backbone, base_folder, load_tokenizer
from fedvemoe_app.model.fingerprint import fingerprint, hub_weights


def skeleton(name_or_folder: str) -> Backbone:
    """Return a base whose layers hold no memory: enough to lay out experts and to save them.

    Raises
    ------
    BaseModelError
        If there is no such base.
    """
    folder = base_folder(name_or_folder)
    try:
        config = AutoConfig.from_pretrained(name_or_folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        load_tokenizer(name_or_folder)  # its files are part of what the fingerprint covers
        weights = {} if Path(name_or_folder).is_dir() else hub_weights(name_or_folder, folder.name)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{name_or_folder} is no causal language model ({error})") from error
    model.requires_grad_(False).eval()
    identity = fingerprint(folder, weights)
    return Backbone(name_or_folder, model, None, identity, torch.device("meta"))
