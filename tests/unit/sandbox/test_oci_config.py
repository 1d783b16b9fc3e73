"""A step becomes an OCI runtime's config.json and the mounts of its tree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packhorse.base.sandbox import Bind, Network, Overlay, Root, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.sandbox.mounts import Layout
from packhorse.sandbox.oci import make_config, make_mounts
from packhorse.sandbox.seccomp import CAPABILITIES

LAYOUT = Layout(Path("/points"), place=lambda target: f"/moved{target}", masked=("/proc/keys",))
STEP = SandboxSpec(argv=("/bin/build",), root=Root(Path("/root-tree")), hostname="builder")


def config(spec: SandboxSpec, user: tuple[int, int] = (1000, 1000)) -> dict[str, Any]:
    return make_config(spec, LAYOUT, root="/run/root", user=user)


def mount(made: Bind | Overlay) -> dict[str, Any]:
    _, one = make_mounts(replace(STEP, mounts=(made,)), LAYOUT)
    return dict(one)


def test_a_root_is_read_only_over_the_mount_points() -> None:
    (root,) = make_mounts(STEP, LAYOUT)
    assert (root["target"], root["lowers"], root["upper"]) == ("/", ["/points", "/root-tree"], "")


def test_a_root_with_an_upper_is_written_there() -> None:
    (root,) = make_mounts(replace(STEP, root=Root(Path("/t"), Path("/up"), Path("/work"))), LAYOUT)
    assert (root["lowers"], root["upper"], root["work"]) == (["/points", "/t"], "/up", "/work")


@pytest.mark.parametrize(
    ("made", "source", "lowers", "upper", "writable"),
    [
        (Bind(Path("/a"), "/b"), "/a", [], "", False),
        (Bind(Path("/a"), "/b", writable=True), "/a", [], "", True),
        (Overlay((Path("/l"),), "/b"), "/l", [], "", False),
        (Overlay((Path("/l"), Path("/m")), "/b"), "", ["/l", "/m"], "", False),
        (Overlay((), "/b", Path("/u"), Path("/w")), "/u", [], "", True),
        (Overlay((Path("/l"),), "/b", Path("/u"), Path("/w")), "", ["/l"], "/u", True),
    ],
)
def test_each_mount_goes_to_its_place(
    made: Bind | Overlay, source: str, lowers: list[str], upper: str, writable: bool
) -> None:
    found = mount(made)
    assert found.pop("work") == ("/w" if upper else "")
    assert found == {
        "target": "/moved/b",
        "source": source,
        "lowers": lowers,
        "upper": upper,
        "writable": writable,
    }


def test_an_overlay_of_nothing_is_an_error() -> None:
    with pytest.raises(SandboxError, match="/b"):
        mount(Overlay((), "/b"))


def test_a_step_without_a_root_is_an_error() -> None:
    with pytest.raises(SandboxError, match="root file system"):
        make_mounts(replace(STEP, root=None), LAYOUT)


def test_only_the_hosts_network_is_shared() -> None:
    def namespaces(network: Network) -> set[str]:
        found = config(replace(STEP, network=network))["linux"]["namespaces"]
        return {namespace["type"] for namespace in found}

    others = {"mount", "pid", "ipc", "uts", "cgroup"}
    assert namespaces(Network.HOST) == others
    assert namespaces(Network.OWN) == namespaces(Network.NONE) == others | {"network"}


def test_only_root_inside_has_capabilities_and_those_of_docker_only() -> None:
    def capabilities(spec: SandboxSpec, user: tuple[int, int]) -> set[str]:
        (found,) = {tuple(names) for names in config(spec, user)["process"]["capabilities"].values()}
        return set(found)

    assert capabilities(STEP, (1000, 1000)) == set()
    assert capabilities(replace(STEP, uid=0, gid=0), (0, 0)) == set(CAPABILITIES)
    assert capabilities(STEP, (0, 0)) == {"CAP_SETFCAP"}  # to give its single id away, and with it this


def test_the_command_and_its_environment_are_not_in_it() -> None:
    process = config(replace(STEP, env={"TOKEN": "x"}))["process"]
    assert process["env"] == []
    assert process["noNewPrivileges"] is True
    assert process["args"][0] == "/proc/self/fd/4"


def test_the_kernels_files_are_masked_and_read_only() -> None:
    linux = config(STEP)["linux"]
    assert linux["maskedPaths"] == ["/proc/keys"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert "/sys" not in {mount["destination"] for mount in config(STEP)["mounts"]}
