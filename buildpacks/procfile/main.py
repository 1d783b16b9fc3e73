"""Starts the buildpack: called by bin/build with its own path as the first argument.

A staged buildpack has packhorse's SDK under lib/.
"""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - the build image chooses python3, not our metadata
    sys.exit("error: this buildpack needs Python 3.11 or newer in the build image")
_here = Path(__file__).absolute().parent
sys.path[:0] = [str(_here), str(_here / "lib")]
del sys.argv[0]

from procfile import build  # noqa: E402 - found on the path above

from packhorse import sdk  # noqa: E402

sdk.main(detect=lambda _: sdk.Pass(), build=build)  # bin/detect has decided; it is a shell script
