"""A Warp project told in the files of IMOD, AreTomo and CTFFIND is the same project: positions, defocus, images."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.geometry import project as project_particles
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.mrc import read_image
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_alignments import AlignmentRequest, add_aligned_stacks
from mpr_dist.workflow.importing.import_m import import_m
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest
from mpr_dist.workflow.state.exposures import Exposures

NAME = "TS_01"


@pytest.fixture(scope="module")
def series(project) -> TiltSeries:
    """As Warp's XML has it; only what the other programs can say as well."""
    nominal = project.series[NAME]
    return read_tilt_series(project.files.xml(NAME), volume_size_A=nominal.volume_size_A)


@pytest.fixture
def folder(series, project, tmp_path) -> Path:
    """A stack, in the order of the XML."""
    with mrcfile.new(tmp_path / f"{NAME}.st") as mrc:
        mrc.set_data(np.stack([read_image(path) for path in series.image_paths]))
        mrc.voxel_size = project.settings.pixel_A
    return tmp_path


def write_imod(folder: Path, series: TiltSeries, pixel_A: float) -> None:
    """Aligned = M (raw - c) + d + c with M the rotation by minus the axis angle; tilt angles are minus Warp's."""
    a = np.deg2rad(series.axis_angle_deg)
    matrix = np.stack([np.cos(a), np.sin(a), -np.sin(a), np.cos(a)], -1).reshape(-1, 2, 2)
    moved = -np.einsum("tij,tj->ti", matrix, (series.axis_offset_A + pixel_A / 2) / pixel_A)
    rows = np.concatenate([matrix.reshape(-1, 4), moved], axis=1)
    np.savetxt(folder / f"{NAME}.xf", rows, fmt="%12.7f")
    np.savetxt(folder / f"{NAME}.tlt", -series.angle_deg - 1.5, fmt="%.4f")
    np.savetxt(folder / f"{NAME}.rawtlt", -series.angle_deg - 2, fmt="%.4f")
    x, y, z = np.rint(series.volume_size_A / pixel_A).astype(int)
    lines = [
        "$tilt -StandardInput",
        "# comment",
        f"THICKNESS {z}",
        f"FULLIMAGE {x} {y}",
        "OFFSET 1.5",
        "EXCLUDELIST 2,4-4",
    ]
    (folder / "tilt.com").write_text("\n".join(lines))


def write_aln(folder: Path, series: TiltSeries, pixel_A: float) -> None:
    shift = series.axis_offset_A / pixel_A
    lines = ["# AreTomo Alignment / Priims bprmMn", f"# RawSize = 10 20 {series.n_tilts}", "# NumPatches = 1"]
    lines += ["# AlphaOffset =     0.00", "# SEC     ROT         GMAG       TX          TY  ..."]
    for i in range(series.n_tilts):
        row = (i, series.axis_angle_deg[i], 1, *shift[i], 1, 1, 1, 0, -series.angle_deg[i])
        lines.append(" ".join(f"{v:.5f}" for v in row))
    lines += ["# Local Alignment", "0 0 1.0 2.0 0.1 0.1 1.0"]
    (folder / f"{NAME}.aln").write_text("\n".join(lines))


def write_ctffind(folder: Path, series: TiltSeries) -> Path:
    lines = ["# Columns: #1 micrograph number; ..."]
    mean, half = (series.optics.defocus_um.values.ravel(), series.optics.defocus_delta_um.values.ravel() / 2)
    angle, phase = series.optics.defocus_angle_deg.values.ravel(), series.optics.phase_shift_pi.values.ravel() * np.pi
    for i in range(series.n_tilts):
        values = [(mean[i] + half[i]) * 1e4, (mean[i] - half[i]) * 1e4, angle[i], phase[i], 0.1]
        lines.append(" ".join([str(i + 1), *(f"{v:.3f}" for v in values), "inf"]))
    path = folder / f"{NAME}_CTF.txt"
    path.write_text("\n".join(lines))
    return path


