"""How buildpacks are shown the source: as it lies, or a copy where it is found out that it cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse.build.mounts import open_source
from packhorse.linux import userns
from packhorse.linux.userns import Namespace
from packhorse.source.files import scan_source

pytestmark = pytest.mark.system

MIXED = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with userns.make_namespace(userns.choose_map(1000, 1000)) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/.git").mkdir()
    (tmp_path / "source/file").write_text("content")
    return tmp_path / "source"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def owner(namespace: Namespace) -> tuple[int, int]:
    return namespace.idmap.to_outside(1000, 1000)


def test_a_source_of_one_user_is_shown_as_it_lies(source: Path, scratch: Path, namespace: Namespace) -> None:
    with open_source(source, owner(namespace), [".git"], scratch, namespace) as shown:
        if userns.supports_idmapping(source, namespace):
            assert shown.lowers() == (source, scratch / "hidden")
            assert [path.name for path in (scratch / "hidden").iterdir()] == [".git"]
            assert shown.lowers() == (source, scratch / "hidden")
        assert shown.confirm()
        assert shown.scan() == scan_source(source, excluded=[".git"])


@MIXED
def test_a_source_that_is_known_to_be_of_several_is_copied(
    source: Path, scratch: Path, namespace: Namespace
) -> None:
    os.chown(source / "file", 4711, 0)
    with open_source(source, owner(namespace), [".git"], scratch, namespace) as shown:
        shown.scan()
        assert shown.lowers() == (scratch / "source",)
        assert shown.confirm()
    assert [path.name for path in (scratch / "source").iterdir()] == ["file"]
    status = (scratch / "source/file").stat()
    assert (status.st_uid, status.st_gid) == owner(namespace)


@MIXED
def test_a_source_that_is_found_to_be_of_several_is_copied_from_then_on(
    source: Path, scratch: Path, namespace: Namespace
) -> None:
    os.chown(source / "file", 4711, 0)
    with open_source(source, owner(namespace), [".git"], scratch, namespace, inline_limit=0) as shown:
        if shown.lowers() == (source, scratch / "hidden"):  # as long as it was not looked at whole
            assert not shown.confirm()
        assert shown.confirm()
        assert shown.lowers() == (scratch / "source",)
        assert shown.confirm()


def test_what_is_not_looked_at_has_no_stamp_and_no_directories(
    tmp_path: Path, scratch: Path, namespace: Namespace
) -> None:
    with open_source(tmp_path / "none", owner(namespace), (), scratch, namespace, scan=False) as shown:
        assert shown.confirm()
        assert shown.scan().stamp == ""
