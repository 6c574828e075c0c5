"""Fixtures that several floors share."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if importlib.util.find_spec("mpr_dist") is None:  # tests of the kernels run without anything being installed
    sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:  # tests of the kernels run where most of what the workflow needs is not installed
    from mpr_dist.workflow.simulation.simulate import SimulatedProject


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that take minutes as well")
    parser.addoption(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="what tests/gpu computes on: a card that is none, compiled by g++ (cpu), or one with cupy (gpu)",
    )
    parser.addoption(
        "--own-allocations",
        action="store_true",
        help="on a card: no memory pool, for compute-sanitizer to look through",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With -n all tests of a file run in one process, unless --dist says otherwise. A bare machine has no xdist."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadfile"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: runs with --long"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with example data too large for the repository; MPR_DIST_SHARED says where it is."""
    named = os.environ.get("MPR_DIST_SHARED")
    if not named:
        pytest.skip("MPR_DIST_SHARED is not set: no folder with example data")
    folder = Path(named)
    if not (folder / "data" / "apoferritin").is_dir():
        pytest.skip(f"MPR_DIST_SHARED={named} holds no data/apoferritin")
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> SimulatedProject:
    """The simulated fixture: one series of eight particles. Made once per process; tests only read it."""
    from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project

    return simulate_project(tmp_path_factory.mktemp("project") / "fixture", SimulateSettings.fixture())


@pytest.fixture
def own_project(project, tmp_path) -> Path:
    """A copy of the fixture that a test may spoil."""
    return Path(shutil.copytree(project.files.root, tmp_path / "project"))


@pytest.fixture
def digests() -> Callable[[Path], dict[str, str]]:
    """Hash of every file below a folder, by its path in it."""

    def of(root: Path) -> dict[str, str]:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return of
