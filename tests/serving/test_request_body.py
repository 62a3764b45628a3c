from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import request_body
from serving.request_body import BodyTooLarge, BodyUnreadable


def read(body: bytes, encoding: str = "", bytes_max: int = 1_000, size: int = 64) -> bytes:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return asyncio.run(request_body.read(chunks(), encoding, bytes_max))


@given(st.binary(max_size=1_000), st.integers(1, 100))
def test_a_body_comes_out_as_it_went_in(body: bytes, size: int) -> None:
    assert read(body, size=size) == body
    assert read(gzip.compress(body), "gzip", size=size) == body
    assert read(zlib.compress(body), "deflate", size=size) == body


def test_a_bomb_is_told_before_it_has_unfolded() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    with pytest.raises(BodyTooLarge):
        read(bomb, "gzip", size=1 << 20)


def test_a_long_body_is_told() -> None:
    assert len(read(b"x" * 1_000)) == 1_000
    with pytest.raises(BodyTooLarge):
        read(b"x" * 1_001)


def test_what_is_not_what_it_says_is_told() -> None:
    for encoding, body in (
        ("gzip", b"plain"),
        ("gzip", gzip.compress(b"x" * 200)[:-10]),
        ("br", b""),
    ):
        with pytest.raises(BodyUnreadable):
            read(body, encoding)
