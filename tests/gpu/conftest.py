"""Which card the tests of this folder run on. They need cupy (for a real one), numba, scipy and pytest, no more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import shim

from mpr_dist.arrays import HOST, Device, open_device, why_no_card

# the formulas in plain numpy, and problems with a known answer
for room in ("maths/kernels", "refinement", "workflow"):
    sys.path.append(str(Path(__file__).parents[1] / room))
# the whole program is not there on a machine for the kernels alone
if any(importlib.util.find_spec(package) is None for package in ("dask", "mrcfile", "starfile", "zarr")):
    collect_ignore = ["test_iteration_on_card.py"]


@pytest.fixture
def card(request) -> Device:
    """A card: the first of this machine with --device gpu, otherwise one that is none (shim.py)."""
    if request.config.getoption("--device") == "gpu":
        missing = why_no_card()
        if missing is not None:
            pytest.skip(f"--device gpu: {missing}")
        opened = open_device("gpu")
        if request.config.getoption("--own-allocations"):
            opened.xp.cuda.set_allocator(None)
        return opened
    return a_shim()


@pytest.fixture
def shim_card(request) -> shim.ShimCard:
    """The card that is none, for what a real one does not let a test choose."""
    if request.config.getoption("--device") == "gpu":
        pytest.skip("--device gpu: the order of execution is a card's own")
    return a_shim()


@pytest.fixture(params=["host", "card"])
def device(request) -> Device:
    """The host, then a card: code that takes a device does the same on both."""
    return HOST if request.param == "host" else request.getfixturevalue("card")


def a_shim() -> shim.ShimCard:
    if not shim.has_compiler():
        pytest.skip("g++ is missing: the text of the kernels cannot run on this machine")
    return shim.ShimCard()
