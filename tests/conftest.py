"""Fixtures that several floors share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
