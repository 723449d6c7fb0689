"""A Java stack trace becomes one sentence."""

import pytest

from questlog.cli import _reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "An error occurred while calling o1.sql.\n: java.io.IOException: no space\n\tat x.Y",
            "java.io.IOException: no space",
        ),
        ("An error occurred while calling o1.sql.\n: a.B: failed\n\tat x.Y\nCaused by: c.D: why\n\tat z", "c.D: why"),
        ("[STREAM_FAILED] Query terminated\n=== Streaming Query ===", "[STREAM_FAILED] Query terminated"),
        ("", ""),
    ],
)
def test_the_root_cause_of_a_java_error_is_printed(message: str, reason: str) -> None:
    assert _reason(message) == reason
