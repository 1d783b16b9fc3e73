"""What `packhorse build --publish` does beside building: asks first, and uploads the image to its registries.

Called by `plan` and `deliver`. The config of an image that is published says so: its base is the run image as
its registry has it, identified by digest (docs/decisions/0005).

report.toml (P-107, P-131): what an image that was written is identified by. Called by build and rebase.

Asks the places to which a build is to write whether they can be written, before it starts.

A build takes minutes, and what nobody can write shows then. Nothing is written here. Called by `plan`; the
registries of an image that is published are asked by `publish`.

Writes a finished image everywhere else it was asked for: tags, registries, outputs, report.

Called by `execute`, when the image is in the store under its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from packhorse.base.dataclass import replace
from packhorse.build.host import Host
from packhorse.build.request import BuildOutcome, BuildRequest
from packhorse.errors import InputError, NetworkError, StoreError
from packhorse.fleet.copy import run_image_layers
from packhorse.host.limits import trim
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.stages import Exported, report_toml
from packhorse.oci.files import require_directory, resolve_target
from packhorse.oci.place import Image, Place, Receipt, copy, count_bytes, push_image, write_layers
from packhorse.oci.reference import Location, LocationKind, Reference
from packhorse.store.layer_cache import LayerCounters


def location_of(name: Reference) -> Location:
    """Where an image of this name is published."""
    return Location(LocationKind.REGISTRY, "", str(name))


def check_registries(wiring: Wiring, names: Sequence[Reference]) -> None:
    """Begins an upload to each repository and gives it up: who may not write learns it before the build
    (P-028).

    Raises NetworkError, NotFoundError.
    """
    from packhorse.oci.registry.push import start_upload

    for name in {replace(name, tag=None, digest=None): name for name in names}.values():
        there = wiring.push_reference(name)
        session = start_upload(wiring.host(there.registry), there.repository)
        if session is not None:
            session.abandon()


def publish(
    wiring: Wiring, source: Place, names: Sequence[Reference], compression: str, observer: Observer
) -> tuple[tuple[Location, Receipt], ...]:
    """Brings the image to each of its names; raises what the registries raise.

    A further tag in a repository is given to the image that is there already: no layer is asked for again.
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
                observer.say(f"the image is in the store: `{again}` goes on with its upload")
                raise
            receipts.append((location, receipt))
    return tuple(receipts)


def write(directory: Path, name: str, receipt: Receipt, *, others: Sequence[str] = ()) -> None:
    """Writes the report on one image, and its other names, into a directory, which is made; InputError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.toml").write_bytes(report_toml((name, *others), receipt))
    except OSError as error:
        raise InputError(f"no report can be written to {directory}", why=error.strerror or "") from error


def check_destinations(wiring: Wiring, outputs: Iterable[Location], report: Path | None) -> None:
    """Raises what writing to the first of them that cannot be written would raise."""
    for location in outputs:
        path = Path(location.path)
        if location.kind is LocationKind.REGISTRY:
            check_registries(wiring, [location.reference])
        elif location.kind is LocationKind.DAEMON:
            wiring.check_engine()
        elif location.kind is LocationKind.OCI:
            _check_directory(_nearest_existing(path))  # directories above a layout are made
        else:
            parent = resolve_target(path).parent
            require_directory(parent)
            _check_directory(parent)
    if report is not None:
        problem = _problem(_nearest_existing(report))
        if problem:
            raise InputError(f"no report can be written to {report}", why=problem)


def _check_directory(directory: Path) -> None:
    problem = _problem(directory)
    if problem:
        raise StoreError(f"nothing can be written to {directory}", why=problem, fix="name another place")


def _nearest_existing(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    return next((each for each in (path, *path.absolute().parents) if os.path.lexists(each)), Path("/"))


def _problem(directory: Path) -> str:
    """Why no file can be made in a directory; empty when one can. Root may write wherever the disk may."""
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
    """Writes the image to its other names and places, and keeps what builds store within its limit."""
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
        write(request.report, str(request.name), receipt, others=[str(tag) for tag in request.tags])
    return BuildOutcome(exported, counters, copies, published)


def _write(
    request: BuildRequest, location: Location, source: Place, host: Host, observer: Observer
) -> Receipt:
    with observer.phase(f"write {location}"):
        image = source.read()
        sparse = request.sparse and location.kind is LocationKind.OCI
        without = run_image_layers(image, location) if sparse else frozenset()
        place = host.images.place(location, compression=request.compression, without=without)
        return push_image(image, place, meter=host.images.meter, name=f"writing {location}")
