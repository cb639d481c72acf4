"""A small but real candidate: a two-layer BERT that tells weather from sport, with its rows, sealed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification

from keeperd import config, plugins, rows, versions
from keeperd.api import JSON, Component, Context
from keeperd.jobs import Job, export
from keeperd.paths import StatePaths

WORDS = {
    "sport": ("goal", "match", "team", "score", "league", "striker", "coach", "referee", "season"),
    "weather": ("rain", "sun", "cloud", "storm", "wind", "snow", "frost", "thunder", "drizzle"),
}
BOTH = ("the", "a", "of", "and", "in", "it", "was", "today", "very", "not", "long", "new", "again", "here")
CLASSES = tuple(WORDS)
ODD = [
    "",
    " ",
    "雨が降る 今日は晴れ",
    "goal! \U0001f600\U0001f44d\U0001f3fd \U0001f468‍\U0001f469‍\U0001f467",
    "rain " * 400,
    "é́ ﬁ Ⅷ ß İ",
    "a\u0000b\u200bc\u202ed",
    "x" * 5000,
    "[CLS] rain [SEP] [PAD] [MASK]",
]
"""Texts on which tokenizers tend to differ."""


def texts(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Documents of 4 to 24 words, and their labels."""
    rng = random.Random(seed)
    labels = [CLASSES[i % 2] for i in range(n)]
    return [
        " ".join(rng.choice(WORDS[label] if rng.random() < 0.6 else BOTH) for _ in range(rng.randint(4, 24)))
        for label in labels
    ], labels


def table(n: int, seed: int, split: str = "holdout", labelled: bool = True) -> pa.Table:
    """Rows as intake freezes them."""
    documents, labels = texts(n, seed)
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in documents]
    return pa.table(
        {
            "id": digests,
            "text": documents,
            "label": labels if labelled else [None] * n,
            "time": [None] * n,
            "source": [None] * n,
            "split": [split] * n,
            "hash": [int(digest[:16], 16) for digest in digests],
            "bands": [[] for _ in range(n)],
        },
        schema=rows.SCHEMA,
    )


def tokenizer(max_tokens: int) -> Tokenizer:
    """A WordPiece tokenizer as BERT's: the words of the documents, and letters for all others."""
    words = sorted({word for topic in WORDS.values() for word in topic} | set(BOTH))
    letters = [*string.ascii_lowercase, *string.punctuation, *"雨天日", "\U0001f600"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *words, *letters, *(f"##{one}" for one in letters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    made.add_special_tokens(special)
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(max_tokens)
    return made


def model_folder(folder: Path, max_tokens: int = 48, margin: float = 8.0) -> Path:
    """A Hugging Face folder. The classifier is solved for; `margin` is the logit of its own label, and
    with a tiny one every answer is nearly a tie."""
    torch.manual_seed(0)
    made = tokenizer(max_tokens)
    settings = BertConfig(
        vocab_size=made.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.15,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    model: Any = BertForSequenceClassification(settings)
    model.eval()
    documents, labels = texts(300, seed=1)
    made.enable_padding()
    encodings = made.encode_batch(documents)
    ids = torch.tensor([one.ids for one in encodings])
    mask = torch.tensor([one.attention_mask for one in encodings])
    with torch.no_grad():
        pooled = model.bert(input_ids=ids, attention_mask=mask).pooler_output.numpy()
        wanted = np.array([[1.0 if label == name else -1.0 for name in CLASSES] for label in labels])
        design = np.hstack([pooled, np.ones((len(pooled), 1))])
        solved = margin * np.linalg.lstsq(design, wanted, rcond=1e-2)[0].T
        model.classifier.weight.copy_(torch.from_numpy(solved[:, :-1]))
        model.classifier.bias.copy_(torch.from_numpy(solved[:, -1]))
    notes: Any = transformers.logging
    notes.disable_progress_bar()
    model.save_pretrained(folder)
    made.no_padding()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "pad_token": "[PAD]", "model_max_length": max_tokens})
    )
    return folder


def candidate(folder: Path, margin: float = 8.0) -> Path:
    """What the train job leaves."""
    folder.mkdir(parents=True)
    model_folder(folder / "model", margin=margin)
    (folder / "reference").mkdir()
    rows.write(folder / "reference" / "rows.parquet", table(200, seed=2))
    rows.write(folder / "holdout.parquet", table(120, seed=3))
    rows.write(folder / "memory.parquet", table(40, seed=4, split="train"))
    lineage = {"model": "reviews", "version": 2, "parent": 1, "classes": list(CLASSES)}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    versions.seal(folder, "reviews", 2)
    return folder


def job(
    kind: str,
    state: Path,
    run: int,
    inputs: Mapping[str, JSON],
    limits: Mapping[str, JSON] | None = None,
    options: Mapping[str, dict[str, Any]] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Job:
    """A job with the real plugins, as the worker makes it."""
    settings = config.Model(
        base=Path("/nowhere"),
        watch=[Path("/nowhere")],
        export=config.Export.model_validate({"verify_rows": 120, **(limits or {})}),
        training=config.Training(max_tokens=48),
        decide=config.Decide(report=None),
        options=dict(options or {}),
    )
    folder = StatePaths(state).run(run)
    (folder / "out" / "work").mkdir(parents=True)

    def load(kind: str, name: str) -> Component[Any]:
        return plugins.load(kind, name, settings.options.get(name))

    context = Context(folder / "out" / "work", stop_asked=stop)
    return Job(kind, "reviews", folder, StatePaths(state), settings, inputs, context, load)


def exported(base: Path) -> Path:
    """A state folder with `candidate` and, in run 1, all three artefacts of it; made once in `base`."""
    state = base / "exported"
    if not state.exists():
        made = candidate(state / "candidate")
        export.run(job("export", state, 1, {"candidate": str(made)}, options={"onnx": {"cuda": "always"}}))
    return state


def copy(state: Path, target: Path) -> Path:
    """A copy of such a folder that a test may spoil."""
    return Path(shutil.copytree(state, target))


def verify_job(state: Path, **changes: Any) -> Job:
    """A verify job on what `exported` made, with one new batch."""
    inputs = {
        "version": 2,
        "candidate": str(state / "candidate"),
        "export": str(state / "runs" / "1" / "out"),
        "verdict": {"passed": True, "summary": "better"},
        "batches": ["new"],
    }
    made = job("verify", state, 2, inputs, **changes)
    batch = made.paths.batch("new")
    batch.parent.mkdir(parents=True, exist_ok=True)
    rows.write(batch, table(100, seed=9))
    return made


def reseal(state: Path) -> None:
    """Make the list of artefacts match their bytes, as if the exporter had written them so."""
    path = state / "runs" / "1" / "out" / "artefacts.json"
    artefacts = json.loads(path.read_bytes())
    for artefact in artefacts:
        for name in artefact["files"]:
            artefact["files"][name] = versions.sha256_file(path.parent / "onnx" / name)
    path.write_text(json.dumps(artefacts))
