"""What the options of the strategies do, on tiny real models, and the figures that each training reports."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from keeperd.api import Context, PluginError, Stopped, Strategy, TrainJob, Window
from keeperd_plugins import _classifier, _figures, _head, _loss, _prepare, _regularisers, _wise
from keeperd_plugins._loop_options import PriorOptions, UpdateOptions
from keeperd_plugins.freeze_strategy import FreezeStrategy
from keeperd_plugins.full_strategy import FullStrategy
from keeperd_plugins.head_strategy import HeadStrategy
from keeperd_plugins.recalibrate_strategy import RecalibrateStrategy
from keeperd_plugins.retrain_strategy import RetrainStrategy
from tests.test_strategies import (
    STRATEGIES,
    TASK,
    TOPICS,
    accuracy,
    digest,
    first_job,
    next_job,
    surroundings,
    train,
    window,
)

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 8, "body_lr": 1e-3, "bf16": "off"}
EVERYTHING: dict[str, Any] = {
    **SMALL,
    "accumulate": 2,
    "balance": 0.5,
    "distill": 0.5,
    "kd": 0.5,
    "regulariser": "ewc",
    "strength": 0.1,
}


@pytest.fixture(scope="module")
def champion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("full", first_job(tiny_base), tmp_path_factory.mktemp("champion"))


def full(folder: Path, job: TrainJob, **options: Any) -> tuple[Path, dict[str, Any]]:
    """A candidate of "full" with these options, and the figures."""
    out = folder / "out"
    out.mkdir(parents=True)
    strategy = FullStrategy(FullStrategy.Options(**SMALL | options))
    return out, dict(strategy.train(job, out, surroundings(folder)))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def logits(model: Path, rows: Window) -> np.ndarray:
    return TASK.predict(model, rows.texts, 32, Context(workdir=model)).logits


def blind_job(champion: Path, base: Path, *new: str) -> TrainJob:
    """Without validation rows the last epoch is kept, whatever it is."""
    return replace(next_job(champion, base, new or ("music", "food")), validation=Window([]))


def with_old_rows(job: TrainJob) -> TrainJob:
    """The job with the second half of its validation rows marked as old."""
    half = len(job.validation) // 2
    fresh = [row < half for row in range(len(job.validation))]
    return replace(job, validation=replace(job.validation, fresh=fresh))


# --- what holds the candidate to the champion -------------------------------------------------------


def way(regulariser: str, candidate: Path, job: TrainJob, folder: Path) -> float:
    """What the regulariser says of a candidate's encoder."""
    prepared = _prepare.prepare(job, surroundings(folder))
    measure = _regularisers.make(regulariser, prepared, surroundings(folder))
    assert measure is not None
    found = weights(candidate)
    with torch.no_grad():
        for name, value in prepared.classifier.model.named_parameters():
            if name.startswith("encoder."):
                value.copy_(found[name])
        return float(measure(_regularisers.Answered(torch.zeros(1, 3), torch.zeros(1, 3))))


