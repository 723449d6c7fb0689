"""What holds for every test, however the tests were started."""

import signal

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("support")

# A busy machine is slow, not wrong.
settings.register_profile("questlog", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("questlog")

# A shell starts background jobs with Ctrl-C ignored, and every process the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
