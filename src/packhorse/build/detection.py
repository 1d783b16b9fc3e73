"""Runs detection alone, for `packhorse detect`: which group of buildpacks would build, and why."""

from __future__ import annotations

from packhorse.build.execute import BuildObserver, open_attempt, prepare
from packhorse.build.host import Host
from packhorse.build.plan import BuildPlan
from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.detect import try_detect
from packhorse.lifecycle.stages import Detection


def detect(plan: BuildPlan, host: Host, observer: BuildObserver) -> Detection:
    """Asks the buildpacks of a plan whether they take its source; the store gets no image.

    Raises the errors of a build that cannot begin. That no group takes the source is an outcome.
    """
    prepared = prepare(plan, host, observer)
    run_image = prepared.images.run_image
    with (
        observer.phase("detect"),
        open_attempt(prepared, observer, copied=not prepared.plan.overlays) as attempt,
    ):
        analyzed = analyze(run_image.image, run_image.reference, None)
        return try_detect(attempt.inputs, analyzed, runner=attempt.runner, observer=observer)
