"""Detector "perplexity": surprise in bits per byte, with a model of characters and with a causal model."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from keeperd.api import BadInputError, Context, PluginError, Signal, Statistics, Stopped, Window
from keeperd.drift import reference
from keeperd.plugins import load
from keeperd_plugins import _char_model
from keeperd_plugins.perplexity_detector import PerplexityDetector, PerplexityOptions
from tests.conftest import labelled_texts, save_tiny, tiny_tokenizer

KNOWN = ("food", "sport", "travel")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, seed=5)


def texts(rows: int, seed: int = 0, *, unseen: int = 0) -> list[str]:
    """Texts of the known topics, the last `unseen` of another topic."""
    return labelled_texts(rows - unseen, KNOWN, seed)[0] + labelled_texts(unseen, ("music",), seed)[0]


def noise(rows: int, seed: int = 0) -> list[str]:
    """Texts of random letters, which surprise however many of them were read before."""
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=30)) for _ in range(rows)]


def check(context: Context, before: Window, now: Window, **options: Any) -> tuple[Signal, Statistics]:
    one = PerplexityDetector(PerplexityOptions(**options))
    statistics = one.fit(before, context)
    [signal], state = one.detect(statistics, now, None, context)
    assert state is None
    json.dumps(dict(signal.facts), allow_nan=False)
    return signal, statistics


# --- the model of characters --------------------------------------------------------------------------


def test_bits_per_byte_by_hand() -> None:
    """One character only: each order's estimate can be worked out."""
    model = _char_model.fit(["a"])
    p = 1 / 256
    p = (1 + 2 * p) / (1 + 1 + 2)  # two places are counted: the gap before the text, and the "a"
    for _ in range(4):
        p = (1 + 2 * p) / (1 + 2)
    assert model.surprise(["a"])[0] == pytest.approx(-np.log2(p))


def test_a_text_costs_the_same_alone_and_among_others() -> None:
    model = _char_model.fit(texts(100))
    some = [*texts(20, 1), "", "今天天气很好", "\0", "x" * 1_000_000]
    together = model.surprise(some)
    alone = np.array([model.surprise([text])[0] for text in some])
    np.testing.assert_allclose(together, alone)
    assert np.isnan(together[20]) and np.isfinite(np.delete(together, 20)).all()


def test_what_is_new_costs_more_and_what_is_known_less() -> None:
    model = _char_model.fit(texts(500))
    known, new = model.surprise(texts(200, 1)), model.surprise(texts(200, 1, unseen=200))
    assert known.mean() + 0.5 < new.mean()
    assert model.surprise(["今天天气很好"])[0] > 8
    chinese = _char_model.fit(["今天天气很好我们去吃饭吧", "这本书很有意思"] * 50)
    assert chinese.surprise(["今天天气很好"])[0] < 0.5


# --- the detector -------------------------------------------------------------------------------------


def test_unseen_rows_are_found_and_named(context: Context) -> None:
    signal, _ = check(context, Window(texts(600)), Window(texts(200, 1, unseen=60)))
    assert signal.drifted and signal.name == "perplexity" and signal.effect_unit == "bits per byte"
    assert signal.effect is not None and signal.baseline is not None and signal.effect > signal.baseline
    assert signal.facts["auc"] > 0.55 and "more than the reference" in signal.summary
    assert len(signal.facts["examples"]) == 5
    assert sum(int(name) >= 140 for name in signal.facts["examples"]) >= 4  # the unseen rows come last


def test_less_surprise_is_found_too(context: Context) -> None:
    before = Window([*texts(300), *noise(300)])
    signal, _ = check(context, before, Window([*texts(120, 1), *noise(30, 1)]))
    assert signal.drifted and signal.facts["auc"] < 0.45
    assert "less than the reference" in signal.summary and (signal.effect or 0) < (signal.baseline or 0)
    assert all(int(name) < 120 for name in signal.facts["examples"])


def test_windows_drawn_alike_rarely_drift(context: Context) -> None:
    pool = texts(1200)
    p_values = []
    for seed in range(60):
        order = random.Random(seed).sample(range(1200), 400)
        rows = [pool[i] for i in order]
        signal, _ = check(context, Window(rows[:250]), Window(rows[250:]))
        p_values.append(signal.p_value or 0.0)
    # Binomial(60, .05): more than 8 has probability .003; and the p-values must not be timid either.
    assert sum(p <= 0.05 for p in p_values) <= 8
    assert sum(p <= 0.5 for p in p_values) >= 18


