"""What holds for all tests."""

import signal

# A shell ignores Ctrl-C for what it starts in the background, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
