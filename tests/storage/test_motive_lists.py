"""Lists of Dynamo, STOPGAP, AV3 and TOM: positions, angles against scipy, half-sets, names, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.storage.motive_lists import (
    as_table,
    is_motive_list,
    names_by_number,
    read_motive_list,
    read_tomogram_names,
)

ANGLES = np.array([[10.0, 20.0, 30.0], [-120.0, 95.0, 170.0], [0.0, 0.0, 45.0]])  # tdrot, tilt, narot
PLACES = np.array([[100.0, 200.0, 50.0], [10.5, 20.0, 30.0], [7.0, 8.0, 9.0]])
SHIFTS = np.array([[1.5, -2.0, 0.25], [0.0, 0.0, 0.0], [-1.0, 1.0, 3.0]])
TOMOGRAMS = (1, 1, 12)
NAMES = {1: "TS_01", 12: "reconstruction/TS_12_10.00Apx.mrc"}


def about(axis: str, degrees: np.ndarray) -> np.ndarray:
    """Right-handed active rotations by scipy: an oracle that shares no code with the package."""
    return Rotation.from_euler(axis, degrees[:, None], degrees=True).as_matrix()


def dynamo(folder: Path, columns: int = 35) -> Path:
    rows = np.zeros((3, columns))
    rows[:, 0] = [3, 4, 7]
    rows[:, 3:6], rows[:, 6:9], rows[:, 23:26], rows[:, 19] = SHIFTS, ANGLES, PLACES, TOMOGRAMS
    path = folder / "x.tbl"
    path.write_text("\n".join(" ".join(f"{v:g}" for v in row) for row in rows) + "\n")
    return path


def em(folder: Path, kind: int = 5, order: str = "<", cut: int = 0) -> Path:
    rows = np.zeros((3, 20))
    rows[:, 4], rows[:, 7:10], rows[:, 10:13] = TOMOGRAMS, PLACES, SHIFTS
    rows[:, 16], rows[:, 18], rows[:, 17] = -ANGLES[:, 2], -ANGLES[:, 1], -ANGLES[:, 0]  # phi, theta, psi
    header = bytes([6 if order == "<" else 5, 0, 0, kind]) + struct.pack(f"{order}3i", 20, 3, 1)
    path = folder / "x.em"
    data = rows.astype(f"{order}{'f4' if kind == 5 else 'f8'}").tobytes()
    path.write_bytes(header + bytes(512 - len(header)) + data[: len(data) - cut])
    return path


def stopgap(folder: Path) -> Path:
    names = ["motl_idx", "tomo_num", "object", "subtomo_num", "halfset", "orig_x", "orig_y", "orig_z", "score"]
    names += ["x_shift", "y_shift", "z_shift", "phi", "psi", "the", "class"]
    lines = ["", "data_stopgap_motivelist", "", "loop_", *(f"_{name}" for name in names)]
    for i in range(3):
        tdrot, tilt, narot = ANGLES[i]
        values = [
            i + 1,
            f"{TOMOGRAMS[i]}.0",
            1,
            i + 1,
            "AB"[i % 2],
            *PLACES[i],
            0.5,
            *SHIFTS[i],
            -narot,
            -tdrot,
            -tilt,
            1,
        ]
        lines.append("\t".join(str(value) for value in values))
    path = folder / "x.star"
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.mark.parametrize("make", [dynamo, em, stopgap])
def test_the_same_particles_in_every_list(make, tmp_path: Path) -> None:
    """Dynamo's angles are minus those of a motive list; A = Rz(-tdrot) Rx(-tilt) Rz(-narot)."""
    path = make(tmp_path)
    assert is_motive_list(path)
    table = as_table(read_motive_list(path), NAMES, 2.5)
    np.testing.assert_allclose(table.position_A, (PLACES + SHIFTS) * 2.5, rtol=1e-6)
    expected = about("z", -ANGLES[:, 0]) @ about("x", -ANGLES[:, 1]) @ about("z", -ANGLES[:, 2])
    np.testing.assert_allclose(euler_to_matrix(table.angles_deg), expected, atol=1e-6)
    assert table.series == ("TS_01", "TS_01", "TS_12")
    assert not table.centred
    assert len(table.notes) == 6
    # odd and even tags, rows in turn, A and B
    assert table.half.tolist() == {"x.tbl": [1, 2, 1], "x.em": [1, 2, 1], "x.star": [1, 2, 1]}[path.name]


def test_counting_from_one_half_a_voxel_from_the_middle(tmp_path: Path) -> None:
    """x - 1 + 0.5, which is what RELION makes of Dynamo's coordinates."""
    table = as_table(read_motive_list(dynamo(tmp_path)), NAMES, 2.0, voxel_origin=0.5)
    np.testing.assert_allclose(table.position_A, (PLACES + SHIFTS - 1 + 0.5) * 2.0)
    assert "counted from 0.5" in table.reading.positions


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [5, 9])
def test_number_types_of_em(kind: int, order: str, tmp_path: Path) -> None:
    found = read_motive_list(em(tmp_path, kind, order))
    np.testing.assert_allclose(found.coordinate_px, PLACES)
    assert found.tomogram.tolist() == list(TOMOGRAMS)


def test_names_of_tomograms(tmp_path: Path) -> None:
    """From a file, or by the last number in the name where that is clear."""
    path = tmp_path / "names.doc"
    path.write_text("# mine\n1\tTS_01\n 12, reconstruction/TS_12_10.00Apx.mrc\n")
    assert read_tomogram_names(path) == NAMES
    found = read_motive_list(dynamo(tmp_path))
    assert names_by_number(found, ["a2_TS_01", "TS_012", "TS_3"]) == {1: "a2_TS_01", 12: "TS_012", 3: "TS_3"}
    for series, words in ((["TS_01"], "tomogram 12 fits no series"), (["x1", "y1", "z12"], "tomogram 1 fits x1, y1")):
        with pytest.raises(InputError, match=words):
            names_by_number(found, series)
    for text, words in (("1 a\n1 b\n", "occurs twice"), ("a 1\n", "expected a number and a name"), ("", "no names")):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_tomogram_names(path)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_motive_list(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_used(tmp_path: Path) -> None:
    """Cut off, of another kind, without pixel or name: the file and the place are named."""
    with pytest.raises(InputError, match="no name for tomogram 12"):
        as_table(read_motive_list(dynamo(tmp_path)), {1: "TS_01"}, 1.0)
    with pytest.raises(InputError, match="--coordinate-pixel"):
        as_table(read_motive_list(dynamo(tmp_path)), NAMES, None)
    assert "cut off" in refusal(em(tmp_path, cut=4))
    (tmp_path / "short.tbl").write_text("1 2 3\n")
    assert "expected 26 columns" in refusal(tmp_path / "short.tbl")
    assert len(read_motive_list(dynamo(tmp_path, 26)).tomogram) == 3
    path = dynamo(tmp_path)
    path.write_text(path.read_text().rstrip().rsplit(" ", 3)[0])
    assert "line 3: expected 35 columns" in refusal(path)
    path.write_text(dynamo(tmp_path).read_text().replace("100", "NaN", 1))
    assert "particle 1 has coordinates that are not finite" in refusal(path)
    path.write_text("")
    assert "no particles" in refusal(path)
    em(tmp_path).write_bytes(bytes(700))
    assert "expected an EM file of 20 x N x 1" in refusal(tmp_path / "x.em")
