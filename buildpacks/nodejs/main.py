"""The Node.js buildpack. The SDK's starter imports this module in every bin/detect and bin/build."""

from nodejs.detection import detect  # type: ignore[import-not-found]  # the starter makes it importable

from packhorse import sdk


def build(context):  # type: ignore[no-untyped-def]
    """Imports what only a build needs, because detection runs far more often."""
    from nodejs.buildpack import build  # type: ignore[import-not-found]

    return build(context)


sdk.main(detect=detect, build=build)
