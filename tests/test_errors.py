"""Errors carry a hint for their reader."""

import pytest

from questlog.errors import DEFAULT_RETRY_SECONDS, LogUnavailable


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(None, DEFAULT_RETRY_SECONDS), (0, DEFAULT_RETRY_SECONDS), (0.2, 1), (7, 7), (7.6, 8)],
)
def test_the_retry_after_header_is_a_whole_number_of_seconds(retry_after: float | None, seconds: int) -> None:
    assert LogUnavailable("full", retry_after=retry_after).retry_after_seconds == seconds
