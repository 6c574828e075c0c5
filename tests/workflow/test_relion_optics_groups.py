"""Aberrations, beam tilt and magnification of RELION's optics groups: taken over, kept, refined, and out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mpr_dist.cli.app import run
from mpr_dist.imaging.ctf import per_tilt
from mpr_dist.imaging.relion_optics import mapped_defocus
from mpr_dist.model.optics import Optics
from mpr_dist.model.population import Population
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, SpeciesSummary, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, SourceSummary
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.simulation.simulate import SimulatedProject
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest

MATRIX = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
BEAM_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
ODD, EVEN = (0.1, -0.2, 0.3, 0.0, -0.05, 0.25), (0.7, 0.11, -0.12, 0.13)
GROUP = {
    "rlnOddZernike": str(list(ODD)).replace(" ", ""),
    "rlnEvenZernike": str(list(EVEN)).replace(" ", ""),
    **dict(zip(BEAM_TILT, (0.8, -0.3), strict=True)),
    **dict(zip(MATRIX, (1.01, 0.004, -0.002, 0.997), strict=True)),
}


@pytest.fixture(scope="module")
def plain(project: SimulatedProject, tmp_path_factory: pytest.TempPathFactory) -> Population:
    path = tmp_path_factory.mktemp("optics") / "population"
    import_simulated(path, project, "optics")
    return load_population(path)


def with_groups(plain: Population, folder: Path, **columns: Any) -> Path:
    """The population as a RELION project whose optics group has these columns."""
    out = folder / "project"
    export(ExportRequest(plain.path, out), "relion5")
    blocks = read_blocks(out / "particles.star")
    for name, value in columns.items():
        blocks["optics"][name] = value
    write_table(out / "particles.star", blocks)
    return out


def taken_in(
    plain: Population, path: Path, project: Path, tables: str = "optimisation_set.star"
) -> tuple[SourceSummary, SpeciesSummary]:
    species = plain.species[0]
    files = plain.files(0).species(species.name)
    assert species.mask is not None
    create_population(path, "p")
    summary = add_relion_source(path, SourceRequest("grid", project / tables))
    one = species.species
    request = SpeciesRequest(
        "one", files.half1, files.half2, species.mask, project / "particles.star", one.diameter_A, one.symmetry
    )
    return summary, add_species(path, request)


def optics_of(path: Path, iteration: int = 0) -> Optics:
    population = load_population(path)
    source, entry = population.series[0]
    return load_series(source, entry, population.files(iteration).series(entry.name).xml).optics


def tilts_of(project: Path) -> pd.DataFrame:
    (file,) = (project / "tilt_series").iterdir()
    ((_, frame),) = read_blocks(file).items()
    return frame


def assert_same_optics(a: Optics, b: Optics) -> None:
    """To the digits of an XML, which keeps float32."""
    for name in ("zernike_odd", "zernike_even", "magnification"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)
    for name in ("defocus_um", "defocus_delta_um"):
        assert np.abs(getattr(a, name).values - getattr(b, name).values).max() < 1e-5  # 0.1 A


def test_zernikes_change_sign_and_leave_as_they_came(plain: Population, tmp_path: Path) -> None:
    """Odd phases change their sign, the even list loses its first term; both go out as they came."""
    given = {name: GROUP[name] for name in ("rlnOddZernike", "rlnEvenZernike")}
    project = with_groups(plain, tmp_path, **given)
    summary, _ = taken_in(plain, tmp_path / "p", project)
    assert any(note.startswith("Aberrations: rlnOddZernike") for note in summary.reading.notes)
    optics = optics_of(tmp_path / "p")
    assert optics.zernike_odd == pytest.approx([-c for c in ODD], abs=1e-7)
    assert optics.zernike_even == pytest.approx(EVEN[1:], abs=1e-7)
    export(ExportRequest(tmp_path / "p", tmp_path / "again"), "relion5")
    before, after = (read_blocks(f / "particles.star")["optics"] for f in (project, tmp_path / "again"))
    pd.testing.assert_frame_equal(after[list(before)], before)


def test_beam_tilt_and_magnification_leave_as_they_came(plain: Population, tmp_path: Path) -> None:
    """All that a group says comes in, leaves in the same columns, and is not counted twice when it comes again."""
    project = with_groups(plain, tmp_path, **GROUP)
    summary, _ = taken_in(plain, tmp_path / "p", project)
    told = " ".join(summary.reading.notes)
    assert "the beam tilt (rlnBeamTiltX and rlnBeamTiltY, mrad) added" in told
    assert "Magnification: rlnMagMat00 to 11 of the particles, per series, up to 1.00 %" in told
    assert "NOT TAKEN OVER" not in told
    optics = optics_of(tmp_path / "p")
    assert optics.magnification.ravel() == pytest.approx([GROUP[name] for name in MATRIX], abs=1e-7)
    # 2 pi Cs lambda^2 of 1 mrad, a third of it in the term of coma; the matrix changes it by 2 %
    assert optics.zernike_odd[4] == pytest.approx(0.05 + 2 * np.pi * 2.7e4 * optics.wavelength_A**2 * 0.8 / 3, rel=0.03)
    tilts = tilts_of(project)
    matrix = np.array([GROUP[name] for name in MATRIX]).reshape(2, 2)
    u, v, _ = mapped_defocus(*(tilts[f"rlnDefocus{c}"].to_numpy(np.float64) for c in ("U", "V", "Angle")), matrix)
    np.testing.assert_allclose(1e4 * per_tilt(optics.defocus_um.values, len(tilts)), (u + v) / 2, rtol=1e-6)
    again = tmp_path / "again"
    done = export(ExportRequest(tmp_path / "p", again), "relion5")
    assert "magnification is not written" not in " ".join(done.lines)
    before, after = (read_blocks(f / "particles.star")["optics"] for f in (project, again))
    pd.testing.assert_frame_equal(after[list(before)], before)
    pd.testing.assert_frame_equal(tilts_of(again)[list(tilts)], tilts)
    taken_in(plain, tmp_path / "back", again)
    assert_same_optics(optics_of(tmp_path / "back"), optics)


def test_what_was_refined_leaves_once(plain: Population, tmp_path: Path) -> None:
    """Refined phases take the beam tilt with them; matrix and defocus leave in RELION's sense, and all come back."""
    project = with_groups(plain, tmp_path, **GROUP)
    taken_in(plain, tmp_path / "p", project)
    options = ["--iterations", "1", "--aberrations", "3", "--magnification", "--defocus", "--engine", "inline"]
    assert run(["refine", str(tmp_path / "p"), *options]) == 0
    refined, began = optics_of(tmp_path / "p", 1), optics_of(tmp_path / "p")
    assert np.abs(refined.magnification - began.magnification).max() > 1e-5
    assert np.abs(np.array(refined.zernike_odd[:6]) - began.zernike_odd).max() > 1e-3
    out = tmp_path / "out"
    export(ExportRequest(tmp_path / "p", out), "relion5")
    optics = read_blocks(out / "particles.star")["optics"]
    assert not optics[list(BEAM_TILT)].to_numpy().any()
    np.testing.assert_allclose(optics[list(MATRIX)].to_numpy()[0], refined.magnification.ravel(), rtol=1e-6)
    taken_in(plain, tmp_path / "back", out)
    assert_same_optics(optics_of(tmp_path / "back"), refined)


