"""Rebases many images side by side; one that fails does not stop the others. Called by `cli.rebase`.

The images themselves record what was done: a second run skips those that are on their run image already, so
an interrupted run is simply started again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from packhorse.base.dataclass import dataclass
from packhorse.base.threads import thread_pool
from packhorse.errors import PackhorseError
from packhorse.fleet.rebase import rebase
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseResult
from packhorse.fleet.run_images import RunImages
from packhorse.host.wiring import Wiring
from packhorse.oci.reference import LocationKind

JOBS = 8
"""How many images are worked on at the same time: nearly all of it is waiting for a registry."""

_PATIENCE = 3.0  # seconds for what is under way when all is called off
_AHEAD = 4  # images for each thread that are taken from a list before they can be worked on


@dataclass(frozen=True, slots=True)
class RebaseRow:
    """What became of one image of several: `outcome`, or the `error` that it ended in."""

    request: RebaseRequest
    outcome: RebaseResult | None = None
    error: PackhorseError | None = None


def rebase_many(
    requests: Iterable[RebaseRequest], wiring: Wiring, run_images: RunImages, *, jobs: int = JOBS
) -> Iterator[RebaseRow]:
    """Rebases each image and tells what became of it, in the order of the requests.

    However many there are, few are in memory. Raises what `requests` raises, after the rows of those before.
    """
    alone = threading.Lock()

    def work(request: RebaseRequest) -> RebaseRow:
        try:
            if request.location.kind is LocationKind.REGISTRY:
                return RebaseRow(request, rebase(request, wiring, run_images, jobs=1))
            with alone:  # several names may lie in one file
                return RebaseRow(request, rebase(request, wiring, run_images))
        except PackhorseError as error:
            return RebaseRow(request, error=error)

    waiting: deque[Future[RebaseRow]] = deque()
    with thread_pool(jobs, "rebase", timeout=_PATIENCE) as workers:
        source = iter(requests)
        try:
            for request in source:
                waiting.append(workers.submit(work, request))
                while waiting[0].done() or len(waiting) > _AHEAD * jobs:
                    yield waiting.popleft().result()
                    if not waiting:
                        break
        except PackhorseError as error:
            yield from (future.result() for future in waiting)
            raise error
        yield from (waiting.popleft().result() for _ in range(len(waiting)))