def write_mdoc(folder: Path, series: TiltSeries) -> Path:
    """In the order of exposure, so that ZValue is not the place in the stack."""
    lines = ["PixelSpacing = 4", "", "[T =     Tilt axis angle = 85.3, binning = 4  spot = 8  camera = 2]", ""]
    for number, i in enumerate(np.argsort(series.dose)):
        lines += [f"[ZValue = {number}]", f"TiltAngle = {-series.angle_deg[i] - 2:.3f}", "ExposureDose = 0"]
        lines += [f"DateTime = 30-Nov-15  15:{number:02d}:38", "SomethingNew = 1 2", ""]
    path = folder / f"{NAME}.mdoc"
    path.write_text("\n".join(lines))
    return path


def request(folder: Path, series: TiltSeries, **changes) -> AlignmentRequest:
    hand = -1 if series.are_angles_inverted else 1
    dose = float(np.sort(series.dose)[1])
    values = {"name": "stacks", "stacks": (folder / f"{NAME}.st",), "ctf": write_ctffind(folder, series), "hand": hand}
    values |= {"exposures": Exposures(mdoc=write_mdoc(folder, series), dose_per_tilt=dose)}
    return AlignmentRequest(**(values | changes))


def taken(folder: Path, series: TiltSeries) -> TiltSeries:
    population = load_population(folder / "pop")
    return read_tilt_series(population.files(0).series(NAME).xml, volume_size_A=series.volume_size_A)


@pytest.mark.parametrize("program", ["imod", "aretomo"])
def test_the_same_series(program, folder, series, project):
    """Positions to 1e-3 A, defocus to 0.1 A, doses, and the images of the stack."""
    pixel_A = project.settings.pixel_A
    create_population(folder / "pop", "test")
    if program == "imod":
        write_imod(folder, series, pixel_A)
        changes = {"imod": folder}
    else:
        write_aln(folder, series, pixel_A)
        size = tuple(int(n) for n in np.rint(series.volume_size_A / pixel_A))
        exposures = Exposures(dose_per_tilt=1.0, order="stack")
        changes = {"aretomo": (folder,), "tomogram_px": size, "exposures": exposures}
    summary = add_aligned_stacks(folder / "pop", request(folder, series, **changes))
    made, poses = taken(folder, series), project.particles[NAME]
    before, after = (project_particles(s, poses) for s in (series, made))
    assert np.abs(before.xy_A - after.xy_A).max() < 1e-3
    assert np.abs(before.defocus_um - after.defocus_um).max() < 1e-5
    np.testing.assert_allclose(made.dose, series.dose if program == "imod" else np.arange(series.n_tilts), atol=1e-4)
    for old, new in zip(series.image_paths, made.image_paths, strict=True):
        np.testing.assert_array_equal(read_image(new), read_image(old))
    entry = summary.source.series[0]
    if program == "imod":
        assert [i for i, use in enumerate(entry.active) if not use] == [1, 3]
    told = " ".join(summary.lines)
    for words in (
        "Positions: ",
        "Shifts: those of",
        "Angles: ",
        "Units: ",
        "Names: stacks",
        "CTF: ",
        "Doses: ",
        "Dropped: ",
    ):
        assert words in told
    # one line for one patch in seven tilts: the file was cut off
    assert ("tilts; got 1 lines" in told) == (program == "aretomo")


