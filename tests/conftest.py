"""What holds for all tests."""

import os
import signal

from hypothesis import settings

pytest_plugins = ["lanes"]

# A shell ignores the first two for what it starts in the background, and nohup the last; so would all
# that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long one example takes says nothing on a machine with other work to do. The examples are the same in
# every run, so that one that fails does again; campaigns look for new ones.
settings.register_profile("packhorse", deadline=None, derandomize="PACKHORSE_TESTS_EFFORT" not in os.environ)
settings.load_profile("packhorse")
