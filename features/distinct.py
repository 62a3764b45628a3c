"""The distinct values of a tile or window, counted in bounded space: exactly up to 64, beyond with an error of 4.6 %.

A value is its hash: the first 64 bits of the MD5 of its text, which every engine can compute. Let D be the set of a window's
hashes. Up to `EXACT_MAX` of them are counted; of more, `REGISTERS` registers of a HyperLogLog are kept (Flajolet et al.
2007) and the count is estimated by the improved raw estimator of Ertl (2017, arXiv:1702.01284, algorithm 6), whose
standard error is 1.04/√512. Both are functions of D alone: registers of a union are the maxima of registers, and a tile
that holds registers says by that that the window has more than `EXACT_MAX` values. So order, repetition, lateness and
the cut into tiles change nothing, and every executor gives the same number, bit for bit.

A block is what a tile holds: 512 bytes and a size. Up to 64 it is the number of hashes, in ascending order and big-endian; at
`SKETCH` the bytes are the registers. Its text is `s` and the hashes, or `r` and the registers, in hexadecimal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

EXACT_MAX = 64
REGISTERS = 512
INDEX_BITS = 9
RANK_BITS = 64 - INDEX_BITS
BLOCK_BYTES = 512
SKETCH = EXACT_MAX + 1
HASH_BYTES = 8
# Half of the 55 bits, so that numpy's floating point finds the highest one exactly.
_HALF_BITS = 27


class Block(NamedTuple):
    """What a tile holds of its distinct values."""

    size: int
    content: bytes


EMPTY = Block(0, bytes(BLOCK_BYTES))


def hash_of(value: str | int) -> int:
    """The hash of a value: of a string's UTF-8, of an integer's decimal digits."""
    digest = hashlib.md5(str(value).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:HASH_BYTES], "big")


def block_of(hashes: Iterable[int]) -> Block:
    """The block of a set of hashes."""
    found = sorted(set(hashes))
    if len(found) > EXACT_MAX:
        return Block(SKETCH, registers_of(np.array(found, np.uint64)).tobytes())
    content = b"".join(one.to_bytes(HASH_BYTES, "big") for one in found)
    return Block(len(found), content.ljust(BLOCK_BYTES, b"\0"))


def with_hash(block: Block, added: int) -> Block:
    """The block with one more hash; itself where that changes nothing."""
    if block.size <= EXACT_MAX:
        known = _hashes(block.content, block.size).tolist()
        return block if added in known else block_of([*known, added])
    registers = np.frombuffer(block.content, np.uint8)
    raised = np.maximum(registers, registers_of(np.array([added], np.uint64)))
    return Block(SKETCH, raised.tobytes())


def text_of(block: Block) -> str | None:
    """How a block travels in a tile row; None where it is empty."""
    if not block.size:
        return None
    if block.size > EXACT_MAX:
        return "r" + block.content.hex()
    return "s" + block.content[: block.size * HASH_BYTES].hex()


def parse(text: str | None) -> Block:
    """A block from its text.

    Raises:
        ValueError: not a block's text.
    """
    if text is None:
        return EMPTY
    content = bytes.fromhex(text[1:])
    if text[:1] == "r" and len(content) == BLOCK_BYTES:
        return Block(SKETCH, content)
    size, rest = divmod(len(content), HASH_BYTES)
    if text[:1] != "s" or rest or size > EXACT_MAX:
        message = f"{text[:40]!r} is not the text of distinct values"
        raise ValueError(message)
    return Block(size, content.ljust(BLOCK_BYTES, b"\0"))


def count_of(hashes: Collection[int]) -> float:
    """The count of a whole set of distinct hashes."""
    if len(hashes) <= EXACT_MAX:
        return float(len(hashes))
    return estimate(registers_of(np.array(list(hashes), np.uint64)))


def counts(
    sizes: NDArray[np.float64], contents: Bytes, taken: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The count over the taken tiles of each row.

    Args:
        sizes: `[rows, slots]`, of each tile's block.
        contents: `[rows, slots, 512]`.
        taken: `[rows, slots]`.
    """
    used = taken & (sizes > 0)
    found = np.zeros(len(sizes))
    held = used[:, :, None] & (np.arange(EXACT_MAX) < sizes[:, :, None])
    sketched = np.asarray((used & (sizes > EXACT_MAX)).any(axis=1))
    # To tell hashes apart, the order of their bytes does not matter.
    hashes = contents.view(np.uint64)
    for row in np.flatnonzero(used.any(axis=1)).tolist():
        if not sketched[row]:
            known = set(hashes[row][held[row]].tolist())
            if len(known) <= EXACT_MAX:
                found[row] = len(known)
                continue
        slots = np.flatnonzero(used[row])
        found[row] = _merged(sizes[row, slots].astype(int).tolist(), contents[row, slots])
    return found


def _merged(sizes: Sequence[int], contents: Bytes) -> float:
    exact = [
        _hashes(block.tobytes(), size)
        for size, block in zip(sizes, contents, strict=True)
        if size <= EXACT_MAX
    ]
    known = np.unique(np.concatenate(exact)) if exact else np.empty(0, np.uint64)
    sketches = contents[np.array(sizes) > EXACT_MAX]
    if not len(sketches) and len(known) <= EXACT_MAX:
        return float(len(known))
    return estimate(np.maximum.reduce([registers_of(known), *sketches]))


def _hashes(content: bytes, size: int) -> Hashes:
    return np.frombuffer(content, ">u8", size).astype(np.uint64)


def registers_of(hashes: Hashes) -> Bytes:
    """`[512]`: the first 9 bits choose the register, which holds the greatest place of the first 1 in the other 55."""
    registers = np.zeros(REGISTERS, np.uint8)
    rest = hashes & np.uint64((1 << RANK_BITS) - 1)
    high, low = rest >> np.uint64(_HALF_BITS), rest & np.uint64((1 << _HALF_BITS) - 1)
    bits = np.where(high > 0, np.frexp(high)[1] + _HALF_BITS, np.frexp(low)[1])
    ranks = (RANK_BITS + 1 - bits).astype(np.uint8)
    np.maximum.at(registers, (hashes >> np.uint64(RANK_BITS)).astype(np.int64), ranks)
    return registers


def estimate(registers: Bytes) -> float:
    """The estimated count behind registers, a whole number above `EXACT_MAX`."""
    return estimate_of(np.bincount(registers, minlength=RANK_BITS + 2).tolist())


def estimate_of(histogram: Sequence[int]) -> float:
    """The same from how many registers hold 0, 1, …, 56. Integers, then one sum in one order: the same double everywhere."""
    z = REGISTERS * _tau(1 - histogram[RANK_BITS + 1] / REGISTERS)
    for rank in range(RANK_BITS, 0, -1):
        z = 0.5 * (z + histogram[rank])
    z += REGISTERS * _sigma(histogram[0] / REGISTERS)
    raw = REGISTERS * REGISTERS / (2 * math.log(2) * z)
    # That there are more than can be counted exactly is known, whatever the estimate.
    return max(float(EXACT_MAX + 1), math.floor(raw + 0.5))


def _sigma(x: float) -> float:
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before = math.sqrt(x), z
        y *= 0.5
        z -= (1 - x) ** 2 * y
    return z / 3
