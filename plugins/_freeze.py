"""Which weights of a classifier are trained: the top layers and what follows them."""

from __future__ import annotations

from typing import Any

from torch import nn

from keeperd.api import PluginError


def train_top(model: Any, layers: int) -> None:
    """Freeze the encoder but for its last `layers` layers; leave what follows it trainable. The layers are
    the longest list of modules in the encoder, whatever the architecture calls it.

    Raises:
        PluginError: the encoder has no list of layers.
    """
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    if not any(len(found) for found in lists):
        raise PluginError(f"{type(model).__name__}: no list of layers to freeze; choose another strategy")
    stack = max(lists, key=len)
    model.requires_grad_(True)
    model.base_model.requires_grad_(False)
    for layer in list(stack)[-layers:]:
        layer.requires_grad_(True)
