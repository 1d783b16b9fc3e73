"""How buildpacks are shown the source: as it lies, or a copy where it is found out that it cannot be."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse.base import userns
from packhorse.base.userns import Namespace
from packhorse.errors import InputError
from packhorse.platform.shown_source import SeveralOwners, opened
from packhorse.source.survey import Survey, survey

pytestmark = pytest.mark.system

MIXED = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with userns.make(userns.choose(1000, 1000)) as made:
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
    return namespace.idmap.outside(1000, 1000)


def test_a_source_of_one_user_is_shown_as_it_lies(source: Path, scratch: Path, namespace: Namespace) -> None:
    known = Survey(has_one_owner=True, stamp="stamp")
    with opened(source, owner(namespace), [".git"], known) as shown:
        if userns.presentable(source, namespace):
            assert shown.lowers(scratch, namespace) == (source, scratch / "hidden")
            assert [path.name for path in (scratch / "hidden").iterdir()] == [".git"]
        shown.settle()
        assert shown.survey().stamp == "stamp"


def test_a_source_that_is_known_to_be_of_several_is_copied(
    source: Path, scratch: Path, namespace: Namespace
) -> None:
    with opened(source, owner(namespace), [".git"], Survey(has_one_owner=False, stamp="stamp")) as shown:
        assert shown.lowers(scratch, namespace) == (scratch / "source",)
        shown.settle()
        assert shown.survey().stamp == "stamp"
    assert [path.name for path in (scratch / "source").iterdir()] == ["file"]
    status = (scratch / "source/file").stat()
    assert (status.st_uid, status.st_gid) == owner(namespace)


@MIXED
def test_a_source_that_is_found_to_be_of_several_is_said_to_be(
    source: Path, scratch: Path, namespace: Namespace
) -> None:
    os.chown(source / "file", 4711, 0)
    time.sleep(0.06)  # what was written this moment has no stamp
    with opened(source, owner(namespace), [".git"], few=0) as shown:
        assert scratch / "source" not in shown.lowers(scratch, namespace)
        with pytest.raises(SeveralOwners) as raised:
            shown.settle()
        assert raised.value.survey == survey(source, left_out=[".git"])
        with pytest.raises(SeveralOwners), shown.settled():
            raise InputError("a buildpack could not read a file")
    with opened(source, owner(namespace), [".git"], raised.value.survey) as shown:
        assert shown.lowers(scratch, namespace) == (scratch / "source",)
        with pytest.raises(InputError), shown.settled():
            raise InputError("something else")


def test_what_is_not_looked_at_has_no_stamp_and_no_directories(
    tmp_path: Path, scratch: Path, namespace: Namespace
) -> None:
    with opened(tmp_path / "none", owner(namespace), looked_at=False) as shown:
        assert shown.lowers(scratch, namespace) == ()
        shown.settle()
        assert shown.survey().stamp == ""
