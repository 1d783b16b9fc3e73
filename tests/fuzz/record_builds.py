"""Asks the reference what it makes of random builds, and keeps the answers in random_builds.json.

`PYTHONPATH=src:tests python tests/fuzz/record_builds.py LIFECYCLE WORK FIRST LAST` runs the seeds FIRST to
LAST, as root, with the directory WORK for its files. LIFECYCLE is the program of the Go lifecycle 0.21.0,
linked as tests/golden/images/README.md says. A registry has to serve at localhost:5999. An answer is the
image ID of a build, or the exit code of one that fails. WORK keeps logs, and the configs of the images.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from fakes import tiny_root
from fakes.image_case import GID, UID
from fuzz.random_builds import PROGRAMS, RandomBuilds, order_toml
from packhorse.host.wiring import Wiring
from packhorse.oci.place import push_image
from packhorse.oci.reference import Location
from packhorse.store.store import Store

ANSWERS = Path(__file__).parent / "random_builds.json"
REGISTRY = "localhost:5999"
_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def main(lifecycle: str, work: str, first: str, last: str) -> None:
    """Adds the answers for the seeds `first` to `last` to those that are there."""
    top = Path(work)
    root = tiny_root.make(top / "root", programs=PROGRAMS)
    for name in ("dev", "proc", "cnb/lifecycle", "etc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc" / "passwd").write_text(f"cnb:x:{UID}:{GID}::/home/cnb:/bin/sh\n")
    os.chown(root / "home" / "cnb", UID, GID)
    shutil.copy(lifecycle, root / "cnb" / "lifecycle" / "creator")
    found = json.loads(ANSWERS.read_text()) if ANSWERS.exists() else {}
    for seed in range(int(first), int(last) + 1):
        found[str(seed)] = _answers(RandomBuilds.of(seed), root, top / f"seed-{seed}")
        print(seed, *found[str(seed)], flush=True)
        _write(found)


def _write(found: dict[str, list[str | int]]) -> None:
    lines = [f'  "{seed}": {json.dumps(found[seed])}' for seed in sorted(found, key=int)]
    ANSWERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _answers(case: RandomBuilds, root: Path, work: Path) -> list[str | int]:
    work.mkdir()
    with Store.open(work / "store") as store:
        run_image = Location.parse(f"docker://{case.run_name}")
        push_image(case.run_image(), Wiring(store).place(run_image))
    case.place_buildpacks(work / "buildpacks")
    case.place_build_config(work / "build-config")
    case.place_user_variables(work / "platform")
    (work / "order.toml").write_text(order_toml(case.order))
    (work / "run.toml").write_text(f'[[images]]\nimage = "{case.run_name}"\n')
    case.place_lifecycle(work / "lifecycle")
    shutil.copy(root / "cnb" / "lifecycle" / "creator", work / "lifecycle" / "creator")
    (work / "cache").mkdir()
    name = f"{REGISTRY}/random/seed-{work.name}-{os.getpid()}"
    answers: list[str | int] = []
    for number in range(1, case.builds + 1):
        case.on_build(number).place_app(work / f"app-{number}")
        (work / f"layers-{number}").mkdir()
        for path in ("cache", f"app-{number}", f"layers-{number}"):
            subprocess.run(["chown", "-Rh", f"{UID}:{GID}", work / path], check=True)
        (work / f"app-{number}").chmod(0o777)
        status = _create(case, root, work, number, name)
        answers.append(status or _image_id(name, work / f"config-{number}.json"))
    return answers


def _create(case: RandomBuilds, root: Path, work: Path, number: int, name: str) -> int:
    """Runs the reference's creator in a root of its own; returns its exit status."""
    shown = {
        "buildpacks": "cnb/buildpacks",
        "build-config": "cnb/build-config",
        "lifecycle": "cnb/lifecycle",
        "platform": "platform",
        "cache": "cache",
        f"app-{number}": "workspace",
        f"layers-{number}": "layers",
    }
    for place in shown.values():
        (root / place).mkdir(parents=True, exist_ok=True)
    for file in ("order.toml", "run.toml"):
        shutil.copy(work / file, root / "cnb" / file)
    mounts = [f"mount --bind {work / source} {root / place}" for source, place in shown.items()]
    mounts += [f"mount --rbind /dev {root}/dev", f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp"]
    script = " && ".join([*mounts, f'umask 022 && exec chroot --userspec={UID}:{GID} {root} "$@"'])
    environment = [
        *("PATH=/bin", "HOME=/home/cnb", f"CNB_PLATFORM_API={case.text('platform-api')}"),
        f"CNB_EXEC_ENV={case.text('exec-env', 'production')}",
    ]
    options = {
        "app": "/workspace",
        "cache-dir": "/cache",
        "gid": GID,
        "layers": "/layers",
        "order": "/cnb/order.toml",
        "platform": "/platform",
        "run-image": case.run_name,
        "uid": UID,
    }
    words = [f"-{option}={value}" for option, value in options.items()]
    command = ["/bin/env", "-i", *environment, "/cnb/lifecycle/creator", *words, "-no-color", name]
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]
    with (work / f"log-{number}.txt").open("wb") as log:
        return subprocess.run(inside, stdout=log, stderr=log, check=False).returncode


def _image_id(name: str, keep: Path) -> str:
    repository = name.removeprefix(f"{REGISTRY}/")
    manifest = json.loads(_get(f"{repository}/manifests/latest"))
    config = _get(f"{repository}/blobs/{manifest['config']['digest']}")
    keep.write_bytes(config)
    return f"sha256:{hashlib.sha256(config).hexdigest()}"


def _get(path: str) -> bytes:
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{path}", headers={"Accept": _TYPES})
    answer: Any = urllib.request.urlopen(request)
    with answer:
        return bytes(answer.read())


if __name__ == "__main__":
    main(*sys.argv[1:])
