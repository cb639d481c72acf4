"""All strategies on tiny real models; what their options do is tested in test_strategy_options.py."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeperd.api import BadInputError, Context, PluginError, Stopped, Strategy, TrainJob, Window
from keeperd_plugins import _classifier, _head
from keeperd_plugins.freeze_strategy import FreezeStrategy
from keeperd_plugins.full_strategy import FullStrategy
from keeperd_plugins.head_strategy import HeadStrategy
from keeperd_plugins.lora_strategy import LoraStrategy
from keeperd_plugins.recalibrate_strategy import RecalibrateStrategy
from keeperd_plugins.retrain_strategy import RetrainStrategy
from keeperd_plugins.text_classification import TextClassification
from tests.conftest import labelled_texts, save_tiny

TOPICS = ("food", "sport", "travel")
STRATEGIES: dict[str, Callable[[], Strategy[Any]]] = {
    "head": HeadStrategy,
    "full": lambda: FullStrategy(FullStrategy.Options(epochs=2, batch_size=8, body_lr=1e-3, bf16="on")),
    "lora": lambda: LoraStrategy(LoraStrategy.Options(epochs=2, batch_size=8, bf16="off")),
    "freeze": lambda: FreezeStrategy(
        FreezeStrategy.Options(epochs=2, batch_size=8, body_lr=1e-3, bf16="off", layers=1)
    ),
    "retrain": lambda: RetrainStrategy(
        RetrainStrategy.Options(epochs=2, batch_size=8, body_lr=1e-3, bf16="off")
    ),
    "recalibrate": RecalibrateStrategy,
}
LEARNERS = tuple(name for name in STRATEGIES if name != "recalibrate")
LOOPS = ("full", "lora", "freeze", "retrain")
TASK = TextClassification()


def window(rows: int, topics: tuple[str, ...] = TOPICS, seed: int = 0) -> Window:
    texts, labels = labelled_texts(rows, topics, seed)
    return Window(texts, labels)


def first_job(base: Path, rows: int = 60) -> TrainJob:
    return TrainJob(
        task="text-classification",
        champion=base,
        base=base,
        first=True,
        classes=TOPICS,
        new=window(rows),
        memory=Window([]),
        validation=window(30, seed=1),
        max_tokens=32,
    )


def next_job(champion: Path, base: Path, new: tuple[str, ...] = ("music", "food")) -> TrainJob:
    return TrainJob(
        task="text-classification",
        champion=champion,
        base=base,
        first=False,
        classes=(*TOPICS, *sorted(set(new) - set(TOPICS))),
        new=window(40, new, seed=2),
        memory=window(30, seed=0),
        validation=window(40, (*TOPICS, "music"), seed=3),
        max_tokens=32,
    )


def job_for(strategy: str, champion: Path, base: Path) -> TrainJob:
    """With a new label, where the strategy can learn one."""
    return next_job(champion, base, ("music", "food") if strategy in LEARNERS else ("sport", "food"))


def surroundings(folder: Path, seed: int = 0, stop: Callable[[], bool] = lambda: False) -> Context:
    for name in ("work", "resume"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Context(workdir=folder / "work", resume=folder / "resume", seed=seed, stop_asked=stop)


def train(strategy: str, job: TrainJob, folder: Path, seed: int = 0) -> Path:
    out = folder / "out"
    out.mkdir(parents=True)
    figures = STRATEGIES[strategy]().train(job, out, surroundings(folder, seed))
    json.dumps(figures, allow_nan=False)
    return out


def accuracy(model: Path, rows: Window) -> float:
    logits = TASK.predict(model, rows.texts, 32, Context(workdir=model)).logits
    return float(TASK.scores(TASK.classes(model), [str(label) for label in rows.labels], logits).mean())


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def champion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("full", first_job(tiny_base), tmp_path_factory.mktemp("champion"))


@pytest.mark.parametrize("strategy", LEARNERS)
def test_a_first_version_learns(strategy: str, tiny_base: Path, tmp_path: Path) -> None:
    out = train(strategy, first_job(tiny_base, rows=200), tmp_path)
    assert TASK.classes(out) == TOPICS
    assert accuracy(out, window(60, seed=9)) > 0.7
    assert not [path for path in out.iterdir() if path.suffix not in {".json", ".safetensors"}]


@pytest.mark.parametrize("strategy", LEARNERS)
def test_a_new_label_is_learnt_and_the_old_ones_are_kept(
    strategy: str, champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    before = digest(champion)
    out = train(strategy, next_job(champion, tiny_base), tmp_path)
    assert digest(champion) == before
    assert TASK.classes(out) == (*TOPICS, "music")
    assert accuracy(out, window(30, ("music",), seed=9)) > 0.5
    assert accuracy(out, window(60, seed=9)) > accuracy(champion, window(60, seed=9)) - 0.1


@pytest.mark.parametrize("strategy", LEARNERS)
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2"])
def test_a_stock_classifier_stays_of_its_class(strategy: str, kind: str, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", kind, ("POSITIVE", "NEGATIVE"))
    out = train(strategy, first_job(base, rows=30), tmp_path)
    architecture = json.loads((base / "config.json").read_text())["architectures"]
    assert json.loads((out / "config.json").read_text())["architectures"] == architecture
    assert TASK.classes(out) == TOPICS
    assert _classifier.load(out, 32).classes == TOPICS


def test_grown_labels_leave_the_old_rows_bit_by_bit(champion: Path) -> None:
    classifier = _classifier.load(champion, 32)
    ids = classifier.encode(window(20).texts)
    context = Context(workdir=champion)
    old, weight = _classifier.run(classifier, ids, context), classifier.last_linear.weight.clone()
    _classifier.grow(classifier, ("sport", "music", "food", "travel"))
    new = _classifier.run(classifier, ids, context)
    for name, row in (("sport", 0), ("food", 2), ("travel", 3)):
        assert classifier.last_linear.weight[row].equal(weight[TOPICS.index(name)])
        assert np.array_equal(new.logits[:, row], old.logits[:, TOPICS.index(name)])
    assert not new.logits[:, 1].any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_bytes(
    strategy: str, champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = job_for(strategy, champion, tiny_base)
    first, second = (digest(train(strategy, job, tmp_path / name)) for name in ("a", "b"))
    assert first == second


def test_another_seed_gives_another_training(tiny_base: Path, tmp_path: Path) -> None:
    found = {
        digest(train("full", first_job(tiny_base), tmp_path / str(seed), seed))["model.safetensors"]
        for seed in (0, 1)
    }
    assert len(found) == 2


@pytest.mark.parametrize("strategy", LOOPS)
@pytest.mark.parametrize("asked", [0.3, 0.6, 0.9])
def test_a_stopped_training_goes_on_to_the_same_bytes(
    strategy: str, asked: float, champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = next_job(champion, tiny_base)
    calls = itertools.count()
    whole = tmp_path / "whole"
    (whole / "out").mkdir(parents=True)
    STRATEGIES[strategy]().train(job, whole / "out", surroundings(whole, stop=lambda: next(calls) < 0))
    number = int(next(calls) * asked)
    (tmp_path / "out").mkdir()
    calls = itertools.count()
    with pytest.raises(Stopped, match="stopped"):
        STRATEGIES[strategy]().train(
            job, tmp_path / "out", surroundings(tmp_path, stop=lambda: next(calls) > number)
        )
    assert not list((tmp_path / "out").iterdir())
    STRATEGIES[strategy]().train(job, tmp_path / "out", surroundings(tmp_path))
    assert digest(tmp_path / "out") == digest(whole / "out")


def test_a_checkpoint_is_plain_tensors_and_json(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    train("full", next_job(champion, tiny_base), tmp_path)
    (checkpoint,) = (tmp_path / "resume").iterdir()
    assert sorted(path.name for path in checkpoint.iterdir()) == ["state.json", "tensors.safetensors"]


def test_a_checkpoint_of_other_work_is_passed_over(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    fresh = train("full", next_job(champion, tiny_base), tmp_path / "fresh")
    train("full", next_job(champion, tiny_base, ("music", "sport")), tmp_path / "used")
    (tmp_path / "used" / "out").rename(tmp_path / "used" / "earlier")
    assert digest(train("full", next_job(champion, tiny_base), tmp_path / "used")) == digest(fresh)


def test_a_damaged_checkpoint_is_passed_over(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    job = next_job(champion, tiny_base)
    fresh = train("full", job, tmp_path / "fresh")
    train("full", job, tmp_path / "used")
    (tmp_path / "used" / "out").rename(tmp_path / "used" / "earlier")
    (checkpoint,) = (tmp_path / "used" / "resume").iterdir()
    tensors = checkpoint / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    (checkpoint.parent / "step-none").mkdir()
    assert digest(train("full", job, tmp_path / "used")) == digest(fresh)


def test_a_base_with_another_head_gives_its_encoder(tiny_base: Path, tmp_path: Path) -> None:
    import transformers

    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = transformers.AutoConfig.from_pretrained(tiny_base)
    transformers.BertForMaskedLM(config).save_pretrained(base)
    out = train("head", first_job(base), tmp_path)
    assert json.loads((out / "config.json").read_text())["model_type"] == "keeperd_mean_pool"


def test_no_path_of_this_machine_is_written_into_the_candidate(champion: Path, tiny_base: Path) -> None:
    assert str(tiny_base) not in (champion / "config.json").read_text()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stop_is_obeyed_at_once(strategy: str, champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(Stopped):
        STRATEGIES[strategy]().train(
            job_for(strategy, champion, tiny_base),
            tmp_path / "out",
            surroundings(tmp_path, stop=lambda: True),
        )


@pytest.mark.parametrize("strategy", LEARNERS)
def test_rows_that_teach_nothing_are_refused(strategy: str, tiny_base: Path, tmp_path: Path) -> None:
    job = first_job(tiny_base)
    useless = {
        "no labelled row": Window([]),
        "no labelled row to": Window(["bread"], [None]),
        "the same label": Window(["bread", "soup"], ["food", "food"]),
        "not among": Window(["bread", "opera"], ["food", "opera"]),
    }
    for number, (message, rows) in enumerate(useless.items()):
        changed = TrainJob(**{**vars(job), "new": rows})
        with pytest.raises(PluginError, match=message):
            train(strategy, changed, tmp_path / str(number))


@pytest.mark.parametrize("strategy", LEARNERS)
def test_a_model_whose_numbers_are_broken_is_refused(strategy: str, tiny_base: Path, tmp_path: Path) -> None:
    classifier = _classifier.load(tiny_base, 32)
    classifier.model.encoder.get_input_embeddings().weight.data.fill_(float("nan"))
    (tmp_path / "broken").mkdir()
    classifier.classes = ("a", "b")
    classifier.save(tmp_path / "broken")
    with pytest.raises(PluginError, match="not finite"):
        train(strategy, first_job(tmp_path / "broken"), tmp_path)


def test_a_loss_that_explodes_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    strategy = FullStrategy(
        FullStrategy.Options(
            epochs=50, body_lr=0.99, head_lr=0.99, weight_decay=0.99, clip=1e30, warmup=0, distill=1e37
        )
    )
    (tmp_path / "champion").mkdir()
    champion = train("head", first_job(tiny_base), tmp_path / "champion")
    (tmp_path / "out").mkdir()
    with pytest.raises(PluginError, match="not finite at step"):
        strategy.train(next_job(champion, tiny_base), tmp_path / "out", surroundings(tmp_path))


def test_a_champion_without_labels_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="names no labels"):
        train("head", next_job(tiny_base, tiny_base), tmp_path)


def test_training_without_validation_keeps_the_last_epoch(tiny_base: Path, tmp_path: Path) -> None:
    job = TrainJob(**{**vars(first_job(tiny_base)), "validation": Window([])})
    (tmp_path / "out").mkdir()
    figures = STRATEGIES["full"]().train(job, tmp_path / "out", surroundings(tmp_path))
    assert "last epoch" in str(figures["note"])
    assert figures["epochs"] == 2


def test_the_head_answers_for_the_stream_not_for_the_mix(tmp_path: Path) -> None:
    import torch

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 500)
    features = rng.normal(size=(1000, 2)).astype(np.float32) + labels[:, None] * 0.5
    layer = torch.nn.Linear(2, 2)
    rows = _head.Labelled(features.astype(np.float32), labels)
    shift = _head.prior_shift(np.array([500.0, 500.0]), np.array([9000, 1000]))
    _head.fit(layer, rows, _head.Labelled(features[:0], labels[:0]), shift, Context(workdir=tmp_path))
    with torch.no_grad():
        answers = layer(torch.tensor(rows.features)).softmax(1)
    weights = np.where(labels == 0, 9.0, 1.0)
    assert np.average(answers[:, 1].numpy(), weights=weights) == pytest.approx(0.1, abs=0.01)


def test_the_model_remembers_how_many_rows_of_each_label_it_has_seen(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    out = train("head", next_job(champion, tiny_base), tmp_path)
    counts = [
        json.loads((folder / "config.json").read_text())[_classifier.COUNTS] for folder in (champion, out)
    ]
    assert counts == [
        {"food": 20, "sport": 20, "travel": 20},
        {"food": 40, "sport": 20, "travel": 20, "music": 20},
    ]


def test_without_a_past_the_memory_stands_for_it() -> None:
    assert _head.seen_so_far({}, ["a", "a", "b"], ["b", "c"]) == Counter(a=2, b=2, c=1)
    assert _head.seen_so_far({"a": 5}, ["a", "a", "b"], ["c"]) == Counter(a=5, c=1)


def test_calibration_leaves_the_answers_and_corrects_the_confidence() -> None:
    import torch

    rng = np.random.default_rng(0)
    true = rng.normal(size=(5000, 3))
    labels = (true + rng.gumbel(size=true.shape)).argmax(1)
    layer = torch.nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    temperature = _head.calibrate(layer, (true * 3).astype(np.float32), labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert torch.allclose(layer.weight * temperature, before)
    assert _head.calibrate(layer, true[:5].astype(np.float32), labels[:5]) == 1.0
