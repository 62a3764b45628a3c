from __future__ import annotations

from confluent_kafka import Message

from schemas.decoding import Refusal
from schemas.quarantine import WHOLE_BYTES_MAX, dead_letter
from schemas.topics import DEAD_LETTER_BYTES_MAX
from schemas.unreadable import UNREADABLE

REFUSAL = Refusal("too_large", "value: at most 1 bytes", "many")


def record(value: bytes | None, key: bytes = b"k", **headers: bytes) -> Message:
    pairs: list[tuple[str, str | bytes | None]] = [*headers.items()]
    return Message(
        topic="a.requests",
        partition=3,
        offset=7,
        key=key,
        value=value,
        headers=pairs,
        timestamp=(2, 5),
    )


def test_a_dead_letter_is_its_record_whole() -> None:
    letter = dead_letter(record(b"x" * 1_000_000, ce_id=b"r1", other=b"o" * 900_000), REFUSAL)
    said = dict(letter.headers)
    assert (letter.topic, letter.key, len(letter.value or b"")) == (
        "a.requests.dlq",
        b"k",
        1_000_000,
    )
    assert len(said["other"] or b"") == 900_000
    assert (said["headrace_reason"], said["headrace_offset"]) == (b"too_large", b"7")
    assert "headrace_bytes" not in said


def test_one_that_is_larger_than_it_may_be_points_to_its_record() -> None:
    letters = [
        dead_letter(record(b"x" * WHOLE_BYTES_MAX, ce_id=b"r1"), REFUSAL),
        dead_letter(record(b"x", ce_id=b"r1", other=b"o" * WHOLE_BYTES_MAX), REFUSAL),
        dead_letter(record(b"x", b"k" * WHOLE_BYTES_MAX, ce_id=b"r1"), REFUSAL),
    ]
    for letter in letters:
        said = dict(letter.headers)
        assert letter.value is None
        assert int(said["headrace_bytes"] or 0) > WHOLE_BYTES_MAX
        assert (said["ce_id"], said["headrace_partition"]) == (b"r1", b"3")
        size = len(letter.key or b"") + sum(len(k) + len(v or b"") for k, v in letter.headers)
        assert size < DEAD_LETTER_BYTES_MAX // 100


def test_what_could_not_be_unfolded_is_told_so() -> None:
    letter = dead_letter(record(None, **{UNREADABLE: b"Invalid compressed data"}), REFUSAL)
    said = dict(letter.headers)
    assert said["headrace_reason"] == b"unreadable"
    assert said["headrace_detail"] == b"Invalid compressed data"