def test_days_that_differ_by_themselves_are_no_drift(context: Context) -> None:
    """Each day has its own share of noise: its rows differ, and the day is nothing special."""
    alarms = {"days": 0, "rows": 0}
    for run in range(20):
        rng = np.random.default_rng(run)
        rows, times = [], []
        for day in range(31):
            strange = int(rng.beta(1, 3) * 40)
            rows += [*texts(40 - strange, 100 * run + day), *noise(strange, 100 * run + day)]
            times += [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day)] * 40
        everything = Window(rows, times=times)
        before, now = everything.take(range(1200)), everything.take(range(1200, 1240))
        by_days, _ = check(context, before, now)
        by_rows, _ = check(context, Window(before.texts), now)
        assert by_days.facts["calibrated_on"] == "days" and by_rows.facts["calibrated_on"] == "rows"
        alarms["days"] += by_days.drifted
        alarms["rows"] += by_rows.drifted
    assert alarms["rows"] >= 5 and alarms["days"] <= 2, alarms


def test_the_order_of_rows_does_not_matter_and_the_same_seed_gives_the_same(context: Context) -> None:
    before, now = texts(300), texts(120, 1, unseen=20)
    ids = [str(row) for row in range(120)]
    order = random.Random(1).sample(range(120), 120)
    signal, kept = check(context, Window(before), Window(now, ids=ids))
    shuffled = Window(now, ids=ids).take(order)
    again, kept_again = check(context, Window(before[::-1]), shuffled)
    assert again == signal
    assert all(np.array_equal(kept.arrays[name], kept_again.arrays[name]) for name in kept.arrays)


@pytest.mark.parametrize(
    "now",
    [
        ["one row"],
        ["x" * 1_000_000] * 3,
        ["a \ud800 b", "\udfff"],
        ["", "a text", ""],
        ["Привет, мир", "مرحبا", "今天", "hello", "👍🏽"],
        ["same"] * 100,
    ],
    ids=["one row", "megabytes", "lone surrogates", "empty texts", "scripts", "constant"],
)
def test_odd_windows_are_survived(context: Context, now: list[str]) -> None:
    for before in (texts(60), ["same"] * 60, now * 20):
        signal, _ = check(context, Window(before), Window(now))
        assert signal.p_value is not None and 0 <= signal.p_value <= 1
    assert not signal.drifted  # the last reference was the same texts
    one, _ = check(context, Window(texts(60)), Window(now[:1] if now[0] else ["x"]))
    assert not one.drifted  # one row is no evidence


def test_what_cannot_be_compared_is_refused_in_one_line(context: Context) -> None:
    one = PerplexityDetector()
    with pytest.raises(PluginError, match="19 rows says too little"):
        one.fit(Window(["a"] * 19), context)
    with pytest.raises(PluginError, match="only 0 rows of the reference have text"):
        one.fit(Window([""] * 30), context)
    statistics = one.fit(Window(texts(30)), context)
    with pytest.raises(PluginError, match="empty"):
        one.detect(statistics, Window([]), None, context)
    with pytest.raises(PluginError, match="no row of the window has text"):
        one.detect(statistics, Window([""] * 3), None, context)
    old = Statistics(statistics.arrays, {**statistics.values, "scorer": "of another release"})
    with pytest.raises(PluginError, match="fit the detector again"):
        one.detect(old, Window(["a"]), None, context)


def test_statistics_are_small_and_come_back(context: Context, tmp_path: Path) -> None:
    before, now = Window([text * 20 for text in texts(2000)]), Window(texts(100, 1))
    signal, statistics = check(context, before, now, rows=2000)
    assert sum(array.nbytes for array in statistics.arrays.values()) < 4 * 2**20
    reference.save_statistics(tmp_path / "kept", statistics)
    one = PerplexityDetector(PerplexityOptions(rows=2000))
    [again], _ = one.detect(reference.load_statistics(tmp_path / "kept"), now, None, context)
    assert again == signal


def test_it_is_installed_and_options_are_checked() -> None:
    assert isinstance(load("detector", "perplexity"), PerplexityDetector)
    with pytest.raises(ValidationError, match="expected an absolute path"):
        PerplexityOptions.model_validate({"model": "gpt2"})


