"""What `packhorse build --publish` does beside building: asks first, and uploads the image to its registries.

Called by `plan` and `deliver`. The config of an image that is published says so: its base is the run image as
its registry has it, identified by digest (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Sequence

from packhorse.base.dataclass import replace
from packhorse.errors import NetworkError
from packhorse.image.copy import count_bytes, write_layers
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Location, LocationKind, Reference
from packhorse.image.view import Image
from packhorse.lifecycle.ports import Observer
from packhorse.platform.wiring import Wiring


def location_of(name: Reference) -> Location:
    """Where an image of this name is published."""
    return Location(LocationKind.REGISTRY, "", str(name))


def check(wiring: Wiring, names: Sequence[Reference]) -> None:
    """Begins an upload to each repository and gives it up: who may not write learns it before the build
    (P-028).

    Raises NetworkError, NotFoundError.
    """
    from packhorse.image.registry.upload import start_upload

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
