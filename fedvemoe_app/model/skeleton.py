"""The server's view of the base: names and shapes of its layers, without its weights."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.model.backbone import Backbone, base_folder
from fedvemoe_app.model.fingerprint import fingerprint


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
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{name_or_folder} is no causal language model ({error})") from error
    model.requires_grad_(False).eval()
    return Backbone(name_or_folder, model, None, fingerprint(folder), torch.device("meta"))