def test_local_alignments_of_aretomo(folder, series, project):
    """Particles lie where AreTomo's sum over patches puts them, to what the paragraph says is missed."""
    pixel_A, n, count = project.settings.pixel_A, series.n_tilts, 16
    write_aln(folder, series, pixel_A)
    image_px = np.rint(series.image_size_A / pixel_A)
    place = (np.arange(4) + 0.5) / 4 - 0.5
    grid = np.stack(np.meshgrid(place, place), -1).reshape(-1, 2)
    moved = np.stack([np.stack([2 * x - 0.3 * t * y, 3 * x * y - 1], -1) for t in range(n) for x, y in [grid.T]])
    lines = (folder / f"{NAME}.aln").read_text().splitlines()[:-1]
    lines[1:3] = [f"# RawSize = {image_px[0]:.0f} {image_px[1]:.0f} {n}", f"# NumPatches = {count}"]
    for t in range(n):
        for p in range(count):
            x, y = grid[p] * image_px
            lines.append(f"{t} {p} {x:.2f} {y:.2f} {moved[t, p, 0]:.4f} {moved[t, p, 1]:.4f} 1.0")
    create_population(folder / "plain", "test")
    create_population(folder / "pop", "test")
    size = tuple(int(n) for n in np.rint(series.volume_size_A / pixel_A))
    changes = {"aretomo": (folder,), "tomogram_px": size, "exposures": Exposures(dose_per_tilt=1.0, order="stack")}
    add_aligned_stacks(folder / "plain", request(folder, series, **changes))
    (folder / f"{NAME}.aln").write_text("\n".join(lines))
    summary = add_aligned_stacks(folder / "pop", request(folder, series, **changes))
    told = next(note for note in summary.reading.notes if note.startswith("Local alignments of 1 series became"))
    most_A = float(told.rsplit(", ", 1)[1].split()[0])
    assert not any("NOT APPLIED" in note for note in summary.reading.notes)
    plain, bent = (
        project_particles(
            read_tilt_series(
                load_population(folder / name).files(0).series(NAME).xml, volume_size_A=series.volume_size_A
            ),
            project.particles[NAME],
        ).xy_A
        for name in ("plain", "pop")
    )
    # AreTomo's kernel at where the particle is without it, from where the middle of the tomogram lies
    at = (plain - series.image_size_A / 2 - series.axis_offset_A) / series.image_size_A
    fall = np.exp(-100 * ((at[:, :, None] - grid) ** 2).sum(-1))
    expected = pixel_A * np.einsum("ntp,tpi->nti", fall / fall.sum(-1, keepdims=True), moved)
    assert np.linalg.norm(bent - plain - expected, axis=-1).max() < 1.2 * most_A
    assert np.linalg.norm(expected, axis=-1).max() > 5 * most_A


def test_local_alignments_of_imod(folder, series, project):
    """Particles in the middle plane move by the bilinear mean of the shifts of four areas, turned into the image."""
    pixel_A, n = project.settings.pixel_A, series.n_tilts
    write_imod(folder, series, pixel_A)
    create_population(folder / "plain", "test")
    create_population(folder / "pop", "test")
    add_aligned_stacks(folder / "plain", request(folder, series, imod=folder))
    full = np.rint(series.volume_size_A / pixel_A)[:2]
    shifts = np.random.default_rng(3).normal(0, 3, (4, n, 2))
    lines = [f"2 2 1 1 {full[0] - 1:.0f} {full[1] - 1:.0f}"]
    for area in range(4):
        lines.append(" ".join(["0.0"] * n))
        lines += [f"1 0 0 1 {dx:.5f} {dy:.5f}" for dx, dy in shifts[area]]
    (folder / f"{NAME}local.xf").write_text("\n".join(lines))
    with (folder / "tilt.com").open("a") as com:
        com.write(f"\nLOCALFILE {NAME}local.xf\n")
    summary = add_aligned_stacks(folder / "pop", request(folder, series, imod=folder))
    assert any(note.startswith("Local alignments of 1 series became") for note in summary.reading.notes)
    assert not any("NOT APPLIED" in note for note in summary.reading.notes)
    uv = np.random.default_rng(4).uniform(0.1, 0.9, (20, 2))
    middle = np.full((20, 1), 0.5)
    places = np.concatenate([uv, middle], axis=1) * series.volume_size_A
    particles = Particles(places, np.zeros((20, 3)), np.ones(20, np.int8), np.arange(20))
    plain, bent = (
        project_particles(
            read_tilt_series(
                load_population(folder / name).files(0).series(NAME).xml, volume_size_A=series.volume_size_A
            ),
            particles,
        ).xy_A
        for name in ("plain", "pop")
    )
    x, y = ((uv * full - 0.5) / (full - 1)).T  # pixel 1 has its middle half a pixel from the corner
    weights = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    aligned = np.einsum("pa,ati->pti", weights, shifts)
    a = np.deg2rad(series.axis_angle_deg)
    turn = np.stack([np.cos(a), -np.sin(a), np.sin(a), np.cos(a)], -1).reshape(-1, 2, 2)
    expected = pixel_A * np.einsum("tij,ptj->pti", turn, aligned)
    inside = ((plain > 0) & (plain < series.image_size_A)).all(-1)
    assert np.linalg.norm(bent - plain - expected, axis=-1)[inside].max() < 0.5
    assert np.linalg.norm(expected, axis=-1).max() > 10
    (folder / f"{NAME}local.xf").unlink()
    create_population(folder / "gone", "test")
    told = add_aligned_stacks(folder / "gone", request(folder, series, imod=folder)).lines
    assert any(line.startswith("  NOTE: ") and "local alignments are NOT APPLIED" in line for line in told)


