"""Starts the buildpack: called by bin/detect and bin/build with their own path as the first argument.

A staged buildpack has packhorse's SDK and its dependencies under lib/.
"""

import gc
import os
import sys
from pathlib import Path


def main() -> None:
    """Puts the buildpack's own code on the path and hands over to the SDK."""
    gc.disable()  # a build has ended before there is anything to collect
    if sys.version_info < (3, 11):  # noqa: UP036 - the build image chooses python3, not our metadata
        sys.exit("error: this buildpack needs Python 3.11 or newer in the build image")
    here = Path(__file__).absolute().parent
    sys.path[:0] = [str(here), str(here / "lib")]
    del sys.argv[0]

    from nodejs.detection import detect  # type: ignore[import-not-found]  # found on the path above

    from packhorse import sdk

    try:
        sdk.main(detect=detect, build=build)
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        # Taking the interpreter down in good order takes longer than a detection does.
        os._exit(ended.code)


def build(context):  # type: ignore[no-untyped-def]
    """Builds with what detection, which runs far more often, does not import."""
    from nodejs.buildpack import build  # type: ignore[import-not-found]

    return build(context)


main()
