"""motion.star, images within stacks, and files that RELION's tables name."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.storage.image_file import file_and_slice, in_stack
from mpr_dist.storage.mrc import read_header, read_image
from mpr_dist.storage.relion_motion import COUNT, motion_file, read_motion, write_motion
from mpr_dist.storage.relion_paths import find_file, split_name
from mpr_dist.storage.star import write_table

MOTION = {"TS_1/1": np.arange(12.0).reshape(4, 3), "TS_1/2": -np.ones((4, 3))}


def test_motion_comes_back(tmp_path: Path) -> None:
    write_motion(tmp_path / "motion.star", MOTION)
    second, first = read_motion(tmp_path / "motion.star", ["TS_1/2", "TS_1/1"])
    assert np.array_equal(first, MOTION["TS_1/1"])
    assert np.array_equal(second, MOTION["TS_1/2"])


def test_old_files_number_particles(tmp_path: Path) -> None:
    """Before names, block i belonged to row i of the particle table."""
    frames = {
        str(i): pd.DataFrame({f"rlnOrigin{a}Angst": each[:, k] for k, a in enumerate("XYZ")})
        for i, each in enumerate(MOTION.values())
    }
    write_table(tmp_path / "motion.star", {"general": {COUNT: 2}, **frames})
    first, _ = read_motion(tmp_path / "motion.star", ["a/1", "a/2"])
    assert np.array_equal(first, MOTION["TS_1/1"])
    with pytest.raises(InputError, match="unnamed trajectories of 2 particles, the table 3"):
        read_motion(tmp_path / "motion.star", ["a/1", "a/2", "a/3"])


def test_motion_that_is_not_there(tmp_path: Path) -> None:
    write_motion(tmp_path / "motion.star", MOTION)
    with pytest.raises(InputError, match="no trajectory of particle TS_9/1"):
        read_motion(tmp_path / "motion.star", ["TS_1/1", "TS_9/1"])
    write_table(tmp_path / "other.star", {"x": {"rlnA": 1}})
    with pytest.raises(InputError, match=COUNT):
        read_motion(tmp_path / "other.star", ["TS_1/1"])


def test_an_optimisation_set_names_its_motion(tmp_path: Path) -> None:
    """Relative to a folder above; an empty text, as RELION writes it, is none; a file that is gone is an error."""
    (tmp_path / "job001").mkdir()
    write_motion(tmp_path / "job001/motion.star", MOTION)
    path = tmp_path / "job001/set.star"
    named = {"rlnTomoParticlesFile": "p.star", "rlnTomoTrajectoriesFile": "job001/motion.star"}
    write_table(path, {"": named})
    assert motion_file(path) == tmp_path / "job001/motion.star"
    write_table(path, {"": {**named, "rlnTomoTrajectoriesFile": ""}})
    assert motion_file(path) is None
    write_table(path, {"": {**named, "rlnTomoTrajectoriesFile": "gone.star"}})
    with pytest.raises(InputError, match=r"gone\.star"):
        motion_file(path)


def test_images_of_stacks(tmp_path: Path) -> None:
    """Counted from 1, as RELION does; beyond the last there is none."""
    stack = np.random.default_rng(0).normal(0, 1, (3, 6, 8)).astype(np.float32)
    with mrcfile.new(tmp_path / "a.st") as file:
        file.set_data(stack)
        file.voxel_size = 2.5
    path = in_stack(tmp_path / "a.st", 2)
    assert path.name == "000002@a.st"
    assert file_and_slice(path) == (tmp_path / "a.st", 1)
    assert np.array_equal(read_image(path), stack[1])
    assert read_header(path) == (8, 6, 1, 2.5)
    with pytest.raises(SeriesError, match="has 3 images, image 4"):
        read_image(in_stack(tmp_path / "a.st", 4))
    with pytest.raises(SeriesError, match="one image, got 3"):
        read_image(tmp_path / "a.st")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("3@a/b.mrcs", ("a/b.mrcs", 3)), ("a/b.mrc", ("a/b.mrc", None)), ("x@y.mrc", ("x@y.mrc", None))],
)
def test_names_with_a_number(name: str, expected: tuple[str, int | None]) -> None:
    assert split_name(name) == expected


def test_files_are_looked_for_upwards(tmp_path: Path) -> None:
    """From the folder of the table to that of the project; RELION's suffix of the format is not part of the name."""
    (tmp_path / "Extract/job004").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/TS.st").write_bytes(b"")
    table = tmp_path / "Extract/job004/particles.star"
    assert find_file("images/TS.st:mrc", table) == tmp_path / "images/TS.st"
    assert find_file("images\\TS.st", table) == tmp_path / "images/TS.st"
    assert find_file("images/none.st", table) is None
    assert find_file("", table) is None
