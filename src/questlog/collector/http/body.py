"""Decompresses request bodies, and stops as soon as one exceeds the limit."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from questlog.collector.http import Request, Response, refuse

CODINGS = ("gzip", "zstd")
MAX_MEMBERS = 10_000
"""Gzip members or zstd frames in one body. Allows one for each of `max_events`; bounds the cost of empty ones."""
_FIRST_STEP_BYTES = 256
_WINDOW_BYTES = 8 << 20
"""Memory that one zstd body may require: the largest window RFC 9659 allows."""


class _TooLarge(Exception):
    """The decompressed body exceeds the limit."""


class _TooManyMembers(Exception):
    """The body has more than `MAX_MEMBERS` members."""


class _Member(Protocol):
    """A decompressor of one gzip member or zstd frame."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the member's end."""


_Decompress = Callable[[memoryview, int], bytes]
"""Takes compressed data and the most bytes to return."""


def inflate(request: Request, limit: int) -> bytes | Response:
    """Return the decompressed body of a request, or a refusal."""
    coding = request.headers.get(b"content-encoding")
    if coding is None or coding.strip().lower() == b"identity":
        return request.body
    name = coding.decode("latin-1").strip().lower()
    try:
        if name in ("gzip", "x-gzip"):
            return _gzip(request.body, limit)
        if name == "zstd":
            return _zstd(request.body, limit)
    except _TooLarge:
        return refuse(413, "body_too_large", f"max_body_bytes is {limit}, decompressed", "send smaller batches")
    except _TooManyMembers:
        members = "gzip members" if name != "zstd" else "zstd frames"
        message = f"the body has more than {MAX_MEMBERS:,} {members}"
        return refuse(400, "not_decodable", message, "compress the batch as a whole")
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        return refuse(400, "not_decodable", f"the body is not valid {name}: {error}")
    return refuse(
        415, "unsupported_encoding", f"the content coding {name[:50]!r} is not supported", ", ".join(CODINGS),
        b"accept-encoding: gzip, zstd",
    )  # fmt: skip


def _gzip(body: bytes, limit: int) -> bytes:
    """Decompress one or more gzip members."""

    def begin() -> tuple[_Member, _Decompress]:
        member = zlib.decompressobj(wbits=31)
        return member, member.decompress

    return _each_member(body, limit, begin)


def _zstd(body: bytes, limit: int) -> bytes:
    """Decompress one or more zstd frames.

    Two passes: the first stops at the limit but does not notice a truncated frame; the second notices that, but puts
    no bound on what a few bytes expand to.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    with decompressor.stream_reader(body, read_across_frames=True) as bounded:
        if len(bounded.read(limit + 1)) > limit:
            raise _TooLarge

    def begin() -> tuple[_Member, _Decompress]:
        frame = decompressor.decompressobj()
        return frame, lambda data, _: frame.decompress(data)

    return _each_member(body, limit, begin)


def _each_member(body: bytes, limit: int, begin: Callable[[], tuple[_Member, _Decompress]]) -> bytes:
    """Decompress member after member in time proportional to what goes in and comes out.

    `unused_data` is a copy of everything beyond the member's end. The first member gets the whole body, because there
    is rarely a second. Later ones get 256 bytes, then 512, and so on, so that the copies stay proportional.
    """
    view, out, size, start, members = memoryview(body), list[bytes](), 0, 0, 0
    while start < len(view):
        members += 1
        if members > MAX_MEMBERS:
            raise _TooManyMembers
        member, decompress = begin()
        step = len(view) if members == 1 else _FIRST_STEP_BYTES
        while not member.eof:
            if start == len(view):
                raise EOFError("the data is truncated")
            data = view[start : start + step]
            part = decompress(data, limit + 1 - size)
            size += len(part)
            if size > limit:
                raise _TooLarge
            if part:
                out.append(part)
            start += len(data) - len(member.unused_data)
            step *= 2
    return out[0] if len(out) == 1 else b"".join(out)
