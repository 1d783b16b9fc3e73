"""A builder as others make them: a base image, the lifecycle's directories, a buildpack, and pack's labels.

Written from pack's label contract, with nothing of packhorse's own builder code. Its layers are tars as other
tools write them; its launcher says which version it is.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fakes.shell_buildpack import SERVER
from fakes.small_image import stored_image
from packhorse.base.target import Target
from packhorse.oci.place import Image

UID, GID = 1001, 1002
AMD64 = Target()
LAUNCHER_VERSION = "0.20.11"
_BUILDPACK = """\
api = "{api}"

[buildpack]
id = "foreign/shell"
version = "2.1.0"

[[targets]]
os = "linux"
"""


class Tar:
    """A tar that grows by entries."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._out, mode="w", format=tarfile.GNU_FORMAT)

    def directory(self, name: str, *, owner: tuple[int, int] = (0, 0), mode: int = 0o755) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, mode
        info.uid, info.gid = owner
        self._tar.addfile(info)

    def file(self, name: str, data: bytes | str, *, mode: int = 0o644) -> None:
        data = data.encode() if isinstance(data, str) else data
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        self._tar.addfile(info, io.BytesIO(data))

    def link(self, name: str, target: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(info)

    def special(self, name: str, kind: bytes, *, device: tuple[int, int] = (0, 0)) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = kind, 0o666
        info.devmajor, info.devminor = device
        self._tar.addfile(info)

    def close(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


def base(tree: Path) -> bytes:
    """A root file system as a layer: the directory `tree`, with the accounts of the builder's user."""
    out = io.BytesIO()

    def of_root(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return None if info.name in ("etc/passwd", "etc/group") else info

    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry in sorted(tree.iterdir()):
            tar.add(entry, entry.name, filter=of_root)
    more = Tar()
    more.file("etc/passwd", f"root:x:0:0::/root:/bin/sh\nbuilder:x:{UID}:{GID}::/home/builder:/bin/sh\n")
    more.file("etc/group", f"root:x:0:\nbuilder:x:{GID}:\n")
    more.directory("home/builder", owner=(UID, GID))
    # Two archives one behind the other are none, so the end of the first is taken off.
    end = out.getvalue()
    with tarfile.open(fileobj=io.BytesIO(end)) as tar:
        tar.getmembers()
        length = tar.offset
    return end[:length] + more.close()


def run_image(layer: bytes, *, target: Target = AMD64) -> Image:
    """The image that apps stand on."""
    return stored_image(
        layer, target=target, user=f"{UID}:{GID}", env=["PATH=/usr/bin:/bin", "STACK=foreign"]
    )


def builder_image(
    layer: bytes,
    *,
    run: str,
    launcher: bytes,
    api: str = "0.10",
    platforms: Sequence[str] = ("0.7", "0.12", "0.13", "0.14"),
    build: str = SERVER,
    mirrors: Sequence[str] = (),
    above: Sequence[bytes] = (),
    env: Mapping[str, str] = {},
    more: Mapping[str, str] = {},
    target: Target = AMD64,
) -> Image:
    """The builder, on the same base. `api` and `build` are its buildpack's, `platforms` the Platform APIs of
    its lifecycle; `above` are layers on top, `env` and `more` further variables and labels.
    """
    directories = Tar()
    for name in ("workspace", "layers"):
        directories.directory(name, owner=(UID, GID))
    for name in ("cnb", "cnb/buildpacks", "platform", "platform/env"):
        directories.directory(name)
    lifecycle = Tar()
    lifecycle.directory("cnb/lifecycle")
    lifecycle.file("cnb/lifecycle/launcher", launcher, mode=0o755)
    buildpack = Tar()
    where = "cnb/buildpacks/foreign_shell/2.1.0"
    for name in ("cnb/buildpacks/foreign_shell", where, f"{where}/bin"):
        buildpack.directory(name)
    buildpack.file(f"{where}/buildpack.toml", _BUILDPACK.format(api=api))
    buildpack.file(f"{where}/bin/detect", "#!/bin/sh\ntest -f README\n", mode=0o755)
    buildpack.file(f"{where}/bin/build", f"#!/bin/sh\nset -eu\nid -u\necho home $HOME\n{build}", mode=0o755)
    order = Tar()
    order.file("cnb/order.toml", '[[order]]\n[[order.group]]\nid = "foreign/shell"\nversion = "2.1.0"\n')
    image = {"image": run, "mirrors": list(mirrors) or None}
    metadata = {
        "description": "made elsewhere",
        "buildpacks": [{"id": "foreign/shell", "version": "2.1.0"}],
        "extensions": None,
        "stack": {"runImage": image},
        "lifecycle": {
            "version": LAUNCHER_VERSION,
            "api": {"buildpack": "0.7", "platform": "0.7"},
            "apis": {
                "buildpack": {"deprecated": None, "supported": ["0.7", "0.8", "0.9", "0.10", "0.11"]},
                "platform": {"deprecated": None, "supported": list(platforms)},
            },
        },
        "createdBy": {"name": "Another Tool", "version": "1"},
        "images": [image],
    }
    labels = {
        "io.buildpacks.builder.metadata": json.dumps(metadata),
        "io.buildpacks.buildpack.layers": json.dumps({"foreign/shell": {"2.1.0": {"api": api}}}),
        "io.buildpacks.buildpack.order": '[{"group":[{"id":"foreign/shell"}]}]',
        "io.buildpacks.stack.id": "foreign.stack",
    }
    variables = {
        "CNB_USER_ID": str(UID),
        "CNB_GROUP_ID": str(GID),
        "CNB_STACK_ID": "foreign.stack",
        "PATH": "/usr/bin:/bin",
    }
    return stored_image(
        layer,
        *(tar.close() for tar in (directories, lifecycle, buildpack, order)),
        *above,
        target=target,
        user=f"{UID}:{GID}",
        working_dir="/layers",
        env=[f"{name}={value}" for name, value in (variables | env).items()],
        labels=labels | more,
    )
