"""The launcher, built once a session from launcher/, and an empty application image for each test."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unit.launcher.appimage import AppImage

SOURCE = Path(__file__).parents[3] / "launcher"


@pytest.fixture(scope="session")
def build() -> Callable[[Path, Path], dict[str, Path]]:
    """The function of launcher/build.py."""
    spec = importlib.util.spec_from_file_location("launcher_build", SOURCE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[Path, Path], dict[str, Path]] = module.build
    return function


@pytest.fixture(scope="session")
def binaries(build: Callable[[Path, Path], dict[str, Path]]) -> dict[str, Path]:
    """The launcher of each architecture, which `make setup` has compiled unless its source has changed."""
    return build(SOURCE, SOURCE / "build")


@pytest.fixture(scope="session")
def launcher(binaries: dict[str, Path]) -> Path:
    """The launcher for this machine, or the program that LAUNCHER_UNDER_TEST names (one with sanitizers)."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    return Path(os.environ.get("LAUNCHER_UNDER_TEST", binaries[architecture]))


@pytest.fixture
def image(launcher: Path, tmp_path: Path) -> AppImage:
    """An application image without layers or processes."""
    image = AppImage(launcher, tmp_path)
    image.app.mkdir()
    image.describe()
    return image
