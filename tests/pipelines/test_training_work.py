from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.views import Plan
from pipelines import training, training_work
from pipelines.training_set import TrainingSet
from schemas.manifest import versions
from tests.pipelines import training_rows


class Applied(Plan, frozen=True):
    """A plan that holds the definitions of these rows."""

    def definitions(self, service: str) -> dict[str, str]:
        assert service == "flights_v1"
        return {"view": "0123456789abcdef"}


@pytest.fixture
def made() -> TrainingSet:
    return training_rows.training_set()


def test_rows_come_back_as_they_were(made: TrainingSet, tmp_path: Path) -> None:
    folder = training_work.place(tmp_path, "flights", "order-1")
    assert training_work.kept(folder, Applied()) is None
    training_work.keep(folder, made)
    back = training_work.kept(folder, Applied())
    assert back is not None
    for part in ("train", "holdout"):
        one, two = getattr(made, part), getattr(back, part)
        for name in ("matrix", "labels", "event_time_ms", "request_ids"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert getattr(one, name).dtype == getattr(two, name).dtype
    assert replace(back, train=made.train, holdout=made.holdout) == made
    training_work.forget(folder)
    assert training_work.kept(folder, Applied()) is None


def test_half_written_rows_are_none(made: TrainingSet, tmp_path: Path) -> None:
    folder = training_work.place(tmp_path, "flights", "order-1")
    training_work.keep(folder, made)
    (folder / training_work.SET_FILE).unlink()
    assert training_work.kept(folder, Applied()) is None
    training_work.keep(folder, made)
    assert training_work.kept(folder, Applied()) is not None


def test_rows_of_other_definitions_are_thrown_away(made: TrainingSet, tmp_path: Path) -> None:
    folder = training_work.place(tmp_path, "flights", "order-1")
    training_work.keep(folder, replace(made, definitions={"view": "another"}))
    assert training_work.kept(folder, Applied()) is None
    assert not folder.exists()


def test_what_a_killed_attempt_left_goes_with_the_next_one_and_nothing_else_does(
    made: TrainingSet, tmp_path: Path
) -> None:
    mine, other = (training_work.building(tmp_path, name) for name in ("order-1", "order-1-2"))
    by_hand = training_work.building(tmp_path, None)
    again = training_work.building(tmp_path, "order-1")
    assert sorted(tmp_path.iterdir()) == sorted([again, other, by_hand])
    assert mine != again
    folder = training_work.place(tmp_path, "flights", "order-1")
    left = folder.with_name(f".{folder.name}-{'0' * 32}")
    left.mkdir(parents=True)
    training_work.keep(folder, made)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("order_id", ["..", ".", "../../other", "/srv/data", "v0001", "x" * 128])
def test_no_order_names_a_folder_of_its_choice(
    made: TrainingSet, tmp_path: Path, order_id: str
) -> None:
    """What lies at `place` is deleted, and the id came from a topic."""
    version = tmp_path / "models" / "flights" / "v0001"
    version.mkdir(parents=True)
    home = version.parent
    folder = training_work.place(tmp_path / "models", "flights", order_id)
    assert folder.parent == home / training_work.FOLDER
    assert folder.resolve().parent == folder.parent.resolve()
    training_work.keep(folder, made)
    training_work.forget(folder)
    assert training_work.building(home, order_id).parent == home
    assert version.exists()


def test_nothing_is_left_of_what_nobody_wants_and_all_of_the_rest(
    made: TrainingSet, tmp_path: Path
) -> None:
    home = tmp_path / "flights"
    for name in ("order-1", "order-2", "order-3"):
        training.build(made, tmp_path, order_id=name)
        training_work.keep(training_work.place(tmp_path, "flights", name), made)
        training_work.building(home, name)
    training.build(made, tmp_path)
    (home / "v0002" / "model.sig").write_text("signed", encoding="utf-8")
    (home / "v0005").mkdir()
    assert training_work.discard(tmp_path, "flights", {"order-1", "order-2", "order-9"}) == [
        "v0001"
    ]
    assert versions(tmp_path, "flights") == ["v0002", "v0003", "v0004", "v0005"]
    kept = training_work.place(tmp_path, "flights", "order-3")
    hidden = [path.name for path in home.iterdir() if path.name.startswith(".")]
    assert sorted(name.rpartition("-")[0] for name in hidden) == ["", f".building-{kept.name}"]
    assert list((home / training_work.FOLDER).iterdir()) == [kept]


def test_a_copy_that_claims_another_name_stops_nobody(made: TrainingSet, tmp_path: Path) -> None:
    home = tmp_path / "flights"
    training.build(made, tmp_path, order_id="order-1")
    (home / "v0001").rename(home / "v0007")
    assert training_work.discard(tmp_path, "flights", {"order-1"}) == []
    assert versions(tmp_path, "flights") == ["v0007"]
