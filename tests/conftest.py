"""What holds for every test, however the tests were started."""

import signal

import pytest

pytest.register_assert_rewrite("support")

# A shell starts what it puts in the background with Ctrl-C ignored, and every process we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
