"""Every error packhorse shows a user, as one tree; each class owns the exit code it ends the program with.

::

    PackhorseError                    1   anything not named below
    ├── UsageError                    2   the command line itself is wrong
    ├── InputError                    3   a path, file or value handed in is wrong (all issues at once)
    ├── NotFoundError                 4   no such image, builder, buildpack or entry
    ├── NetworkError                  5   a registry or proxy did not answer, refused, or broke off
    │   └── RegistryError             5   a registry answered, with an error
    ├── StoreError                    6   the store cannot be read or written
    │   └── DiskFull                  6   the disk of the store has no space or no inodes left
    ├── HostError                     7   this machine lacks something that is needed
    │   ├── SandboxError              7   a sandbox could not be made
    │   └── EngineError               7   a container engine did not answer, or refused
    ├── FormatError                   8   bytes are not what their format demands (images, archives, TOML)
    │   └── TreeError                 8   an entry of a tree is missing, of another kind, or leads outside
    ├── PlatformApiError             11   unsupported Platform API (from here to 72: platform.md)
    ├── BuildpackApiError            12   unsupported Buildpack API
    ├── DetectFailed                 20   no group of buildpacks takes this source
    ├── DetectErrored                21   as above, and a bin/detect itself went wrong
    ├── AnalyzeError                 32
    ├── RestoreError                 42
    ├── BuildpackFailed              51   a bin/build ended with a non-zero status
    ├── BuildError                   52   what a buildpack wrote cannot be used
    ├── ExportError                  62
    ├── RebaseError                  72   an image cannot be put on the run image asked for
    │   └── UnknownRunImage          72   the run image is none that the image names
    ├── SomeNotRebased               73   of several images, some could not be rebased
    ├── TimedOut                    124   the time that --timeout allows is over (as timeout(1))
    ├── RunError                    125   `packhorse run` could not start the image (docker's convention)
    │   ├── NotExecutable           126
    │   └── CommandNotFound         127
    ├── HungUp                      129   SIGHUP: the terminal is gone
    ├── Interrupted                 130   SIGINT
    ├── Quit                        131   SIGQUIT
    └── Terminated                  143   SIGTERM

Called by every folder; imports nothing. Printing is `cli.output`'s, exiting is `cli.main`'s.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 4000
"""Characters of one part of an error: what is quoted in it may have been written by anybody."""

MAKE_ROOM = (
    "free some space on the disk of the store, for instance with `packhorse rmi` and `packhorse gc`, "
    "and run the same command again"
)
"""What to do about a full disk."""


class PackhorseError(Exception):
    """One failure in three parts: what happened, why, and what to do about it.

    `what` is a single sentence without a full stop; `why` and `fix` may have several lines or be empty.
    `check` names the line of `packhorse doctor` about it, where this machine may be to blame.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "", check: str = "") -> None:
        self.what, self.why, self.fix, self.check = _cut(what), _cut(why), _cut(fix), check
        super().__init__(self.what)

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.fix) if part)


class UsageError(PackhorseError):
    """The command line cannot be understood."""

    exit_code = 2


class InputError(PackhorseError):
    """Something the user handed in is wrong; `issues` has one line for each thing to mend."""

    exit_code = 3

    def __init__(self, what: str, *, why: str = "", fix: str = "", issues: Iterable[str] = ()) -> None:
        self.issues = tuple(map(_cut, issues))
        super().__init__(what, why=why or "\n".join(self.issues), fix=fix)


class NotFoundError(PackhorseError):
    """A named thing does not exist."""

    exit_code = 4


class NetworkError(PackhorseError):
    """The network, or who is at its other end, did not do what was asked."""

    exit_code = 5


class RegistryError(NetworkError):
    """A registry answered with an error; `status` is the HTTP status, 0 when there was none."""

    def __init__(self, what: str, *, why: str = "", fix: str = "", status: int = 0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status


class StoreError(PackhorseError):
    """The store on this machine cannot be read or written."""

    exit_code = 6


class DiskFull(StoreError):
    """The disk of the store is full: there is no room for `what`, in the words `why` of the system."""

    def __init__(self, what: str, *, why: str) -> None:
        super().__init__(f"no space left for {what}", why=why, fix=MAKE_ROOM, check="disk")


class HostError(PackhorseError):
    """This machine lacks something that is needed."""

    exit_code = 7


def check_of(error: BaseException) -> str:
    """The doctor's line about an error, or about what is behind it; empty when there is none."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, PackhorseError) and behind.check:
            return behind.check
        behind = behind.__cause__
    return ""


class SandboxError(HostError):
    """A sandbox could not be made."""


class EngineError(HostError):
    """A container engine (dockerd, podman) did not answer, or did not do what was asked."""


class FormatError(PackhorseError):
    """Bytes are not what their format demands."""

    exit_code = 8


class TreeError(FormatError):
    """An entry of a file tree is missing, of another kind than needed, or leads out of the tree."""


class PlatformApiError(PackhorseError):
    """The Platform API asked for is not supported."""

    exit_code = 11


class BuildpackApiError(PackhorseError):
    """The Buildpack API of a buildpack is not supported."""

    exit_code = 12


class DetectFailed(PackhorseError):
    """No group of buildpacks takes this source."""

    exit_code = 20


class DetectErrored(DetectFailed):
    """No group of buildpacks takes this source, and a bin/detect itself went wrong."""

    exit_code = 21


class AnalyzeError(PackhorseError):
    """What was built last time cannot be read."""

    exit_code = 32


class RestoreError(PackhorseError):
    """The layers of the last build cannot be restored."""

    exit_code = 42


class BuildpackFailed(PackhorseError):
    """A bin/build ended with a non-zero status; `command`, if any, is a shell's line that repeats it.

    `buildpack` is whose, as `<id>@<version>`; `crossed_device` tells that it said that a rename crossed
    devices, as one does on an overlay.
    """

    exit_code = 51

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        command: str = "",
        buildpack: str = "",
        crossed_device: bool = False,
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.command = command
        self.buildpack = buildpack
        self.crossed_device = crossed_device


class BuildError(PackhorseError):
    """What a buildpack wrote cannot be used."""

    exit_code = 52


class ExportError(PackhorseError):
    """The image cannot be made from what was built."""

    exit_code = 62


class RebaseError(PackhorseError):
    """An image cannot be put on another run image."""

    exit_code = 72


class UnknownRunImage(RebaseError):
    """The new run image is neither the one that the image names nor one of its mirrors."""


class SomeNotRebased(PackhorseError):
    """Of several images some could not be rebased; the others were."""

    exit_code = 73


class TimedOut(PackhorseError):
    """The time that the user allowed is over."""

    exit_code = 124


class RunError(PackhorseError):
    """An image cannot be started."""

    exit_code = 125


class NotExecutable(RunError):
    """The command to start is there and cannot be executed."""

    exit_code = 126


class CommandNotFound(RunError):
    """The command to start does not exist in the image."""

    exit_code = 127


class HungUp(PackhorseError):
    """The terminal was closed."""

    exit_code = 129


class Interrupted(PackhorseError):
    """The user pressed Ctrl-C."""

    exit_code = 130


class Quit(PackhorseError):
    """The user pressed Ctrl-\\."""

    exit_code = 131


class Terminated(PackhorseError):
    """Somebody asked this process to end."""

    exit_code = 143


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
