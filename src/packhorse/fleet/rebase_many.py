"""Rebases many images at a time; a failure does not stop the others. Called by `cli.rebase`.

An interrupted command can simply be run again: it skips the images that are already on their run image.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from packhorse.base.dataclass import dataclass
from packhorse.base.threads import thread_pool
from packhorse.errors import PackhorseError
from packhorse.fleet.pipeline import map_in_order
from packhorse.fleet.rebase import rebase
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseResult
from packhorse.fleet.run_images import RunImages
from packhorse.host.wiring import Wiring
from packhorse.oci.reference import LocationKind

JOBS = 8
"""Images at a time: most of the time is waiting for a registry."""

_STOP_TIMEOUT = 3.0  # seconds that running work gets if the command is cancelled
_AHEAD = 4  # images per thread that are read ahead


@dataclass(frozen=True, slots=True)
class RebaseRow:
    """The result of one image: its `outcome` or its `error`."""

    request: RebaseRequest
    outcome: RebaseResult | None = None
    error: PackhorseError | None = None


def rebase_many(
    requests: Iterable[RebaseRequest], wiring: Wiring, run_images: RunImages, *, jobs: int = JOBS
) -> Iterator[RebaseRow]:
    """Rebases each image and yields its result, in the order of the requests.

    Only a few are in memory at a time. Raises the errors of `requests`, after the results of those before.
    """
    file_lock = threading.Lock()

    def work(request: RebaseRequest) -> RebaseRow:
        try:
            if request.location.kind is LocationKind.REGISTRY:
                return RebaseRow(request, rebase(request, wiring, run_images, jobs=1))
            with file_lock:  # one file may hold several images
                return RebaseRow(request, rebase(request, wiring, run_images))
        except PackhorseError as error:
            return RebaseRow(request, error=error)

    with thread_pool(jobs, "rebase", timeout=_STOP_TIMEOUT) as workers:
        yield from map_in_order(workers, work, requests, most=_AHEAD * jobs)
