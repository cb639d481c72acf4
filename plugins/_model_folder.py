"""Is a model folder safe and complete? Looked at before anything in it is loaded.

A Hugging Face folder can carry code (`auto_map`, Python files, an attention kernel to be fetched from
the network), pickles that run code when read, and weights with an absurd header. All of these are
refused by name, without opening them. What is left is JSON, `tokenizer.json` and safetensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keeperd.api import BadInputError

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
CODE = frozenset({".py", ".pyc", ".so"})
FORBIDDEN_KEYS = {
    "auto_map": "it names remote code",
    "attn_implementation": "it can name a kernel that is fetched and run",
    "_attn_implementation": "it can name a kernel that is fetched and run",
    "_attn_implementation_internal": "it can name a kernel that is fetched and run",
    "_experts_implementation": "it can name a kernel that is fetched and run",
    "_experts_implementation_internal": "it can name a kernel that is fetched and run",
    "quantization_config": "quantised weights cannot be trained",
}
MAX_CONFIG = 16 * 2**20
MAX_TOKENIZER = 64 * 2**20
MAX_HEADER = 8 * 2**20
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CLASSIFIER_SUFFIX = "ForSequenceClassification"


def check(folder: Path) -> dict[str, Any]:
    """Refuse a folder that is incomplete or could run code; return its `config.json`.

    Raises:
        BadInputError: one line with the file and what to do about it.
    """
    if not folder.is_dir():
        raise BadInputError(f"{folder}: no such model folder; check the path")
    for path in sorted(folder.rglob("*")):
        _refuse_file(path)
    config = _read_object(folder / "config.json", MAX_CONFIG)
    _refuse_keys(config, folder / "config.json")
    tokenizer_config = folder / "tokenizer_config.json"
    if tokenizer_config.exists():
        _refuse_keys(_read_object(tokenizer_config, MAX_CONFIG), tokenizer_config)
    tokenizer = folder / "tokenizer.json"
    _present(tokenizer, "save the tokenizer in the fast format")
    if tokenizer.stat().st_size > MAX_TOKENIZER:
        raise BadInputError(f"{tokenizer}: larger than {MAX_TOKENIZER >> 20} MiB; use a smaller tokenizer")
    for weights in _weight_files(folder):
        check_header(weights)
    return config


def check_header(path: Path) -> None:
    """Check that a safetensors file begins with a JSON header of a sane length, and holds what the
    header says: 8 bytes of length (little endian), the header, the tensors.

    Raises:
        BadInputError: it does not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise BadInputError(
                f"{path}: header of {length} bytes (file {size}, limit {MAX_HEADER}); copy the file again"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{path}: safetensors header is no JSON; copy the file again") from error
    if not isinstance(header, dict):
        raise BadInputError(f"{path}: safetensors header is no JSON object; copy the file again")


def classes(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Label names in the order of the logits, () for an encoder without a classifier. A classifier that
    names none has those that transformers gives it: LABEL_0, LABEL_1 ...

    Raises:
        BadInputError: `id2label` is not a list of different names numbered from 0.
    """
    if not is_classifier(config):
        return ()
    try:
        default = {number: f"LABEL_{number}" for number in range(int(config.get("num_labels", 2)))}
        table = config.get("id2label", default)
        names = {int(number): name for number, name in table.items()}
        ordered = tuple(names[number] for number in range(len(names)))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise BadInputError(
            f"{folder / 'config.json'}: id2label is not numbered from 0; correct it"
        ) from error
    if not all(isinstance(name, str) for name in ordered) or len(set(ordered)) != len(table):
        raise BadInputError(f"{folder / 'config.json'}: id2label needs different names; correct it")
    return ordered


def is_classifier(config: dict[str, Any]) -> bool:
    """Whether the folder says that it is a sequence classifier, rather than a bare encoder."""
    architectures = config.get("architectures") or []
    return any(str(name).endswith(CLASSIFIER_SUFFIX) for name in architectures)


def _refuse_file(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise BadInputError(
            f"{path}: a pickle can run code; convert the weights to safetensors and remove it"
        )
    if suffix in CODE:
        raise BadInputError(f"{path}: model folders with code are not taken; remove it or use another model")
    if path.name == "adapter_config.json":
        raise BadInputError(f"{path}: an adapter is no complete model; merge it into its base first")


def _refuse_keys(value: object, path: Path) -> None:
    """Look for forbidden keys at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in FORBIDDEN_KEYS and inner is not None:
                raise BadInputError(f"{path}: {key!r}: {FORBIDDEN_KEYS[key]}; use a model without it")
            _refuse_keys(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _refuse_keys(inner, path)


def _present(path: Path, advice: str) -> None:
    if not path.is_file():
        raise BadInputError(f"{path}: missing; {advice}")


def _read_object(path: Path, limit: int) -> dict[str, Any]:
    _present(path, "use a complete Hugging Face model folder")
    if path.stat().st_size > limit:
        raise BadInputError(f"{path}: larger than {limit >> 20} MiB; use another model")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not valid JSON; copy the file again") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: not a JSON object; copy the file again")
    return value


def _weight_files(folder: Path) -> Iterator[Path]:
    """The safetensors files that would be loaded: one, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
        return
    if not (folder / INDEX).is_file():
        raise BadInputError(f"{folder / WEIGHTS}: missing; convert the weights to safetensors")
    shards = _read_object(folder / INDEX, MAX_CONFIG).get("weight_map")
    if not isinstance(shards, dict):
        raise BadInputError(f"{folder / INDEX}: no weight_map; copy the file again")
    for name in sorted({str(shard) for shard in shards.values()}):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BadInputError(f"{folder / INDEX}: {name!r} is no file of this folder; use another model")
        _present(folder / name, "copy the model again")
        yield folder / name
