"""Builders that attack: links where packhorse mounts and reads; accounts, variables, labels that lead out."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from fakes import attack, foreign_builder, tiny_root, users
from fakes.attack import RUN, Done, Ground
from fakes.foreign_builder import Tar
from fakes.installation import Home
from fakes.users import RANGE
from lanes import torture
from packhorse.base.installation import launcher
from packhorse.oci.layout import Layout
from packhorse.oci.place import push_image
from packhorse.report.builder import METADATA, ORDER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

BELOW = "cnb/buildpacks/foreign_shell/2.1.0"


@dataclass(frozen=True)
class Case:
    """A builder: what lies on top of a good one, and what its build says (empty: it succeeds).

    `outside` stands in `links`, and in `files`, for a directory of this machine as it would be named from
    inside through /proc/1/root.
    """

    says: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    pipes: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    everywhere: bool = False

    def layer(self, outside: str) -> bytes:
        tar = Tar()
        for name, target in self.links.items():
            tar.link(name, target.format(outside=outside))
        for name, text in self.files.items():
            tar.file(name, text.format(outside=outside), mode=0o755)
        for name in self.pipes:
            tar.special(name, tarfile.FIFOTYPE)
        return tar.close()


def ordered(identifier: str, version: str) -> dict[str, str]:
    return {ORDER: json.dumps([{"group": [{"id": identifier, "version": version}]}])}


MOUNTS = ("workspace", "layers", "tmp", "var/tmp", "home/builder", "etc/hosts", "etc/resolv.conf")
PASSWD = "root:x:0:0::/root:/bin/sh\nbuilder:x:1001:1002::{home}:/bin/sh\n"
KERNELS = "which is the kernel's"
CASES = {
    # Where something is mounted.
    **{
        f"{name} leads out": Case(KERNELS, {name: "{outside}/made"}, everywhere=name in ("tmp", "etc/hosts"))
        for name in MOUNTS
    },
    "proc is a link": Case("its /proc is a link", {"proc": "/tmp"}),
    "dev is a link": Case("its /dev is a link", {"dev": "/tmp"}),
    "workspace is etc": Case("", {"workspace": "/etc"}),
    "workspace is above": Case(
        "/workspace: No such file or directory", {"workspace": "../../../../../../tmp/made"}
    ),
    "layers in a circle": Case("links there lead in a circle", {"layers": "/layers2", "layers2": "/layers"}),
    # Where something is read.
    "launcher leads out": Case("the builder has no launcher", {"cnb/lifecycle/launcher": "{outside}/canary"}),
    "launcher is a kernel file": Case(
        "is not a file of the tree", {"cnb/lifecycle/launcher": "/proc/version"}
    ),
    "launcher is a pipe": Case("is not a regular file", pipes=("cnb/lifecycle/launcher",)),
    "buildpack.toml leads out": Case(
        "the builder has no buildpack", {f"{BELOW}/buildpack.toml": "{outside}/canary"}
    ),
    "buildpack.toml is a pipe": Case("is not a regular file", pipes=(f"{BELOW}/buildpack.toml",)),
    "detect leads out": Case("no buildpack takes", {f"{BELOW}/bin/detect": "{outside}/program"}),
    "build leads out": Case("cannot be run", {f"{BELOW}/bin/build": "{outside}/program"}),
    "passwd leads out": Case("", {"etc/passwd": "{outside}/canary"}),
    "passwd is a pipe": Case("is not a regular file", pipes=("etc/passwd",)),
    "build-config leads out": Case("", {"cnb/build-config": "{outside}"}),
    # Homes.
    "home leads out": Case(KERNELS, files={"etc/passwd": PASSWD.replace("{home}", "{outside}/made")}),
    "home above": Case("", files={"etc/passwd": PASSWD.format(home="/../../..")}),
    "home is the root": Case("", files={"etc/passwd": PASSWD.format(home="/")}),
    "home is proc": Case("", files={"etc/passwd": PASSWD.format(home="/proc")}),
    "home is dev": Case("", files={"etc/passwd": PASSWD.format(home="/dev/shm")}),
    "home hides buildpacks": Case("", files={"etc/passwd": PASSWD.format(home="/cnb")}),
    "home is far": Case("", files={"etc/passwd": PASSWD.format(home="/a" * 300)}),
    # What programs read before anything else.
    "preload": Case("", files={"etc/ld.so.preload": "{outside}/library.so\n"}),
    "variables": Case(
        "",
        env={"LD_PRELOAD": "/etc/evil.so", "BASH_ENV": "/etc/evil", "HOME": "/etc", "DOCKER_HOST": "tcp://x"},
    ),
    "path": Case("", env={"PATH": "/proc/1/root/bin:.:/usr/bin:/bin", "LD_LIBRARY_PATH": "/proc/1/root/lib"}),
    # Users.
    "root": Case("buildpacks must not run as root", env={"CNB_USER_ID": "0"}, everywhere=True),
    "group of root": Case("", env={"CNB_GROUP_ID": "0"}),
    "user with a high number": Case("", env={"CNB_USER_ID": "999999999"}),
    "user in words": Case("must be a number", env={"CNB_USER_ID": "1001; id"}),
    # Labels.
    "order leads out": Case("the builder has no buildpack", labels=ordered("..", "../../tmp")),
    "version leads out": Case(
        "the builder has no buildpack", labels=ordered("foreign/shell", "../../../../etc")
    ),
    "order splices": Case("is not JSON", labels={ORDER: '[]},"x":{"a":[1'}),
    "deep label": Case("is not JSON", labels={METADATA: "[" * 100_000}),
    "escapes": Case(
        "not an image name", labels={METADATA: '{"stack":{"runImage":{"image":"\\u001b[2J\\u0007"}}}'}
    ),
}

IN_TEST = {
    "tmp leads out",
    "proc is a link",
    "launcher is a pipe",
    "buildpack.toml leads out",
    "passwd leads out",
    "home leads out",
    "variables",
    "root",
    "order leads out",
}
"""One of each kind, as root; the others are torture."""


NUMBERS = count(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return foreign_builder.base(tiny_root.make(tmp_path_factory.mktemp("tiny") / "root"))


@pytest.fixture(scope="module")
def grounds(program: Path, common: Path, base: bytes) -> Iterator[Callable[[str], Ground]]:
    """What root and a user have, made when it is first asked for."""
    own = f"{os.getpid()}-{next(NUMBERS)}"
    layout = common / f"hostile-images-{own}"
    builder(Case(), base, layout, "")
    push_image(foreign_builder.run_image(base), Layout(layout, "run"))
    with ExitStack() as stack:

        @cache
        def make(name: str) -> Ground:
            path, work = (common / f"{kind}-{name}-{own}" for kind in ("hostile", "hostile-work"))
            home = Home(program, path, users.ensure(name)) if name else Home(program, path)
            ground = stack.enter_context(attack.ground(home, work, layout))
            outside = ground.work / "outside"
            outside.mkdir()
            outside.chmod(0o777)
            (outside / "canary").write_text("SECRET-outside")
            (outside / "program").write_text("#!/bin/sh\necho SECRET-program\n")
            (outside / "program").chmod(0o755)
            return ground

        yield make


def builder(case: Case, base: bytes, layout: Path, outside: str) -> None:
    """Writes the case's builder to an OCI layout, as `builder`."""
    arch = "amd64" if os.uname().machine == "x86_64" else "arm64"
    image = foreign_builder.builder_image(
        base,
        run=RUN,
        launcher=launcher(arch),
        above=[case.layer(f"/proc/1/root{outside}")],
        env=case.env,
        more=case.labels,
    )
    push_image(image, Layout(layout, "builder"))


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("", name) if name in IN_TEST and not user else torture((user, name))
        for user in ("", RANGE)
        for name, case in CASES.items()
        if case.everywhere or not user
    ],
)
def test_a_hostile_builder_reaches_nothing_of_this_machine(
    grounds: Callable[[str], Ground], base: bytes, user: str, name: str
) -> None:
    ground, case = grounds(user), CASES[name]
    outside = ground.work / "outside"
    layout = ground.work / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    builder(case, base, layout, str(outside))
    hostile = "packhorse.local/hostile/builder"
    copied = ground.home.run("copy", f"oci:{layout}:builder", hostile)
    app = ground.app("app")
    (app / "README").touch()
    done = ground.build("hostile", app, builder=hostile) if copied.returncode == 0 else Done(1, copied.stderr)
    assert "Traceback" not in done.said and "SECRET-" not in done.said and "\x1b" not in done.said
    assert sorted(path.name for path in outside.iterdir()) == ["canary", "program"]
    assert (done.status == 0) == (case.says == ""), done.said
    assert case.says in done.said, done.said
