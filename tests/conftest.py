"""What many tests share: a tiny real encoder, and labelled texts that it can learn.

Heavy libraries are imported inside fixtures, so that light tests stay light.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

# Tests run beside one another: with threads of its own in each, numpy's BLAS waits more than it works.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

TOPICS = {
    "food": [
        "bread",
        "soup",
        "cheese",
        "kitchen",
        "dinner",
        "apple",
        "butter",
        "oven",
        "recipe",
        "salt",
        "taste",
        "sugar",
    ],
    "sport": [
        "football",
        "match",
        "goal",
        "team",
        "race",
        "win",
        "coach",
        "player",
        "stadium",
        "score",
        "tennis",
        "league",
    ],
    "travel": [
        "train",
        "hotel",
        "ticket",
        "beach",
        "flight",
        "island",
        "passport",
        "journey",
        "airport",
        "map",
        "luggage",
        "tour",
    ],
    "music": [
        "song",
        "guitar",
        "concert",
        "band",
        "piano",
        "melody",
        "drum",
        "singer",
        "album",
        "rhythm",
        "violin",
        "chorus",
    ],
}
FILLER = [
    "the",
    "a",
    "my",
    "we",
    "they",
    "saw",
    "had",
    "was",
    "very",
    "good",
    "bad",
    "new",
    "old",
    "today",
    "again",
    "with",
    "for",
    "about",
]


def labelled_texts(
    rows: int, topics: Sequence[str] = ("food", "sport", "travel"), seed: int = 0
) -> tuple[list[str], list[str]]:
    """Texts of a few words and their topics, in turn; the same for the same arguments."""
    rng = random.Random(f"{seed} {topics}")
    labels = [topics[number % len(topics)] for number in range(rows)]
    texts = []
    for label in labels:
        words = rng.choices(TOPICS[label], k=3) + rng.choices(FILLER, k=rng.randint(1, 6))
        rng.shuffle(words)
        texts.append(" ".join(words))
    return texts, labels


def tiny_tokenizer(folder: Path) -> int:
    """Write a tokenizer.json of whole words into the folder; return the size of its vocabulary. Tokens
    0 to 3 are padding, unknown, start and end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for topic in TOPICS.values() for word in topic} | set(FILLER))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def save_tiny(folder: Path, kind: str, labels: Sequence[str] = ()) -> Path:
    """A random model of two layers with a tokenizer: "bert", "distilbert", "roberta" or "gpt2"; a bare
    encoder, or a stock classifier where there are labels."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    shared: dict[str, Any] = {"vocab_size": tiny_tokenizer(folder), "pad_token_id": 0}
    if labels:
        shared |= {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    configs: dict[str, Callable[[], Any]] = {
        "bert": lambda: transformers.BertConfig(max_position_embeddings=64, **sizes, **shared),
        "distilbert": lambda: transformers.DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64, **shared
        ),
        "roberta": lambda: transformers.RobertaConfig(max_position_embeddings=64, **sizes, **shared),
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3, **shared
        ),
    }
    auto: Any = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto.from_config(configs[kind]()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare random BERT encoder: 2 layers, hidden size 32, at most 64 tokens."""
    return save_tiny(tmp_path_factory.mktemp("base") / "bert", "bert")