def test_a_table_of_ones_own(folder, series, project):
    """CSV with series, image, defocus and dose; the tilts may be in any order there."""
    write_imod(folder, series, project.settings.pixel_A)
    (folder / "tilt.com").write_text((folder / "tilt.com").read_text().replace("EXCLUDELIST", "OTHER"))
    u = series.optics.defocus_um.values.ravel() * 1e4
    order = np.argsort(series.dose)
    lines = ["Series,image,defocus_u,dose", *(f"{NAME}.mrc,{i + 1},{u[i]:.2f},{series.dose[i]:.4f}" for i in order)]
    table = folder / "all.csv"
    table.write_text("\n".join([*lines, "TS_02,1,20000,0"]))
    create_population(folder / "pop", "test")
    add_aligned_stacks(folder / "pop", request(folder, series, imod=folder, ctf=table, exposures=Exposures()))
    made = taken(folder, series)
    np.testing.assert_allclose(made.optics.defocus_um.values.ravel(), u / 1e4, atol=1e-6)
    np.testing.assert_allclose(made.dose, series.dose, atol=1e-4)


def spoil(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (f"{NAME}.xf", "\n", "\nx ", "expected 6 numbers"),
        (f"{NAME}.tlt", "\n", " 1\n", "expected 1 numbers"),
        (f"{NAME}_CTF.txt", "\n1 ", "\n2 ", "not of images 1 to 7"),
        (f"{NAME}_CTF.txt", "inf", "inf\n9 1 2", "expected 7 numbers"),
        (f"{NAME}.mdoc", "DateTime = 30-Nov-15", "DateTime = yesterday", "is not understood"),
        (f"{NAME}.mdoc", "TiltAngle = -2.000", "TiltAngle = 50", "do not fit"),
        ("tilt.com", "FULLIMAGE", "ELSE", "does not say the size"),
        ("tilt.com", "2,4-4", "2,a", "expected views"),
    ],
)
def test_what_cannot_be_used(name, old, new, words, folder, series, project):
    """The file and the place are named, nothing is added."""
    write_imod(folder, series, project.settings.pixel_A)
    create_population(folder / "pop", "test")
    asked = request(folder, series, imod=folder)
    spoil(folder, name, old, new)
    with pytest.raises(InputError, match=words):
        add_aligned_stacks(folder / "pop", asked)
    assert not load_population(folder / "pop").sources


def test_without_doses_it_is_refused(folder, series, project):
    write_imod(folder, series, project.settings.pixel_A)
    create_population(folder / "pop", "test")
    with pytest.raises(InputError, match="nothing says in which order"):
        add_aligned_stacks(folder / "pop", request(folder, series, imod=folder, exposures=Exposures()))
    with pytest.raises(InputError, match="ExposureDose of TS_01 is 0"):
        add_aligned_stacks(folder / "pop", request(folder, series, imod=folder, exposures=Exposures(mdoc=folder)))


