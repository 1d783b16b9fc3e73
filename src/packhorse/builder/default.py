"""Makes the default builder, without a registry: distribution packages, bundled buildpacks, our launcher.

packhorse makes it when it is first needed, as an image in the store with a builder's files and labels. It has
a launcher and no lifecycle, so only packhorse can build with it. `builder.distro.roots` makes the root file
systems. Called by `build.execute` and by `packhorse builder default`.

The bundled buildpacks are compiled to bytecode with the builder's own python3. Otherwise every step would
compile them again, which takes a third of its time when nothing has changed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Self

from packhorse.base import installation
from packhorse.base.dataclass import dataclass
from packhorse.base.go_json import json_bytes
from packhorse.base.go_toml import SortedMap, sort_maps, toml_bytes
from packhorse.base.sandbox import Bind, Network, Root, SandboxSpec
from packhorse.base.target import Target
from packhorse.base.tree import TreeView
from packhorse.builder.image import (
    entries_layer,
    file_entry,
    file_layer,
    parent_entries,
    tree_layer,
    write_image,
)
from packhorse.errors import FormatError, HostError, NotFoundError, PackhorseError
from packhorse.host import wiring
from packhorse.host.distribution import Suite, host_sources, host_suite
from packhorse.host.folders import SCRATCH, private_directory, require_space
from packhorse.linux import userns
from packhorse.oci.mutate import edit_config, empty_config, set_variables
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Config
from packhorse.report.builder import LAUNCHER, LAYERS, METADATA, ORDER
from packhorse.source.files import copy
from packhorse.spec.api import PLATFORM_APIS
from packhorse.spec.buildpack_toml import Descriptor
from packhorse.store.store import Store
from packhorse.tar.writer import TarEntry
from packhorse.version import __version__

if TYPE_CHECKING:
    from packhorse.builder.distro.files import PackageChange, RootKind
    from packhorse.builder.distro.roots import RootRecord

# Python checks such bytecode by a hash of the source and not by its date (PEP 552), so the bytes of the
# builder do not depend on when it is made.
_COMPILE = (
    *("/usr/bin/python3", "-S", "-s", "-P", "-m"),
    *("compileall", "-q", "--invalidation-mode", "checked-hash"),
)
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}


@contextmanager
def open_compiled(store: Store, base: Image, source: Path, place: str) -> Iterator[TreeView]:
    """Yields a tree that has the buildpack `source` at `place`, compiled by the python3 of the image `base`.

    `base` must be in the store. Raises HostError if that python3 fails, and the errors of making a sandbox.
    """
    output: list[bytes] = []
    with store.scratch() as scratch, userns.make_namespace(userns.choose_map()) as namespace:
        copied = scratch / "buildpack"
        spec = SandboxSpec(
            (*_COMPILE, place),
            _ENVIRONMENT,
            root=Root(store.root(base, namespace.idmap)),
            mounts=(Bind(copied, place, writable=True),),
            network=Network.NONE,
        )
        copy(source, copied, namespace.idmap.to_outside(spec.uid, spec.gid))
        # An installer may have compiled the buildpack for another Python. compileall might keep that.
        for cache in list(copied.rglob("__pycache__")):
            shutil.rmtree(cache)
        (scratch / "sandbox").mkdir()
        with wiring.make_runner(namespace, scratch / "sandbox").open(spec) as room:
            if room.run(output.append).status != 0:
                raise HostError(
                    "the buildpacks cannot be compiled",
                    why=b"".join(output).decode(errors="replace").strip()[-500:],
                    check="installation",
                )
            yield room.tree


UID = GID = 1000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUNDLE = "io.packhorse.bundle"
PACKAGES = "io.packhorse.packages"

_RECIPE = 4
"""Raise it when this module composes builders differently, so that existing builders are made again."""

_ROOM, _ROOM_BESIDE = 1_200_000_000, 700_000_000
"""The fewest free bytes to begin with: in the store, which holds a root as a tar and as a blob (642 MB each
on Debian 12), and where the packages are unpacked."""

Progress = Callable[[str], None]
Packages = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DefaultBuilder:
    """The names in the store of the default builder's three images."""

    suite: Suite

    @classmethod
    def for_host(cls) -> Self:
        """Returns the names for this machine; HostError if no builder can be made from its distribution."""
        return cls(_suite())

    def name(self, kind: str) -> str:
        """Returns the name of `kind`: `builder`, `build` (the builder's base) or `run`."""
        return f"packhorse.local/{kind}:{self.suite.id}-{self.suite.version}"


@dataclass(frozen=True, slots=True)
class BuilderUpdate:
    """The builder's name, and the packages of its base that changed."""

    name: str
    changes: tuple[PackageChange, ...] = ()


