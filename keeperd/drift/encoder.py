"""A model folder that answers for a comparison of two files: a version of keeperd's, or any encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from keeperd.api import Context, Prediction, Task
from keeperd.drift.window import Load, Predictor

TASK = "text-classification"


class TaskPredictor:
    """A model folder that answers through the task plugin, or a bare encoder, which has no logits."""

    def __init__(self, model: Path, task: Task[Any], context: Context, max_tokens: int = 128) -> None:
        self.classes = task.classes(model)
        self._model, self._task, self._context, self._max_tokens = model, task, context, max_tokens

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Logits float32 (n, classes), no columns for a bare encoder, and embeddings (n, d)."""
        if self.classes:
            return self._task.predict(self._model, texts, self._max_tokens, self._context)
        return Prediction(*_encode(self._model, texts, self._max_tokens))


@contextmanager
def opened(encoder: Path, load: Load, context: Context) -> Iterator[Predictor]:
    """A version by its accepted artefact, a model folder by torch.

    Raises:
        BadInputError: there is no such model.
    """
    with ExitStack() as stack:
        if (encoder / "parity.json").is_file():
            from keeperd.inference import Predictor as Artefact

            yield cast("Predictor", stack.enter_context(Artefact(encoder)))
        else:
            yield TaskPredictor(encoder, cast("Task[Any]", load("task", TASK)), context)


def _encode(model: Path, texts: Sequence[str], max_tokens: int) -> tuple[Any, Any]:
    """Mean of the last hidden states over the tokens, for a folder that the task has looked over."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(model, **local)
    encoder = AutoModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32, **local).eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            cut = [texts[row][: 20 * max_tokens] for row in part]
            tokens = tokenizer(cut, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
            hidden = encoder(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            found[part] = ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).numpy()
    return np.zeros((len(texts), 0), np.float32), found