@pytest.mark.parametrize("program", ["imod", "aretomo"])
def test_stacks_leave_for_relion_with_nominal_angles(program, folder, series, project):
    """What the stage was told to do before the alignment: .rawtlt, and TILT of .aln without AlphaOffset."""
    pixel_A = project.settings.pixel_A
    if program == "imod":
        write_imod(folder, series, pixel_A)
        changes = {"imod": folder, "use_excluded": True}
    else:
        write_aln(folder, series, pixel_A)
        spoil(folder, f"{NAME}.aln", "AlphaOffset =     0.00", "AlphaOffset =     2.00")
        size = tuple(int(n) for n in np.rint(series.volume_size_A / pixel_A))
        changes = {"aretomo": (folder,), "tomogram_px": size, "exposures": Exposures(dose_per_tilt=1.0, order="stack")}
    pop = create_population(folder / "pop", "test").path
    add_aligned_stacks(pop, request(folder, series, **changes))
    relion = project.files.root / "relion"
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    add_species(pop, SpeciesRequest("phantom", *maps, relion / "run_data.star", 128.0, "O"))
    export(ExportRequest(pop, folder / "out"), "relion5")
    table = read_blocks(folder / "out/tilt_series" / f"{NAME}.star")[NAME]
    np.testing.assert_allclose(table["rlnTomoNominalStageTiltAngle"], -series.angle_deg - 2, atol=1e-3)
    np.testing.assert_allclose(table["rlnTomoYTilt"], -series.angle_deg, atol=1e-3)


@pytest.mark.parametrize("target", ["warp", "m"])
def test_stacks_leave_for_warp_and_m(target, folder, series, project):
    """Images of the stack become averages, and the project predicts the same."""
    write_imod(folder, series, project.settings.pixel_A)
    pop = create_population(folder / "pop", "test").path
    add_aligned_stacks(pop, request(folder, series, imod=folder))
    relion = project.files.root / "relion"
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    add_species(pop, SpeciesRequest("phantom", *maps, relion / "run_data.star", 128.0, "O"))
    export(ExportRequest(pop, folder / "out"), target)
    again = folder / "again"
    if target == "warp":
        create_population(again, "test")
        add_warp_source(again, SourceRequest("a", folder / "out" / "stacks.settings", include_deselected=True))
    else:
        import_m(again, folder / "out" / "test.population")
    both = []
    for population in (load_population(pop), load_population(again)):
        ((source, entry),) = population.series
        both.append(load_series(source, entry, population.files(0).series(NAME).xml))
    seen = [project_particles(each, project.particles[NAME]) for each in both]
    assert np.abs(seen[0].xy_A - seen[1].xy_A).max() < 1e-3
    assert np.abs(seen[0].defocus_um - seen[1].defocus_um).max() < 1e-5
    for old, new in zip(both[0].image_paths, both[1].image_paths, strict=True):
        # averages are float16, of 11 bits
        np.testing.assert_allclose(read_image(new), read_image(old), rtol=2**-11, atol=1e-6)


def test_command(folder, series, project, tmp_path, capsys):
    """From the command line, with a folder, a pattern, and an order of exposure."""
    from mpr_dist.cli.app import run

    write_imod(folder, series, project.settings.pixel_A)
    write_ctffind(folder, series)
    create_population(folder / "pop", "test")
    words = [
        "source",
        "add",
        folder / "pop",
        "--name",
        "s",
        "--imod",
        folder,
        "--stacks",
        f"{folder}/*.st",
        "--ctf",
        folder,
    ]
    words += ["--dose-per-tilt", 3, "--order", "symmetric", "--hand", 1, "--max-tilts", 3]
    assert run([str(word) for word in words]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert f"{NAME}: 3 of {series.n_tilts} tilts" in out
    assert "3 e/A^2 per tilt, order symmetric" in out