def ensure(
    store: Store, *, environ: Mapping[str, str], progress: Progress, update: bool = False
) -> BuilderUpdate:
    """Makes the default builder, unless the store has a current one; `update` uses today's packages.

    `environ` is the user's environment. The old builder stays until the new one is complete. If several
    processes call this, one makes the builder and the others wait. Raises HostError, NetworkError and
    StoreError.
    """
    names = DefaultBuilder.for_host()
    name = names.name("builder")
    if not update and _is_current(store, names):
        return BuilderUpdate(name)
    from packhorse.builder.distro.files import changed_packages  # the builder is there nearly always

    with store.lock_task("default-builder"):
        if not update and _is_current(store, names):
            return BuilderUpdate(name)
        old = _packages(store, name)
        if update or _find(store, names.name("build")) is None or _find(store, names.name("run")) is None:
            new = _make_bases(store, names, environ, progress)
        else:
            new = old or _packages_of_bases(store, names)
        progress("putting the builder together")
        _compose(store, names, new)
    return BuilderUpdate(name, changed_packages(old.get("build", {}), new.get("build", {})) if old else ())


def current_name(store: Store) -> str:
    """Returns the name of this machine's default builder if the store has a current one, else ""."""
    names = DefaultBuilder.for_host()
    return names.name("builder") if _is_current(store, names) else ""


def _suite() -> Suite:
    try:
        text = Path("/etc/os-release").read_text(errors="replace")
    except OSError:
        text = ""  # host_suite explains what is missing
    return host_suite(text)


def stored_name(store: Store) -> str:
    """Returns the name of this machine's default builder if the store has one, current or not; else ""."""
    try:
        name = DefaultBuilder.for_host().name("builder")
    except HostError:
        return ""
    return name if _find(store, name) is not None else ""


def obstacles(environ: Mapping[str, str]) -> list[HostError]:
    """Lists what prevents this machine from making the builder, as far as that is visible without trying."""
    from packhorse.builder.distro.mmdebstrap import host_mode
    from packhorse.builder.distro.roots import check_keyring, pip_command

    try:
        suite = _suite()
    except HostError as error:
        return [error]
    found = []
    needed: tuple[Callable[[], object], ...] = (
        lambda: host_sources(suite),
        lambda: check_keyring(suite),
        lambda: host_mode(environ.get("PATH", os.defpath)),
        lambda: pip_command(environ),
    )
    for need in needed:
        try:
            need()
        except HostError as error:
            found.append(error)
    return found


def _is_current(store: Store, names: DefaultBuilder) -> bool:
    image = _find(store, names.name("builder"))
    if image is None or image.config.labels.get(BUNDLE) != _bundle():
        return False
    return _find(store, names.name("run")) is not None


def _bundle() -> str:
    return f"{installation.digest()}-{_RECIPE}"


def _find(store: Store, name: str) -> Image | None:
    """Reads an image of the store; None if there is none, or if it is damaged and must be made again."""
    try:
        return store.place(name).read()
    except (NotFoundError, FormatError):
        return None


def _packages(store: Store, name: str) -> Packages:
    image = _find(store, name)
    return json.loads(image.config.labels.get(PACKAGES, "{}")) if image else {}


def _packages_of_bases(store: Store, names: DefaultBuilder) -> Packages:
    """Reads the packages from the bases, if the builder whose label lists them was removed."""
    from packhorse.report.sbom import debian_versions, read_base

    images = {kind: store.place(names.name(kind)).read() for kind in ("build", "run")}
    return {
        kind: debian_versions(read_base(image.layers, release=False).statuses)
        for kind, image in images.items()
    }


def _make_bases(
    store: Store, names: DefaultBuilder, environ: Mapping[str, str], progress: Progress
) -> Packages:
    """Makes both roots at the same time, and writes each as an image of one layer."""
    from packhorse.builder.distro.roots import make_root  # imported here, because it is rarely needed

    arch, sources, cancelled = Target.host().arch, host_sources(names.suite), Event()
    require_space(store.path, _ROOM, what="the default builder")
    require_space(SCRATCH, _ROOM_BESIDE, what="the packages of the default builder")
    with store.scratch() as scratch:
        output_errors: list[PackhorseError | SystemExit] = []

        def tell(step: str) -> None:
            if not cancelled.is_set():
                try:
                    progress(step)
                except (PackhorseError, SystemExit) as error:  # nobody reads the output any more
                    output_errors.append(error)
                    cancelled.set()

        def make(kind: RootKind) -> tuple[RootRecord, Image]:
            tar = scratch / f"{kind}.tar"
            with private_directory(store.remove_tree) as own:
                record = make_root(
                    kind,
                    suite=names.suite,
                    arch=arch,
                    target=tar,
                    own=own,
                    sources=sources,
                    env=environ,
                    progress=tell,
                    cancelled=cancelled,
                )
            layer = (file_layer(tar), f"packages of {names.suite.id} {names.suite.version}")
            image = write_image(store.place(names.name(kind)), _base_config(kind, record), [layer])
            tar.unlink()
            return record, image

        with ThreadPoolExecutor(max_workers=2) as pool:
            try:
                made = list(pool.map(make, ("build", "run")))
            except BaseException:
                cancelled.set()  # otherwise the pool waits until the other root is finished
                if output_errors:
                    raise output_errors[0] from None
                raise
    return {record.kind: dict(record.packages) for record, _ in made}


