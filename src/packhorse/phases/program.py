"""What the phases have in common as programs: options, the files that they share, giving up root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.target import Target
from packhorse.errors import HostError, InputError
from packhorse.lifecycle.inputs import EPOCH, Inputs, LauncherInfo, RunImageName
from packhorse.phases import files, privileges
from packhorse.phases.console import PhaseConsole
from packhorse.phases.files import AnalyzedToml
from packhorse.phases.options import Phase, PhaseOptions
from packhorse.spec.api import CREATED, PLATFORM_EXEC_ENV, PLATFORM_TARGETS
from packhorse.spec.env import BUILD_INHERITED

if TYPE_CHECKING:
    from packhorse.fs.rooted import RootedTree
    from packhorse.host.cache_directory import CacheDirectory
    from packhorse.host.cache_image import CacheImage
    from packhorse.lifecycle.stages import Member
    from packhorse.phases.images import PhaseImages


@dataclass(frozen=True, slots=True)
class Program:
    """What a phase works with: its options, the user's environment, the machine's files, and messages."""

    options: PhaseOptions
    environ: Mapping[str, str]
    tree: RootedTree
    console: PhaseConsole
    _images: list[PhaseImages] = field(default_factory=list)

    @property
    def images(self) -> PhaseImages:
        """The images of the phase. Used first before the phase gives up root. Raises EngineError."""
        if not self._images:
            from packhorse.phases.images import PhaseImages  # detector and builder need none

            self._images.append(PhaseImages(self.options, self.environ))
        return self._images[0]

    def with_environ(self, environ: Mapping[str, str]) -> Program:
        """The same program with another environment for buildpacks; the images stay open."""
        return replace(self, environ=environ)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the new image: the arguments, then those of -tag, each once."""
        return tuple(dict.fromkeys((*self.options.images, *self.options.texts("tag"))))

    @property
    def previous_name(self) -> str:
        """The name of the image of the last build."""
        return self.options.text("previous-image") or self.options.images[0]

    @property
    def cache(self) -> CacheDirectory | CacheImage | None:
        """The layers of the last build; None if the platform names no cache."""
        from packhorse.host.cache_directory import CacheDirectory
        from packhorse.host.cache_image import CacheImage

        name, directory = self.options.text("cache-image"), self.options.text("cache-dir")
        if name:
            return CacheImage(self.images.registry_place(name), name, self.console)
        return CacheDirectory(Path(directory), self.console) if directory else None

    def write(self, path: str, data: bytes) -> None:
        """Writes a file of this phase, wholly or not at all. Raises InputError."""
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                file.write(data)
            Path(file.name).chmod(0o644)
            Path(file.name).replace(target)
        except OSError as error:
            raise InputError(f"{path} cannot be written", why=error.strerror or str(error)) from error

    def read(self, path: str) -> bytes | None:
        """Reads a file of another phase or of the platform; None if it is missing. Raises InputError."""
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path} cannot be read", why=error.strerror or str(error)) from error

    def require(self, path: str, phase: str) -> bytes:
        """Reads a file that an earlier phase wrote. Raises InputError if it is missing."""
        data = self.read(path)
        if data is None:
            raise InputError(f"{path} does not exist", why=f"{phase} writes it", fix=f"run {phase} first")
        return data

    def run_images(self) -> tuple[RunImageName, ...]:
        """The run images of run.toml, before Platform API 0.12 of stack.toml. Raises InputError."""
        is_stack = not self.options.api.has(PLATFORM_TARGETS)
        path = self.options.text("stack" if is_stack else "run")
        data = self.read(path)
        return () if data is None else files.parse_run_images(data, path, stack=is_stack)

    def inputs(self, temporary: str) -> Inputs:
        """The lifecycle's inputs. `temporary` is a directory for plans."""
        options, environ, api = self.options, self.environ, self.options.api
        env = {name: environ[name] for name in BUILD_INHERITED if name in environ}
        env |= {"HOME": environ["HOME"]} if "HOME" in environ else {}
        return Inputs(
            platform_api=api,
            order=(),
            launcher=LauncherInfo(""),
            env=env,
            run_image=RunImageName(""),
            app=options.text("app"),
            layers=options.text("layers"),
            platform=options.text("platform"),
            buildpacks=options.text("buildpacks"),
            build_config=options.text("build-config"),
            order_file=options.text("order"),
            system=options.text("system"),
            launcher_path=options.text("launcher"),
            launcher_sboms=options.text("launcher-sbom"),
            temporary=temporary,
            uid=options.number("uid"),
            gid=options.number("gid"),
            exec_env=(environ.get("CNB_EXEC_ENV") or "production")
            if api.has(PLATFORM_EXEC_ENV)
            else "production",
            default_process=options.text("process-type"),
            created=self._created(),
            skip_restore=options.is_set("skip-layers"),
            parallel=os.cpu_count() or 1,
            has_real_parents=True,
        )

    def _created(self) -> int:
        text = self.environ.get("SOURCE_DATE_EPOCH", "")
        if not text or not self.options.api.has(CREATED):
            return EPOCH
        if not text.isdecimal() or len(text) > 11:
            self.console.warn(f"SOURCE_DATE_EPOCH is no time and is ignored: {text[:50]!r}")
            return EPOCH
        return int(text)


@contextmanager
def temporary_directory() -> Iterator[str]:
    """A directory for plans, which is removed at the end."""
    directory = tempfile.mkdtemp(prefix="cnb-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def give_up_root(program: Program, *directories: str) -> None:
    """Gives the directories of these flags to the CNB user, and becomes that user."""
    options = program.options
    uid, gid = options.number("uid"), options.number("gid")
    privileges.own_directories([options.text(name) for name in directories], uid, gid)
    privileges.become(uid, gid)
    privileges.hide_from_buildpacks()


def refuse_root(phase: Phase) -> None:
    """Raises HostError if this process is root."""
    if privileges.is_root():
        raise HostError(
            f"{phase} refuses to run as root",
            why="buildpacks would run as root too",
            fix="run it as the user of the build image",
        )


def read_analyzed(program: Program) -> AnalyzedToml | None:
    """The file analyzed.toml; None if it is missing, which is reported. Raises InputError."""
    path = program.options.text("analyzed")
    data = program.read(path)
    if data is None:
        program.console.warn(f"{path} does not exist: nothing is known of the last build")
        return None
    return AnalyzedToml.parse(data, path)


def target_of(toml: AnalyzedToml | None) -> Target:
    """The run image's target by analyzed.toml, by default this machine's."""
    return (toml and toml.target) or Target.host()


def read_group(program: Program) -> tuple[Member, ...]:
    """The group of group.toml. Raises InputError and BuildpackApiError."""
    path = program.options.text("group")
    return files.parse_group(program.require(path, "detector"), path)
