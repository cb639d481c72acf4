"""Checkpoints of a training: tensors as safetensors, the rest as JSON, each one a folder made by rename.

A checkpoint bears the fingerprint of the work that it belongs to; any other is passed over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from keeperd.api import JSON, TrainJob

PREFIX = "step-"


def fingerprint(job: TrainJob, facts: Mapping[str, JSON]) -> str:
    """Hex sha256 of everything that the result depends on: rows, classes, the champion's weights, and
    `facts` (options, seed, device, threads)."""
    digest = hashlib.sha256(json.dumps([job.classes, job.max_tokens, facts], sort_keys=True).encode())
    for window in (job.new, job.memory, job.validation):
        digest.update(json.dumps([list(window.texts), list(window.labels)]).encode())
    for path in sorted(job.champion.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def save(resume: Path, work: str, step: int, tensors: Mapping[str, torch.Tensor], state: JSON) -> None:
    """Write the checkpoint after `step` steps, then remove older ones."""
    resume.mkdir(parents=True, exist_ok=True)
    target, temporary = resume / f"{PREFIX}{step}", resume / f".{PREFIX}{step}"
    for folder in (target, temporary):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "tensors.safetensors"
    )
    (temporary / "state.json").write_text(json.dumps({"work": work, "step": step, "state": state}))
    for path in (*temporary.iterdir(), temporary):
        _fsync(path)
    temporary.rename(target)
    _fsync(resume)
    for folder in resume.glob(f"{PREFIX}*"):
        if folder != target:
            shutil.rmtree(folder)


def load(
    resume: Path | None, work: str, device: str, log: logging.Logger
) -> tuple[int, dict[str, torch.Tensor], Any] | None:
    """The newest checkpoint of this very work: steps done, tensors, state; None where there is none. A
    damaged one is passed over, or it would spoil every retry."""
    if resume is None:
        return None
    found = []
    for folder in resume.glob(f"{PREFIX}*"):
        try:
            saved = json.loads((folder / "state.json").read_text())
            if saved["work"] == work:
                tensors = load_file(folder / "tensors.safetensors", device=device)
                found.append((saved["step"], tensors, saved["state"]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s: not a readable checkpoint (%s); beginning without it", folder, error)
    return max(found, key=lambda checkpoint: checkpoint[0], default=None)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
