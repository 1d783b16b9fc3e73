"""Finds run images for a rebase, each once for all images that need it. Called by `rebase_plan`.

For an image in a registry, packhorse reads the run image in its registry, preferably the same one, and
identifies it by its digest. For any other image it pulls the run image into the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from packhorse.base.target import Target
from packhorse.errors import FormatError, NetworkError, NotFoundError, PackhorseError
from packhorse.host.locate import LOCAL_REGISTRY, PullPolicy, fetch_image
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.rebase import RunImage
from packhorse.oci.reference import Location, LocationKind, Reference


class RunImages:
    """Finds and remembers the run images of one command. Several threads may use it."""

    def __init__(
        self, wiring: Wiring, *, say: Callable[[str], None], policy: PullPolicy = PullPolicy.ALWAYS
    ) -> None:
        self._wiring = wiring
        self._say = say
        self._policy = policy
        self._found: dict[tuple[object, ...], RunImage | PackhorseError] = {}
        self._looking: dict[tuple[object, ...], threading.Lock] = {}
        self._lock = threading.Lock()

    def find(self, names: Sequence[str], location: Location, target: Target) -> RunImage:
        """Returns the first of `names` that exists, trying those in the registry of `location` first.

        If none exists, raises the error of the first.
        """
        registry = location.reference.registry if location.kind is LocationKind.REGISTRY else ""
        near = sorted(names, key=lambda name: Reference.parse(name).registry != registry)
        key = (*near, bool(registry), target)
        with self._lock:
            looking = self._looking.setdefault(key, threading.Lock())
        with looking:
            if key not in self._found:
                try:
                    self._found[key] = self._first(near, target, remote=bool(registry))
                except PackhorseError as error:
                    self._found[key] = error  # so that the next image does not ask again
            found = self._found[key]
        if isinstance(found, PackhorseError):
            raise found
        return found

    def _first(self, names: Sequence[str], target: Target, *, remote: bool) -> RunImage:
        failures: list[NetworkError | NotFoundError] = []
        for name in names:
            try:
                if remote and Reference.parse(name).registry != LOCAL_REGISTRY:
                    return self._remote(name, target)
                return self._local(name, target)
            except (NetworkError, NotFoundError) as error:
                failures.append(error)
        raise failures[0]

    def _remote(self, name: str, target: Target) -> RunImage:
        reference = Reference.parse(name)
        image = self._wiring.registry(reference, target).read()
        if image.manifest is None:
            raise FormatError(f"{name} cannot be a run image", why="it has no manifest")
        return RunImage(image, name, reference.pinned_name(image.manifest.digest))

    def _local(self, name: str, target: Target) -> RunImage:
        image = fetch_image(self._wiring, name, target=target, say=self._say, pull=self._policy)
        return RunImage(image, name, image.id.hex)
