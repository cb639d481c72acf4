"""Our training loop beside transformers.Trainer: the same model, rows, epochs and learning rate.

    python bench/training.py DATA_FOLDER [--rows 480] [--epochs 2] [--base FOLDER]

Prints examples a CPU second and the accuracy on other rows, at one thread. Both train all weights from the
base with a new head; ours does without its head refit here. Trainer is shown as it comes and with its own
length grouping. Ends with status 1 where a figure that must hold does not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import strategies
import torch

from keeperd.api import Context, TrainJob, Window
from keeperd_plugins import _classifier, _prepare
from keeperd_plugins._loop_options import UpdateOptions
from keeperd_plugins._training import Loop, Progress

MUST = {"ours": 1.35, "ours, bf16": 1.6}
"""Times the examples a second of Trainer as it comes."""
RATE = 5e-4
Rows = tuple[Any, Any]


def rows(data: Path, count: int) -> tuple[list[str], list[str]]:
    """Texts of very different lengths, shuffled."""
    import random

    import _streams

    found = [(row["text"], row["label"]) for row in _streams.read(data / "policy-topics" / "bills.jsonl")]
    chosen = random.Random(0).sample(found, count)
    return [text for text, _ in chosen], [label for _, label in chosen]


def ours(base: Path, train: Rows, test: Rows, epochs: int, bf16: str) -> tuple[float, float]:
    """CPU seconds of the loop, and accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder))
        window = Window(*train)
        classes = tuple(sorted(set(train[1]) | set(test[1])))
        job = TrainJob("text-classification", base, base, True, classes, window, Window([]), Window([]))
        prepared = replace(_prepare.prepare(job, context), bf16=bf16 == "on")
        answers = _prepare.champions_answers(prepared, context)
        options = UpdateOptions(epochs=epochs, bf16=bf16, body_lr=RATE, head_lr=RATE, prior=False)  # type: ignore[arg-type]
        loop = Loop(prepared, answers, options, None, "", context)
        started = time.process_time()
        loop.run(0, Progress())
        spent = time.process_time() - started
        return spent, right(prepared.classifier, test, context)


def trainer(
    base: Path, train: Rows, test: Rows, epochs: int, sampling: str, bf16: bool
) -> tuple[float, float]:
    """The same of transformers.Trainer."""
    import transformers

    strategies.quiet()
    classes = tuple(sorted(set(train[1]) | set(test[1])))
    classifier = _classifier.load(base, 128)
    _classifier.grow(classifier, classes)
    number = {name: index for index, name in enumerate(classes)}
    items = [
        {"input_ids": ids, "labels": number[label]}
        for ids, label in zip(classifier.encode(train[0]), train[1], strict=True)
    ]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        from keeperd_plugins._text import pad

        ids, mask = pad([item["input_ids"] for item in batch], classifier.encode.pad, "cpu")
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([item["labels"] for item in batch]),
        }

    class Own(transformers.Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = torch.nn.functional.cross_entropy(outputs.logits.float(), labels)
            return (loss, outputs) if return_outputs else loss

    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            learning_rate=RATE,
            weight_decay=0.01,
            warmup_steps=round(0.1 * epochs * len(items) / 32),
            train_sampling_strategy=sampling,
            bf16=bf16,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        made = Own(model=classifier.model, args=settings, train_dataset=items, data_collator=collate)
        started = time.process_time()
        made.train()
        spent = time.process_time() - started
        return spent, right(classifier, test, Context(Path(folder)))


def right(classifier: Any, test: Rows, context: Context) -> float:
    """Share of test rows answered rightly."""
    logits = _classifier.run(classifier, classifier.encode(test[0]), context).logits
    answers = [classifier.classes[number] for number in logits.argmax(1)]
    return sum(a == b for a, b in zip(answers, test[1], strict=True)) / len(test[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--base", type=Path, help="model folder in place of the packaged encoder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n = arguments.rows
    texts, labels = rows(arguments.data, n + 500)
    train, test = (texts[:n], labels[:n]), (texts[n:], labels[n:])
    with tempfile.TemporaryDirectory() as folder:
        base = arguments.base or strategies.small_base(Path(folder) / "base")
        runs = {
            "Trainer": lambda: trainer(base, train, test, arguments.epochs, "random", False),
            "Trainer, grouped by length": lambda: trainer(
                base, train, test, arguments.epochs, "group_by_length", False
            ),
            "Trainer, grouped, bf16": lambda: trainer(
                base, train, test, arguments.epochs, "group_by_length", True
            ),
            "ours": lambda: ours(base, train, test, arguments.epochs, "off"),
            "ours, bf16": lambda: ours(base, train, test, arguments.epochs, "on"),
        }
        print("| loop | examples a CPU second | times Trainer | accuracy |\n|---|---|---|---|")
        good, first = True, 0.0
        for name, go in runs.items():
            spent, accuracy = go()
            rate = n * arguments.epochs / spent
            first = first or rate
            good &= rate / first >= MUST.get(name, 0)
            print(f"| {name} | {rate:.1f} | {rate / first:.2f} | {accuracy:.3f} |", flush=True)
    print(f"must: {MUST}: {'ok' if good else 'NOT HELD'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
