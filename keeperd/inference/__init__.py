"""Run a version's ONNX artefact on texts: tokenizers, ONNX Runtime and numpy, neither torch nor
transformers.

What is loaded is exactly what the verification accepted: `parity.json` names the artefact, how long
texts are cut and in what batches they were measured, and every file is compared with the manifest
before it is used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

from keeperd import versions
from keeperd.api import BadInputError, Prediction
from keeperd.inference import runtime

CHUNK = 4096
"""Texts that are tokenised and sorted by length together; bounds the memory of long inputs."""

BATCH_TOKENS = 4096
"""Most tokens, padding included, in one batch. Larger ones gain nothing and their memory adds up."""

log = logging.getLogger(__name__)

OUTPUTS = ("logits", "embedding")


class TextEncoder:
    """Texts -> arrays of token ids: the same ids as transformers' tokenizer of the folder gives.

    Attributes:
        max_tokens: longer texts are cut; never more than what `tokenizer.json` itself allows.
        pad: id of the padding token.
    """

    def __init__(self, tokenizer: bytes, pad_id: int, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer)
        except Exception as error:  # the library raises plain Exception and nothing more precise
            raise BadInputError(f"tokenizer.json: not readable ({str(error)[:200]}); restore it") from error
        allowed = (self._tokenizer.truncation or {}).get("max_length", max_tokens)
        self.max_tokens = min(max_tokens, allowed)
        self._tokenizer.enable_truncation(self.max_tokens)
        self._tokenizer.no_padding()
        self.pad = pad_id

    @classmethod
    def open(cls, model: Path, max_tokens: int, hashes: runtime.Hashes | None = None) -> Self:
        """The encoder of a model folder.

        Raises:
            BadInputError: a file is missing, changed or of another format.
        """

        def read(name: str) -> bytes:
            path = model / name
            return runtime.read_plain(path, runtime.expected_hash(path, hashes))

        return cls(read("tokenizer.json"), _pad_id(json.loads(read("config.json")), model), max_tokens)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of each text.

        Raises:
            BadInputError: a text is not valid Unicode (a lone surrogate) or no text at all.
        """
        try:
            encodings: list[Encoding] = self._tokenizer.encode_batch_fast(texts)
        except TypeError as error:
            raise BadInputError("a text is not valid Unicode; repair it before asking") from error
        return encodings

    def feeds(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """int64 (n, longest) "input_ids", "attention_mask" and "token_type_ids", padded on the right. A
        text without any token becomes one padding token."""
        longest = max(1, *(len(encoding) for encoding in encodings))
        ids = np.full((len(encodings), longest), self.pad, np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            n = len(encoding)
            ids[row, :n] = encoding.ids
            types[row, :n] = encoding.type_ids
            mask[row, : max(n, 1)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def batches(lengths: Sequence[int], rows: int, tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, short ones first: padding costs as much as text.

    Args:
        lengths: tokens of each row.
        rows: most rows in a batch.
        tokens: most tokens in a batch, padding included, unless a single row has more.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) >= rows or (len(batch) + 1) * lengths[row] > tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class Predictor:
    """An open artefact with its tokenizer. Close it, or use it in a `with` statement.

    Attributes:
        classes: names of the columns of the logits.
        provider: where it runs: "tensorrt", "cuda" or "cpu".
        verified_on: where it ran when it was accepted, or None; another `provider` than that is logged
            as a warning: it may be slow.
        max_tokens: longer texts are cut.
        batch: most rows in a batch. The activations of int8 artefacts are scaled batch by batch, so
            another size gives slightly other logits.
    """

    classes: tuple[str, ...]
    provider: str
    verified_on: str | None
    max_tokens: int
    batch: int

    def __init__(self, version: Path, providers: Sequence[str] = ("cpu",), threads: int = 0) -> None:
        """Open the artefact that a version's `parity.json` names, where it was accepted: `providers` that
        are better than that one are passed over, for there it was not measured.

        Raises:
            BadInputError: a file is missing, damaged, changed, a link, or names foreign data.
            VersionError: the version has no readable manifest.
        """
        files: Mapping[str, Mapping[str, Any]] = versions.read_manifest(version)["files"]
        hashes = {version / name: str(entry["sha256"]) for name, entry in files.items()}
        certificate = version / "parity.json"
        parity = json.loads(runtime.read_plain(certificate, runtime.expected_hash(certificate, hashes)))
        self._load(
            version / "onnx" / parity["chosen"],
            version / "model",
            classes=parity["classes"],
            max_tokens=parity["max_tokens"],
            batch=parity["batch"],
            providers=runtime.not_above(parity["provider"], providers),
            threads=threads,
            hashes=hashes,
        )
        self.verified_on = parity["provider"]
        if self.provider != self.verified_on:
            log.warning(
                "%s: runs on %s but was accepted on %s; see that this provider works here",
                version,
                self.provider,
                self.verified_on,
            )

    @classmethod
    def open(
        cls,
        artefact: Path,
        model: Path,
        *,
        classes: Sequence[str],
        max_tokens: int,
        batch: int = 32,
        providers: Sequence[str] = ("cpu",),
        threads: int = 0,
        hashes: runtime.Hashes | None = None,
    ) -> Self:
        """Open any artefact with the tokenizer of a model folder.

        Args:
            artefact: an ONNX file with outputs "logits" and "embedding".
            model: a folder with tokenizer.json and config.json.
            classes: names of the columns of its logits.
            max_tokens: longer texts are cut.
            batch: most rows in a batch.
            providers: "tensorrt", "cuda", "cpu", best first; what is missing is passed over.
            threads: CPU threads; 0: see `runtime.default_threads`.
            hashes: where given, sha256 hex of every file that may be loaded.

        Raises:
            BadInputError: as above.
        """
        predictor = cls.__new__(cls)
        predictor._load(
            artefact,
            model,
            classes=classes,
            max_tokens=max_tokens,
            batch=batch,
            providers=providers,
            threads=threads,
            hashes=hashes,
        )
        return predictor

    def _load(
        self,
        artefact: Path,
        model: Path,
        *,
        classes: Sequence[str],
        max_tokens: int,
        batch: int,
        providers: Sequence[str],
        threads: int,
        hashes: runtime.Hashes | None,
    ) -> None:
        self.encoder = TextEncoder.open(model, max_tokens, hashes)
        self.max_tokens = self.encoder.max_tokens
        self.classes = tuple(classes)
        self.batch = batch
        self.verified_on = None
        self._session: Any = runtime.open_session(artefact, hashes, providers, threads)
        self.provider = runtime.provider_of(self._session)
        self._inputs = [one.name for one in self._session.get_inputs()]
        outputs = {one.name: one.shape for one in self._session.get_outputs()}
        odd = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if odd or not outputs.keys() >= set(OUTPUTS):
            raise BadInputError(
                f"{artefact}: inputs {self._inputs}, outputs {list(outputs)}; expected token ids and a mask"
                f" in, {' and '.join(OUTPUTS)} out"
            )
        if outputs["logits"][-1] != len(self.classes):
            raise BadInputError(
                f"{artefact}: {outputs['logits'][-1]} logits for {len(self.classes)} labels; export it again"
            )
        self._width = int(outputs["embedding"][-1])
        self._run_options = ort.RunOptions()
        # Without this the arena keeps for ever what the largest batch took.
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Logits float32 (n, classes) and embeddings float32 (n, d), in the order of the texts. The same
        texts in another order get the very same answers (up to `CHUNK` of them).

        Raises:
            BadInputError: a text is not valid Unicode.
        """
        logits = np.empty((len(texts), len(self.classes)), np.float32)
        embeddings = np.empty((len(texts), self._width), np.float32)
        for start in range(0, len(texts), CHUNK):
            encodings = self.encoder.encode(texts[start : start + CHUNK])
            # Whoever shares a batch changes an int8 answer a little, so that must not hang on the order.
            order = sorted(range(len(encodings)), key=[one.ids for one in encodings].__getitem__)
            for numbers in batches([len(encodings[row]) for row in order], self.batch):
                rows = [order[number] for number in numbers]
                feeds = self.encoder.feeds([encodings[row] for row in rows])
                places = [start + row for row in rows]
                logits[places], embeddings[places] = self.run(feeds)
        return Prediction(logits, embeddings)

    def run(self, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embeddings of one batch: int64 (b, t) for "input_ids", "attention_mask" and, where
        the graph asks for it, "token_type_ids"."""
        wanted = {name: feeds[name] for name in self._inputs}
        logits, embeddings = self._session.run(OUTPUTS, wanted, self._run_options)
        return logits, embeddings

    def placement(self) -> dict[str, list[str]]:
        """On a GPU, which nodes run where: see `runtime.placement`."""
        return runtime.placement(self._session)

    def close(self) -> None:
        """Drop the session and give its memory back to the system."""
        self._session = None
        runtime.trim()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pad_id(config: Mapping[str, Any], model: Path) -> int:
    """The model's own padding token: decoders look for it to find the end of a text."""
    pad = config.get("pad_token_id")
    if not isinstance(pad, int):
        raise BadInputError(f"{model / 'config.json'}: no pad_token_id; set it to a token of the tokenizer")
    return pad
