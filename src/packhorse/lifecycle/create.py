"""The spine of packhorse: makes an image from source, with one statement for each phase.

Phases are functions of values and ports, and none calls another. `build.execute` calls `create` on a host,
where the runner is a sandbox and the cache keeps directory trees.
"""

from __future__ import annotations

from contextlib import ExitStack

from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.build import build
from packhorse.lifecycle.detect import detect
from packhorse.lifecycle.export import export
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.ports import AppLayerCache, LayerCache, Observer, Runner, SandboxPurpose
from packhorse.lifecycle.restore import choose_layers, restore
from packhorse.lifecycle.stages import Exported
from packhorse.oci.place import Image, Place


def create(
    inputs: Inputs,
    *,
    run_image: Image,
    run_reference: str,
    previous: Place | None,
    target: Place,
    runner: Runner,
    cache: LayerCache,
    observer: Observer,
    app_cache: AppLayerCache | None = None,
) -> Exported:
    """Builds one image and writes it to `target` (platform.md "creator", P-114).

    `run_image` is the base, and `run_reference` identifies it at a later rebase. `previous` has the last
    image of this app. Raises what the phases raise; after an error `target` has no new image.
    """
    with observer.phase("analyze"):
        analyzed = analyze(run_image, run_reference, previous)
    with observer.phase("detect"):
        detected = detect(inputs, analyzed.target, runner=runner, observer=observer)
    with ExitStack() as stack:
        with observer.phase("restore"):
            chosen = choose_layers(inputs, analyzed, detected, cache=cache, observer=observer)
            sandbox = stack.enter_context(runner.open(SandboxPurpose.BUILD))
            restored = restore(inputs, analyzed, chosen, tree=sandbox.tree, observer=observer)
        with observer.phase("build"):
            built = build(
                inputs,
                analyzed.target,
                detected,
                restored,
                runner=runner,
                sandbox=sandbox,
                observer=observer,
            )
        with observer.phase("export"):
            return export(
                inputs,
                analyzed,
                built,
                tree=runner.result_tree(),
                cache=cache,
                target=target,
                observer=observer,
                app_cache=app_cache,
            )
