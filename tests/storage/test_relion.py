"""Particle tables: every generation gives the same particles, and what is no table of particles is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from mpr_dist.errors import InputError
from mpr_dist.storage.particle_columns import series_key
from mpr_dist.storage.relion import read_particles
from mpr_dist.storage.star import write_table

ANGLES = {"rlnAngleRot": [10.0, 20.0], "rlnAngleTilt": [30.0, 40.0], "rlnAnglePsi": [50.0, 60.0]}
CORNER = {"rlnCoordinateX": [10.0, 20.0], "rlnCoordinateY": [30.0, 40.0], "rlnCoordinateZ": [5.0, 6.0]}
CENTRED = {
    f"rlnCenteredCoordinate{a}Angst": v for a, v in zip("XYZ", ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]), strict=True)
}
NAMES = {"rlnTomoName": ["TS_1", "TS_2"]}


def table(
    folder: Path, particles: dict[str, list], optics: dict[str, list] | None = None, name: str = "p.star"
) -> Path:
    blocks = {"optics": pd.DataFrame(optics)} if optics else {}
    write_table(folder / name, blocks | {"particles": pd.DataFrame(particles)})
    return folder / name


def matrices(angles_deg: np.ndarray) -> np.ndarray:
    """RELION's orientation from scipy's Euler angles: an oracle that shares no code with the package."""
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True).inv().as_matrix()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("TS_1", "TS_1"),
        ("TS_1.tomostar", "TS_1"),
        ("TS_1.mrc", "TS_1"),
        ("TS_1_10.00Apx.mrc", "TS_1"),
        ("/a b/c/TS_1.mrc.tomostar", "TS_1"),
        ("F:\\frames\\TS_1.tomostar", "TS_1"),
        ("tomo_ts01.mrc_15.00Apx.mrc", "tomo_ts01"),
        ("tomograms/TS_001/TS_001.st:mrc", "TS_001"),
        ("01006", "01006"),
        ("pos.5_2", "pos.5_2"),
        ("x_3Apx", "x"),
        (".mrc", ".mrc"),
    ],
)
def test_names_of_series(name: str, key: str) -> None:
    """Folders, extensions and Warp's pixel suffix go, anything else stays."""
    assert series_key(name) == key


def test_generations_of_one_data_set_agree(shared: Path) -> None:
    """RELION 3.1 with 4 A pixels and RELION 5 with centred A are the same particles."""
    folder = shared / "data/apoferritin/relion"
    old, new = read_particles(folder / "run_data.star"), read_particles(folder / "particles.star")
    sizes = {f"TS_0{i}": (1536.0, 1536.0, 321.6) for i in (1, 2, 3)}
    assert (old.centred, new.centred) == (False, True)
    assert old.series == new.series
    assert np.array_equal(old.half, new.half)
    assert np.abs(old.corner_positions(sizes) - new.corner_positions(sizes)).max() < 1e-3
    assert np.abs(matrices(old.angles_deg) - matrices(new.angles_deg)).max() < 1e-6
    assert not new.outside(sizes).any()
    followed = read_particles(folder / "optimisation_set.star")
    assert np.array_equal(followed.position_A, new.position_A)
    assert followed.path.name == "particles.star"


def test_particles_of_a_data_set_are_near_the_truth(shared: Path) -> None:
    """Errors of the start are 3 A and 2 degrees rms per axis; any slip of convention gives hundreds."""
    folder = shared / "data/apoferritin"
    start = read_particles(folder / "relion/run_data.star")
    for name in ("TS_01", "TS_02", "TS_03"):
        text = (folder / f"truth/{name}_particles.star").read_text().splitlines()
        truth = np.array([line.split() for line in text if len(line.split()) == 7 and "data" not in line], float)
        rows = np.array(start.series) == name
        assert np.sqrt(np.mean((start.position_A[rows] - truth[:, :3]) ** 2)) < 5
        turn = Rotation.from_matrix(matrices(start.angles_deg[rows]).transpose(0, 2, 1) @ matrices(truth[:, 3:6]))
        assert np.rad2deg(np.sqrt(np.mean(turn.as_rotvec() ** 2))) < 4
        assert np.array_equal(start.half[rows], truth[:, 6])


