"""What importers take, leave, and write."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import InputError, PopulationError
from mpr_dist.imaging.reference import map_scale
from mpr_dist.storage.lock import locked
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.relion import read_particles
from mpr_dist.storage.star import read_blocks
from mpr_dist.workflow.importing.import_maps import import_maps
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source, chosen_tilts, read_names
from mpr_dist.workflow.simulation.simulate import SimulatedProject
from mpr_dist.workflow.state.create import check_name, create_population
from mpr_dist.workflow.state.fsc_table import read_fsc

NAME = "TS_01"


@pytest.fixture
def pop(tmp_path) -> Path:
    return create_population(tmp_path / "pop", "test").path


def request(made: SimulatedProject, name: str = "phantom", **changes) -> SpeciesRequest:
    half1, half2 = made.half_maps
    return replace(SpeciesRequest(name, half1, half2, made.mask, made.files.run_data, 128.0, "O"), **changes)


def source(root: Path, **changes) -> SourceRequest:
    return replace(SourceRequest("src", root / "warp_tiltseries.settings"), **changes)


def test_source_holds_the_project(project, pop):
    """Sizes, pixel and tilts are the project's; the XML is copied byte for byte."""
    found = add_warp_source(pop, source(project.files.root)).source
    loaded = load_population(pop).sources[0]
    assert loaded == replace(found, settings=loaded.settings)
    assert loaded.pixel_size_A == project.settings.pixel_A
    assert loaded.image_size_px == project.settings.image_px
    assert np.allclose(np.array(loaded.volume_size_px) * 4.0, project.series[NAME].volume_size_A)
    copied = load_population(pop).files(0).series(NAME).xml
    assert copied.read_bytes() == project.files.xml(NAME).read_bytes()


def test_lowest_doses_are_taken(project):
    series = replace(project.series[NAME], use_tilt=np.array([True] * 3 + [False] + [True] * 3))
    assert chosen_tilts(series, None, False).tolist() == series.use_tilt.tolist()
    assert chosen_tilts(series, None, True).all()
    few = chosen_tilts(series, 3, False)
    assert few.sum() == 3
    assert not few[3]
    assert series.dose[few].max() < series.dose[~few & series.use_tilt].min()
    assert chosen_tilts(series, 3, True)[3]


def test_missing_average_of_an_unused_tilt_is_no_matter(own_project, project, pop):
    """Only active tilts need their images."""
    last = int(np.argmax(project.series[NAME].dose))
    (own_project / "warp_frameseries" / "average" / f"{NAME}_{last:03d}.mrc").unlink()
    with pytest.raises(InputError, match="1 of 7 averages are missing"):
        add_warp_source(pop, source(own_project))
    assert add_warp_source(pop, source(own_project, max_tilts=6)).source.series[0].tilts == 6


def test_a_deselected_series_is_left_out(own_project, pop):
    """UnselectManual in Warp takes the whole series out; the only one here, so nothing remains."""
    xml = own_project / "warp_tiltseries" / f"{NAME}.xml"
    xml.write_text(xml.read_text("utf-8-sig").replace('UnselectManual=""', 'UnselectManual="True"'), "utf-8-sig")
    with pytest.raises(InputError, match=r"TS_01: deselected in Warp \(UnselectManual\)"):
        add_warp_source(pop, source(own_project))
    assert add_warp_source(pop, source(own_project, include_deselected=True)).source.series[0].name == NAME


def test_utf16_is_read(own_project, pop):
    """Warp 1 wrote UTF-16."""
    xml = own_project / "warp_tiltseries" / f"{NAME}.xml"
    text = re.sub(r"<\?xml.*?\?>", '<?xml version="1.0" encoding="utf-16"?>', xml.read_text("utf-8-sig"))
    xml.write_bytes(text.encode("utf-16"))
    assert add_warp_source(pop, source(own_project)).source.series[0].name == NAME


def test_all_that_m_refines_is_applied(own_project, pop):
    """Magnification, Zernikes, B-factor of the series and weights by location: nothing is kept but not used."""
    xml = own_project / "warp_tiltseries" / "TS_01.xml"
    text = xml.read_text("utf-8-sig")
    for pattern, value in (
        (r'MagnificationCorrection="[^"]*"', 'MagnificationCorrection="1.01, 0, 0, 1"'),
        (r'Name="ZernikeCoeffsOdd" Value="[^"]*"', 'Name="ZernikeCoeffsOdd" Value="1;2"'),
        (r' Bfactor="[^"]*"', ' Bfactor="-12"'),
        (r'(?s)(<GridLocationWeights.*?Value=")1"', r'\g<1>0.8"'),
    ):
        text, count = re.subn(pattern, value, text)
        assert count == 1
    xml.write_text(text, "utf-8-sig")
    lines = add_warp_source(pop, SourceRequest("a", own_project / "warp_tiltseries.settings")).lines
    assert not any("NOT APPLIED" in line for line in lines)


def test_files_choose_series(own_project, pop, tmp_path):
    listed = tmp_path / "names.txt"
    listed.write_text(f"# mine\n\n{NAME}.tomostar\n")
    assert read_names(listed) == (f"{NAME}.tomostar",)
    with pytest.raises(InputError, match="no tilt series named TS_02"):
        add_warp_source(pop, source(own_project, files=("TS_02",)))
    assert len(add_warp_source(pop, source(own_project, files=read_names(listed))).source.series) == 1


