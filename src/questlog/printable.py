"""Text that a terminal only prints: what a player sent never moves the cursor or changes the clipboard."""

from __future__ import annotations

import codecs
import io
import re
import sys
import unicodedata
from typing import Any, BinaryIO, TextIO, TypeVar

_Stream = TypeVar("_Stream", TextIO, BinaryIO)
_UNSAFE = re.compile(
    "\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of text
    "\ud800-\udfff]"  # bytes of file names that are not UTF-8
)


def escape(text: str) -> str:
    r"""Return *text* with control characters as \uXXXX; newlines and tabs stay, \r\n becomes \n.

    JSON and TOML read \uXXXX as the same character, so an escaped document has the same meaning.
    """
    return _UNSAFE.sub(_escaped_control, text)


def _escaped_control(match: re.Match[str]) -> str:
    return "\n" if match[0] == "\r\n" else f"\\u{ord(match[0]):04x}"


def clean(value: str | None) -> str:
    """Return a value as one printable line: nothing invisible, not even a newline; NULL by name."""
    if value is None:
        return "NULL"
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if c.isprintable() or _joins(c) else _escaped(c) for c in value)


def _joins(letter: str) -> bool:
    """Return whether *letter* joins emoji or scripts, or is a kind of space."""
    return letter in "\u200d\u200c" or unicodedata.category(letter) == "Zs"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def protect_output() -> None:
    """Escape everything that this process prints from now on, including tracebacks.

    Text is always escaped. Bytes written to `sys.stdout.buffer`, which are data, are escaped on a terminal only.
    """
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


def drawing(stream: _Stream) -> _Stream:
    """Return the stream below *stream* that escapes nothing, for colours and moves of the cursor."""
    below: _Stream = getattr(stream, "drawing", stream)
    return below


def _protected(stream: Any) -> Any:
    if stream is None or isinstance(stream, _EscapedText) or not hasattr(stream, "buffer"):
        return stream
    return _EscapedText(stream)


class _EscapedText(io.TextIOWrapper):
    """A text stream that writes control characters as escapes."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self.drawing = stream
        self._data = _EscapedBytes(stream.buffer) if stream.isatty() else stream.buffer

    @property
    def buffer(self) -> Any:
        return self._data

    def write(self, text: str, /) -> int:
        super().write(escape(text))
        return len(text)

    def close(self) -> None:
        """Flush only: the file belongs to the stream below."""
        if not self.closed:
            self.flush()


class _EscapedBytes(io.BufferedIOBase):
    """The binary side of a terminal, for UTF-8."""

    def __init__(self, terminal: Any) -> None:
        self.drawing = terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def write(self, data: Any, /) -> int:
        self.drawing.write(escape(self._decoder.decode(bytes(data))).encode())
        return len(data)

    def flush(self) -> None:
        self.drawing.flush()

    def fileno(self) -> int:
        return int(self.drawing.fileno())

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True
