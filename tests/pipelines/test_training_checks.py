from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import training
from pipelines.training_checks import DAY_MS, DataChecks, LastGood, checks_of, refuse_unlike
from pipelines.training_set import HOLDOUT_S, Rows, TrainingRefused, TrainingSet, split
from schemas import manifest
from schemas.manifest import MANIFEST_FILE, REFERENCE_FILE
from tests.pipelines import training_rows

MODEL = "flights"


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> LastGood:
    folder = tmp_path_factory.mktemp("models")
    assert LastGood.of(folder, "flights") is None
    training.build(training_rows.training_set(), folder)
    found = LastGood.of(folder, "flights")
    assert found is not None
    return found


def moved(*by: float) -> TrainingSet:
    made = training_rows.training_set(seed=9)
    return replace(
        made, train=replace(made.train, matrix=made.train.matrix + np.array(by, dtype=np.float32))
    )


def test_the_first_training_set_and_one_like_the_last_pass(last: LastGood) -> None:
    made = training_rows.training_set(seed=9)
    refuse_unlike(made, None, DataChecks())
    refuse_unlike(made, last, checks_of("flights"))


def test_inputs_that_moved_as_seasons_do_pass(last: LastGood) -> None:
    refuse_unlike(moved(1.0, 6.0), last, DataChecks())


def test_what_no_world_does_is_refused_with_every_reason(last: LastGood) -> None:
    made = moved(9.0, 9.0)
    few = made.train.where(np.arange(len(made.train)) % 10 == 0)
    few = replace(few, labels=np.arange(len(few)) % 20 == 0)
    few.matrix[: len(few) // 2, 1] = np.nan
    with pytest.raises(TrainingRefused) as refused:
        refuse_unlike(replace(made, train=few), last, DataChecks())
    told = str(refused.value)
    for part in (
        "30% of them are wanted",
        "5.00% positive labels",
        "view__mean is missing in 50% of the rows against 0%",
        "2 of 2 inputs are nowhere near where they were (scheduled_hour, view__mean)",
        "--accept-data",
    ):
        assert part in told, told


def test_an_input_that_the_last_did_not_have_is_not_compared(last: LastGood) -> None:
    renamed = replace(moved(9.0, 9.0), inputs=("other", "another"))
    refuse_unlike(renamed, last, DataChecks())


def looking_back(days: int, share: float = 1.0) -> TrainingSet:
    """As payments are trained: a request every half hour, its outcome one to three days after, until now."""
    rng = np.random.default_rng(45)
    until_ms = 400 * DAY_MS
    times = np.arange(until_ms - days * DAY_MS, until_ms, 1_800_000)
    times = times[rng.random(len(times)) < share]
    known_ms = times + rng.integers(DAY_MS, 3 * DAY_MS, len(times))
    times, known_ms = times[known_ms < until_ms], known_ms[known_ms < until_ms]
    drawn = training_rows.rows(len(times), 0, seed=1)
    rows = Rows(drawn.matrix, drawn.labels, times, drawn.request_ids)
    train, holdout = split(rows, known_ms, HOLDOUT_S)
    return replace(
        training_rows.training_set(),
        train=train,
        holdout=holdout,
        since_ms=until_ms - days * DAY_MS,
        until_ms=until_ms,
    )


def newest(folder: Path) -> LastGood:
    found = LastGood.of(folder, MODEL)
    assert found is not None
    return found


@pytest.mark.parametrize("days", [30, 60, 300])
def test_a_short_look_back_is_not_fewer_rows_a_day(tmp_path: Path, days: int) -> None:
    training.build(looking_back(days), tmp_path)
    refuse_unlike(looking_back(14), newest(tmp_path), DataChecks())
    with pytest.raises(TrainingRefused, match=r"rows a day against 4[5-8]"):
        refuse_unlike(looking_back(14, share=0.2), newest(tmp_path), DataChecks())


def test_a_version_of_before_is_taken_to_cover_its_whole_interval(tmp_path: Path) -> None:
    training.build(looking_back(60), tmp_path)
    path = tmp_path / MODEL / "v0001" / MANIFEST_FILE
    said = json.loads(path.read_bytes())
    del said["trained"]["covered_ms"]
    path.write_text(json.dumps(said), encoding="utf-8")
    refuse_unlike(looking_back(14), newest(tmp_path), DataChecks())
    with pytest.raises(TrainingRefused, match=r"rows a day against (39|4[01])"):
        refuse_unlike(looking_back(14, share=0.2), newest(tmp_path), DataChecks())


def placed(folder: Path, seed: int, variant_of: str | None = None) -> str:
    """A version, or what looks like a variant of one."""
    made = training.build(training_rows.training_set(seed=seed), folder)
    if variant_of is not None:
        said = made.model_copy(update={"precision": "int8", "variant_of": variant_of})
        said.write(folder / MODEL / made.version)
    return made.version


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v0001, what says the same in int8, and a newer one that is not in force."""
    folder = tmp_path_factory.mktemp("three")
    placed(folder, 1)
    placed(folder, 3, variant_of="v0001")
    placed(folder, 5)
    return folder


@pytest.fixture
def three(made: Path, tmp_path: Path) -> Path:
    """The same, to be broken."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    ("like", "found"), [(None, "v0003"), ("v0001", "v0001"), ("v0002", "v0001")]
)
def test_rows_are_compared_with_those_of_the_champion_and_not_of_what_came_after(
    three: Path, like: str | None, found: str
) -> None:
    told: list[str] = []
    last = LastGood.of(three, MODEL, like, told.append)
    assert last is not None
    assert (last.manifest.version, told) == (found, [])


@pytest.mark.parametrize("torn", [MANIFEST_FILE, REFERENCE_FILE])
def test_where_the_champion_cannot_be_read_it_is_the_newest_and_is_said(
    three: Path, torn: str
) -> None:
    (three / MODEL / "v0001" / torn).write_bytes(b"{")
    for like in ("v0001", "v0002"):
        told: list[str] = []
        last = LastGood.of(three, MODEL, like, told.append)
        assert last is not None
        assert last.manifest.version == "v0003"
        assert told == [
            f"the rows of {like} cannot be read: those of v0003 are what is compared with"
        ]


@pytest.mark.parametrize("torn", [MANIFEST_FILE, REFERENCE_FILE])
def test_a_folder_that_cannot_be_read_is_passed_over(three: Path, torn: str) -> None:
    (three / MODEL / "v0003" / torn).write_bytes(b"{")
    (three / MODEL / "v0004").mkdir()
    assert newest(three).manifest.version == "v0001"
    readable = [said.version for said in manifest.manifests(three, MODEL)]
    assert readable == ["v0003"] * (torn == REFERENCE_FILE) + ["v0002", "v0001"]
    (three / MODEL / "v0001" / torn).unlink()
    assert LastGood.of(three, MODEL) is None


def test_rows_without_a_variant_are_the_last_good_ones(three: Path) -> None:
    shutil.rmtree(three / MODEL / "v0002")
    assert newest(three).manifest.version == "v0003"