# --- a causal language model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 that has read texts of the known topics for some seconds."""
    import torch
    from tokenizers import Tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("causal")
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=tiny_tokenizer(folder), bos_token_id=2, eos_token_id=3, **sizes)
        model = GPT2LMHeadModel(config).train()
        encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts(600, 9))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(80):
            some = [encoded[(step * 16 + row) % 600].ids for row in range(16)]
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in some], batch_first=True)
            loss = model(input_ids=ids, labels=ids.masked_fill(ids == 0, -100)).loss
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.save_pretrained(folder)
    return folder


def test_a_causal_model_finds_unseen_rows(causal: Path, context: Context) -> None:
    signal, statistics = check(
        context, Window(texts(300)), Window(texts(150, 1, unseen=50)), model=causal, max_tokens=16
    )
    assert signal.drifted and signal.effect is not None and signal.effect > (signal.baseline or 0.0)
    assert set(statistics.arrays) == {"usual"} and len(statistics.arrays["usual"]) == 300
    same, _ = check(context, Window(texts(300)), Window(texts(150, 1)), model=causal, max_tokens=16)
    assert not same.drifted


def test_its_bits_per_byte_are_those_of_the_model(causal: Path, context: Context) -> None:
    import torch
    from transformers import GPT2LMHeadModel

    from keeperd_plugins import _language_model

    loaded = _language_model.load(causal, 16)
    text, strange = "the bread was good", "the zyzzy was good"
    found = loaded.surprise([text, strange, "", "bread " * 100, "\ud800"], context)
    model = GPT2LMHeadModel.from_pretrained(causal).eval()
    for sentence, cost, extra in ((text, found[0], 0), (strange, found[1], 8 * len("zyzzy"))):
        ids = torch.tensor([[2, *loaded.tokenizer.encode(sentence, add_special_tokens=False).ids]])
        with torch.no_grad():
            logs = model(ids).logits[0, :-1].log_softmax(-1)
        bits = -float(logs[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum()) / np.log(2)
        assert cost == pytest.approx((bits + extra) / len(sentence), rel=1e-4)
    assert np.isnan(found[2]) and np.isfinite(found[3])
    with pytest.raises(Stopped):
        loaded.surprise([text], Context(context.workdir, stop_asked=lambda: True))


def test_another_model_than_the_references_is_told(causal: Path, context: Context, tmp_path: Path) -> None:
    import shutil

    _, statistics = check(context, Window(texts(40)), Window(texts(20, 1)), model=causal)
    other = shutil.copytree(causal, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "note": "changed"}))
    for options in ({"model": other}, {"model": causal, "max_tokens": 64}, {}):
        one = PerplexityDetector(PerplexityOptions.model_validate(options))
        with pytest.raises(PluginError, match="another model; fit the detector again"):
            one.detect(statistics, Window(texts(20, 1)), None, context)


@pytest.mark.parametrize("fault", ["auto_map", "pickle", "missing", "encoder", "headless", "tokenizer"])
def test_unfit_folders_are_refused_in_one_line(
    causal: Path, context: Context, tmp_path: Path, fault: str
) -> None:
    import shutil

    folder = tmp_path / "model"
    reasons = {
        "auto_map": "remote code",
        "pickle": "a pickle can run code",
        "missing": "no such model folder",
        "encoder": "looks at later tokens|cannot be loaded",
        "headless": "weights are missing",
        "tokenizer": "do not belong together",
    }
    if fault == "encoder":
        save_tiny(folder, "bert")
    elif fault != "missing":
        shutil.copytree(causal, folder)
    config = folder / "config.json"
    if fault == "auto_map":
        config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "x.Y"}}))
    elif fault == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"")
    elif fault == "headless":
        from safetensors.numpy import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights.pop("transformer.h.1.attn.c_attn.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    elif fault == "tokenizer":
        words = json.loads((folder / "tokenizer.json").read_text())
        words["model"]["vocab"]["onemore"] = len(words["model"]["vocab"])
        (folder / "tokenizer.json").write_text(json.dumps(words))
    one = PerplexityDetector(PerplexityOptions(model=folder))
    with pytest.raises(BadInputError, match=reasons[fault]) as raised:
        one.fit(Window(texts(30)), context)
    assert "\n" not in str(raised.value)


def test_a_model_that_sees_later_tokens_is_refused(context: Context, tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "bert"
    folder.mkdir()
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=tiny_tokenizer(folder), intermediate_size=64, **sizes)
    transformers.BertLMHeadModel(config).save_pretrained(folder)
    one = PerplexityDetector(PerplexityOptions(model=folder))
    with pytest.raises(BadInputError, match="looks at later tokens"):
        one.fit(Window(texts(30)), context)
