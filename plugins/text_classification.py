"""Task "text-classification": one label of a fixed set for each text.

Takes any folder that transformers loads as a sequence classifier, and bare encoders, which get a
classifier over the mean of their last hidden states. Safetensors only; a folder that could run code is
refused before anything in it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keeperd.api import (
    BadInputError,
    Component,
    Context,
    OnnxSpec,
    Options,
    PluginError,
    Prediction,
    Task,
    hookimpl,
)

if TYPE_CHECKING:
    import numpy as np


class TextClassification(Task[Options]):
    """Sequence classification with Hugging Face models."""

    name = "text-classification"

    def classes(self, model: Path) -> tuple[str, ...]:
        """See `Task.classes`; reads `config.json` and file headers alone."""
        from keeperd_plugins import _model_folder

        return _model_folder.classes(_model_folder.check(model), model)

    def predict(self, model: Path, texts: Sequence[str], max_tokens: int, context: Context) -> Prediction:
        """See `Task.predict`. Embeddings are the mean of the last hidden states over the tokens.

        Raises:
            BadInputError: the folder cannot be used, or knows no labels.
            Stopped: `context.should_stop()` said so.
        """
        from keeperd_plugins import _classifier

        classifier = _classifier.load(model, max_tokens, context.device)
        if not classifier.classes:
            raise BadInputError(f"{model / 'config.json'}: names no labels; train a first version from it")
        outputs = _classifier.run(classifier, classifier.encode(texts), context)
        return Prediction(outputs.logits, outputs.embeddings)

    def metrics(self, classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> dict[str, float]:
        """Accuracy, macro F1, log loss (nats), expected calibration error (15 bins), and the recall of
        each label that occurs, as "recall:LABEL". Log loss and calibration are NaN where a logit is.

        Raises:
            PluginError: there is no row.
        """
        from keeperd_plugins import _scores

        if not len(labels):
            raise PluginError("no labelled row to measure on; wait for labels")
        figures = {
            "accuracy": float(_scores.right(classes, labels, logits).mean()),
            "macro_f1": _scores.macro_f1(classes, labels, logits),
            "log_loss": _scores.log_loss(classes, labels, logits),
            "ece": _scores.calibration_error(classes, labels, logits),
        }
        recalls = _scores.recalls(classes, labels, logits)
        return figures | {f"recall:{name}": share for name, share in recalls.items()}

    def scores(self, classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> np.ndarray:
        """1.0 where the answer is the label, else 0.0."""
        from keeperd_plugins import _scores

        return _scores.right(classes, labels, logits)

    def onnx(self, model: Path, max_tokens: int) -> OnnxSpec:
        """Token ids and attention mask (int64, batch x sequence) -> logits and embedding. Token types
        are left to the model, which takes a single text as all zeros."""
        import torch

        from keeperd_plugins import _classifier

        classifier = _classifier.load(model, max_tokens)
        token = 0 if classifier.encode.pad else 1
        ids = torch.full((2, min(16, max_tokens)), token, dtype=torch.int64)
        axes = {0: "batch", 1: "sequence"}
        return OnnxSpec(
            module=_classifier.Both(classifier.model).eval(),
            inputs=(ids, torch.ones_like(ids)),
            input_names=("input_ids", "attention_mask"),
            output_names=("logits", "embedding"),
            dynamic_axes={"input_ids": axes, "attention_mask": axes},
        )


@hookimpl
def keeperd_components() -> Iterable[type[Component[Options]]]:
    """The component of this plugin."""
    return [TextClassification]
