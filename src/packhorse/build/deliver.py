"""Writes a finished image to its other destinations: tags, registries, outputs and report.toml.

`execute` calls `deliver` when the image is in the store under its name. `plan` calls the checks before the
build starts: a build takes minutes, and a user should learn before it that a destination cannot be written.
The checks write nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from packhorse.build.host import Host
from packhorse.build.request import BuildOutcome, BuildRequest
from packhorse.errors import InputError, NetworkError, StoreError
from packhorse.host.limits import trim
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.labels import Bom
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.stages import Exported, report_toml
from packhorse.oci.place import Image, Place, Receipt, copy, count_bytes, push_image, write_layers
from packhorse.oci.reference import Location, LocationKind, Reference
from packhorse.store.layer_cache import LayerCounters


def location_of(name: Reference) -> Location:
    """Where an image of this name is published."""
    return Location(LocationKind.REGISTRY, "", str(name))


def publish(
    wiring: Wiring, source: Place, names: Sequence[Reference], compression: str, observer: Observer
) -> tuple[tuple[Location, Receipt], ...]:
    """Pushes the image to each of its names; raises the errors of the registries.

    The layers are pushed once for each repository; further tags there get the same image.
    """
    image, receipts = source.read(), []
    uploaded: dict[str, Image] = {}
    for name, location in zip(names, map(location_of, names), strict=True):
        place = wiring.place(location, compression=compression)
        repository = wiring.push_reference(name).name
        with (
            observer.phase(f"publish {location.name}"),
            count_bytes(image, wiring.meter, f"publishing {location.name}") as read,
        ):
            try:
                if repository not in uploaded:
                    uploaded[repository] = write_layers(read, place)
                receipt = place.write_image(uploaded[repository])
            except NetworkError:
                again = f"packhorse copy {names[0].familiar} {location}"
                observer.say(f"the image is in the store: `{again}` continues the upload")
                raise
            receipts.append((location, receipt))
    return tuple(receipts)


def write(
    directory: Path, name: str, receipt: Receipt, *, others: Sequence[str] = (), build_bom: Bom = ()
) -> None:
    """Writes report.toml (P-107, P-131) into a directory, which is created if missing; raises InputError.

    `name` and `others` are the names of the image, `receipt` identifies it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.toml").write_bytes(report_toml((name, *others), receipt, build_bom))
    except OSError as error:
        raise InputError(f"no report can be written to {directory}", why=error.strerror or "") from error


def check_destinations(
    wiring: Wiring, outputs: Iterable[Location], report: Path | None, sboms: Path | None = None
) -> None:
    """Checks that every output, the report and the SBOM files can be written.

    Raises the error that writing would raise, for the first destination that cannot be written.
    """
    from packhorse.oci.files import require_directory, resolve_target  # most builds write to the store alone

    for location in outputs:
        path = Path(location.path)
        if location.kind is LocationKind.REGISTRY:
            wiring.check_push([location.reference])
        elif location.kind is LocationKind.DAEMON:
            wiring.check_engine()
        elif location.kind is LocationKind.OCI:
            check_directory(path)  # missing directories above a layout are created
        else:
            parent = resolve_target(path).parent
            require_directory(parent)
            check_directory(parent)
    for what, directory in (("report", report), ("SBOM", sboms)):
        problem = _problem(_nearest_existing(directory)) if directory is not None else ""
        if problem:
            raise InputError(f"no {what} can be written to {directory}", why=problem)


def check_directory(directory: Path) -> None:
    """Checks that a directory can be written, or made; raises StoreError."""
    problem = _problem(_nearest_existing(directory))
    if problem:
        raise StoreError(f"nothing can be written to {directory}", why=problem, fix="name another place")


def _nearest_existing(path: Path) -> Path:
    """The path itself if it exists, else its nearest parent that does."""
    return next((each for each in (path, *path.absolute().parents) if os.path.lexists(each)), Path("/"))


def _problem(directory: Path) -> str:
    """Why no file can be made in a directory; "" if one can. Root is only stopped by a read-only disk."""
    if not directory.is_dir():
        return f"{directory} is not a directory"
    if os.access(directory, os.W_OK | os.X_OK):
        return ""
    try:
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    except OSError as error:
        return error.strerror or ""
    return "its file system is read-only" if read_only else "this user may not write there"


def deliver(
    request: BuildRequest, host: Host, exported: Exported, counters: LayerCounters, observer: Observer
) -> BuildOutcome:
    """Writes the image to its other names and destinations, and trims the kept layers to their limit."""
    if counters.changed:
        trim(host.store, request.keep_storage, built=request.name, observer=observer)
    built = host.store.place(str(request.name))
    for tag in request.tags:
        copy(built, host.store.place(str(tag)))
    copies = (
        publish(host.images, built, request.names, request.compression, observer) if request.publish else ()
    )
    published = copies[0][1] if copies else None
    copies += tuple(
        (location, _write(request, location, built, host, observer)) for location in request.outputs
    )
    if request.report is not None:
        receipt = published or Receipt(exported.image.id)
        tags = [str(tag) for tag in request.tags]
        write(request.report, str(request.name), receipt, others=tags, build_bom=exported.build_bom)
    return BuildOutcome(exported, counters, copies, published)


def _write(
    request: BuildRequest, location: Location, source: Place, host: Host, observer: Observer
) -> Receipt:
    from packhorse.fleet.copy import run_image_layers  # most builds write to the store alone

    with observer.phase(f"write {location}"):
        image = source.read()
        sparse = request.sparse and location.kind is LocationKind.OCI
        without = run_image_layers(image, location) if sparse else frozenset()
        place = host.images.place(location, compression=request.compression, without=without)
        return push_image(image, place, meter=host.images.meter, name=f"writing {location}")
