"""Texts -> tokens -> padded batches, with the `tokenizers` library alone.

The tokenizer that a candidate folder gets has its cut length written into `tokenizer.json`, so that
training, verification and serving cut a text at the same token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from keeperd.api import BadInputError

MAX_BATCH_TOKENS = 4_096
CHUNK = 4_096


class TextEncoder:
    """Token ids of texts, cut to `max_tokens`; `pad` fills up the rows of a batch."""

    def __init__(self, folder: Path, max_tokens: int, pad: int) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # The library raises plain Exception for every fault of the file.
        except Exception as error:
            raise BadInputError(
                f"{folder / 'tokenizer.json'}: not readable ({error}); copy it again"
            ) from error
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.pad = pad

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; a text without any token becomes one padding token.

        Raises:
            BadInputError: a text is not valid Unicode (a lone surrogate).
        """
        ids: list[list[int]] = []
        for start in range(0, len(texts), CHUNK):
            try:
                encodings = self.tokenizer.encode_batch_fast(texts[start : start + CHUNK])
            except TypeError as error:
                raise BadInputError("a text is not valid Unicode; repair it at its source") from error
            ids.extend(encoding.ids or [self.pad] for encoding in encodings)
        return ids

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` with the cut length."""
        self.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def by_length(ids: Sequence[Sequence[int]], size: int = 64) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, short ones first: padding costs as much as text."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if batch and (len(batch) >= size or (len(batch) + 1) * len(ids[row]) > MAX_BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], padding: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 (rows, longest), padded on the right."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), padding, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[number, : len(row)] = 1
    return ids.to(device), mask.to(device)
