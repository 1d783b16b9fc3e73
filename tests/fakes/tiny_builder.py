"""Builds in this process of an app with shell buildpacks, in a tenth of a second each.

The builder is `fakes.foreign_builder`'s on a root of this machine's shell; store and sandbox are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes import foreign_builder, tiny_root
from fakes.observer import Quiet
from packhorse.base.digest import Digest
from packhorse.base.sandbox import Network
from packhorse.build.execute import execute
from packhorse.build.host import Host
from packhorse.build.images import Fetch
from packhorse.build.plan import BuildPlan, resolve
from packhorse.build.request import BuildOutcome, BuildRequest
from packhorse.host.wiring import Wiring
from packhorse.oci.place import push_image
from packhorse.oci.reference import Reference
from packhorse.store.store import Store

APP, BUILDER, RUN = (f"packhorse.local/acme/{name}" for name in ("app", "builder", "run"))


@dataclass
class TinyBuilder:
    """A store with the builder in it; `lines` has what the last build said."""

    store: Store
    lines: list[str] = field(default_factory=list)

    def build(self, app: Path, *buildpacks: Path, name: str = APP, **asked: Any) -> BuildOutcome:
        """Builds `app` with these buildpacks; `asked` are fields of a BuildRequest."""
        observer = Quiet()
        self.lines = observer.lines
        plan = resolve(self.request(app, *buildpacks, name=name, **asked), self.host, observer)
        return execute(plan, self.host, observer)

    def plan(self, app: Path, *buildpacks: Path, name: str = APP, **asked: Any) -> BuildPlan:
        """What such a build would do."""
        observer = Quiet()
        self.lines = observer.lines
        request = self.request(app, *buildpacks, name=name, **asked)
        return resolve(request, self.host, observer, fetch=Fetch.NOTHING)

    def request(self, app: Path, *buildpacks: Path, name: str = APP, **asked: Any) -> BuildRequest:
        """A request for such a build."""
        fields: dict[str, Any] = {"builder": BUILDER, "network": Network.NONE, **asked}
        return BuildRequest(
            name=Reference.parse(name), path=app, buildpacks=tuple(map(str, buildpacks)), **fields
        )

    @property
    def host(self) -> Host:
        """The services of a build in this store."""
        return Host(self.store, Wiring(self.store))

    def fresh(self) -> TinyBuilder:
        """The same store, for a build beside others."""
        return TinyBuilder(self.store)

    def left(self, name: str) -> object:
        """What the last build of `name` has left for the next."""
        record = (
            self.store.path / "caches" / f"{Digest.of(str(Reference.parse(name)).encode()).hex[:32]}.json"
        )
        fields: dict[str, object] = json.loads(record.read_text())
        return {key: fields[key] for key in ("metadata", "layers")}


@contextmanager
def tiny_builder(base: Path, *, programs: tuple[str, ...] = (), **changes: Any) -> Iterator[TinyBuilder]:
    """A builder in a store of its own, in the directory `base`. `changes` are for `builder_image`."""
    layer = foreign_builder.base(tiny_root.make(base / "root", programs=programs))
    with Store.open(base / "store") as store:
        image = foreign_builder.builder_image(layer, run=RUN, launcher=b"#!/bin/sh\n", **changes)
        push_image(image, store.place(BUILDER))
        push_image(foreign_builder.run_image(layer), store.place(RUN))
        yield TinyBuilder(store)
