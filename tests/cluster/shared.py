"""Whose servers these tests run on."""

import os

MAY_DIE = "QUESTLOG_STACK" not in os.environ or "QUESTLOG_STACK_MAY_DIE" in os.environ
"""Whether they are the tests' own, to kill and to freeze."""