READ = {
    "relion3.0/alisterburt+dynamo2m__example.star": (1399, 5.0, (1512.353, 1126.5, 973.5), "tomo_ts01"),
    "relion3.0/chanzuckerberg+cryoet-data-portal-backend__relion_3_star.star": (6, 1.7005, (5.2, 10.4, 15.2), "tomo_1"),
    "relion3.0/turonova+cryoCAT__bin1_1deg_500.star": (2, 1.971, (4052.123, 3272.708, 777.879), "1342"),
    "relion3.0/turonova+cryoCAT__relion_3.0.star": (3, 5.364, (1028.455, 733.955, 422.955), "01006"),
    "relion3.1/alisterburt+dynamo2m__relion3.1.star": (
        57,
        1.0,
        (5 * 314.929 - 3.947427, 5 * 918.864 - 0.072427, 5 * 349.444 - 0.072427),
        "TS_01",
    ),
    "relion3.1/chanzuckerberg+cryoet-data-portal-backend__tomoman_relion_star.star": (
        6,
        1.96,
        (5.2, 10.4, 15.2),
        "grid_1_lamella1_pos1",
    ),
    "relion3.1/turonova+cryoCAT__bin6_TM_starfile.star": (
        177,
        1.0,
        (7.338 * 513.333 - 15.321433, 7.338 * 546.667 - 15.321433, 7.338 * 223.333 - 7.983433),
        "0243",
    ),
    "relion4/chanzuckerberg+cryoet-data-portal-backend__relion_4_star.star": (6, 1.0, (5.2, 10.4, 15.2), "TS_001"),
    "warp_relion_export/bpowell122+tomodrgn__warptools_test_4-tomos.star": (
        40,
        12.0,
        (494.521, 564.065, 28.146),
        "Unt_083",
    ),
}
REFUSED = {
    "relion3.0/ml-struct-bio+cryodrgn__empiar_10076_7.star": "single-particle",
    "relion3.1/ml-struct-bio+cryodrgn__relion31.6opticsgroups.star": "single-particle",
    "relion3.1/ml-struct-bio+cryodrgn__relion31.star": "single-particle",
    "relion3.1/teamtomo+starfile__rln3.1_data_style.star": "2 tables could be the particles",
    "relion5/ml-struct-bio+cryodrgn__relion5.star": "single-particle",
    "relion5/turonova+cryoCAT__R5_tutorial_run_tomograms.star": "table of tomograms",
    "relion5/turonova+cryoCAT__relion5_TS_01_tilt.star": "this is a tilt series",
    **{
        f"relion5_tilt_series/3dem+relion__220728_TS_{i}.star": "this is a tilt series"
        for i in ["01", "03", "43", "45", "54"]
    },
    "relion5_tilt_series/3dem+relion__tilt_series.star": "table of tomograms",
    "warp_m_2d_series_relion30/ml-struct-bio+cryodrgn__sta_testing.star": "one row per tilt",
    "warp_m_2d_series_relion30/ml-struct-bio+cryodrgn__sta_testing_bin8.star": "one row per tilt",
    **{f"warp_numbers/reference{i}d.star": "no table of particles" for i in (1, 2, 3)},
    "warp_relion_export/bpowell122+tomodrgn__warptools_test_4-tomos_optimisation_set.star": "is not found",
    "warp_relion_export/bpowell122+tomodrgn__warptools_test_4-tomos_tomograms.star": "table of tomograms",
    "warp_xml/warpem+warpylib__TS_1.star": "no table of particles",
}
COMPOSED = "relion5/turonova+cryoCAT__R5_tutorial_run_data.first1200lines.star"


