"""What several acceptance tests share: real programs of our own, started once; packhorse, installed once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from fakes import afterwards, users
from fakes.engine import Engine, dockerd
from fakes.installation import REPOSITORY, Home, install
from fakes.workers import make_once

_SAMPLE = REPOSITORY / "samples" / "nodejs-express"


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A running docker engine; see `fakes.engine`."""
    with dockerd(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="session")
def common() -> Iterator[Path]:
    """A directory for all workers of this run that every user can pass through; the last one removes it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    directory = Path("/var/tmp") / f"packhorse-acceptance-{run[:12]}"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    with (directory / "users").open("w") as users_of_it:
        fcntl.flock(users_of_it, fcntl.LOCK_SH)
        yield directory
        try:
            fcntl.flock(users_of_it, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        subprocess.run(["rm", "-rf", str(directory)], check=True)


@pytest.fixture(scope="session")
def program(common: Path) -> Path:
    """An installed packhorse, which every user can run."""
    return make_once(common / "venv", lambda: install(common)) / "bin" / "packhorse"


@pytest.fixture(scope="session")
def seed(program: Path, common: Path) -> Home:
    """A home in which the default builder was made. Only to be cloned.

    PACKHORSE_TESTS_SEED names a directory that keeps such a home from run to run, for who tests often.
    """
    home = Home(program, common / "seed")

    def make() -> None:
        kept = Path(os.environ.get("PACKHORSE_TESTS_SEED", "/no/where"))
        if (kept / "store").is_dir():
            shutil.copytree(kept, home.path, symlinks=True)
        else:
            home.path.mkdir()
        home.ok("builder", "default", timeout=400)
        afterwards.wait(home.path / "store")
        if kept.parent.is_dir() and not kept.exists():
            home.clone(kept)  # without trees, whose owners a copy would lose

    make_once(home.path, make)
    return home


@pytest.fixture(scope="session")
def homes(seed: Home, common: Path) -> Callable[..., Home]:
    """Makes homes that are kept to the end, of root or of one of `fakes.users`, with the default builder."""
    numbers = count(1)

    def make(user: str = "") -> Home:
        path = common / f"home-{os.getpid()}-{next(numbers)}"
        return seed.clone(path, users.ensure(user) if user else None)

    return make


@pytest.fixture(scope="session")
def own_home(homes: Callable[..., Home]) -> Home:
    """root's home that only this worker's tests use, one after the other: nobody builds, or removes, beside
    them. The builder is unpacked for the first.
    """
    return homes()


@pytest.fixture
def new_home(homes: Callable[..., Home]) -> Iterator[Callable[..., Home]]:
    """Makes homes as `homes` does, for one test: an unpacked builder takes most of a gigabyte."""
    made: list[Home] = []

    def make(user: str = "") -> Home:
        made.append(homes(user))
        return made[-1]

    yield make
    for home in made:
        afterwards.remove(home.path)


@pytest.fixture(scope="session")
def home(seed: Home, common: Path) -> Home:
    """root's home, which all tests share: each has image names of its own, and none collects garbage."""
    path = common / "home"
    return Home(seed.program, make_once(path, lambda: seed.clone(path)))


@pytest.fixture(scope="session")
def sample(common: Path) -> Path:
    """The Node.js sample, where every user can read it."""
    path = common / "nodejs-express"
    return make_once(path, lambda: shutil.copytree(_SAMPLE, path))


@pytest.fixture(scope="session")
def sample_id(home: Home, sample: Path) -> str:
    """The ID of the image `sample` in `home`, built there from the sample."""
    return home.ok("build", "--quiet", "sample", "--path", sample)
