"""Decompresses request bodies, and stops as soon as one exceeds the limit."""

from __future__ import annotations

import zlib

import zstandard

from questlog.collector.http import Request, Response, refuse

CODINGS = ("gzip", "zstd")
_WINDOW_BYTES = 8 << 20
"""Memory that one zstd body may require: the largest window RFC 9659 allows."""


class _TooLarge(Exception):
    """The decompressed body exceeds the limit."""


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
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        return refuse(400, "not_decodable", f"the body is not valid {name}: {error}")
    return refuse(
        415, "unsupported_encoding", f"the content coding {name[:50]!r} is not supported", ", ".join(CODINGS),
        b"accept-encoding: gzip, zstd",
    )  # fmt: skip


def _gzip(body: bytes, limit: int) -> bytes:
    """Decompress one or more gzip members."""
    out = b""
    while body:
        member = zlib.decompressobj(wbits=31)
        out += member.decompress(body, limit + 1 - len(out))
        if len(out) > limit:
            raise _TooLarge
        if not member.eof:
            raise EOFError("the data is truncated")
        body = member.unused_data
    return out


def _zstd(body: bytes, limit: int) -> bytes:
    """Decompress one or more zstd frames.

    Two passes: the first stops at the limit but does not notice a truncated frame; the second notices that, but puts
    no bound on what a few bytes expand to.
    """
    with zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(
        body, read_across_frames=True
    ) as bounded:
        if len(bounded.read(limit + 1)) > limit:
            raise _TooLarge
    out = []
    while body:
        frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        out.append(frame.decompress(body))
        if not frame.eof:
            raise EOFError("the data is truncated")
        body = frame.unused_data
    return b"".join(out)
