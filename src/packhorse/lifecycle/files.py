"""The specification's files for the values of `lifecycle.stages`, as the reference writes them.

(platform.md "Data Format".)
"""

from __future__ import annotations

from collections.abc import Sequence

from packhorse.base import gojson, gotoml
from packhorse.buildpack.launch import Process
from packhorse.image.place import Receipt
from packhorse.lifecycle.stages import Built, Member


def metadata_toml(built: Built) -> bytes:
    """`<layers>/config/metadata.toml`, which the launcher reads."""
    value: dict[str, object] = {}
    if built.default_process:
        value["buildpack-default-process-type"] = built.default_process
    value["buildpacks"] = [_member(member) for member in built.group]
    if built.labels:
        value["labels"] = [{"key": key, "value": text} for key, text in built.labels]
    value["processes"] = [_process(process) for process in built.processes]
    if built.slices:
        value["slices"] = [{} if paths is None else {"paths": list(paths)} for paths in built.slices]
    return gotoml.dumps(value)


def report_toml(tags: tuple[str, ...], receipt: Receipt) -> bytes:
    """report.toml (P-107, P-187): the digest for a registry, the image ID for an engine or the store."""
    image: dict[str, object] = {"tags": list(tags)}
    if receipt.manifest_digest is None:
        image["image-id"] = str(receipt.image_id)
    else:
        image["digest"] = str(receipt.manifest_digest)
        image["manifest-size"] = receipt.manifest_size
    return gotoml.dumps({"image": image})


def _member(member: Member) -> dict[str, object]:
    value: dict[str, object] = {"id": member.ref.id, "version": member.ref.version, "api": member.api}
    return value | ({"homepage": member.homepage} if member.homepage else {})


def _process(process: Process) -> dict[str, object]:
    value: dict[str, object] = {"type": process.type, "command": _command(process.command)}
    if process.args is not None:
        value["args"] = list(process.args)
    value |= {"direct": True, "buildpack-id": process.buildpack_id}
    if process.working_dir:
        value["working-dir"] = process.working_dir
    if process.exec_env:
        value["exec-env"] = list(process.exec_env)
    return value


def _command(words: Sequence[str]) -> gotoml.RawToml:
    """A command as the reference writes it: a TOML array of JSON strings, with `<`, `>` and `&` escaped.

    JSON leaves U+007F as it is and TOML forbids that. The reference cannot read such a file again.
    """
    strings = (gojson.dumps(word).decode().replace("\x7f", "\\u007f") for word in words)
    return gotoml.RawToml(f"[{', '.join(strings)}]")
