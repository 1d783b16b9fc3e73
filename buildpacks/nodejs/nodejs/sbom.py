"""Writes the SBOMs: of the modules in the image, the application itself, Node.js and its npm.

Called by `buildpack` when everything is installed and what launch does not need is removed. `inventory` lists
the modules. If the modules were kept, their last SBOM is used again.
"""

from __future__ import annotations

from packhorse import sdk

from .node_modules import delete
from .runtime import Runtime
from .workspace import Workspace

_LAYER = "bill"


def write_sboms(
    context: sdk.BuildContext,
    workspace: Workspace,
    runtime: Runtime,
    lock: str,
    *,
    modules: sdk.Layer | None,
    bun: bool,
) -> None:
    """Writes the SBOMs of the image, of the layers `node` and `bun`, and of what only the build had.

    `lock` is the name of the lockfile. `modules` is the layer with all modules of the image, if there is one.
    `bun` says that Bun is in the image.
    """
    node = _tool_component("node", runtime.version, sdk.purl("generic", "node", runtime.version))
    npm = _tool_component("npm", runtime.npm, sdk.purl("npm", "npm", runtime.npm))
    _write_launch(context, workspace, lock, _provide_layer(context, workspace, lock, modules))
    context.write_sbom("build", sdk.Bill((npm,)))
    engines = {"node": node}
    if bun:
        version = context.recall("bun")["version"]
        engines["bun"] = _tool_component("bun", version, sdk.purl("npm", "bun", version))
    # Also for kept layers: their last SBOMs may have another format, or be unwanted now.
    for layer, component in engines.items():
        context.write_sbom(layer, sdk.Bill((component,)))


def _provide_layer(
    context: sdk.BuildContext, workspace: Workspace, lock: str, modules: sdk.Layer | None
) -> sdk.Layer | None:
    """The layer with the image's last SBOM, for modules that were kept; None without a layer of modules.

    Reading the manifests of hundreds of packages would take longer than the rest of an unchanged build.
    """
    if modules is None:
        delete(context.layers / _LAYER)
        delete(context.layers / f"{_LAYER}.toml")
        return None
    wanted = {name: value for name, value in context.env.items() if name == "BP_DISABLE_SBOM"}
    key = {"package.json": workspace.app.digest("package.json"), **wanted}
    if lock:
        key[lock] = workspace.app.digest(lock)
    return context.layer(_LAYER, key=key, cache=True, renew="" if modules.kept else "the modules are new")


def _write_launch(
    context: sdk.BuildContext, workspace: Workspace, lock: str, known: sdk.Layer | None
) -> None:
    if known is not None and known.kept:
        for path in known.path.iterdir():
            (context.layers / path.name).write_bytes(path.read_bytes())
        return
    from . import inventory

    bill = inventory.list_modules(
        workspace, within=(context.app, context.layers), plugged=context.layers / "modules", lock=lock
    )
    context.write_sbom("launch", bill)
    if known is not None:
        for path in context.layers.glob("launch.sbom.*"):
            (known.path / path.name).write_bytes(path.read_bytes())


def _tool_component(name: str, version: str, purl: str) -> sdk.Component:
    licence = {"node": "MIT", "npm": "Artistic-2.0", "bun": "MIT"}[name]
    return sdk.Component(name, version, purl, licence=licence, kind="application")
