"""A sequence classifier in memory: load a folder safely, run it, grow its labels, save it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from keeperd.api import BadInputError, Context, Stopped
from keeperd_plugins import _mean_pool, _model_folder
from keeperd_plugins._text import TextEncoder, by_length, pad

COUNTS = "keeperd_class_counts"
"""Key of config.json: how many labelled rows of each label the model has been trained on so far."""

POSITIONS = ("position_embeddings", "wpe", "embed_positions")
LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError, StrictDataclassError)


@dataclass
class Classifier:
    """A loaded model with its tokenizer, in evaluation mode, weights in float32.

    Attributes:
        model: a transformers sequence classifier.
        classes: label names in the order of the logits.
        encode: texts -> token ids.
        device: where the model is.
        folder: where it came from.
    """

    model: Any
    classes: tuple[str, ...]
    encode: TextEncoder
    device: str
    folder: Path

    @property
    def last_linear(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        return self.model.get_submodule(_last_linear_name(self.model))  # type: ignore[no-any-return]

    def save(self, out: Path) -> None:
        """Write the folder: safetensors, configuration with label names, tokenizer."""
        config = self.model.config
        config.id2label = dict(enumerate(self.classes))
        config.label2id = {name: number for number, name in enumerate(self.classes)}
        config.problem_type = "single_label_classification"
        with quiet():
            self.model.save_pretrained(out, max_shard_size="100GB")
        self.encode.save(out)
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, out / name)


def load(folder: Path, max_tokens: int, device: str = "cpu") -> Classifier:
    """Load a classifier folder, or put a classifier on a bare encoder's (its linear layer is then
    untrained and `classes` is ()).

    Raises:
        BadInputError: the folder is unsafe, incomplete or no text classifier.
    """
    config = _model_folder.check(folder)
    classes = _model_folder.classes(config, folder)
    try:
        with quiet():
            model = _load_classifier(folder) if _model_folder.is_classifier(config) else _wrap_encoder(folder)
    except LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(f"{folder}: cannot be loaded ({reason[:200]}); use another model") from error
    if model.base_model is model or model.config.is_encoder_decoder:
        raise BadInputError(
            f"{folder}: {type(model).__name__} has no plain encoder; use another architecture"
        )
    padding = model.config.pad_token_id
    if padding is None:
        raise BadInputError(f"{folder / 'config.json'}: no pad_token_id; set it to a token of the tokenizer")
    encode = TextEncoder(folder, min(max_tokens, max_positions(model)), padding)
    return Classifier(model.to(device).eval(), classes, encode, device, folder)


def max_positions(model: nn.Module) -> int:
    """How many tokens the model can place; RoBERTa's table has unused rows before the first token."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS:
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(getattr(model.config, "max_position_embeddings", None) or 2**31)


def grow(classifier: Classifier, classes: Sequence[str]) -> None:
    """Give the last layer one row a label of `classes`: rows of labels that it knows are kept bit by
    bit, new ones start at zero."""
    old = classifier.last_linear
    new = nn.Linear(old.in_features, len(classes), bias=old.bias is not None, device=classifier.device)
    with torch.no_grad():
        new.weight.zero_()
        if new.bias is not None:
            new.bias.zero_()
        for row, name in enumerate(classes):
            if name in classifier.classes:
                source = classifier.classes.index(name)
                new.weight[row] = old.weight[source]
                if new.bias is not None:
                    new.bias[row] = old.bias[source]
    parent, _, name = _last_linear_name(classifier.model).rpartition(".")
    setattr(classifier.model.get_submodule(parent), name, new)
    classifier.model.num_labels = len(classes)
    classifier.model.config.num_labels = len(classes)
    classifier.classes = tuple(classes)


@dataclass(frozen=True)
class Outputs:
    """float32 arrays, row by row: logits (n, classes), mean-pooled last hidden states (n, d), inputs
    of the last layer (n, f)."""

    logits: np.ndarray
    embeddings: np.ndarray
    features: np.ndarray


def run(
    classifier: Classifier, ids: Sequence[Sequence[int]], context: Context, bf16: bool = False
) -> Outputs:
    """Run the model in evaluation mode on tokenised rows, in batches of similar length; with `bf16` in
    bfloat16, which some processors do two to three times as fast, at two to three digits.

    Raises:
        Stopped: `context.should_stop()` said so.
    """
    model = classifier.model.eval()
    logits = np.zeros((len(ids), classifier.last_linear.out_features), np.float32)
    embeddings: np.ndarray | None = None
    features = np.zeros((len(ids), classifier.last_linear.in_features), np.float32)
    reduced = torch.autocast(classifier.device, torch.bfloat16, enabled=bf16)
    with torch.inference_mode(), reduced, captured(classifier.model) as seen:
        for rows in by_length(ids):
            if context.should_stop():
                raise Stopped("stopped while the model was run on rows; nothing was changed")
            tokens, mask = pad([ids[row] for row in rows], classifier.encode.pad, classifier.device)
            logits[rows] = model(input_ids=tokens, attention_mask=mask).logits.float().cpu().numpy()
            pooled = _mean_pool.mean_pool(seen["hidden"].float(), mask).cpu().numpy()
            if embeddings is None:
                embeddings = np.zeros((len(ids), pooled.shape[1]), np.float32)
            embeddings[rows] = pooled
            features[rows] = _at_chosen_token(seen["features"], tokens, model).float().cpu().numpy()
    if embeddings is None:
        embeddings = np.zeros((0, features.shape[1]), np.float32)
    return Outputs(logits, embeddings, features)


@contextmanager
def captured(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """While open, each forward pass leaves its last hidden states ("hidden") and the input of the last
    layer ("features") in the table, whatever the architecture calls them."""
    seen: dict[str, torch.Tensor] = {}

    def keep_hidden(_: nn.Module, __: object, output: Any) -> None:
        seen["hidden"] = output[0]

    def keep_features(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen["features"] = inputs[0]

    last = model.get_submodule(_last_linear_name(model))
    handles = [
        model.base_model.register_forward_hook(keep_hidden),
        last.register_forward_pre_hook(keep_features),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Both(nn.Module):
    """What is exported: token ids and mask -> logits and mean-pooled embedding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both int64 (b, t) -> float32 (b, classes) and (b, d)."""
        with captured(self.model) as seen:
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits, _mean_pool.mean_pool(seen["hidden"], attention_mask)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' advice and progress bars, which are for notebooks: what is missing in a
    folder is checked here and raised."""
    verbosity = transformers.logging.get_verbosity()
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if shown:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _load_classifier(folder: Path) -> Any:
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"weights are missing: {missing[0]}")
    return model


def _wrap_encoder(folder: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.is_encoder_decoder:
        raise ValueError("it is an encoder with a decoder")
    encoder, info = transformers.AutoModel.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **_mean_pool.without_pooler(config),
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"weights are missing: {missing[0]}")
    return _mean_pool.wrap(encoder, labels=2)


def _last_linear_name(model: Any) -> str:
    """Name of the last linear layer outside the encoder."""
    inside = f"{model.base_model_prefix}."
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
    if not names:
        raise BadInputError(
            f"{type(model).__name__}: no linear layer gives the logits; use another architecture"
        )
    return str(names[-1])


def _at_chosen_token(features: torch.Tensor, tokens: torch.Tensor, model: Any) -> torch.Tensor:
    """Features of the one token that a decoder classifies by: its last that is no padding."""
    if features.ndim == 2:
        return features
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    last = (positions * (tokens != model.config.pad_token_id)).argmax(-1)
    return features[torch.arange(len(tokens), device=tokens.device), last]
