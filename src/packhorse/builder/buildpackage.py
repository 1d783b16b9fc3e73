"""Reads packaged buildpacks: images and `.cnb` files by their labels, and archives of a directory.

A package has a buildpack and those that it is composed of, each below `/cnb/buildpacks/<id>/<version>`, in
layers of their own or flattened into few. Its labels are the specification's and pack's. `build.locators`
finds packages, and the sandbox sees their directories in the unpacked image.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from packhorse.base.dataclass import dataclass, field
from packhorse.builder.image import list_modes
from packhorse.builder.package import FILE, MAIN, PROGRAMS
from packhorse.errors import FormatError, HostError, InputError
from packhorse.oci.archive import MTIME, TarIndex
from packhorse.oci.layout import LAYOUT_FILE
from packhorse.oci.place import Image
from packhorse.oci.types import JsonNode
from packhorse.report.builder import LAYERS
from packhorse.report.builder import METADATA as BUILDER_METADATA
from packhorse.spec.buildpack_toml import Ref, is_valid
from packhorse.tar.unpack import UnpackLimits, unpack
from packhorse.tar.writer import digest

METADATA = "io.buildpacks.buildpackage.metadata"

_EXTENSION = "io.buildpacks.extension.layers"
_DESCRIPTOR = "buildpack.toml"
_LIMITS = UnpackLimits(entries=200_000, bytes=8 << 30)


@dataclass(frozen=True, slots=True)
class Buildpackage:
    """A packaged buildpack. `modules` are all buildpacks in `image`, `ref` is the one that it is for."""

    ref: Ref
    modules: tuple[Ref, ...]
    image: Image = field(compare=False, repr=False)

    @classmethod
    def read(cls, name: str, image: Image) -> Self:
        """Reads the labels of an image; raises FormatError for one that is no package of a buildpack."""
        labels = image.config.labels
        if METADATA not in labels or not labels.get(LAYERS):
            raise FormatError(
                f"{name} is not a packaged buildpack",
                why=_explain(labels),
                fix="name the image of a buildpack",
            )
        metadata = JsonNode.parse(labels[METADATA].encode(), f"{METADATA} of {name}")
        layers = JsonNode.parse(labels[LAYERS].encode(), f"{LAYERS} of {name}")
        ref = Ref(metadata.text("id"), metadata.text("version"))
        modules = []
        for identifier in layers.fields:
            versions = layers.node(identifier)
            modules += [Ref(identifier, version) for version in (versions.fields if versions else ())]
        for each in (ref, *modules):
            if not is_valid(each):  # its directory is named after it
                raise FormatError(
                    f"{name} cannot be used", why=f"{str(each)[:300]!r} is no id and version of a buildpack"
                )
        if ref not in modules:
            raise FormatError(
                f"{name} contradicts itself", why=f"it is the package of {ref}, which {LAYERS} does not list"
            )
        return cls(ref, tuple(modules), image)


def _explain(labels: Mapping[str, str]) -> str:
    if BUILDER_METADATA in labels:
        return "it is a builder, which --builder takes"
    if labels.get(_EXTENSION) and not labels.get(LAYERS):
        return "it has image extensions, which are not supported yet"
    missing = [label for label in (METADATA, LAYERS) if not labels.get(label)]
    return f"it has no label {' and no label '.join(missing)}"


def is_layout_archive(tar: TarIndex) -> bool:
    """Whether a tar is an image in an OCI layout, as a `.cnb` file is, and not a buildpack's directory.

    Raises InputError for a tar that is neither.
    """
    if tar.find(LAYOUT_FILE) is not None:
        return True
    if tar.find(_DESCRIPTOR) is None:
        raise InputError(
            f"{tar.path} is not a buildpack",
            why=f"it has neither {LAYOUT_FILE}, as a .cnb file has, nor {_DESCRIPTOR} at its top",
            fix="archive the content of the buildpack's directory: tar -C DIRECTORY -czf FILE .",
        )
    return False


def unpack_directory(tar: TarIndex, cache: Path) -> Path:
    """Unpacks the archive of a buildpack's directory below `cache`, where its digest names it; returns that.

    Its files get the modes that a builder gives them. Raises FormatError for an archive that would leave the
    directory or has too much in it, HostError.
    """
    directory = cache / digest(tar.file.chunks())[0].hex
    if directory.is_dir():
        return directory
    new = cache / f".packhorse-{secrets.token_hex(8)}"
    try:
        new.mkdir(parents=True)
        unpack(tar.file.chunks(), new, owner=False, limits=_LIMITS)
        _set_modes(new)
        _check_files(new, tar.path)
        try:
            new.rename(directory)
        except OSError:
            if not directory.is_dir():  # another command may have unpacked it meanwhile
                raise
    except OSError as error:
        raise HostError(f"{tar.path} cannot be unpacked", why=f"{cache}: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return directory


def _check_files(directory: Path, source: Path) -> None:
    """Raises FormatError if a file that packhorse itself opens is a link, which could lead out."""
    for name in (_DESCRIPTOR, MAIN, FILE, PROGRAMS):
        path = directory / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise FormatError(f"{source} cannot be used", why=f"its {name} is not a regular file")


def _set_modes(top: Path) -> None:
    """Gives directories and programs mode 0755, other files 0644, and all the time that builders give them.

    A directory is opened only when it has its mode.
    """
    top.chmod(0o755)
    for path, _, mode in list_modes(top):
        path.chmod(mode)
    for here, directories, files in os.walk(top):
        for name in (*directories, *files):
            os.utime(Path(here, name), (MTIME, MTIME), follow_symlinks=False)