def test_a_name_in_use_overwrites_nothing(own_project, pop):
    """A second source with series of the same names is refused before anything is written."""
    add_warp_source(pop, source(own_project))
    copied = load_population(pop).files(0).series(NAME).xml
    before = copied.read_bytes()
    xml = own_project / "warp_tiltseries" / f"{NAME}.xml"
    xml.write_text(xml.read_text("utf-8-sig").replace("UnselectFilter", "Other"))
    with pytest.raises(PopulationError, match="population merge"):
        add_warp_source(pop, source(own_project, name="again"))
    assert copied.read_bytes() == before


def test_binned_averages(own_project, pop):
    """With binning, the pixel is the binned one, and the tomogram keeps its size in A."""
    settings = own_project / "warp_tiltseries.settings"
    text = settings.read_text().replace('"PixelSize" Value="4"', '"PixelSize" Value="2"')
    text = text.replace('"BinTimes" Value="0"', '"BinTimes" Value="1"')
    for n in (208, 192, 88):
        text = text.replace(f'Value="{n}"', f'Value="{2 * n}"')
    settings.write_text(text)
    found = add_warp_source(pop, source(own_project)).source
    assert found.pixel_size_A == 4.0
    assert found.volume_size_px == (208, 192, 88)


def test_species_is_complete(project, pop):
    """Iteration 000 holds maps, curves, table and poses; the poses are the project's."""
    add_warp_source(pop, source(project.files.root))
    summary = add_species(pop, request(project))
    population = load_population(pop)
    species, files = population.species[0].species, population.files(0)
    assert (species.box_px, species.pixel_size_A, species.symmetry) == (64, 4.0, "O")
    poses = read_poses(files.series(NAME).poses)["phantom"]
    nominal = project.particles[NAME]
    np.testing.assert_allclose(poses.position_A, nominal.position_A, atol=1e-4)
    np.testing.assert_allclose(poses.angles_deg, nominal.angles_deg, atol=1e-5)
    np.testing.assert_array_equal(poses.half, nominal.half)
    np.testing.assert_array_equal(poses.row, np.arange(8))
    result = files.species("phantom")
    assert read_fsc(result.fsc).resolution_A == pytest.approx(summary.resolution_A)
    halves = [read_volume(path)[0] for path in (result.half1, result.half2)]
    mask = read_volume(population.species[0].mask)[0]
    assert map_scale((halves[0] + halves[1]) / 2, mask) == pytest.approx(1.0, rel=1e-5)
    assert read_volume(result.map)[0].shape == mask.shape == (64, 64, 64)
    assert files.done.exists()


def test_table_reads_back_with_its_columns(project, pop):
    """particles.star is a table of M: same particles, other columns passed through."""
    add_warp_source(pop, source(project.files.root))
    add_species(pop, request(project))
    path = load_population(pop).files(0).species("phantom").particles
    table = read_particles(path)
    assert set(table.series) == {NAME}
    np.testing.assert_allclose(table.position_A, project.particles[NAME].position_A[:, 0], atol=1e-4)
    columns = read_blocks(path)["particles"]
    assert list(columns["rlnOpticsGroup"]) == [1] * 8
    assert "rlnCoordinateX" not in columns


def test_second_species_keeps_the_first(project, pop):
    """Poses of both species stand in the files of the series, also after an import that was cut off."""
    add_warp_source(pop, source(project.files.root))
    add_species(pop, request(project))
    first = read_poses(load_population(pop).files(0).series(NAME).poses)["phantom"]
    add_species(pop, request(project, "other", symmetry="C1"))
    both = read_poses(load_population(pop).files(0).series(NAME).poses)
    assert list(both) == ["phantom", "other"]
    np.testing.assert_array_equal(both["phantom"].position_A, first.position_A)
    with pytest.raises(PopulationError, match="already"):
        add_species(pop, request(project))


def blob(n: int, pixel: float) -> np.ndarray:
    """An analytic map: a Gaussian off the centre, in A."""
    z, y, x = (pixel * (np.arange(n) - n // 2 - shift / pixel) for shift in (-8.0, 5.0, 11.0))
    squared = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    return np.exp(-squared / (2 * 12.0**2)).astype(np.float32)


@pytest.mark.parametrize("pixel", [5.0, 4.37, 2.5, 4.0])
def test_resampled_maps_stay_in_place(pixel, tmp_path):
    """At another pixel, whether or not it divides the box, the map shows the same at the same place."""
    paths = [tmp_path / name for name in ("a.mrc", "b.mrc", "mask.mrc")]
    write_volume(paths[0], blob(40, 4.0), 4.0)
    write_volume(paths[1], blob(40, 4.0) * 2, 4.0)
    write_volume(paths[2], (blob(40, 4.0) > 0.1).astype(np.float32), 4.0)
    found = import_maps(*paths, 128.0, pixel)
    n = 2 * round(128 / pixel)
    assert found.half1.shape == found.mask.shape == (n, n, n)
    assert set(np.unique(found.mask)) == {0.0, 1.0}
    expected = blob(n, pixel)
    factor = float((found.half1 * expected).sum() / (expected**2).sum())
    np.testing.assert_allclose(found.half1 / factor, expected, atol=3e-3)
    np.testing.assert_allclose(found.half2, 2 * found.half1, atol=1e-3 * factor)


def test_names():
    for good in ("TS_01", "apo-ferritin", "2F"):
        check_name("species", good)
    for bad in ("", "a/b", "15", ".x", "a b", "..", "1.5"):
        with pytest.raises(InputError):
            check_name("species", bad)


def test_locked_population_is_not_changed(project, pop):
    with locked(pop), pytest.raises(PopulationError, match="in use"):
        add_warp_source(pop, source(project.files.root))
