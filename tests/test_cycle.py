"""The state machine: every edge of the table taken on a real ledger and real folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keeperd import config, cycle, versions
from keeperd.desk import LedgerDesk
from keeperd.engine import Engine
from keeperd.store import Store
from tests import fakes
from tests.fakes import FakeClock, FakeRuns, failed


class House:
    """One model, a ledger, and an engine whose runs end as the test says."""

    def __init__(self, folder: Path, **model: Any) -> None:
        (folder / "in").mkdir(exist_ok=True)
        self.settings = config.Settings.model_validate(
            {
                "state": str(folder / "state"),
                "daemon": {"retries": 2},
                "model": {
                    "m": {"base": "/base", "watch": [str(folder / "in")], "decide": {"cooldown": 0}, **model}
                },
            }
        )
        (folder / "state").mkdir(exist_ok=True)
        self.clock = FakeClock()
        self.store = Store(folder / "state" / "keeperd.db")
        self.engine = Engine(self.settings, self.store, self.clock)
        self.runs = FakeRuns(self.store, self.settings)
        self.engine.runs = self.runs  # type: ignore[assignment]
        self.desk = LedgerDesk(self.store, self.clock, self.settings)
        self.engine.start()
        self.files = self.engine.paths.model("m")
        self.runs.answers = {
            "intake": [fakes.intake()],
            "assess": [fakes.report()],
            "train": [fakes.train],
            "gate": [fakes.verdict()],
            "export": [fakes.exported],
            "verify": [fakes.parity()],
            "probe": [fakes.probe("b" * 20)],
        }

    def files_came(self, sha: str, **sizes: int) -> None:
        self.runs.answers["intake"] = [fakes.intake(sha * 64, **sizes)]
        self.store.add_trigger("m", "files", "new file", self.clock.now())

    def settle(self) -> None:
        """Tick until nothing moves; a cycle that waits stays where it is."""
        for _ in range(60):
            if not self.engine.tick():
                return
        raise AssertionError("the engine never came to rest")

    @property
    def champion(self) -> int | None:
        row = self.store.model("m")["champion"]
        assert versions.live_version(self.files) == row
        return None if row is None else int(row)

    def last(self) -> str:
        return str(self.store._all("SELECT state FROM cycles ORDER BY id DESC LIMIT 1")[0]["state"])

    def statuses(self) -> list[str]:
        return [batch.status for batch in self.store.batches("m")]

    def edges(self) -> set[tuple[str, str]]:
        rows = self.store._all("SELECT from_state, to_state FROM events WHERE from_state IS NOT NULL")
        return {(row["from_state"], row["to_state"]) for row in rows}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def serving(house: House) -> House:
    """With version 1 in place."""
    house.files_came("0")
    house.settle()
    assert house.champion == 1
    return house


def promoted(house: House, sha: str = "1") -> None:
    """Version 2 in probation."""
    house.files_came(sha)
    house.settle()
    assert house.last() == "PROBATION"


def test_the_first_cycle_makes_version_1(serving: House) -> None:
    assert serving.last() == "COMPLETED"
    assert serving.statuses() == ["trained"]
    assert (serving.files.live / "model" / "weights").read_text() == "version 1"


def test_init_is_refused_where_a_version_serves(serving: House) -> None:
    serving.store.add_trigger("m", "init", "again", serving.clock.now())
    serving.settle()
    assert serving.last() == "SKIPPED"


def test_no_new_rows_are_skipped(serving: House) -> None:
    serving.store.add_trigger("m", "files", "new file", serving.clock.now())
    serving.runs.answers["intake"] = [fakes.nothing_new()]
    serving.settle()
    assert serving.last() == "SKIPPED"


def test_no_drift_is_left_alone_and_the_batch_counts_as_judged(serving: House) -> None:
    serving.runs.answers["assess"] = [fakes.report(drifted=False)]
    serving.files_came("1")
    serving.settle()
    assert serving.last() == "SKIPPED"
    assert serving.statuses() == ["trained", "judged"]
    assert serving.champion == 1


def test_a_small_window_waits_and_is_judged_with_the_next(serving: House) -> None:
    serving.runs.answers["assess"] = [fakes.report(rows=10, labelled=10), fakes.report()]
    serving.files_came("1", rows=10, labelled=10)
    serving.settle()
    assert serving.statuses() == ["trained", "new"]
    serving.files_came("2")
    serving.settle()
    window = next(inputs for key, inputs in reversed(serving.runs.asked) if key == "assess")["batches"]
    assert window == ["1" * 64, "2" * 64]


def test_detectors_are_given_the_states_that_they_left_until_there_is_a_new_champion(serving: House) -> None:
    serving.runs.answers["assess"] = [fakes.report(drifted=False), fakes.report()]
    for name in ("1", "2"):
        serving.files_came(name)
        serving.settle()
    asked = [inputs["states"] for key, inputs in serving.runs.asked if key == "assess"]
    assert asked == [{}, {"two-sample": {"n": 1}}]
    assert serving.champion == 2 and serving.store.model("m")["states"] == {}
    kept = [json.loads(row["facts"]) for row in serving.store._all("SELECT facts FROM cycles")]
    assert not any("states" in facts.get("assess", {}) for facts in kept)


def test_an_update_by_hand_takes_in_what_was_left_alone(serving: House) -> None:
    serving.runs.answers["assess"] = [fakes.report(drifted=False), fakes.report(drifted=False)]
    serving.files_came("1")
    serving.settle()
    assert serving.statuses() == ["trained", "judged"]
    serving.runs.answers["intake"] = [fakes.nothing_new()]
    serving.store.add_trigger("m", "manual", "now", serving.clock.now())
    serving.settle()
    window = next(inputs for key, inputs in reversed(serving.runs.asked) if key == "assess")["batches"]
    assert window == ["1" * 64] and serving.champion == 2


@pytest.mark.parametrize(("on_drift", "kind"), [("tell", "drift"), ("ask", "ask")])
def test_drift_without_proven_harm_is_told_or_asked_about(tmp_path: Path, on_drift: str, kind: str) -> None:
    house = House(tmp_path, decide={"cooldown": 0, "on_drift": on_drift})
    house.files_came("0")
    house.settle()
    house.runs.answers["assess"] = [fakes.report(loss=0.02)]
    house.files_came("1")
    house.settle()
    assert house.last() == "SKIPPED" and house.statuses() == ["trained", "judged"]
    assert len(house.store._all("SELECT 1 FROM events WHERE kind=?", [kind])) == 1
    house.store.close()


def test_suspect_labels_set_the_batch_aside(serving: House) -> None:
    serving.runs.answers["assess"] = [fakes.report(suspect=True)]
    serving.files_came("1")
    serving.settle()
    assert serving.last() == "SKIPPED"
    assert serving.statuses() == ["trained", "suspect"]
    assert serving.store._all("SELECT 1 FROM events WHERE kind='suspect'")


def test_drift_is_trained_on_promoted_watched_and_kept(serving: House) -> None:
    promoted(serving)
    assert serving.champion == 2
    serving.runs.answers["probe"] = [fakes.probe("b" * 290 + "c" * 20)]
    serving.files_came("2")
    serving.settle()
    # The labels that ended probation are judged like all others afterwards.
    states = [row["state"] for row in serving.store._all("SELECT state FROM cycles ORDER BY id")]
    assert states[1] == "COMPLETED"
    assert serving.champion == 2


def test_a_worse_champion_is_rolled_back_and_its_batch_marked(serving: House) -> None:
    promoted(serving)
    serving.runs.answers["probe"] = [fakes.probe("p" * 100)]
    serving.files_came("2")
    serving.settle()
    states = [row["state"] for row in serving.store._all("SELECT state FROM cycles ORDER BY id")]
    assert states[1] == "ROLLED_BACK"
    assert serving.champion == 1
    assert serving.statuses()[1] == "bad"


def test_probation_without_labels_ends_in_time(serving: House) -> None:
    promoted(serving)
    serving.clock.forward(days=8)
    serving.settle()
    assert serving.last() == "COMPLETED"


def test_a_harmful_candidate_is_rejected_and_its_batch_not_used_again(serving: House) -> None:
    serving.runs.answers["gate"] = [fakes.verdict(passed=False, harmful=True)]
    serving.files_came("1")
    serving.settle()
    assert serving.last() == "REJECTED"
    assert serving.champion == 1
    assert serving.statuses()[1] == "rejected"


def test_a_candidate_that_is_no_better_leaves_its_batch_for_later(serving: House) -> None:
    serving.runs.answers["gate"] = [fakes.verdict(passed=False), fakes.verdict()]
    serving.files_came("1")
    serving.settle()
    assert serving.statuses()[1] == "judged"
    serving.files_came("2")
    serving.settle()
    trained_on = next(inputs for key, inputs in reversed(serving.runs.asked) if key == "train")["batches"]
    assert trained_on == ["1" * 64, "2" * 64]


def test_an_artefact_that_differs_is_rejected(serving: House) -> None:
    serving.runs.answers["verify"] = [fakes.parity(passed=False)]
    serving.files_came("1")
    serving.settle()
    assert serving.last() == "REJECTED"
    assert serving.champion == 1


@pytest.mark.parametrize(("answer", "champion"), [("approve", 2), ("reject", 1)])
def test_approval_waits_for_the_operator(tmp_path: Path, answer: str, champion: int) -> None:
    house = House(tmp_path, approval=True)
    house.files_came("0")
    house.settle()
    assert house.champion == 1, "there is nobody to ask about the first version"
    house.files_came("1")
    house.settle()
    assert house.last() == "APPROVAL"
    house.desk.answer(2, answer)
    house.settle()
    assert house.champion == champion
    house.store.close()


def test_a_step_that_fails_is_retried_with_growing_waits_then_given_up(serving: House) -> None:
    serving.runs.answers["train"] = [failed()]
    serving.files_came("1")
    serving.settle()
    assert serving.last() == "UPDATE"
    serving.clock.forward(seconds=29)
    serving.settle()
    assert serving.last() == "UPDATE"
    serving.clock.forward(seconds=2)
    serving.settle()
    assert serving.last() == "FAILED"
    assert serving.statuses()[1] == "new", "a failed cycle's rows are judged again with the next"
    assert serving.store.versions("m")[-1]["state"] == "rejected"


@pytest.mark.parametrize("step", ["intake", "assess", "train", "gate", "export", "verify"])
def test_what_cannot_succeed_is_not_retried(serving: House, step: str) -> None:
    serving.files_came("1")
    serving.runs.answers[step] = [failed("wrong options", retry=False)]
    serving.settle()
    assert serving.last() == "FAILED"
    assert serving.champion == 1


def test_a_retry_may_succeed(serving: House) -> None:
    serving.runs.answers["export"] = [failed(), fakes.exported]
    serving.files_came("1")
    serving.settle()
    serving.clock.forward(minutes=1)
    serving.settle()
    assert serving.champion == 2


def test_promotion_is_never_abandoned(serving: House) -> None:
    def damaged(inputs: Any, out: Path) -> dict[str, Any]:
        result = fakes.parity()(inputs, out)
        (out / "version" / "model" / "weights").write_text("swapped")
        return result

    serving.runs.answers["verify"] = [damaged]
    serving.files_came("1")
    serving.settle()
    for _ in range(5):
        assert serving.last() == "PROMOTE"
        assert serving.champion == 1
        serving.clock.forward(hours=2)
        serving.settle()
    alerts = serving.store._all("SELECT why FROM events WHERE kind='alert'")
    assert "changed after it was sealed" in alerts[0]["why"]
    (serving.files.version(2) / "model" / "weights").write_text("version 2")
    serving.clock.forward(hours=2)
    serving.settle()
    assert serving.champion == 2


def test_a_manual_rollback_ends_probation(serving: House) -> None:
    promoted(serving)
    serving.desk.trigger("m", "rollback", "looks wrong")
    serving.settle()
    assert serving.last() == "ROLLED_BACK"
    assert serving.champion == 1


def test_a_manual_rollback_withdraws_what_is_under_way(serving: House) -> None:
    promoted(serving)
    serving.clock.forward(days=8)
    serving.settle()
    serving.runs.answers["train"] = [failed()]
    serving.files_came("2")
    serving.settle()
    assert serving.last() == "UPDATE"
    serving.desk.trigger("m", "rollback", "looks wrong", target=1)
    serving.settle()
    states = [row["state"] for row in serving.store._all("SELECT state FROM cycles ORDER BY id")]
    assert states[-2:] == ["FAILED", "ROLLED_BACK"]
    assert serving.champion == 1


def test_rollback_passes_over_a_damaged_predecessor(serving: House) -> None:
    promoted(serving, "1")
    serving.clock.forward(days=8)
    serving.settle()
    promoted(serving, "2")
    assert serving.champion == 3
    (serving.files.version(2) / "model" / "weights").write_text("rot")
    serving.desk.trigger("m", "rollback", "looks wrong")
    serving.settle()
    assert serving.champion == 1


def test_rollback_with_nothing_whole_to_go_to_keeps_the_champion_and_alarms(serving: House) -> None:
    promoted(serving)
    (serving.files.version(1) / "model" / "weights").write_text("rot")
    serving.desk.trigger("m", "rollback", "looks wrong")
    serving.settle()
    assert serving.last() == "ROLLBACK"
    assert serving.champion == 2
    assert serving.store._all("SELECT 1 FROM events WHERE kind='alert'")


def test_a_damaged_champion_is_found_at_start_and_rolled_back(serving: House) -> None:
    promoted(serving)
    (serving.files.version(2) / "model" / "weights").write_text("rot")
    serving.engine.start()
    serving.settle()
    assert serving.champion == 1


def test_a_lost_pointer_is_put_right_at_start(serving: House) -> None:
    serving.files.live.unlink()
    serving.engine.start()
    assert serving.champion == 1


def test_pause_holds_the_next_cycle(serving: House) -> None:
    serving.desk.pause("m", "holiday")
    serving.files_came("1")
    serving.settle()
    assert serving.last() == "QUEUED"
    serving.desk.resume("m")
    serving.settle()
    assert serving.champion == 2


def test_files_and_schedule_that_come_meanwhile_make_one_cycle(serving: House) -> None:
    for kind in ("files", "schedule", "manual"):
        serving.store.add_trigger("m", kind, kind, serving.clock.now())
    serving.runs.answers["intake"] = [fakes.nothing_new()]
    serving.settle()
    rows = serving.store._all("SELECT trigger FROM cycles ORDER BY id")
    assert [row["trigger"] for row in rows] == ["files", "manual"]


def test_an_edge_that_the_table_does_not_have_is_refused(serving: House) -> None:
    number = serving.store.open_cycle("m", "QUEUED", "files", "x", serving.clock.now(), {})
    one = serving.store.cycle(number)
    with pytest.raises(cycle.TransitionError, match="no edge from QUEUED to PROMOTE"):
        cycle.commit(one, serving.engine._kit(one), cycle.Outcome("PROMOTE", "cheating"))
    assert serving.store.cycle(number).state == "QUEUED"


def test_the_table_is_whole() -> None:
    assert set(cycle.STEPS) == set(cycle.TABLE)
    targets = {to for edges in cycle.TABLE.values() for to in edges}
    assert targets - set(cycle.TABLE) == set(cycle.CLOSED)
    assert set(cycle.TABLE) - targets == {"QUEUED"}


def _stop_at(house: House, state: str) -> None:
    """A cycle that stands in this state."""
    worker = {
        "INTAKE": "intake", "ASSESS": "assess", "UPDATE": "train", "GATE": "gate", "EXPORT": "export",
        "VERIFY": "verify",
    }  # fmt: skip
    house.files_came("1")
    if state == "QUEUED":
        house.desk.pause("m", "wait here")
    if state in worker:
        house.runs.answers[worker[state]] = [failed()]
    house.settle()
    assert house.last() == state


def _withdrawn_everywhere(folder: Path) -> set[tuple[str, str]]:
    edges = set()
    for state in ("QUEUED", "INTAKE", "ASSESS", "UPDATE", "GATE", "EXPORT", "VERIFY", "APPROVAL"):
        (folder / state).mkdir()
        house = House(folder / state, approval=state == "APPROVAL")
        house.files_came("0")
        house.settle()
        _stop_at(house, state)
        house.store.add_trigger("m", "rollback", "by hand", house.clock.now(), target=1)
        house.settle()
        assert house.champion == 1
        edges |= house.edges()
        house.store.close()
    return edges


def _every_refusal(folder: Path) -> set[tuple[str, str]]:
    """Skipped, rejected and rolled back, one after the other in one house."""
    folder.mkdir()
    house = House(folder, approval=True)
    house.files_came("0")
    house.settle()
    house.store.add_trigger("m", "init", "again", house.clock.now())
    house.settle()
    for number, (step, answer) in enumerate(
        [
            ("intake", fakes.nothing_new()), ("assess", fakes.report(drifted=False)),
            ("gate", fakes.verdict(passed=False)), ("verify", fakes.parity(passed=False)),
        ],
        start=1,
    ):  # fmt: skip
        before = dict(house.runs.answers)
        house.files_came(str(number))
        house.runs.answers[step] = [answer]
        house.settle()
        house.runs.answers = before
    for number, answer in ((5, "reject"), (6, "approve")):
        house.files_came(str(number))
        house.settle()
        house.desk.answer(house.store.open_cycles()[0].id, answer)
        house.settle()
    house.runs.answers["probe"] = [fakes.probe("p" * 100)]
    house.files_came("7")
    house.settle()
    edges = house.edges()
    house.store.close()
    return edges


def test_every_edge_of_the_table_is_taken(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    house = House(tmp_path / "plain")
    house.files_came("0")
    house.settle()
    promoted(house)
    house.clock.forward(days=8)
    house.settle()
    taken = house.edges() | _withdrawn_everywhere(tmp_path) | _every_refusal(tmp_path / "refusals")
    house.store.close()
    wanted = {(one, other) for one, others in cycle.TABLE.items() for other in others}
    assert wanted - taken == set()
