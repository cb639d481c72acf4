"""The perplexity detector on real text: false alarms, power, seconds.

    python bench/perplexity.py FILE.jsonl --known DOMAIN --new DOMAIN [--runs 40] [--model DIR | --train 60]

Each line of the file holds "text" and a key to group by (--group). Printed: how often a window of rows of
the known group alarms, how often one with a share of rows of the new group is found, and CPU seconds of a
check. `--train` trains a small GPT-2 of bytes on rows of the known group, for so many seconds, and uses
that; these rows are in no window. Where lines have "time", whole days are shuffled too, which keeps the
bursts of real text.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from drift import MIXES, as_window, shares, shuffled_days

from keeperd.api import Context, Signal
from keeperd_plugins.perplexity_detector import PerplexityDetector, PerplexityOptions

Rows = list[dict[str, Any]]


def train(texts: list[str], seconds: float, folder: Path) -> Path:
    """Train a GPT-2 of 2 layers and 128 columns on bytes and save it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*letters, "<end>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = [one.ids for one in tokenizer.encode_batch(texts)]
    stream = torch.tensor([token for row in ids for token in [256, *row]])
    torch.manual_seed(0)
    sizes = {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 256}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=257, bos_token_id=256, eos_token_id=256, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    ended, steps = time.monotonic() + seconds, 0
    while time.monotonic() < ended:
        starts = torch.randint(len(stream) - 128, (16,))
        batch = torch.stack([stream[i : i + 128] for i in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    print(
        f"  trained {steps} steps on {len(texts)} rows, last loss {loss.item() / np.log(2):.2f} bits a byte"
    )
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


class Checks:
    """Runs checks and counts their CPU time."""

    def __init__(self, workdir: Path, model: Path | None) -> None:
        self.detector = PerplexityDetector(PerplexityOptions(model=model))
        self.context = Context(workdir)
        self.seconds: list[float] = []

    def check(self, old: Rows, new: Rows, *, dated: bool = False) -> Signal:
        """Fit to one window and look at the other."""
        statistics = self.detector.fit(as_window(old, dated=dated), self.context)
        started = time.process_time()
        [signal], _ = self.detector.detect(statistics, as_window(new, dated=dated), None, self.context)
        self.seconds.append(time.process_time() - started)
        return signal


def line(name: str, found: list[Signal]) -> None:
    """One line of the table."""
    p_values = [1.0 if one.p_value is None else one.p_value for one in found]
    now, usual = np.mean([[one.effect or 0.0, one.baseline or 0.0] for one in found], axis=0)
    print(f"  {name:38}{shares(p_values)}  {now:8.2f} {usual:8.2f}", flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--known", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--group", default="domain")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--reference", type=int, default=1000)
    parser.add_argument("--window", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--train", type=float, default=0.0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with options.file.open(encoding="utf-8") as file:
        rows = [json.loads(text) for text in file]
    known = [row for row in rows if row[options.group] == options.known]
    new = [row for row in rows if row[options.group] == options.new]
    known = [known[i] for i in rng.permutation(len(known))]
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if options.train:
            kept = min(len(known) // 2, options.reference + 2 * options.window)
            model = train([row["text"] for row in known[kept:]], options.train, Path(folder))
            known = known[:kept]
        measure(known, new, Checks(Path(folder), model), options, rng.permutation)


def measure(
    known: Rows, new: Rows, checks: Checks, options: argparse.Namespace, shuffle: Callable[[int], Any]
) -> None:
    """Print the table."""
    print(f"  {'':38}p<=.05  p<=.01   bits now, usual")
    for mix in (0.0, *MIXES):
        found = []
        for _ in range(options.runs):
            drawn = [known[i] for i in shuffle(len(known))[: options.reference + options.window]]
            count = round(mix * options.window)
            strange = [new[i] for i in shuffle(len(new))[:count]]
            old = drawn[: len(drawn) - options.window]
            found.append(checks.check(old, drawn[len(old) : len(drawn) - count] + strange))
        line(f"{mix:.0%} {options.new}" if mix else f"false alarms ({len(old)} rows before)", found)
    for rows, name in ((known, options.known), (new, options.new)):
        if all("time" in row for row in rows):
            pairs = list(shuffled_days(rows, options, np.random.default_rng(options.seed)))
            line(f"{name}: days shuffled, by rows", [checks.check(*pair) for pair in pairs])
            line(f"{name}: days shuffled, by days", [checks.check(*pair, dated=True) for pair in pairs])
    print(f"  {np.median(checks.seconds):.2f} CPU seconds a check (median)")


if __name__ == "__main__":
    main()
