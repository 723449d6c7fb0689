"""Every key of a TOML file is located on its line, in any style."""

import tomllib
from typing import Any

import pytest

from questlog.plan.lines import key_lines

ODD = r'''# a = 1
a = 1 # b = 2
b.c . "d e" = """x = 1
[no]
\""" ""y"""""
[ t . u ]  # [z]
k = [ # ]
 1, {x = "]", 'y' = [2,
 3]},
 "}", # }
 ]
[t]
q = 1979-05-27 07:32:00 # z = 1
"" = ''
"k\u0061" = 1
[[l]]
n = 'a = \'
[[l]]
n = "\"b"
[l.m]
z=true
s = '''.rstrip() + " '''\n''x = 1'''''\n" + r'''after = { p . q = 1, r = {}, s = [ ] }
e = ""
f = """"""
g = ''
[[l.o]]
[[l.o]]
x = -1_000
[x."y.z".'w']'''  # fmt: skip

EXPECTED = [
    ("a", 2), ("b", 3), ("b c", 3), ("b c d e", 3), ("t", 12), ("t u", 6), ("t u k", 7), ("t u k 0", 8),
    ("t u k 1", 8), ("t u k 1 x", 8), ("t u k 1 y", 8), ("t u k 1 y 0", 8), ("t u k 1 y 1", 9), ("t u k 2", 10),
    ("t q", 13), ("t ", 14), ("t ka", 15), ("l", 16), ("l 0", 16), ("l 0 n", 17), ("l 1", 18), ("l 1 n", 19),
    ("l 1 m", 20), ("l 1 m z", 21), ("l 1 m s", 22), ("l 1 m after", 24), ("l 1 m after p", 24),
    ("l 1 m after p q", 24), ("l 1 m after r", 24), ("l 1 m after s", 24), ("l 1 m e", 25), ("l 1 m f", 26),
    ("l 1 m g", 27), ("l 1 o", 28), ("l 1 o 0", 28), ("l 1 o 1", 29), ("l 1 o 1 x", 30), ("x", 31), ("x y.z", 31),
    ("x y.z w", 31),
]  # fmt: skip


def paths(document: Any, above: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    keys = set()
    for key, value in items:
        keys.add((*above, key))
        if isinstance(value, dict | list):
            keys |= paths(value, (*above, key))
    return keys


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_each_key_has_its_line(ending: str) -> None:
    text = ODD.replace("\n", ending)
    lines = key_lines(text)
    assert set(lines) == paths(tomllib.loads(text))
    assert [(" ".join(map(str, path)), line) for path, line in lines.items()] == EXPECTED


@pytest.mark.parametrize("text", ["", "\n\n", "# only", "a=1", "[a]", "a = " + "[\n" * 50 + "]\n" * 50])
def test_small_and_deeply_nested_files_are_read(text: str) -> None:
    assert set(key_lines(text)) == paths(tomllib.loads(text))