def test_every_real_table_has_an_expectation(shared: Path) -> None:
    """No STAR file of the collection is left out of the tests below."""
    folder = shared / "data/real"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.star")}
    assert found == {*READ, *REFUSED, COMPOSED}


@pytest.mark.parametrize("name", READ)
def test_real_tables(shared: Path, name: str) -> None:
    """Rows, first position (coordinate less origin, times pixel) and first name, taken from the files by eye."""
    rows, pixel_A, first, series = READ[name]
    particles = read_particles(shared / "data/real" / name)
    assert len(particles) == len(particles.columns) == rows
    assert not particles.centred
    assert particles.position_A[0] == pytest.approx(np.multiply(first, pixel_A), rel=1e-9)
    assert particles.series[0] == series
    assert len(particles.notes) == 6
    assert all(note.endswith(".") for note in particles.notes)


@pytest.mark.parametrize("name", REFUSED)
def test_real_files_that_are_no_table_of_particles(shared: Path, name: str) -> None:
    """Each is refused for the reason it deserves, with its name."""
    with pytest.raises(InputError, match=REFUSED[name]) as caught:
        read_particles(shared / "data/real" / name)
    assert Path(name).name in str(caught.value)


def test_subtomogram_angles_turn_angles_and_shifts(shared: Path) -> None:
    """RELION 5's own tutorial table, against scipy: A = A_sub A_angle, position = coordinate - A_sub origin."""
    particles = read_particles(shared / "data/real" / COMPOSED)
    frame = particles.columns
    outer = matrices(frame[[f"rlnTomoSubtomogram{a}" for a in ("Rot", "Tilt", "Psi")]].to_numpy())
    inner = matrices(frame[list(ANGLES)].to_numpy())
    assert np.abs(matrices(particles.angles_deg) - outer @ inner).max() < 1e-9
    shift = np.einsum("nij,nj->ni", outer, frame[[f"rlnOrigin{a}Angst" for a in "XYZ"]].to_numpy())
    assert np.abs(shift - frame[[f"rlnOrigin{a}Angst" for a in "XYZ"]].to_numpy()).max() > 0.1
    assert np.abs(particles.position_A - (frame[list(CENTRED)].to_numpy() - shift)).max() < 1e-9
    assert particles.centred


