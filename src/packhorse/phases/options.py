"""The flags and variables of the lifecycle's phases as one table, and the values that a phase gets.

A flag has precedence over its variable, and that over the default (P-005). Flags are written as Go's flag
package reads them: `-name value`, `-name=value`, with one or two dashes, before the first argument. The
table says which phases have a flag, and since (or until) which Platform API (platform.md "Lifecycle
Interface"). docs/reference/lifecycle-phases.md shows it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum

from packhorse.base.dataclass import dataclass, field
from packhorse.errors import UsageError
from packhorse.spec.api import PlatformApi


class Phase(StrEnum):
    """A program of the lifecycle, by its name (platform.md "Lifecycle Interface")."""

    ANALYZER = "analyzer"
    DETECTOR = "detector"
    RESTORER = "restorer"
    EXTENDER = "extender"
    BUILDER = "builder"
    EXPORTER = "exporter"
    CREATOR = "creator"
    REBASER = "rebaser"


class Kind(StrEnum):
    """What a flag's value is. A SWITCH is on or off; a LIST may be given several times."""

    TEXT = "text"
    PATH = "path"
    SWITCH = "switch"
    NUMBER = "number"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `phases` says who has it, as `name`, `name>=minor` or `name<minor` of Platform API 0.minor.

    A default that begins with `<layers>` is below the layers directory.
    """

    name: str
    variable: str
    default: str
    phases: str
    about: str
    kind: Kind = Kind.TEXT

    def is_for(self, phase: Phase, api: PlatformApi) -> bool:
        """Whether `phase` has this flag under a Platform API."""
        for word in self.phases.split():
            name = word.partition("<")[0].partition(">=")[0]
            if name != phase:
                continue
            _, above, since = word.partition(">=")
            _, below, until = word.partition("<")
            return not (above and api.minor < int(since)) and not (below and api.minor >= int(until))
        return False


_ALL = "analyzer detector restorer extender builder exporter creator rebaser"
_REGISTRY = "analyzer restorer exporter creator"

LAYERS = "<layers>"
"""Stands for the layers directory in a default."""

FLAGS = (
    Flag(
        "analyzed",
        "CNB_ANALYZED_PATH",
        f"{LAYERS}/analyzed.toml",
        "analyzer detector>=10 restorer extender builder>=12 exporter",
        "the file analyzed.toml",
        Kind.PATH,
    ),
    Flag(
        "app",
        "CNB_APP_DIR",
        "/workspace",
        "detector extender builder exporter creator",
        "the application's directory",
        Kind.PATH,
    ),
    Flag(
        "build-config",
        "CNB_BUILD_CONFIG_DIR",
        "/cnb/build-config",
        "detector>=11 builder>=11 creator>=11",
        "the directory of the operator's variables",
        Kind.PATH,
    ),
    Flag("build-image", "CNB_BUILD_IMAGE", "", "restorer>=10", "the build image, for image extensions"),
    Flag(
        "buildpacks",
        "CNB_BUILDPACKS_DIR",
        "/cnb/buildpacks",
        "detector extender builder creator",
        "the directory of the buildpacks",
        Kind.PATH,
    ),
    Flag(
        "cache-dir",
        "CNB_CACHE_DIR",
        "",
        "restorer exporter creator",
        "the directory that keeps layers for the next build",
        Kind.PATH,
    ),
    Flag("cache-image", "CNB_CACHE_IMAGE", "", _REGISTRY, "the image that keeps layers for the next build"),
    Flag(
        "daemon",
        "CNB_USE_DAEMON",
        "",
        "analyzer restorer>=12 exporter creator rebaser",
        "use the images of a container engine instead of a registry",
        Kind.SWITCH,
    ),
    Flag(
        "extended",
        "CNB_EXTENDED_DIR",
        f"{LAYERS}/extended",
        "extender exporter>=12",
        "the directory of layers that image extensions made",
        Kind.PATH,
    ),
    Flag(
        "extensions",
        "CNB_EXTENSIONS_DIR",
        "/cnb/extensions",
        "detector>=10",
        "the directory of the image extensions",
        Kind.PATH,
    ),
    Flag(
        "force",
        "CNB_FORCE_REBASE",
        "",
        "rebaser>=12",
        "rebase even if the run image does not suit",
        Kind.SWITCH,
    ),
    Flag(
        "generated",
        "CNB_GENERATED_DIR",
        f"{LAYERS}/generated",
        "detector>=10 restorer>=12 extender",
        "the directory of what image extensions generate",
        Kind.PATH,
    ),
    Flag(
        "gid",
        "CNB_GROUP_ID",
        "0",
        "analyzer restorer extender exporter creator rebaser",
        "the group that buildpacks run as",
        Kind.NUMBER,
    ),
    Flag(
        "group",
        "CNB_GROUP_PATH",
        f"{LAYERS}/group.toml",
        "detector restorer extender builder exporter",
        "the file group.toml",
        Kind.PATH,
    ),
    Flag("image", "", "", "exporter rebaser", "the old name of -run-image"),
    Flag(
        "insecure-registry",
        "CNB_INSECURE_REGISTRIES",
        "",
        "analyzer>=13 restorer>=13 exporter>=13 creator>=13 rebaser>=13",
        "a registry without encryption or with an unknown certificate",
        Kind.LIST,
    ),
    Flag("kind", "CNB_EXTEND_KIND", "build", "extender", "which image to extend: build or run"),
    Flag("kaniko-cache-ttl", "CNB_KANIKO_CACHE_TTL", "", "extender", "how long extended layers are kept"),
    Flag(
        "launch-cache",
        "CNB_LAUNCH_CACHE_DIR",
        "",
        "analyzer>=9 exporter creator",
        "a directory that keeps launch layers beside a container engine",
        Kind.PATH,
    ),
    Flag(
        "launcher", "", "/cnb/lifecycle/launcher", "exporter creator", "the launcher for the image", Kind.PATH
    ),
    Flag(
        "launcher-sbom",
        "",
        "/cnb/lifecycle",
        "exporter>=11 creator>=11",
        "the directory of the launcher's SBOM files",
        Kind.PATH,
    ),
    Flag(
        "layers",
        "CNB_LAYERS_DIR",
        "/layers",
        "analyzer detector restorer extender builder exporter creator",
        "the directory of the layers",
        Kind.PATH,
    ),
    Flag(
        "layout",
        "CNB_USE_LAYOUT",
        "",
        "analyzer>=12 restorer>=12 exporter>=12 creator>=12",
        "use images in OCI layouts instead of a registry",
        Kind.SWITCH,
    ),
    Flag(
        "layout-dir",
        "CNB_LAYOUT_DIR",
        "",
        "analyzer>=12 restorer>=12 exporter>=12 creator>=12",
        "the directory of the OCI layouts",
        Kind.PATH,
    ),
    Flag("log-level", "CNB_LOG_LEVEL", "info", _ALL, "debug, info, warn or error"),
    Flag("no-color", "CNB_NO_COLOR", "", _ALL, "print no colours", Kind.SWITCH),
    Flag(
        "order",
        "CNB_ORDER_PATH",
        f"{LAYERS}/order.toml",
        "detector creator",
        "the file order.toml; /cnb/order.toml if the default does not exist",
        Kind.PATH,
    ),
    Flag(
        "parallel",
        "CNB_PARALLEL_EXPORT",
        "",
        "exporter creator",
        "write the image and the cache at the same time",
        Kind.SWITCH,
    ),
    Flag(
        "plan",
        "CNB_PLAN_PATH",
        f"{LAYERS}/plan.toml",
        "detector extender builder",
        "the file plan.toml",
        Kind.PATH,
    ),
    Flag(
        "platform",
        "CNB_PLATFORM_DIR",
        "/platform",
        "detector extender builder creator",
        "the directory of the user's variables",
        Kind.PATH,
    ),
    Flag(
        "previous-image",
        "CNB_PREVIOUS_IMAGE",
        "",
        "analyzer creator rebaser>=11",
        "the image of the last build, by default the new image's name",
    ),
    Flag("process-type", "CNB_PROCESS_TYPE", "", "exporter creator", "the process that the image starts"),
    Flag(
        "project-metadata",
        "CNB_PROJECT_METADATA_PATH",
        f"{LAYERS}/project-metadata.toml",
        "exporter creator",
        "the file project-metadata.toml",
        Kind.PATH,
    ),
    Flag(
        "report",
        "CNB_REPORT_PATH",
        f"{LAYERS}/report.toml",
        "exporter creator rebaser",
        "the file report.toml to write",
        Kind.PATH,
    ),
    Flag(
        "run",
        "CNB_RUN_PATH",
        "/cnb/run.toml",
        "analyzer>=12 detector>=12 restorer>=14 exporter>=12 creator>=12",
        "the file run.toml",
        Kind.PATH,
    ),
    Flag("run-image", "CNB_RUN_IMAGE", "", "analyzer exporter creator rebaser", "the run image"),
    Flag(
        "skip-layers",
        "CNB_SKIP_LAYERS",
        "",
        "analyzer>=9 restorer",
        "restore no layers",
        Kind.SWITCH,
    ),
    Flag("skip-restore", "CNB_SKIP_RESTORE", "", "creator", "restore no layers", Kind.SWITCH),
    Flag(
        "stack",
        "CNB_STACK_PATH",
        "/cnb/stack.toml",
        "analyzer<12 exporter<12 creator",
        "the file stack.toml",
        Kind.PATH,
    ),
    Flag(
        "system",
        "CNB_SYSTEM_PATH",
        "/cnb/system.toml",
        "detector>=15 creator>=15",
        "the file system.toml",
        Kind.PATH,
    ),
    Flag("tag", "", "", "analyzer creator", "one more name for the image", Kind.LIST),
    Flag(
        "uid",
        "CNB_USER_ID",
        "0",
        "analyzer restorer extender exporter creator rebaser",
        "the user that buildpacks run as",
        Kind.NUMBER,
    ),
)
"""Every flag of every phase, by name."""

ARGUMENTS = {
    Phase.ANALYZER: (1, 1),
    Phase.DETECTOR: (0, 0),
    Phase.RESTORER: (0, 0),
    Phase.EXTENDER: (0, 0),
    Phase.BUILDER: (0, 0),
    Phase.EXPORTER: (1, 1000),
    Phase.CREATOR: (1, 1),
    Phase.REBASER: (1, 1000),
}
"""The fewest and the most image names that a phase takes as arguments."""

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


@dataclass(frozen=True, slots=True)
class PhaseOptions:
    """The values of all flags, by the flag's name, and the image names.

    A flag that the phase does not have has the value of its variable or its default. `images` are the
    arguments. `given` names the flags that stood on the command line.
    """

    phase: Phase
    api: PlatformApi
    values: Mapping[str, str | bool | int | tuple[str, ...]]
    images: tuple[str, ...] = ()
    given: frozenset[str] = field(default=frozenset())

    def text(self, name: str) -> str:
        """The value of a flag for a text or a path; a path is absolute unless it is empty."""
        value = self.values[name]
        assert isinstance(value, str)
        return value

    def is_set(self, name: str) -> bool:
        """The value of a switch."""
        return self.values[name] is True

    def number(self, name: str) -> int:
        """The value of a flag for a number."""
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """The values of a flag that can be given several times."""
        value = self.values[name]
        assert isinstance(value, tuple)
        return value


def parse(
    phase: Phase, api: PlatformApi, words: Sequence[str], environ: Mapping[str, str], *, cwd: str
) -> PhaseOptions:
    """Reads a command line without the program's name. Raises UsageError.

    `cwd` is the directory that relative paths begin at.
    """
    known = {flag.name: flag for flag in FLAGS if flag.is_for(phase, api)}
    given, arguments = _split(phase, api, known, words)
    values = {flag.name: _from_environment(flag, environ) for flag in FLAGS}
    for name, texts in given.items():
        values[name] = _value(known[name], texts)
    _complete_paths(values, cwd)
    least, most = ARGUMENTS[phase]
    if not least <= len(arguments) <= most:
        wanted = "no arguments" if not most else f"{'at least ' if most > 1 else ''}one image name"
        raise UsageError(f"{phase} takes {wanted}, and got {len(arguments)}")
    if phase is Phase.CREATOR:
        values["skip-layers"] = values["skip-restore"]
    return PhaseOptions(phase, api, values, tuple(arguments), frozenset(given))


def usage(phase: Phase, api: PlatformApi) -> str:
    """The flags of a phase, one a line."""
    lines = [f"{phase}: the flags under Platform API {api}"]
    for flag in FLAGS:
        if flag.is_for(phase, api):
            default = f" ({flag.default})" if flag.default and flag.kind is not Kind.SWITCH else ""
            lines.append(f"  -{flag.name:18} {flag.about}{default}")
    return "\n".join(lines)


def _split(
    phase: Phase, api: PlatformApi, known: Mapping[str, Flag], words: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Splits a command line into the texts of each flag, and the arguments."""
    given: dict[str, list[str]] = {}
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        name, equals, text = word[2 if word.startswith("--") else 1 :].partition("=")
        flag = known.get(name)
        if flag is None:
            elsewhere = next((each for each in FLAGS if each.name == name), None)
            why = f"under Platform API {api}" if elsewhere and phase in elsewhere.phases else ""
            raise UsageError(
                f"{phase} has no flag -{name} {why}".strip(), fix=f"{phase} -help lists its flags"
            )
        if not equals and flag.kind is Kind.SWITCH:
            text = "true"
        elif not equals:
            if not left:
                raise UsageError(f"the flag -{name} of {phase} needs a value")
            text = left.pop(0)
        given.setdefault(name, []).append(text)
    return given, left