@pytest.mark.parametrize("regulariser", ["l2-sp", "ewc"])
def test_a_regulariser_keeps_the_weights_near_the_champions(
    regulariser: str, champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = blind_job(champion, tiny_base)
    free, _ = full(tmp_path / "free", job, wise=False)
    held, _ = full(tmp_path / "held", job, wise=False, regulariser=regulariser, strength=10.0)
    ways = [way(regulariser, folder, job, tmp_path) for folder in (champion, held, free)]
    assert ways[0] == 0
    assert ways[1] < 0.6 * ways[2]


def test_l2_makes_the_weights_smaller(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    job = blind_job(champion, tiny_base)
    sizes = []
    for strength in (0.0, 1.0):
        out, _ = full(tmp_path / str(strength), job, wise=False, regulariser="l2", strength=strength)
        sizes.append(sum(float(value.square().sum()) for value in weights(out).values()))
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    "options",
    [{"regulariser": "kl", "strength": 20.0}, {"kd": 20.0}, {"distill": 20.0}],
    ids=["kl", "kd", "der++"],
)
def test_distillation_keeps_the_answers_near_the_champions(
    options: dict[str, Any], champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = blind_job(champion, tiny_base, "food", "sport")
    off = {"distill": 0.0, "wise": False}
    rows, before = window(60, seed=9), logits(champion, window(60, seed=9))
    gaps = []
    for name, chosen in (("free", off), ("held", off | options)):
        out, _ = full(tmp_path / name, job, **chosen)
        gaps.append(float(np.square(logits(out, rows)[:, :3] - before).mean()))
    assert gaps[1] < gaps[0]


def test_softened_gap_is_the_kl_divergence() -> None:
    given, wanted = torch.tensor([[0.0, 0.0]]), torch.tensor([[np.log(3.0), 0.0]], dtype=torch.float32)
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert float(_loss.softened_gap(given, wanted, 1.0)) == pytest.approx(expected, rel=1e-5)
    assert float(_loss.softened_gap(wanted, wanted, 3.0)) == pytest.approx(0, abs=1e-6)


def test_der_compares_old_labels_among_themselves() -> None:
    teacher = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    labels, shift = torch.tensor([2, 0]), torch.zeros(3)

    def loss(distill: float, old: list[float]) -> float:
        options = UpdateOptions(distill=distill)
        made = _loss.Loss(options, labels, teacher, new=1, shift=shift, regulariser=None)
        return float(made(torch.tensor([[0.0, 0.0, 5.0], [*old, 1.0]]), [0, 1]))

    assert loss(1.0, [3.0, -1.0]) == pytest.approx(loss(0.0, [3.0, -1.0]))
    assert loss(1.0, [4.0, -2.0]) == pytest.approx(loss(0.0, [4.0, -2.0]) + 0.5)


def test_every_regulariser_that_the_options_name_exists() -> None:
    named = get_args(UpdateOptions.model_fields["regulariser"].annotation)
    assert set(named) == {"none", *_regularisers.REGULARISERS}


@pytest.mark.parametrize("regulariser", _regularisers.REGULARISERS)
def test_a_first_version_learns_with_every_regulariser(
    regulariser: str, tiny_base: Path, tmp_path: Path
) -> None:
    out, figures = full(tmp_path, first_job(tiny_base, rows=100), regulariser=regulariser)
    assert accuracy(out, window(60, seed=9)) > 0.6
    assert "kl_to_champion" not in figures
    assert "alpha" not in figures


def test_fisher_information_is_that_of_the_encoder_and_of_mean_one(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    prepared = _prepare.prepare(next_job(champion, tiny_base), surroundings(tmp_path))
    found = _regularisers.make("ewc", prepared, surroundings(tmp_path))
    assert found is not None
    weights = [
        value for name, value in prepared.classifier.model.named_parameters() if name.startswith("encoder.")
    ]
    with torch.no_grad():
        for value in weights:
            value.add_(0.1)
        moved = float(found(_regularisers.Answered(torch.zeros(1, 3), torch.zeros(1, 3))))
    assert moved == pytest.approx(0.5 * 0.01 * sum(value.numel() for value in weights), rel=1e-3)


# --- mixing with the champion -----------------------------------------------------------------------


def test_mixing_goes_along_the_straight_line_and_spares_new_labels(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = next_job(champion, tiny_base)
    prepared = _prepare.prepare(job, surroundings(tmp_path))
    start = _wise.snapshot(prepared)
    model = prepared.classifier.model
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.linspace(0.001, 0.01, value.numel()).reshape(value.shape))
    end = _wise.snapshot(prepared)
    alpha = _wise.interpolate(prepared, start, surroundings(tmp_path))
    assert alpha in _wise.ALPHAS
    for name, value in model.named_parameters():
        expected = start[name] + alpha * (end[name] - start[name])
        if name.startswith("classifier."):
            expected[3:] = end[name][3:]
        assert torch.allclose(value, expected, atol=1e-6), name


def test_of_mixes_that_validation_cannot_tell_apart_the_champions_nearest_is_taken() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(1.0, 0.1, 200)
    better, equal, worse = base - 0.5, base - 0.5 + rng.normal(0, 0.1, 200), base + 0.5
    assert _wise._nearest([better, equal, worse]) == 1
    assert _wise._nearest([worse, better, worse]) == 1
    assert _wise._nearest([better, worse, worse]) == 0


def test_a_harmful_update_is_mixed_towards_the_champion(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    texts = window(60, seed=2).texts
    rng = np.random.default_rng(0)
    wrong = Window(texts, [TOPICS[int(number)] for number in rng.integers(3, size=60)])
    job = replace(
        next_job(champion, tiny_base, ("food", "sport")),
        new=wrong,
        validation=window(90, seed=3),
        classes=TOPICS,
    )
    options = {"replay": 0.0, "epochs": 8, "patience": 8, "head_first": False, "weight_decay": 0.0}
    _, figures = full(tmp_path, job, **options)
    assert figures["alpha"] < 1


def test_without_enough_validation_rows_nothing_is_mixed(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = replace(next_job(champion, tiny_base), validation=window(10, seed=3))
    mixed, figures = full(tmp_path / "mixed", job)
    plain, _ = full(tmp_path / "plain", job, wise=False)
    assert figures["alpha"] == 1
    assert digest(mixed) == digest(plain)


def test_a_lora_candidate_is_mixed_after_its_adapters_are_merged(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    out = train("lora", next_job(champion, tiny_base), tmp_path)
    assert weights(out).keys() == weights(champion).keys()


# --- the loop ---------------------------------------------------------------------------------------


def test_parts_of_a_batch_give_the_same_training(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    still = shutil.copytree(champion, tmp_path / "still")
    config = json.loads((still / "config.json").read_text())
    config["classifier_dropout"] = 0.0
    config["encoder"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    job = blind_job(still, tiny_base)
    found = []
    for parts in (1, 3):
        options = {"accumulate": parts, "kd": 0.5, "regulariser": "l2-sp", "strength": 1.0, "epochs": 1}
        out, figures = full(tmp_path / str(parts), job, **options)
        found.append((logits(out, window(30, seed=9)), figures["train_loss"]))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)
    assert np.allclose(found[0][0], found[1][0], atol=2e-2)


@pytest.mark.parametrize("asked", [0.3, 0.6, 0.9])
def test_a_stopped_training_with_all_options_goes_on_to_the_same_bytes(
    asked: float, champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = with_old_rows(next_job(champion, tiny_base))
    strategy = FullStrategy(FullStrategy.Options(**EVERYTHING))
    calls = itertools.count()
    (tmp_path / "whole" / "out").mkdir(parents=True)
    strategy.train(
        job, tmp_path / "whole" / "out", surroundings(tmp_path / "whole", stop=lambda: next(calls) < 0)
    )
    number = int(next(calls) * asked)
    (tmp_path / "out").mkdir()
    calls = itertools.count()
    with pytest.raises(Stopped):
        strategy.train(job, tmp_path / "out", surroundings(tmp_path, stop=lambda: next(calls) > number))
    strategy.train(job, tmp_path / "out", surroundings(tmp_path))
    assert digest(tmp_path / "out") == digest(tmp_path / "whole" / "out")


CHILD = """
import sys
from pathlib import Path
from tests.test_strategy_options import child
child(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
"""


def child(champion: Path, base: Path, folder: Path, die_after: int) -> None:
    """Train with all options; after so many steps on the way wait to be killed."""
    torch.set_num_threads(1)
    context = surroundings(folder)
    seen = itertools.count()

    def told(fraction: float, text: str) -> None:
        if "epochs" in text and next(seen) == die_after:
            (folder / "ready").touch()
            time.sleep(60)

    (folder / "out").mkdir(exist_ok=True)
    options = FullStrategy.Options(**EVERYTHING, checkpoint_steps=3)
    FullStrategy(options).train(
        with_old_rows(next_job(champion, base)), folder / "out", replace(context, on_progress=told)
    )


def test_a_killed_training_goes_on_to_the_same_bytes(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    def start(folder: Path, die_after: int) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        places = [str(champion), str(tiny_base), str(folder), str(die_after)]
        return subprocess.Popen([sys.executable, "-c", CHILD, *places], cwd=Path(__file__).parent.parent)

    whole = start(tmp_path / "whole", -1)
    killed = start(tmp_path / "killed", 8)
    while not (tmp_path / "killed" / "ready").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [path.name for path in (tmp_path / "killed" / "resume").iterdir()] == ["step-6"]
    assert start(tmp_path / "killed", -1).wait() == 0
    assert whole.wait() == 0
    assert digest(tmp_path / "killed" / "out") == digest(tmp_path / "whole" / "out")


def test_the_prior_is_that_of_the_stream_or_of_none(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    prepared = _prepare.prepare(next_job(champion, tiny_base), surroundings(tmp_path))
    prepared = replace(prepared, seen=np.array([80, 10, 5, 5]))
    mix = prepared.mix(30)
    goal = torch.tensor(np.log(mix / mix.sum())).float()
    stream = goal - _prepare.prior_shift(prepared, 30, PriorOptions())
    assert torch.allclose(stream.exp(), torch.tensor([0.8, 0.1, 0.05, 0.05]), atol=1e-5)
    even = goal - _prepare.prior_shift(prepared, 30, PriorOptions(balance=1.0))
    assert torch.allclose(even.exp(), torch.full((4,), 0.25), atol=1e-5)
    assert not _prepare.prior_shift(prepared, 30, PriorOptions(prior=False)).any()


def test_a_rare_class_is_found_more_often_when_balance_is_asked_for(tiny_base: Path, tmp_path: Path) -> None:
    food, sport = window(190, ("food",), seed=4), window(10, ("sport",), seed=5)
    rows = Window([*food.texts, *sport.texts], [*food.labels, *sport.labels])
    job = replace(first_job(tiny_base), new=rows, classes=("food", "sport"), validation=Window([]))
    found = []
    for balance in (0.0, 1.0):
        out = tmp_path / str(balance)
        out.mkdir()
        HeadStrategy(HeadStrategy.Options(balance=balance)).train(job, out, surroundings(tmp_path))
        found.append(logits(out, window(60, ("food", "sport"), seed=9)).argmax(1).sum())
    assert found[1] > found[0]


def test_without_the_head_first_the_training_is_another(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = blind_job(champion, tiny_base)
    first, _ = full(tmp_path / "first", job)
    bare, _ = full(tmp_path / "bare", job, head_first=False)
    assert digest(first) != digest(bare)
    assert TASK.classes(bare) == (*TOPICS, "music")


def test_the_head_is_held_to_what_the_champion_knows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    rows = _head.Labelled(features, np.repeat([0, 1, 2], 20))
    none = _head.Labelled(features[:0], rows.labels[:0])
    layer = torch.nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_head, "PENALTIES", (1e9,) * 4)
        _head.fit(layer, rows, none, torch.zeros(3), Context(workdir=tmp_path), known=2)
    held = layer.weight.detach()
    assert torch.allclose(held[:2], before[:2], atol=1e-4)
    assert torch.allclose(held[2], torch.zeros(4), atol=1e-4)


# --- strategies -------------------------------------------------------------------------------------


def test_freeze_trains_the_top_alone(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    strategy = FreezeStrategy(FreezeStrategy.Options(**SMALL, layers=1, wise=False))
    strategy.train(blind_job(champion, tiny_base), tmp_path / "out", surroundings(tmp_path))
    before, after = weights(champion), weights(tmp_path / "out")
    changed = {name for name in before if before[name].shape != after[name].shape}
    changed |= {name for name in before.keys() - changed if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"encoder", "classifier"}
    assert {name for name in changed if name.startswith("encoder.")} == {
        name for name in before if name.startswith("encoder.encoder.layer.1.")
    }


def test_retrain_begins_at_the_base_whatever_the_champion_is(tiny_base: Path, tmp_path: Path) -> None:
    champions = [train("full", first_job(tiny_base), tmp_path / f"champion {seed}", seed) for seed in (1, 2)]
    assert digest(champions[0]) != digest(champions[1])
    candidates = [
        train("retrain", next_job(folder, tiny_base), tmp_path / str(number))
        for number, folder in enumerate(champions)
    ]
    assert digest(candidates[0]) == digest(candidates[1])


def test_retrain_counts_memory_and_new_rows(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    strategy = RetrainStrategy(RetrainStrategy.Options(**SMALL))
    figures = strategy.train(next_job(champion, tiny_base), tmp_path / "out", surroundings(tmp_path))
    assert (figures["examples"], figures["new_rows"], figures["memory_rows"]) == (70, 40, 30)
    counts = json.loads((tmp_path / "out" / "config.json").read_text())[_classifier.COUNTS]
    assert counts == {"food": 40, "sport": 20, "travel": 20, "music": 20}


def test_recalibrate_changes_the_confidence_and_no_answer(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    job = next_job(champion, tiny_base, ("food", "sport"))
    rng = np.random.default_rng(0)
    noisy = [label if rng.random() < 0.6 else TOPICS[int(rng.integers(3))] for label in job.new.labels]
    job = replace(job, new=Window(job.new.texts, noisy), validation=window(10, seed=3))
    (tmp_path / "out").mkdir()
    before = digest(champion)
    figures = RecalibrateStrategy().train(job, tmp_path / "out", surroundings(tmp_path))
    assert digest(champion) == before
    rows = window(60, seed=9)
    assert np.allclose(
        logits(tmp_path / "out", rows) * figures["temperature"], logits(champion, rows), atol=1e-4
    )
    assert figures["temperature"] > 1
    assert figures["new_negative_flips"] == figures["new_positive_flips"] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())[_classifier.COUNTS] == {
        "food": 20,
        "sport": 20,
        "travel": 20,
    }


def test_recalibrate_says_what_it_cannot_do(champion: Path, tiny_base: Path, tmp_path: Path) -> None:
    few = replace(next_job(champion, tiny_base, ("food", "sport")), new=window(20), validation=Window([]))
    for message, job in {
        "no champion": first_job(tiny_base),
        "'music' is new": next_job(champion, tiny_base),
        "too few": few,
    }.items():
        with pytest.raises(PluginError, match=message):
            RecalibrateStrategy().train(job, tmp_path, surroundings(tmp_path))


# --- figures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_run_reports_what_it_changed_and_what_it_cost(
    name: str, champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    strategy: Strategy[Any] = STRATEGIES[name]()
    new = ("food", "sport") if name == "recalibrate" else ("music", "food")
    job = with_old_rows(next_job(champion, tiny_base, new))
    job = replace(job, validation=replace(window(40, TOPICS, seed=3), fresh=job.validation.fresh))
    (tmp_path / "out").mkdir()
    figures = dict(strategy.train(job, tmp_path / "out", surroundings(tmp_path)))
    labels = np.array([TOPICS.index(str(label)) for label in job.validation.labels])
    fresh = np.array(job.validation.fresh)
    was, now = (logits(folder, job.validation).argmax(1) == labels for folder in (champion, tmp_path / "out"))
    for side, rows in (("new", fresh), ("old", ~fresh)):
        assert figures[f"{side}_rows_validated"] == 20
        assert figures[f"{side}_accuracy"] == pytest.approx(now[rows].mean())
        assert figures[f"{side}_accuracy_before"] == pytest.approx(was[rows].mean())
        assert figures[f"{side}_negative_flips"] == pytest.approx((was & ~now)[rows].mean())
        assert figures[f"{side}_positive_flips"] == pytest.approx((now & ~was)[rows].mean())
    assert figures["backward_transfer"] == pytest.approx(now[~fresh].mean() - was[~fresh].mean(), abs=1e-4)
    assert figures["kl_to_champion"] >= 0
    assert min(figures["examples"], figures["seconds"], figures["cpu_seconds"], figures["peak_mb"]) > 0
    json.dumps(figures, allow_nan=False)


def test_kl_is_that_of_the_candidates_answers_from_the_champions(
    champion: Path, tiny_base: Path, tmp_path: Path
) -> None:
    prepared = _prepare.prepare(next_job(champion, tiny_base), surroundings(tmp_path))
    rows = len(prepared.validation)
    before, after = np.zeros((rows, 3), np.float32), np.zeros((rows, 4), np.float32)
    figures = _figures.compare(prepared, before, after)
    assert figures["kl_to_champion"] == pytest.approx(np.log(4 / 3), abs=1e-5)
