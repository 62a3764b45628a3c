"""The body of an HTTP request within a bound, also when it comes compressed: a bomb is told before it has unfolded."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable

# zlib's window with 32 added: gzip's header or zlib's own, whichever it is.
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class BodyTooLarge(Exception):
    """More than allowed came, or would come out."""


class BodyUnreadable(Exception):
    """It is not what its encoding says."""


async def read(chunks: AsyncIterable[bytes], encoding: str, bytes_max: int) -> bytes:
    """The body, unfolded where `encoding` is gzip or deflate; never holds more than `bytes_max` of it.

    Raises:
        BodyTooLarge: At the first byte too many.
        BodyUnreadable: Of another encoding, or not of this one.
    """
    if encoding not in ("", "identity", "gzip", "deflate"):
        raise BodyUnreadable(f"content-encoding {encoding!r}, known are gzip and deflate")
    unfolding = zlib.decompressobj(_GZIP_OR_ZLIB) if encoding in ("gzip", "deflate") else None
    body = bytearray()
    async for chunk in chunks:
        try:
            # One byte more than there is room for tells that there is too much.
            room = bytes_max - len(body) + 1
            body += unfolding.decompress(chunk, room) if unfolding else chunk
        except zlib.error as error:
            raise BodyUnreadable(str(error)) from error
        if len(body) > bytes_max:
            raise BodyTooLarge(f"above {bytes_max} bytes")
    if unfolding is not None and not unfolding.eof:
        raise BodyUnreadable("the compressed body ends before its end")
    return bytes(body)
