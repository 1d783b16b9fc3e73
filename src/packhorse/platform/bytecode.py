"""A buildpack in Python as a builder has it: with the bytecode that the builder's own python3 makes of it.

Else each of its steps would compile it again, a third of its time when nothing has changed. Called by
`platform.default_builder`, before any arrow.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packhorse.base import userns
from packhorse.base.step import Bind, Network, Root, SandboxSpec
from packhorse.base.tree import TreeView
from packhorse.errors import HostError
from packhorse.image.view import Image
from packhorse.platform import wiring
from packhorse.source import app
from packhorse.store.store import Store

# The bytecode is of what stands beside it, whenever that was written (PEP 552), and the same in every run.
_COMPILE = (
    *("/usr/bin/python3", "-S", "-s", "-P", "-m"),
    *("compileall", "-q", "--invalidation-mode", "checked-hash"),
)
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}


@contextmanager
def open_compiled(store: Store, base: Image, source: Path, place: str) -> Iterator[TreeView]:
    """A tree that has the buildpack `source` at `place`, beside each module what the python3 of `base` makes
    of it.

    `base` is in the store. Raises HostError when that python3 cannot; whatever keeps a sandbox from being
    made.
    """
    said: list[bytes] = []
    with store.scratch() as scratch, userns.make_namespace(userns.choose_map()) as namespace:
        copied = scratch / "buildpack"
        spec = SandboxSpec(
            (*_COMPILE, place),
            _ENVIRONMENT,
            root=Root(store.root(base, namespace.idmap)),
            mounts=(Bind(copied, place, writable=True),),
            network=Network.NONE,
        )
        app.copy(source, copied, namespace.idmap.to_outside(spec.uid, spec.gid))
        # What an installer has made for its own Python is none of the builder's, or is taken for current.
        for cache in list(copied.rglob("__pycache__")):
            shutil.rmtree(cache)
        (scratch / "sandbox").mkdir()
        with wiring.make_runner(namespace, scratch / "sandbox").open(spec) as room:
            if room.run(said.append).status != 0:
                raise HostError(
                    "the buildpacks cannot be compiled",
                    why=b"".join(said).decode(errors="replace").strip()[-500:],
                    check="installation",
                )
            yield room.tree