def _base_config(kind: RootKind, record: RootRecord) -> Config:
    """Makes the config of a base image (platform.md "Base Images", P-011 to P-019)."""
    suite = record.suite
    variables = {"PATH": PATH}
    if kind == "build":
        variables |= {"CNB_USER_ID": str(UID), "CNB_GROUP_ID": str(GID)}
    title = {"build": "builds", "run": "runs"}[kind]
    config = empty_config(Target(arch=record.arch))
    return edit_config(
        config,
        env=set_variables(config.env, variables),
        user=f"{UID}:{GID}",
        labels={
            "io.buildpacks.base.id": f"io.packhorse.{suite.id}-{suite.version}",
            "io.buildpacks.base.description": f"{title} applications on {suite.id} {suite.version}",
            "io.buildpacks.base.distro.name": suite.id,
            "io.buildpacks.base.distro.version": suite.version,
            "io.buildpacks.base.homepage": "",
            "io.buildpacks.base.maintainer": "packhorse",
            "io.buildpacks.rebasable": "true",
        },
    )


def _compose(store: Store, names: DefaultBuilder, packages: Packages) -> None:
    """Writes the builder: its base, and a layer for each of its parts, in pack's order."""
    base = store.place(names.name("build")).read()
    buildpacks = [
        (path, Descriptor.parse((path / "buildpack.toml").read_bytes(), str(path)))
        for path in installation.buildpacks()
    ]
    order = [{"group": [{"id": one.id, "version": one.version}]} for _, one in buildpacks]
    layers: list[tuple[Layer, str]] = [
        (entries_layer(_directories()), "directories"),
        (entries_layer(_launcher(base.config.architecture)), "launcher"),
    ]
    modules: dict[str, dict[str, object]] = {}
    for path, one in buildpacks:
        place = f"/cnb/buildpacks/{one.ref.directory_name}/{one.version}"
        with open_compiled(store, base, path, place) as tree:
            layer = store.place(names.name("builder")).write_layer(tree_layer(tree, place))
        layers.append((layer, f"buildpack {one.ref}"))
        modules.setdefault(one.id, {})[one.version] = _module(one, layer)
    images: list[dict[str, object]] = [{"image": names.name("run"), "mirrors": []}]
    files = [
        file_entry("/cnb/order.toml", toml_bytes({"order": order})),
        file_entry("/cnb/run.toml", toml_bytes({"images": images})),
    ]
    layers.append((entries_layer([TarEntry.directory("/cnb"), *files]), "order and run image"))
    config = edit_config(
        base.config,
        working_dir="/layers",
        labels=dict(base.config.labels)
        | {
            METADATA: _dumps(_metadata([one for _, one in buildpacks], images)),
            LAUNCHER: _dumps(_launcher_metadata()),
            LAYERS: _dumps(SortedMap({key: SortedMap(value) for key, value in modules.items()})),
            ORDER: _dumps(order),
            BUNDLE: _bundle(),
            PACKAGES: _dumps(sort_maps(packages)),
        },
    )
    write_image(store.place(names.name("builder")), config, layers, below=base.layers)


def _directories() -> list[TarEntry]:
    own = [TarEntry.directory(path, uid=UID, gid=GID) for path in ("/layers", "/workspace")]
    roots = (
        "/cnb",
        "/cnb/buildpacks",
        "/cnb/build-config",
        "/cnb/build-config/env",
        "/platform",
        "/platform/env",
    )
    return [*own, *(TarEntry.directory(path) for path in roots)]


def _launcher(arch: str) -> list[TarEntry]:
    path = "/cnb/lifecycle/launcher"
    return [*parent_entries(path), file_entry(path, installation.launcher(arch), mode=0o755)]


def _module(descriptor: Descriptor, layer: Layer) -> dict[str, object]:
    targets = [{"os": one.os, "arch": one.arch} for one in descriptor.targets]
    return {
        "api": str(descriptor.api),
        "targets": targets,
        "layerDiffID": str(layer.diff_id),
        "name": descriptor.name,
    }


def _metadata(buildpacks: list[Descriptor], images: list[dict[str, object]]) -> dict[str, object]:
    """Makes pack's label, without `lifecycle`, because the builder has none."""
    return {
        "description": "the distribution's packages and packhorse's buildpacks",
        "buildpacks": [{"id": one.id, "version": one.version, "name": one.name} for one in buildpacks],
        "extensions": None,
        "stack": {"runImage": images[0]},
        "createdBy": {"name": "packhorse", "version": __version__},
        "images": images,
    }


def _launcher_metadata() -> dict[str, object]:
    platform = {"deprecated": [], "supported": [str(api) for api in PLATFORM_APIS]}
    return {"version": installation.launcher_version(), "apis": {"platform": platform}}


def _dumps(value: object) -> str:
    return json_bytes(value).decode()
