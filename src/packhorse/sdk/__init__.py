"""For buildpack authors: a buildpack is two functions, context → result.

::

    from packhorse import sdk

    def detect(context: sdk.DetectContext) -> sdk.Pass | sdk.Fail: ...
    def build(context: sdk.BuildContext) -> sdk.BuildResult: ...

    sdk.main(detect=detect, build=build)

Called by the buildpacks in `buildpacks/` and by others. It imports only the standard library, errors and a
few files of base, because a staged buildpack has all of it under `lib/`. docs/reference/sdk.md describes it.
"""

from packhorse.base.log import Log
from packhorse.base.target import Distro, Target
from packhorse.sdk.context import BuildContext, Descriptor, DetectContext, Platform
from packhorse.sdk.plan import BuildPlan, Fail, Pass, Require
from packhorse.sdk.program import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from packhorse.sdk.bindings import Binding, Bindings
    from packhorse.sdk.command import CommandFailed
    from packhorse.sdk.dependencies import Checksum, Dependencies, Dependency
    from packhorse.sdk.download import Source
    from packhorse.sdk.launch import BuildResult, Launch, Process
    from packhorse.sdk.layer import Kept, Layer, Outdated, Replaced
    from packhorse.sdk.procfile import Procfile
    from packhorse.sdk.sbom import Bill, Component, purl
    from packhorse.sdk.versions import RequestedVersion
else:
    # Imported at first use: every build runs detection, which does not need them.
    _LATER = {
        name: module
        for module, names in {
            "bindings": ("Binding", "Bindings"),
            "command": ("CommandFailed",),
            "dependencies": ("Checksum", "Dependencies", "Dependency"),
            "download": ("Source",),
            "launch": ("BuildResult", "Launch", "Process"),
            "layer": ("Kept", "Layer", "Outdated", "Replaced"),
            "procfile": ("Procfile",),
            "sbom": ("Bill", "Component", "purl"),
            "versions": ("RequestedVersion",),
        }.items()
        for name in names
    }

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})


__all__ = [
    "Bill",
    "Binding",
    "Bindings",
    "BuildContext",
    "BuildPlan",
    "BuildResult",
    "Checksum",
    "CommandFailed",
    "Component",
    "Dependencies",
    "Dependency",
    "Descriptor",
    "DetectContext",
    "Distro",
    "Fail",
    "Kept",
    "Launch",
    "Layer",
    "Log",
    "Outdated",
    "Pass",
    "Platform",
    "Process",
    "Procfile",
    "Replaced",
    "RequestedVersion",
    "Require",
    "Source",
    "Target",
    "main",
    "purl",
]
