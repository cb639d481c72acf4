"""Low-rank adapters put into a classifier, and merged out of it. The only file that imports peft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import nn
from transformers.pytorch_utils import Conv1D

QUERY_AND_VALUE = frozenset(
    {"query", "value", "query_proj", "value_proj", "q_lin", "v_lin", "q_proj", "v_proj", "c_attn", "Wqkv"}
)
"""What architectures call their attention's query and value projections, alone or in one matrix."""


def add_adapters(model: Any, rank: int, alpha: float, dropout: float, seed: int) -> Callable[[], Any]:
    """Put adapters on the encoder's query and value projections (on all its linear layers where none is
    known by name), freeze the rest of the encoder, leave what follows it trainable.

    Returns:
        a function that merges the adapters into the weights and returns the model as it was built.
    """
    inside = f"{model.base_model_prefix}."
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(inside)
    }
    known = [name for name in layers if name.rpartition(".")[2] in QUERY_AND_VALUE]
    targets = known or list(layers)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(layers[name], Conv1D) for name in targets),
    )
    torch.manual_seed(seed)
    adapted = LoraModel(model, config, "default")
    for name, value in model.named_parameters():
        if not name.startswith(inside):
            value.requires_grad_(True)
    return adapted.merge_and_unload
