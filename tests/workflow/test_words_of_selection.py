"""Particles are selected by RELION's and Warp's names of what is known; a dry run of a change writes nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.cli.app import run as command
from mpr_dist.errors import InputError
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.changing.species_changes import ChangeRequest
from mpr_dist.workflow.changing.species_selection import Selection, select_particles, split_species
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project
from mpr_dist.workflow.state.species_state import read_species


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two series of eight particles."""
    root = tmp_path_factory.mktemp("words")
    import_simulated(
        root / "pop", simulate_project(root / "p", replace(SimulateSettings.fixture(), n_series=2)), "small"
    )
    return root / "pop"


def _stay(path: Path, *conditions: str) -> str:
    return select_particles(ChangeRequest(path, "phantom", dry_run=True), Selection(conditions=conditions)).notes[0]


@pytest.mark.parametrize("name", ["rlnTomoName", "wrpSourceName", "rlnMicrographName", "_rlnTomoName", "rlntomoname"])
@pytest.mark.parametrize("value", ["TS_02", "TS_02.tomostar"])
def test_names_of_series(made, name, value):
    assert _stay(made, f"{name}={value}").startswith("8 of 16 particles stay")
    with pytest.raises(InputError, match="none of its 16 particles would be left"):
        _stay(made, f"{name}=TS_07")


def test_poses_and_half_sets_by_the_names_of_both(made):
    particles = read_species(load_population(made), "phantom").particles
    first = int((particles.half == 1).sum())
    for name in ("rlnRandomSubset", "wrpRandomSubset"):
        with pytest.raises(InputError, match=f"would have {first} and 0 particles in its half-sets"):
            _stay(made, f"{name}<=1")
    tilt = particles.angles_deg[:, 0, 1]
    for name in ("rlnAngleTilt", "wrpAngleTilt1"):
        assert _stay(made, f"{name}>90").startswith(f"{int((tilt > 90).sum())} of 16")
    x = particles.position_A[:, 0, 0]
    middle = float(np.median(x))
    assert _stay(made, f"wrpCoordinateX1<{middle:.4f}").startswith("8 of 16")


def test_an_unknown_name_is_answered_with_those_there_are(made):
    with pytest.raises(InputError, match=r"no column rlnRandomSubst \(did you mean rlnRandomSubset\?\).*rlnTomoName"):
        _stay(made, "rlnRandomSubst=1")
    with pytest.raises(InputError, match="wrpCoordinateX1 in A, or --region"):
        _stay(made, "rlnCoordinateX>1")
    with pytest.raises(InputError, match="no column nothing"):
        split_species(ChangeRequest(made, "phantom"), "nothing")


def test_an_empty_region_is_answered_with_where_particles_are(made):
    z = read_species(load_population(made), "phantom").particles.position_A[:, 0, 2]
    with pytest.raises(InputError, match=f"their z are {z.min():.0f} to {z.max():.0f} A"):
        select_particles(ChangeRequest(made, "phantom", dry_run=True), Selection(regions=("z=90000:",)))


DRY = {
    "rotate": ("species", "rotate", "POP", "phantom", "--psi", "90"),
    "shift": ("species", "shift", "POP", "part", "-z", "10"),
    "expand": ("species", "expand-symmetry", "POP", "phantom"),
    "split": ("species", "split", "POP", "phantom", "--by", "rlnTomoName"),
    "merge": ("species", "merge", "POP", "phantom", "other"),
    "select": ("species", "select", "POP", "phantom", "--where", "rlnTomoName=TS_01"),
    "resample": ("species", "resample-trajectories", "POP", "phantom", "3"),
    "remove": ("species", "remove", "POP", "phantom"),
    "remove source": ("source", "remove", "POP", "simulated"),
}


@pytest.fixture(scope="module")
def two(made, tmp_path_factory) -> Path:
    """With parts of the species as two more, one of them without symmetry."""
    pop = Path(shutil.copytree(made, tmp_path_factory.mktemp("two") / "pop"))
    request = ChangeRequest(pop, "phantom", "part", keep=True)
    select_particles(request, Selection(series=("TS_01",)))
    select_particles(replace(request, new_name="other"), Selection(series=("TS_02",)))
    table = pop / "species/part/species.toml"
    assert 'symmetry = "O"' in table.read_text()
    table.write_text(table.read_text().replace('symmetry = "O"', 'symmetry = "C1"'))
    return pop


@pytest.mark.parametrize("what", DRY)
def test_a_dry_run_says_what_would_be_and_writes_nothing(two, what, digests, capsys):
    before = digests(two)
    arguments = [str(two) if each == "POP" else each for each in DRY[what]]
    assert command([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("Nothing was changed (--dry-run).")
    assert digests(two) == before
