"""A body as it was before the sender compressed it, never larger than allowed: it is measured while it inflates."""

from __future__ import annotations

import zlib

import zstandard

from questlog.collector.http import Request, Response, refuse

CODINGS = ("gzip", "zstd")
_WINDOW_BYTES = 8 << 20
"""What a sender may ask of our memory: the largest window that RFC 9659 lets HTTP use."""


class _TooLarge(Exception):
    """It goes on beyond what is allowed."""


def inflate(request: Request, limit: int) -> bytes | Response:
    """Return the body of a request, or why it cannot be read."""
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
        return refuse(413, "body_too_large", f"inflated beyond max_body_bytes, {limit}", "send smaller batches")
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        return refuse(400, "not_decodable", f"the body is not {name}: {error}")
    return refuse(
        415, "unsupported_encoding", f"the content coding {name[:50]!r} is not read here", ", ".join(CODINGS),
        b"accept-encoding: gzip, zstd",
    )  # fmt: skip


def _gzip(body: bytes, limit: int) -> bytes:
    """Return what one or several gzip members hold."""
    out = b""
    while body:
        member = zlib.decompressobj(wbits=31)
        out += member.decompress(body, limit + 1 - len(out))
        if len(out) > limit:
            raise _TooLarge
        if not member.eof:
            raise EOFError("it ends in the middle")
        body = member.unused_data
    return out


def _zstd(body: bytes, limit: int) -> bytes:
    """Return what one or several zstd frames hold.

    Two passes: the first reads no more than allowed but does not see an end that is missing, the second sees that
    but puts no bound on what a few bytes become.
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
            raise EOFError("it ends in the middle")
        body = frame.unused_data
    return b"".join(out)
