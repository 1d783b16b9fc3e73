"""Runs detection alone, for `packhorse detect`: which group of buildpacks would build, and why."""

from __future__ import annotations

from packhorse.build.execute import BuildObserver, Work, opened_runner, prepare
from packhorse.build.host import Host
from packhorse.build.plan import BuildPlan
from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.detect import examine
from packhorse.lifecycle.stages import Detection
from packhorse.platform.crossing import Listener
from packhorse.platform.shown_source import SeveralOwners
from packhorse.source.survey import Survey


def detect(plan: BuildPlan, host: Host, observer: BuildObserver) -> Detection:
    """Asks the buildpacks of a plan whether they take its source; the store gets no image.

    Raises the errors of a build that cannot begin. That no group takes the source is an outcome.
    """
    work = prepare(plan, host, observer)
    with observer.phase("detect"):
        try:
            return _ask(work, observer, known=None)
        except SeveralOwners as several:
            return _ask(work, observer, known=several.survey)


def _ask(work: Work, observer: BuildObserver, *, known: Survey | None) -> Detection:
    run_image, listener = work.images.run_image, Listener(observer)
    with opened_runner(work, listener, copied=not work.plan.overlays, known=known) as ready:
        analyzed = analyze(run_image.image, run_image.reference, None)
        detection = examine(ready.inputs, analyzed, runner=ready.runner, observer=listener)
        ready.source.settle()  # else buildpacks may have seen files that were not theirs to read
        return detection