def _from_environment(flag: Flag, environ: Mapping[str, str]) -> str | bool | int | tuple[str, ...]:
    """The value without the flag. As in the reference, a variable that cannot be read counts as unset."""
    text = environ.get(flag.variable, "") if flag.variable else ""
    if flag.kind is Kind.SWITCH:
        return text in _TRUE
    if flag.kind is Kind.LIST:
        return tuple(text.split(",")) if text else ()
    if flag.kind is Kind.NUMBER:
        return int(text) if _is_number(text) else int(flag.default)
    return text or flag.default


def _value(flag: Flag, texts: Sequence[str]) -> str | bool | int | tuple[str, ...]:
    text = texts[-1]
    if flag.kind is Kind.SWITCH:
        if text not in (*_TRUE, *_FALSE):
            raise UsageError(f"the flag -{flag.name} is true or false, not {text!r}")
        return text in _TRUE
    if flag.kind is Kind.NUMBER:
        if not _is_number(text):
            raise UsageError(f"the flag -{flag.name} needs a whole number, not {text!r}")
        return int(text)
    if flag.kind is Kind.LIST:
        return tuple(texts)
    return text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _complete_paths(values: dict[str, str | bool | int | tuple[str, ...]], cwd: str) -> None:
    """Makes paths absolute, and puts the layers directory where a default has `<layers>`."""
    layers = os.path.join(cwd, str(values["layers"]))  # noqa: PTH118 -- a path in the image, as text
    for flag in FLAGS:
        text = values[flag.name]
        if flag.kind is not Kind.PATH or not isinstance(text, str) or not text:
            continue
        # `normpath`, because the paths become names in layers.
        whole = os.path.join(cwd, text.replace(LAYERS, layers, 1))  # noqa: PTH118
        values[flag.name] = os.path.normpath(whole)
    if values["order"] == f"{values['layers']}/order.toml" and not os.path.exists(str(values["order"])):  # noqa: PTH110
        values["order"] = "/cnb/order.toml"
