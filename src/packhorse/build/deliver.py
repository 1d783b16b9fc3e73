"""Writes a finished image everywhere else it was asked for: tags, registries, outputs, report.

Called by `execute`, when the image is in the store under its name.
"""

from __future__ import annotations

from packhorse.build.host import Host
from packhorse.build.outcome import BuildOutcome
from packhorse.build.publish import publish
from packhorse.build.request import BuildRequest
from packhorse.image.copy import copy, push_image
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Location, LocationKind
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.stages import Exported
from packhorse.platform import kept_storage, report
from packhorse.platform.copies import run_image_layers
from packhorse.store.harvest import LayerCounters


def deliver(
    request: BuildRequest, host: Host, exported: Exported, counters: LayerCounters, observer: Observer
) -> BuildOutcome:
    """Writes the image to its other names and places, and keeps what builds store within its limit."""
    if counters.changed:
        kept_storage.trim(host.store, request.keep_storage, built=request.name, observer=observer)
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
        report.write(request.report, str(request.name), receipt, others=[str(tag) for tag in request.tags])
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
