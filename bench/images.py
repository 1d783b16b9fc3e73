"""App images on an old run image, and the new one: in a registry of the benchmark's own, or anywhere.

Called by the scenarios.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fakes.app_image import App
from fakes.small_image import stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.http.transport import make_client
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.registry.push import put_manifest

_LABELS = {"io.buildpacks.base.id": "acme", "io.buildpacks.base.distro.name": "acmelinux"}
_OLD, _NEW = ([tar_of({f"usr/{age}{n}": age.encode() * 50_000}) for n in range(3)] for age in ("old", "new"))
_OWN = {f"acme/pack{n}:layer": tar_of({f"layers/{n}/x": bytes([n]) * 50_000}) for n in range(6)}


def patched() -> Image:
    """The new run image."""
    return stored_image(*_NEW, labels=_LABELS)


def app_on(run_image: str, layers: Mapping[str, bytes]) -> Image:
    """An app image on the old run image, which had this name."""
    run = {"topLayer": str(Digest.of(_OLD[-1])), "reference": "unknown", "image": run_image}
    return App(base=_OLD, layers=layers, lifecycle={"runImage": run}, labels=_LABELS).image()


class Images:
    """The images of one registry."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._registry = Registry(host, make_client())
        self._app = app_on(f"{host}/acme/run", _OWN)
        self._put("acme/run", patched())

    def make(self, repositories: Iterable[str], *, tags: int = 0) -> list[str]:
        """App images on the old run image, in these repositories; `tags` of each beside `latest`."""
        names = []
        for repository in repositories:
            self._put(repository, self._app)
            names.append(f"{self._host}/{repository}")
            if self._app.manifest:
                for number in range(tags):
                    put_manifest(self._registry, repository, f"v{number}", self._app.manifest)
        return names

    def _put(self, repository: str, image: Image) -> None:
        reference = Reference.parse(f"{self._host}/{repository}")
        push_image(image, RegistryPlace(reference, self._registry, target=Target.host()))
