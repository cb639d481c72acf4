"""A causal language model in memory: load a folder safely, and how surprising are texts to it?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

from keeperd.api import BadInputError, Context, Stopped
from keeperd_plugins import _model_folder
from keeperd_plugins._classifier import LOAD_ERRORS, max_positions, quiet
from keeperd_plugins._text import TextEncoder, pad

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

CHARACTERS_A_TOKEN = 16
"""Of a long text only so many characters a token are given to the tokenizer."""
LARGEST_LOGITS = 2**25
"""Numbers that a batch's logits may be, 128 MiB in float32."""
LARGEST_BATCH = 64
UNKNOWN_BITS = 8.0
"""A byte of a token that the tokenizer does not know costs this; else strange words would be cheap."""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model with its tokenizer, in evaluation mode.

    Attributes:
        model: a transformers causal language model.
        tokenizer: of the `tokenizers` library, without padding or truncation.
        start: token that stands before every text, or None where the model has none; a text's first
            token then counts only as context.
        most: tokens of a text that are looked at, the start not counted.
        vocabulary: tokens that the model knows.
        unknown: token of unknown words, or None.
    """

    model: Any
    tokenizer: Tokenizer
    start: int | None
    most: int
    vocabulary: int
    unknown: int | None
    device: str

    def surprise(self, texts: Sequence[str], context: Context) -> Doubles:
        """Bits per byte (UTF-8) of each text's beginning, float64 (n,); NaN where nothing of a text can
        be scored: it is empty, or one token without a start.

        Raises:
            Stopped: `context.should_stop()` said so.
        """
        rows = [self._row(text) for text in texts]
        bits = np.array([row.unknown_bits for row in rows], np.float64)
        sizes = np.array([row.size for row in rows], np.float64)
        with torch.inference_mode():
            for batch in self._batches([row.ids for row in rows]):
                if context.should_stop():
                    raise Stopped("perplexity: stopped while the model was reading; nothing was changed")
                bits[batch] += self._bits([rows[row].ids for row in batch])
        found = np.full(len(rows), np.nan)
        np.divide(bits, sizes, out=found, where=sizes > 0)
        return found

    def _row(self, text: str) -> _Row:
        text = text[: self.most * CHARACTERS_A_TOKEN].encode("utf-8", "replace").decode("utf-8")
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        ids, spans = encoding.ids[: self.most], encoding.offsets[: self.most]
        first = 0 if self.start is not None else 1
        if len(ids) <= first:
            return _Row([], 0, 0.0)
        begin = spans[0][1] if first else 0
        strange = sum(
            len(text[a:b].encode("utf-8")) for token, (a, b) in zip(ids, spans, strict=True)
            if token == self.unknown
        )  # fmt: skip
        ids = ids if self.start is None else [self.start, *ids]
        return _Row(ids, len(text[begin : spans[-1][1]].encode("utf-8")), UNKNOWN_BITS * strange)

    def _batches(self, ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Row numbers in batches of similar length; rows with nothing to score are in none."""
        most = max(LARGEST_LOGITS // self.vocabulary, 1)
        batch: list[int] = []
        for row in sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: len(ids[row])):
            if batch and (len(batch) >= LARGEST_BATCH or (len(batch) + 1) * len(ids[row]) > most):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _bits(self, ids: Sequence[Sequence[int]]) -> Doubles:
        """Bits that each row's tokens after the first cost, (rows,)."""
        tokens, mask = pad(ids, ids[0][0], self.device)
        logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
        cost = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), tokens[:, 1:], reduction="none"
        )
        found = (cost * mask[:, 1:]).sum(1, dtype=torch.float64) / np.log(2.0)
        return np.asarray(found.cpu().numpy(), np.float64)


@dataclass(frozen=True)
class _Row:
    """Tokens of a text, bytes that they stand for, and the extra cost of unknown ones in bits."""

    ids: list[int]
    size: int
    unknown_bits: float


def load(folder: Path, max_tokens: int, device: str = "cpu") -> LanguageModel:
    """Load a causal language model's folder.

    Raises:
        BadInputError: the folder is unsafe, incomplete or no causal language model.
    """
    _model_folder.check(folder)
    try:
        with quiet():
            model = _load_causal(folder)
    except LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(f"{folder}: cannot be loaded ({reason[:200]}); use another model") from error
    tokenizer = TextEncoder(folder, max_tokens, 0).tokenizer
    tokenizer.no_truncation()
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    if tokenizer.get_vocab_size() > vocabulary:
        raise BadInputError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {vocabulary};"
            " they do not belong together"
        )
    model = model.to(device).eval()
    start = _start(model.config, vocabulary)
    room = max_positions(model) - (start is not None)
    unknown = tokenizer.token_to_id(str(getattr(tokenizer.model, "unk_token", None)))
    loaded = LanguageModel(model, tokenizer, start, min(max_tokens, room), vocabulary, unknown, device)
    _refuse_foresight(loaded, folder)
    return loaded


def _load_causal(folder: Path) -> Any:
    auto: Any = transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(
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


def fingerprint(folder: Path) -> str:
    """sha256 of everything that a loaded model depends on.

    Raises:
        BadInputError: the folder is unsafe or incomplete.
    """
    _model_folder.check(folder)
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _start(config: Any, vocabulary: int) -> int | None:
    """The token that the model begins with, or else the one that it ends with, as many do."""
    for token in (config.bos_token_id, config.eos_token_id):
        if isinstance(token, int) and 0 <= token < vocabulary:
            return token
    return None


def _refuse_foresight(loaded: LanguageModel, folder: Path) -> None:
    """A model that sees later tokens is never surprised by them."""
    tokens = torch.zeros((2, 4), dtype=torch.int64)
    tokens[1, 3] = loaded.vocabulary - 1
    with torch.inference_mode():
        logits = loaded.model(input_ids=tokens.to(loaded.device), use_cache=False).logits.float()
    if not torch.isfinite(logits).all():
        raise BadInputError(f"{folder}: its answers are not finite; copy the model again")
    if not torch.allclose(logits[0, :3], logits[1, :3], rtol=1e-3, atol=1e-4):
        raise BadInputError(f"{folder}: it looks at later tokens; use a causal language model")
