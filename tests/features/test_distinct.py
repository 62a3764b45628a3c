"""Distinct values in bounded space: a function of their set, however they are grouped, and as near as promised."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.distinct import (
    EMPTY,
    EXACT_MAX,
    RANK_BITS,
    REGISTERS,
    Block,
    block_of,
    count_of,
    counts,
    estimate,
    hash_of,
    parse,
    registers_of,
    text_of,
    with_hash,
)

hashes = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**64 - 1, 2**55, 2**55 - 1, 2**54])
few = st.sets(hashes, max_size=EXACT_MAX)
many = st.builds(
    lambda seed, n: set(drawn(seed, n)), st.integers(0, 2**32), st.integers(EXACT_MAX + 1, 400)
)


def drawn(seed: int, n: int) -> list[int]:
    dice = random.Random(seed)
    return [dice.getrandbits(64) for _ in range(n)]


def count_over(blocks: list[Block]) -> float:
    sizes = np.array([[float(b.size) for b in blocks]]).reshape(1, len(blocks))
    contents = np.array([np.frombuffer(b.content, np.uint8) for b in blocks], np.uint8)
    taken = np.ones((1, len(blocks)), dtype=bool)
    return float(counts(sizes, contents.reshape(1, len(blocks), 512), taken)[0])


@given(st.lists(few | many, max_size=5))
def test_the_count_of_tiles_is_that_of_their_union(tiles: list[set[int]]) -> None:
    assert count_over([block_of(tile) for tile in tiles]) == count_of(set().union(*tiles))


@given(few | many, st.integers(0, 2**32))
def test_neither_order_nor_repetition_changes_a_block(held: set[int], seed: int) -> None:
    dice = random.Random(seed)
    arrived = [*held, *dice.choices(sorted(held), k=len(held))] if held else []
    dice.shuffle(arrived)
    block = EMPTY
    for one in arrived:
        block = with_hash(block, one)
    assert block == block_of(held)
    assert with_hash(block, arrived[0]) == block if arrived else block == EMPTY


@given(few | many)
def test_a_block_survives_its_text(held: set[int]) -> None:
    block = block_of(held)
    assert parse(text_of(block)) == block
    assert len(block.content) == 512


@pytest.mark.parametrize("text", ["", "s1", "s00", "r00", "x" + "0" * 16, "s" + "0" * 16 * 65])
def test_what_is_no_block_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"hex|not the text"):
        parse(text)


@given(st.sets(hashes, min_size=1, max_size=200))
def test_registers_are_the_bits_of_the_hashes(held: set[int]) -> None:
    wanted = [0] * REGISTERS
    for one in held:
        bits = f"{one:064b}"
        rank = (bits[9:] + "1").index("1") + 1
        wanted[int(bits[:9], 2)] = max(wanted[int(bits[:9], 2)], rank)
    assert registers_of(np.array(sorted(held), np.uint64)).tolist() == wanted
    assert max(wanted) <= RANK_BITS + 1


@given(st.sets(st.text(max_size=5) | st.integers(-(2**63), 2**63 - 1), max_size=EXACT_MAX))
def test_up_to_the_bound_the_count_is_exact(values: set[Any]) -> None:
    assert count_of({hash_of(v) for v in values}) == len({str(v) for v in values})


def test_a_hash_is_the_beginning_of_md5() -> None:
    digest = hashlib.md5("é /日本".encode(), usedforsecurity=False).hexdigest()
    assert f"{hash_of('é /日本'):016x}" == digest[:16]
    assert hash_of(-7) == hash_of("-7")


def test_beyond_the_bound_no_count_says_that_it_is_within() -> None:
    assert estimate(registers_of(np.array([0], np.uint64))) == EXACT_MAX + 1
    assert all(count_of(set(drawn(seed, 65))) > EXACT_MAX for seed in range(200))


@pytest.mark.parametrize(("n", "promised"), [(200, 0.046), (1_000, 0.046), (10_000, 0.046)])
def test_the_error_is_at_most_that_of_512_registers(n: int, promised: float) -> None:
    """1.04/√512 = 4.6 %, and less while the registers are not full; a tenth more for 400 draws' own error."""
    dice = np.random.default_rng(n)
    sets = (dice.integers(0, 2**64, n, dtype=np.uint64) for _ in range(400))
    errors = np.array([estimate(registers_of(one)) / n - 1 for one in sets])
    measured, bias = float(np.sqrt(np.mean(errors**2))), float(np.mean(errors))
    assert promised / 2 < measured < promised * 1.1
    assert abs(bias) < 0.01


def test_the_error_holds_for_values_that_resemble_each_other() -> None:
    errors = [
        count_of({hash_of(f"m{s}-{i:05}") for i in range(1_000)}) / 1_000 - 1 for s in range(50)
    ]
    assert float(np.sqrt(np.mean(np.square(errors)))) < 0.055