def test_pixel_size_of_coordinates(tmp_path: Path) -> None:
    """RELION's own tables use the tilt-series pixel, Warp's exports the image pixel; the user can override both."""
    optics = {"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [1.5], "rlnImagePixelSize": [6.0]}
    base = CORNER | ANGLES | {"rlnOpticsGroup": [1, 1]}
    native = table(tmp_path, base | NAMES, optics, "native.star")
    warp = table(tmp_path, base | {"rlnTomoName": ["TS_1.tomostar", "TS_2.tomostar"]}, optics, "warp.star")
    stacks = {"rlnTomoParticleId": [1, 2], "rlnImageName": ["particleseries/TS_1/a.mrcs", "particleseries/TS_1/b.mrcs"]}
    stack = table(tmp_path, base | NAMES | stacks, optics, "stack.star")
    expected = np.stack(list(CORNER.values()), -1)
    assert np.allclose(read_particles(native).position_A, 1.5 * expected)
    assert np.allclose(read_particles(warp).position_A, 6.0 * expected)
    assert np.allclose(read_particles(stack).position_A, 6.0 * expected)
    for path in (native, warp, stack):
        assert np.allclose(read_particles(path, coordinate_pixel_A=3.0).position_A, 3.0 * expected)
    assert "6 A (rlnImagePixelSize)" in " ".join(read_particles(warp).notes)
    assert "does not use rlnTomoTiltSeriesPixelSize (1.5 A)" in " ".join(read_particles(warp).notes)
    assert "1.5 A (rlnTomoTiltSeriesPixelSize)" in " ".join(read_particles(native).notes)


def test_optics_groups_with_gaps_and_stale_columns(tmp_path: Path) -> None:
    """Groups are found by their number, not by their place; optics win over a particle's own old column."""
    optics = {"rlnOpticsGroup": [9, 6], "rlnImagePixelSize": [2.0, 4.0]}
    particles = CORNER | ANGLES | NAMES | {"rlnOpticsGroup": [6, 9], "rlnImagePixelSize": [7.0, 7.0]}
    read = read_particles(table(tmp_path, particles, optics))
    assert read.position_A[:, 0].tolist() == [40.0, 40.0]
    assert read.columns["rlnImagePixelSize"].tolist() == [4.0, 2.0]
    with pytest.raises(InputError, match=r"row 2.*optics group 8 is not in data_optics"):
        read_particles(table(tmp_path, particles | {"rlnOpticsGroup": [6, 8]}, optics))
    with pytest.raises(InputError, match="occurs twice"):
        read_particles(table(tmp_path, particles, optics | {"rlnOpticsGroup": [6, 6]}))
    del particles["rlnOpticsGroup"]
    with pytest.raises(InputError, match="do not say theirs"):
        read_particles(table(tmp_path, particles, optics))


def test_shifts_are_subtracted_in_their_own_unit(tmp_path: Path) -> None:
    """rlnOriginX/Y/ZAngst in A, rlnOriginX/Y/Z in pixels of the images or as given."""
    base = CORNER | ANGLES | NAMES | {"rlnPixelSize": [2.0, 2.0]}
    angst = {f"rlnOrigin{a}Angst": [1.0, -1.0] for a in "XYZ"}
    pixels = {f"rlnOrigin{a}": [1.0, -1.0] for a in "XYZ"}
    assert read_particles(table(tmp_path, base | angst | pixels)).position_A[0].tolist() == [19, 59, 9]
    in_pixels = table(tmp_path, base | pixels)
    assert read_particles(in_pixels).position_A[0].tolist() == [18, 58, 8]
    assert read_particles(in_pixels, shift_pixel_A=5.0).position_A[1].tolist() == [45, 85, 17]
    with pytest.raises(InputError, match="rlnOriginX/Y/ZAngst are in A"):
        read_particles(table(tmp_path, base | angst), shift_pixel_A=5.0)
    del pixels["rlnOriginZ"]
    with pytest.raises(InputError, match="rlnOriginZ is missing, although there is rlnOriginX"):
        read_particles(table(tmp_path, base | pixels))
    no_pixel = CORNER | ANGLES | NAMES | {f"rlnOrigin{a}": [1.0, -1.0] for a in "XYZ"}
    with pytest.raises(InputError, match="--shift-pixel"):
        read_particles(table(tmp_path, no_pixel), coordinate_pixel_A=1.0)


def test_half_sets(tmp_path: Path) -> None:
    """Kept when they are there, alternating and said so when not, refused when they are neither 1 nor 2."""
    base = CENTRED | ANGLES | NAMES
    kept = read_particles(table(tmp_path, base | {"rlnRandomSubset": [2, 1]}))
    assert kept.half.tolist() == [2, 1]
    made = read_particles(table(tmp_path, base))
    assert made.half.tolist() == [1, 2]
    assert any("alternate" in note for note in made.notes)
    assert any("empty" in n for n in read_particles(table(tmp_path, base | {"rlnRandomSubset": [2, 2]})).notes)
    with pytest.raises(InputError, match=r"rlnRandomSubset, row 2: half-sets are 1 and 2, got 3"):
        read_particles(table(tmp_path, base | {"rlnRandomSubset": [1, 3]}))


def test_centred_positions_need_the_size_of_the_tomogram(tmp_path: Path) -> None:
    """Corner = centred + size / 2 of each particle's own series; an unknown series is named."""
    particles = read_particles(table(tmp_path, CENTRED | ANGLES | NAMES))
    sizes = {"TS_1.mrc": (100.0, 200.0, 50.0), "TS_2": (10.0, 20.0, 8.0)}
    assert particles.corner_positions(sizes).tolist() == [[51.0, 103.0, 30.0], [7.0, 14.0, 10.0]]
    assert particles.outside(sizes).tolist() == [False, True]
    with pytest.raises(InputError, match="TS_2"):
        particles.corner_positions({"TS_1": (1.0, 1.0, 1.0)})
    only = particles.select(np.array([False, True]))
    assert only.series == ("TS_2",)
    assert only.corner_positions({"TS_2": (10.0, 20.0, 8.0)}).tolist() == [[7.0, 14.0, 10.0]]
    assert len(only) == len(only.columns) == len(only.half) == 1


def m_table(samples: int) -> dict[str, list]:
    data: dict[str, list] = {}
    for k in range(1, samples + 1):
        data |= {f"wrpCoordinate{a}{k}": [10.0 * k, 20.0 * k] for a in "XYZ"}
    for k in range(1, samples + 1):
        data |= {f"wrpAngleRot{k}": [10.0 * k, -30.0], f"wrpAngleTilt{k}": [90.0, 40.0], f"wrpAnglePsi{k}": [5.0, 60.0]}
    return data | {
        "wrpRandomSubset": [2, 1],
        "wrpSourceName": ["TS_1.tomostar", "TS_2.tomostar"],
        "wrpSourceHash": ["H4dENXaB_9bW0-Sa_-CerxT4lMI", "12345"],
    }


def test_tables_of_m(tmp_path: Path) -> None:
    """A from the corner; several temporal samples are trajectories; hashes pass through as text."""
    one = read_particles(table(tmp_path, m_table(1), name="m.star"))
    assert one.position_A.tolist() == [[10.0] * 3, [20.0] * 3]
    assert one.angles_deg.tolist() == [[10.0, 90.0, 5.0], [-30.0, 40.0, 60.0]]
    assert one.series == ("TS_1", "TS_2")
    assert one.half.tolist() == [2, 1]
    assert one.columns["wrpSourceHash"].tolist()[1] == "12345"
    three = read_particles(table(tmp_path, m_table(3), name="m.star"))
    assert three.position_A.tolist() == [[[10.0 * k] * 3 for k in (1, 2, 3)], [[20.0 * k] * 3 for k in (1, 2, 3)]]
    assert three.angles_deg[0].tolist() == [[10.0 * k, 90.0, 5.0] for k in (1, 2, 3)]
    assert three.outside({"TS_1": (25.0,) * 3, "TS_2": (70.0,) * 3}).tolist() == [True, False]
    assert not three.outside({"TS_1": (25.0,) * 3, "TS_2": (70.0,) * 3}, margin_A=6.0).any()
    fewer = {name: values for name, values in m_table(3).items() if not re.fullmatch(r"wrpAngle.*[23]", name)}
    assert (read_particles(table(tmp_path, fewer, name="few.star")).angles_deg[0] == [10.0, 90.0, 5.0]).all()
    others = m_table(1) | {"rlnMicrographName": ["a", "b"]}
    assert read_particles(table(tmp_path, others, name="both.star")).series == ("TS_1", "TS_2")
    nameless = {name: values for name, values in m_table(1).items() if name != "wrpSourceName"}
    with pytest.raises(InputError, match="no column says the tilt series"):
        read_particles(table(tmp_path, nameless, name="nameless.star"))
    with pytest.raises(InputError, match="M's coordinates are in A"):
        read_particles(tmp_path / "m.star", coordinate_pixel_A=2.0)


@pytest.mark.parametrize(
    ("particles", "message"),
    [
        (CENTRED | NAMES, "no angles"),
        (CENTRED | ANGLES, "no column says the tilt series"),
        ({k: [] for k in CENTRED | ANGLES | NAMES}, "no rows"),
        (CORNER | ANGLES | NAMES, "no pixel size for the coordinates"),
        (CORNER | ANGLES | NAMES | {"rlnPixelSize": [1.0, 0.0]}, r"rlnPixelSize, row 2: expected a positive"),
        (CENTRED | ANGLES | {"rlnTomoName": ["TS_1", ""]}, r"rlnTomoName, row 2.*expected a name"),
        (CENTRED | ANGLES | NAMES | {"rlnAngleTilt": ["1.5", "x"]}, r"rlnAngleTilt, row 2.*expected a number, got 'x'"),
        (CENTRED | ANGLES | NAMES | {"rlnAngleTilt": ["nan", "1"]}, r"rlnAngleTilt, row 1.*finite number, got nan"),
        (
            CENTRED | ANGLES | NAMES | {list(CENTRED)[2]: ["1", "inf"]},
            r"CoordinateZAngst, row 2.*finite number, got inf",
        ),
        (CENTRED | NAMES | {"rlnAngleRot": [1.0, 2.0]}, "rlnAngleTilt, rlnAnglePsi is missing"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, particles: dict[str, list], message: str) -> None:
    """The message names the file, the column and the row."""
    with pytest.raises(InputError, match=message) as caught:
        read_particles(table(tmp_path, particles))
    assert "p.star" in str(caught.value)


@pytest.mark.parametrize("pixel", [0.0, -1.0, float("nan"), float("inf")])
def test_pixel_sizes_that_make_no_sense(tmp_path: Path, pixel: float) -> None:
    """Refused before anything is read."""
    with pytest.raises(InputError, match="must be positive"):
        read_particles(tmp_path / "missing.star", coordinate_pixel_A=pixel)


def test_a_pixel_size_for_coordinates_in_angstrom_is_refused(tmp_path: Path) -> None:
    """It would be ignored, and the user would believe otherwise."""
    with pytest.raises(InputError, match="are in A; leave the option out"):
        read_particles(table(tmp_path, CENTRED | ANGLES | NAMES), coordinate_pixel_A=2.0)


def test_suspicious_tables_are_read_with_a_warning(tmp_path: Path) -> None:
    """Angles multiplied by 57.3, and centred coordinates under Warp's names."""
    large = read_particles(table(tmp_path, CENTRED | ANGLES | NAMES | {"rlnAngleRot": [7000.0, 1.0]}))
    assert any("57.3" in note for note in large.notes)
    names = {"rlnTomoName": ["TS_1.tomostar", "TS_2.tomostar"]}
    mixed = read_particles(table(tmp_path, CENTRED | ANGLES | names))
    assert any("binning" in note for note in mixed.notes)


def test_optimisation_sets(tmp_path: Path) -> None:
    """Paths start at the project above the set, or at the set itself; an empty one is refused."""
    job = tmp_path / "Refine3D" / "job001"
    job.mkdir(parents=True)
    table(tmp_path, CENTRED | ANGLES | NAMES, name="particles.star")
    for entry, message in (("particles.star", ""), ("", "is empty"), ("nowhere.star", "is not found")):
        write_table(job / "set.star", {"": {"rlnTomoParticlesFile": entry, "rlnTomoTrajectoriesFile": ""}})
        if message:
            with pytest.raises(InputError, match=message):
                read_particles(job / "set.star")
        else:
            assert len(read_particles(job / "set.star")) == 2
    table(job, CENTRED | ANGLES | NAMES | {"rlnAngleRot": [1.0, 1.0]}, name="particles.star")
    write_table(job / "set.star", {"": pd.DataFrame({"rlnTomoParticlesFile": ["particles.star"]})})
    assert read_particles(job / "set.star").angles_deg[0, 0] == 1.0


def test_subtomogram_angles_alone(tmp_path: Path) -> None:
    """Picks that have only rlnTomoSubtomogramRot/Tilt/Psi are oriented by them."""
    outer = {f"rlnTomoSubtomogram{a}": [1.0, 2.0] for a in ("Rot", "Tilt", "Psi")}
    assert read_particles(table(tmp_path, CENTRED | NAMES | outer)).angles_deg.tolist() == [[1.0] * 3, [2.0] * 3]
