"""Describes a build plan as JSON values, for `packhorse build --dry-run`.

cli prints the description as JSON or as text. It has the names of variables but not their values, which may
be secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packhorse.base.sandbox import Bind
from packhorse.build.host import Host
from packhorse.build.plan import BuildPlan, ImagesPlan
from packhorse.build.runner import TEMPORARY
from packhorse.errors import FormatError, NotFoundError
from packhorse.host.limits import NAMES
from packhorse.spec.buildpack_toml import Order, Ref

UNKNOWN_BUILDER = "the builder, its buildpacks and the run image: the default builder is not made yet"
UNKNOWN_HOME = "the home directory of the builder's user: the builder's files are not unpacked for the plan"


def describe(plan: BuildPlan, host: Host) -> dict[str, Any]:
    """Describes the plan; `host` tells which images the build still has to fetch."""
    request, images = plan.request, plan.images
    return {
        "name": str(request.name),
        "tags": [str(tag) for tag in request.tags],
        "publish": request.publish,
        "outputs": [str(location) for location in request.outputs],
        "report": _text(request.report),
        "sboms": _text(request.sboms),
        "cache_image": _text(request.cache_image),
        "cache_directory": _text(request.cache_directory),
        "cache_name": request.cache_name or None,
        "source": {
            "path": str(plan.path),
            "left_out": list(plan.excluded),
            "project": {
                "exclude": list(plan.project.exclude),
                "include": list(plan.project.include),
                "env": sorted(plan.project.env),
                "ignore_file": plan.project.ignore_file or None,
                "builder": plan.project.builder or None,
                "group": [entry.name for entry in plan.project.group],
                "pre": [entry.name for entry in plan.project.pre],
                "post": [entry.name for entry in plan.project.post],
            },
        },
        "builder": _builder(images, host) if images else None,
        "run_image": _run_image(images, host) if images else None,
        "target": str(images.target) if images else None,
        "order": _order(images.order) if images else None,
        "buildpacks": [
            {
                "id": each.ref.id,
                "version": each.ref.version,
                "directory": _text(each.directory),
                "package": str(each.package.id) if each.package else None,
                "locator": each.origin or None,
                "inline": each.script is not None,
            }
            for each in (images.named.all if images else ())
        ],
        "system_buildpacks": request.system_buildpacks,
        "previous": {
            "image": str(plan.previous.image),
            "id": _text(plan.previous.image_id),
            "layers_of": None if request.clear_cache else plan.previous.layers_name,
        },
        "layers": {
            "kind": "overlay" if plan.overlays else "copy",
            "copied_for": list(images.copied_buildpacks) if images else [],
        },
        "mounts": list(_mounts(plan)),
        "env": sorted(plan.env),
        "network": plan.network.value,
        "loopback_ports": list(plan.loopback_ports),
        "sandbox": request.sandbox or "bubblewrap",
        "limits": _limits(plan),
        "launcher": request.launcher or "builder",
        "default_process": request.default_process or None,
        "exec_env": images.exec_env if images else request.exec_env,
        "created": request.created,
        "labels": dict(request.labels),
        "provenance": images.provenance.fields() if images else None,
        "unknown": [UNKNOWN_HOME] if images else [UNKNOWN_BUILDER, UNKNOWN_HOME],
    }


def _mounts(plan: BuildPlan) -> Iterator[dict[str, Any]]:
    """The mounts over the builder's files. A new, empty directory has no source."""
    how = "overlay" if plan.overlays else "copy"
    yield _mount(plan.request.workspace, how, plan.path, writable=True)
    yield _mount("/layers", how, None, writable=True)
    for target in TEMPORARY:
        yield _mount(target, "new", None, writable=True)
    yield _mount("/platform", "new", None, writable=False)
    named = plan.images.named.all if plan.images else ()
    members = [member for each in named for member in each.members]
    directories = [Bind(each.directory, each.target) for each in members if each.directory is not None]
    for bind in (*plan.host_network.mounts, *directories, *plan.volumes):
        yield _mount(bind.target, "bind", bind.source, writable=bind.writable)
    for each in members:
        if each.package is not None:
            yield _mount(each.target, "package", f"image {each.package.id}", writable=False)


def _mount(target: str, kind: str, source: Path | str | None, *, writable: bool) -> dict[str, Any]:
    return {"target": target, "kind": kind, "source": _text(source), "writable": writable}


def _is_stored(image_id: object, host: Host) -> bool:
    """Whether the store has the image. If not, the build fetches it."""
    try:
        host.store.place(str(image_id)).read()
    except (NotFoundError, FormatError):
        return False
    return True


def _builder(images: ImagesPlan, host: Host) -> dict[str, Any]:
    builder = images.builder
    return {
        "name": builder.name,
        "id": str(builder.image_id),
        "fetch": not _is_stored(builder.image_id, host),
        "uid": builder.uid,
        "gid": builder.gid,
        "platform_api": str(images.platform_api),
    }


def _run_image(images: ImagesPlan, host: Host) -> dict[str, Any]:
    run_image = images.run_image
    return {
        "name": run_image.name.image,
        "id": str(run_image.image_id),
        "fetch": not _is_stored(run_image.image_id, host),
        "reference": run_image.reference,
    }


def _order(order: Order) -> list[list[dict[str, Any]]]:
    return [[_ref(ref) for ref in group] for group in order]


def _ref(ref: Ref) -> dict[str, Any]:
    return {"id": ref.id, "version": ref.version, "optional": ref.optional}


def _limits(plan: BuildPlan) -> Mapping[str, int | None]:
    """The limits by their names for --limit; None means no limit."""
    return {name: getattr(plan.limits, name.replace("-", "_")) or None for name in NAMES}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
