"""App images in a registry of the benchmark's own, and run images to put them on. Called by the scenarios."""

from __future__ import annotations

from collections.abc import Iterable

from fakes.app_image import App
from fakes.small_image import stored_image, tar_of
from packhorse.base.http.pool import connect
from packhorse.base.target import Target
from packhorse.image.copy import put
from packhorse.image.reference import Reference
from packhorse.image.registry.client import Registry
from packhorse.image.registry.place import RegistryPlace
from packhorse.image.registry.upload import put_manifest
from packhorse.image.view import Image

LABELS = {"io.buildpacks.base.id": "acme", "io.buildpacks.base.distro.name": "acmelinux"}
OLD, NEW = ([tar_of({f"usr/{age}{n}": age.encode() * 50_000}) for n in range(3)] for age in ("old", "new"))
OWN = {f"acme/pack{n}:layer": tar_of({f"layers/{n}/x": bytes([n]) * 50_000}) for n in range(6)}


class Images:
    """The images of one registry."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._registry = Registry(host, connect())
        run = App()._lifecycle()["runImage"] | {"image": f"{host}/acme/run", "mirrors": []}
        self._app = App(
            base=OLD, layers=OWN, lifecycle={"runImage": run | {"topLayer": _top()}}, labels=LABELS
        )
        self._put("acme/run", stored_image(*NEW, labels=LABELS))

    def make(self, repositories: Iterable[str], *, tags: int = 0) -> list[str]:
        """App images on the old run image, in these repositories; `tags` of each beside `latest`."""
        image, names = self._app.image(), []
        for repository in repositories:
            self._put(repository, image)
            names.append(f"{self._host}/{repository}")
            if image.manifest:
                for number in range(tags):
                    put_manifest(self._registry, repository, f"v{number}", image.manifest)
        return names

    def _put(self, repository: str, image: Image) -> None:
        reference = Reference.parse(f"{self._host}/{repository}")
        put(image, RegistryPlace(reference, self._registry, target=Target.host()))


def _top() -> str:
    from packhorse.base.digest import Digest

    return str(Digest.of(OLD[-1]))
