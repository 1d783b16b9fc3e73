"""No command tells a password or a token, whatever a registry does: not on the terminal, and in no file."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes import afterwards
from fakes.app_image import App
from fakes.command import Command
from fakes.registry_faults import ALWAYS
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.small_image import stored_image, tar_of
from fakes.tiny_builder import BUILDER, tiny_builder
from packhorse.host.wiring import Wiring
from packhorse.oci.place import push_image
from packhorse.oci.reference import Location
from packhorse.testing import FakeRegistry, Fault

PASSWORD, SIGNATURE = "hunter2-is-the-password", "3ad5c-is-the-signature"
BASIC = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
TELLS = f"env; cat /proc/*/environ || true; ls -Ra /root /home || true\n{SERVER}"
REPEATED = json.dumps(
    {"errors": [{"code": "DENIED", "message": f"not me:{PASSWORD}, Basic {BASIC}"}]}
).encode()
ELSEWHERE = {"location": f"http://store.invalid/it?signature={SIGNATURE}"}
ENDS = (0, 1, 4, 5, 73)  # what a registry does; 1 is what diff says of images that differ
# Written so that the script itself, which has the patterns in it, is not found.
LOOKED_FOR = f"-e 'hunter2-is-the-pass[w]ord' -e '[{BASIC[0]}]{BASIC[1:]}' -e 'control-[w]ord'"
LOOK = f"""
for place in /bin /cnb /dev/shm /etc /home /layers /lib /platform /root /run /tmp /usr /var /workspace; do
    grep -rsl {LOOKED_FOR} $place || true
done | while read -r file; do echo FOUND $file; done
for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do
    if grep -sq {LOOKED_FOR} $file; then echo FOUND $file; fi
done
"""
FAULTS = {
    "nothing is wrong": [],
    "the token server repeats the password": [Fault(path="/token", status=401, body=REPEATED, times=ALWAYS)],
    "the challenge is nonsense": [
        Fault(method, "/v2/", ALWAYS, 401, {"www-authenticate": "Bearer realm=hunter"})
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE")
    ],
    "what is read is somewhere else, by a signature": [
        Fault("GET", part, ALWAYS, 307, ELSEWHERE) for part in ("/manifests/", "/blobs/")
    ],
    "what is written is refused, and the password repeated": [
        Fault(method, "/v2/", ALWAYS, 403, body=REPEATED, needs_credentials=True)
        for method in ("POST", "PUT", "DELETE")
    ],
}


@dataclass
class Site:
    """A registry that asks who one is, a home that is logged in there, and what is in both."""

    server: FakeRegistry
    home: Path
    base: Path

    def words(self) -> dict[str, list[str | Path]]:
        """A command of each kind that reads or writes a registry."""
        team = f"{self.server.host}/team"
        built, other, gone = (f"docker://{team}/{name}:1" for name in ("built", "other", "gone"))
        source = ["--path", self.base / "app", "--buildpack", self.base / "bp", "--network", "none"]
        kept = ["--builder", BUILDER, "--cache-image", f"{team}/cache:main"]
        return {
            "build": ["build", f"{team}/new:1", *source, *kept, "--publish"],
            "verify": ["verify", built, *source],
            "rebase": ["rebase", "--run-image", f"{team}/run:1", "--force", other],
            "rebase --all": ["rebase", "--check", "--all", f"{team}/"],
            "diff": ["diff", built, other],
            "sbom": ["sbom", built],
            "rmi": ["rmi", gone],
            "login": ["login", "-u", "me", "--password-stdin", self.server.host],
        }

    def run(self, words: list[str | Path]) -> tuple[int, str]:
        """How a command ends, and what it says where it says most."""
        verbose = [] if words[0] in ("rmi", "login") else ["--verbose"]
        given = f"{PASSWORD}\n" if words[0] == "login" else None
        done = Command(self.home, DOCKER_CONFIG=str(self.base / "docker")).run(*verbose, *words, given=given)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("discreet")
    (base / "home").mkdir()
    (base / "app").mkdir()
    (base / "app" / "README").write_text("hello\n")
    shell_buildpack(base / "bp", "test/tells", build=TELLS)
    with FakeRegistry() as server, tiny_builder(base / "home" / "packhorse") as tiny:
        wiring, site = Wiring(tiny.store), Site(server, base / "home", base)
        run = stored_image(tar_of({"etc/os-release": b"ID=patched\n"}))
        for name, image in {"run": run, "other": App().image(), "gone": App(sbom=b"").image()}.items():
            push_image(image, wiring.place(Location.parse(f"docker://{server.host}/team/{name}:1")))
        words = site.words()["build"]
        status, said = site.run([f"{server.host}/team/built:1" if "/new:1" in str(x) else x for x in words])
        assert status == 0, said
        server.users = {"me": PASSWORD}
        status, said = site.run(site.words()["login"])
        assert status == 0, said
        yield site


@pytest.mark.parametrize("fault", FAULTS)
def test_no_command_tells_a_secret(site: Site, fault: str) -> None:
    there = dict(site.server.manifests)
    site.server.faults[:] = [Fault(**vars(each)) for each in FAULTS[fault]]
    try:
        with ThreadPoolExecutor(3) as pool:
            found = dict(zip(site.words(), pool.map(site.run, site.words().values()), strict=True))
    finally:
        site.server.faults.clear()
        site.server.manifests |= there
    assert all(status in ENDS for status, _ in found.values()), found
    for name, (_, said) in found.items():
        for secret in (PASSWORD, BASIC, SIGNATURE, *site.server.token_scopes):
            assert secret not in said, (name, said)
        assert "Traceback" not in said
    assert_nothing_kept(site)


def assert_nothing_kept(site: Site) -> None:
    """No file of packhorse's, and no image, has the password; the file of logins alone does."""
    afterwards.wait(site.home / "packhorse" / "store")
    for path in (site.home / "packhorse").rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            assert PASSWORD.encode() not in data and BASIC.encode() not in data, path


def test_B_127_B_128_B_129_no_step_of_a_build_that_publishes_finds_credentials_or_where_images_are(
    site: Site, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    hidden = [site.base / "docker" / "config.json", site.home / "packhorse" / "store"]
    assert PASSWORD.encode() not in hidden[0].read_bytes() and BASIC.encode() in hidden[0].read_bytes()
    there = "\n".join(f"if [ -e {path} ]; then echo FOUND {path}; fi" for path in hidden)
    (app / "look.sh").write_text(f"echo LOOKS app\n{LOOK}\n{there}\n")
    (app / "README").write_text("control-word\n")
    looks = shell_buildpack(
        tmp_path / "looks",
        "test/looks",
        detect=f"echo LOOKS detect\n{LOOK}\n{there}",
        build=f"echo LOOKS build\n{LOOK}\n{there}\nsh /workspace/look.sh\n{SERVER}",
    )
    team = f"{site.server.host}/team"
    words = ["build", f"{team}/looked:1", "--path", app, "--buildpack", looks, "--network", "none"]
    status, said = site.run([*words, "--builder", BUILDER, "--cache-image", f"{team}/kept:1", "--publish"])
    assert status == 0, said
    printed = [line for line in said.splitlines() if " pass: " not in line]  # which repeats the last line
    assert re.findall(r"(?:LOOKS|FOUND) \S+", "\n".join(printed)) == [
        *("LOOKS detect", "FOUND /workspace/README"),
        *("LOOKS build", "FOUND /workspace/README"),
        *("LOOKS app", "FOUND /workspace/README"),
    ], said
