"""Starts a staged buildpack: its bin/detect and bin/build run this file, with their own path as argument.

Puts the buildpack and its `lib/` on the import path and imports the buildpack's `main.py`, which ends with
`sdk.main(…)`. Python can load an imported main.py from bytecode, but compiles a script in every process. So
this script is short, and main.py is imported.
"""

import atexit
import gc
import os
import sys
from pathlib import Path


def start() -> None:
    """Runs `main.py`, and ends the process with its exit status."""
    gc.disable()  # the process is short, and reference counts free nearly all that it makes
    if sys.version_info < (3, 11):  # noqa: UP036 - the build image chooses python3, not our metadata
        sys.exit("error: this buildpack needs Python 3.11 or newer in the build image")
    library = Path(__file__).absolute().parents[2]
    sys.path[:0] = [str(library.parent), str(library)]
    del sys.argv[0]
    try:
        __import__("main")
    except SystemExit as ended:
        if not isinstance(ended.code, int) or _has_threads():
            raise
        # Python's own shutdown would take longer than a detection.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code)
    sys.exit("error: main.py of this buildpack does not end with sdk.main(…)")


def _has_threads() -> bool:
    """Whether other threads run, for which Python waits before it ends."""
    threading = sys.modules.get("threading")
    return threading is not None and threading.active_count() > 1


start()
