"""Values of every scalar type, as clients send them and as queries return them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """Values of one type; JSON is text, as on the wire.

    `fits` maps JSON to the value that a query returns; `default` is a value in TOML and `presto` one in Presto's
    JSON, both of the first of `fits`. `below` is JSON below a `min` of `default`, for types that have an order.
    """

    fits: dict[str, Any]
    misfits: tuple[str, ...]
    default: str
    presto: Any
    below: str = ""


SAMPLES = {
    "string": Sample({'"sword"': "sword", '""': "", '"é🗡"': "é🗡"}, ("5", "true", '["a"]'), '"sword"', "sword"),
    "bool": Sample({"true": True, "false": False}, ('"true"', "1"), "true", True),
    "int": Sample(
        {"7": 7, "3.0": 3, "-2147483648": -(2**31)}, ("2147483648", "1.5", '"7"', "true"), "7", 7, below="6"
    ),
    "long": Sample(
        {"7": 7, "9223372036854775807": 2**63 - 1}, ("9223372036854775808", "1.5", '"7"'), "7", 7, below="-1"
    ),
    "float": Sample({"0.5": 0.5, "-3": -3.0}, ("1e39", '"0.5"', "false"), "0.5", 0.5, below="0.25"),
    "double": Sample({"0.1": 0.1, "1e300": 1e300, "-3": -3.0}, ('"0.1"', "true"), "0.1", 0.1, below="0.09"),
    "timestamp": Sample(
        {
            '"2026-03-01T01:02:03.004Z"': dt.datetime(2026, 3, 1, 1, 2, 3, 4000),
            '"2026-03-01T03:02:03.0049+02:00"': dt.datetime(2026, 3, 1, 1, 2, 3, 4000),
            "1772326923004": dt.datetime(2026, 3, 1, 1, 2, 3, 4000),
        },
        ('"soon"', "1.5", "true"),
        "2026-03-01T01:02:03.004Z",
        "2026-03-01 01:02:03.004",
        below='"2026-03-01T01:02:03.003Z"',
    ),
    "date": Sample(
        {'"2026-03-01"': dt.date(2026, 3, 1)}, ('"2026-02-30"', '"2026-3-1"', "5"), "2026-03-01", "2026-03-01",
        below='"2026-02-28"',
    ),
    "time": Sample(
        {'"12:30"': "12:30:00.000", '"00:00:59.9999"': "00:00:59.999", '"23:59:59.123"': "23:59:59.123"},
        ('"24:00"', '"12:30Z"', '"7:30"', '"noon"', "1230", "true"), "12:30:00", "12:30:00.000", below='"12:29:59.999"',
    ),
}  # fmt: skip
"""Name of a row of `questlog.types.SCALARS` that a plan may name -> its values."""
