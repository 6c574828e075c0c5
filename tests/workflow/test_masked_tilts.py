"""Masks of dirt beside the averages: counted and checked when a source is added, used when images are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.storage.mrc import read_image
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.state.create import create_population

NAME, SHAPE = "TS_01", (192, 208)


@pytest.fixture
def pop(tmp_path) -> Path:
    return create_population(tmp_path / "pop", "test").path


def write_mask(project: Path, tilt: int, mask: np.ndarray) -> Path:
    """As Warp leaves it beside the averages, last row first."""
    path = project / "warp_frameseries" / "mask" / f"{NAME}_{tilt:03d}.tif"
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, mask[::-1].astype("f4"))
    return path


def a_mask() -> np.ndarray:
    mask = np.zeros((96, 104), bool)
    mask[10:20, 60:80] = True
    return mask


def request(project: Path, **changes) -> SourceRequest:
    return SourceRequest("src", project / "warp_tiltseries.settings", **changes)


def test_masked_tilts_are_counted(own_project, pop):
    """Only those of tilts in use; without masks nothing is said."""
    for tilt in (0, 3, 4):
        write_mask(own_project, tilt, a_mask())
    lines = add_warp_source(pop, request(own_project)).lines
    assert "Masks: 3 tilts of 1 series have dirt masked, which is filled in." in lines[1]
    few = create_population(pop.parent / "few", "test").path
    lines = add_warp_source(few, request(own_project, max_tilts=1)).lines  # tilt 3, of zero dose
    assert "Masks: 1 tilt of 1 series have dirt masked, which is filled in." in lines[1]


def test_without_masks_nothing_is_said(own_project, pop):
    assert not any("mask" in line for line in add_warp_source(pop, request(own_project)).lines)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((104, 96), r"TS_01_002\.tif: the mask has 96 x 104 px, but its image has 208 x 192 px"),
        ((384, 416), r"TS_01_002\.tif: the mask has 416 x 384 px"),
    ],
)
def test_a_mask_of_another_size_is_refused(own_project, pop, shape, message):
    """When the source is added: the series is left out, with the mask's name."""
    write_mask(own_project, 2, np.zeros(shape, bool))
    with pytest.raises(InputError, match=message):
        add_warp_source(pop, request(own_project))


def test_a_damaged_mask_is_refused(own_project, pop):
    write_mask(own_project, 2, a_mask()).write_bytes(b"II*\x00 nothing")
    with pytest.raises(InputError, match=r"TS_01_002\.tif: is no TIFF image, or is damaged"):
        add_warp_source(pop, request(own_project))


def test_the_reader_hands_masks_over(own_project, project):
    """The mask in the pixels and the orientation of the image; None where there is none; a bad one stops the series."""
    from mpr_dist.storage.warp_xml import read_tilt_series
    from mpr_dist.workflow.state.series_io import tilt_reader

    write_mask(own_project, 1, a_mask())
    write_mask(own_project, 2, np.zeros((104, 96), bool))
    xml = own_project / "warp_tiltseries" / f"{NAME}.xml"
    read = tilt_reader(read_tilt_series(xml, volume_size_A=None), 4.0)
    image, pixel, mask = read(1)
    np.testing.assert_array_equal(image, read_image(project.files.average(NAME, 1)))
    assert pixel == 4.0
    assert mask is not None
    assert mask.shape == SHAPE
    rows, cols = np.nonzero(mask)
    # the mask's pixels are twice as large, and pixels (0, 0) of both coincide: its edges lie half a mask pixel off
    assert (abs(rows.min() - 20) <= 1, abs(rows.max() - 39) <= 1) == (True, True)
    assert (abs(cols.min() - 120) <= 1, abs(cols.max() - 159) <= 1) == (True, True)
    assert read(0)[2] is None
    with pytest.raises(SeriesError, match=r"TS_01_002\.tif: the mask has 96 x 104 px"):
        read(2)
