"""Finds the line of each key in a TOML file. Used only when there is a fault to report."""

from __future__ import annotations

import contextlib
import re
import tomllib

Path = tuple[str | int, ...]
"""Keys from the top; a number is an index of an array."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_FILLER = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_WORD = re.compile(r"[^,\]}#\r\n]*")
_STRINGS = {
    '"""': re.compile(r'"""(?:[^\\]|\\.)*?"""(?!")', re.S),
    "'''": re.compile(r"'''.*?'''(?!')", re.S),
    '"': re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    "'": re.compile(r"'[^'\n]*'"),
}


def key_lines(text: str) -> dict[Path, int]:
    """Return the line, from 1, of every key and array element of *text*, which must be valid TOML."""
    scanner = _Scanner(text)
    with contextlib.suppress(RecursionError):  # the lines before it are right
        scanner.scan()
    return scanner.lines


class _Scanner:
    """Walks the text once and skips what it does not understand: `tomllib` has already accepted it."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[Path, int] = {}
        self.arrays: dict[Path, int] = {}
        self._counted, self._line = 0, 1

    def scan(self) -> None:
        table: Path = ()
        while True:
            self.skip(_FILLER)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return match[0]

    def header(self) -> Path:
        """Read `[a.b]` or `[[a.b]]`; return the table that follows."""
        line = self.line()
        many = self.text.startswith("[[", self.at)
        self.at += 1 + many
        keys = self.key()
        self.at = self.text.index("]", self.at) + 1 + many
        path: Path = ()
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if number < len(keys) and path in self.arrays:
                path = (*path, self.arrays[path])
        if many:
            self.arrays[path] = self.arrays.get(path, -1) + 1
            path = (*path, self.arrays[path])
        self.lines[path] = line
        return path

    def pair(self, table: Path) -> None:
        line = self.line()
        path = table
        for key in self.key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.at = self.text.index("=", self.at) + 1
        self.value(path)

    def key(self) -> list[str]:
        keys = []
        while True:
            self.skip(_BLANK)
            if self.text[self.at] in "\"'":
                keys.append(next(iter(tomllib.loads(f"{self.skip(_STRINGS[self.text[self.at]])} = 0"))))
            else:
                word = _BARE.match(self.text, self.at)
                if word is None:  # unknown syntax: stop here
                    self.at = len(self.text)
                    return keys
                keys.append(word[0])
                self.at = word.end()
            self.skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def value(self, path: Path) -> None:
        self.skip(_BLANK)
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self.inside("]", path)
        elif first == "{":
            self.inside("}", path)
        elif first and first in "\"'":
            three = self.text[self.at : self.at + 3]
            self.skip(_STRINGS.get(three) or _STRINGS[first])
        else:
            self.skip(_WORD)

    def inside(self, closing: str, path: Path) -> None:
        """Read an array or an inline table to its end."""
        self.at += 1
        index = 0
        while True:
            self.skip(_FILLER)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == closing:
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
            elif closing == "}":
                self.pair(path)
            else:
                self.lines[(*path, index)] = self.line()
                self.value((*path, index))
                index += 1
