"""What holds for every test, however the tests were started."""

import signal

# A shell starts what it puts in the background with Ctrl-C ignored, and every process we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