def test_groups_that_differ_within_a_series_are_told(plain: Population, tmp_path: Path) -> None:
    """The first particle's group counts for the series, and a line says so."""
    project = with_groups(plain, tmp_path, **GROUP)
    blocks = read_blocks(project / "particles.star")
    optics, particles = blocks["optics"], blocks["particles"]
    other = optics.copy()
    other["rlnOpticsGroup"], other["rlnOpticsGroupName"], other["rlnBeamTiltX"] = 2, "other", -0.5
    blocks["optics"] = pd.concat([optics, other], ignore_index=True)
    particles.loc[particles.index[1:], "rlnOpticsGroup"] = 2
    write_table(project / "particles.star", blocks)
    summary, _ = taken_in(plain, tmp_path / "p", project)
    assert any(note.startswith("NOTE: particles of") and "beam tilt" in note for note in summary.reading.notes)
    alone = with_groups(plain, tmp_path / "alone", **GROUP)
    taken_in(plain, tmp_path / "q", alone)
    assert_same_optics(optics_of(tmp_path / "p"), optics_of(tmp_path / "q"))


def test_particles_that_say_otherwise_than_their_series(plain: Population, tmp_path: Path) -> None:
    """A later table with another beam tilt: that of the series counts, and a line says so."""
    project = with_groups(plain, tmp_path, **GROUP)
    _, same = taken_in(plain, tmp_path / "p", project)
    assert not any("those of the tilt series" in note for note in same.reading.notes)
    blocks = read_blocks(project / "particles.star")
    blocks["optics"]["rlnBeamTiltX"] = 0.9
    write_table(project / "later.star", blocks)
    one, files = plain.species[0], plain.files(0).species(plain.species[0].name)
    assert one.mask is not None
    again = SpeciesRequest("later", files.half1, files.half2, one.mask, project / "later.star", one.species.diameter_A)
    notes = add_species(tmp_path / "p", again).reading.notes
    assert any(note.startswith("NOTE: aberrations, beam tilt or magnification") for note in notes)


def test_what_comes_with_particles_alone_is_not_applied(plain: Population, tmp_path: Path) -> None:
    """Series were added without the set that names their particles: told, and columns leave unchanged."""
    project = with_groups(plain, tmp_path, **GROUP)
    source, species = taken_in(plain, tmp_path / "p", project, tables="tomograms.star")
    assert not any("Magnification" in note for note in source.reading.notes)
    assert any(note.startswith("NOT APPLIED") and "rlnBeamTiltX" in note for note in species.reading.notes)
    assert optics_of(tmp_path / "p").zernike_odd == ()
    export(ExportRequest(tmp_path / "p", tmp_path / "again"), "relion5")
    before, after = (read_blocks(f / "particles.star")["optics"] for f in (project, tmp_path / "again"))
    pd.testing.assert_frame_equal(after[list(before)], before)
