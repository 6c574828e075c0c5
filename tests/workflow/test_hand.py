"""Which way the depth counts: for both hands the right sign wins, in the test on images and in refinement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.cli.app import run as command
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.checking.verify import verify_population
from mpr_dist.workflow.checking.verify_hand import Hand, SeriesHand, verify_hand
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.simulation.simulate_settings import Plant
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.series_results import read_summary

# a field of 1.7 x 1.6 um: tilted by 30 degrees, depths differ by 300 A on either side
WIDE = replace(
    SimulateSettings.fixture(),
    image_px=(416, 400),
    particles_per_series=16,
    plant=Plant((2, 2), (0.5, 1.0), 0.3, 1.0, 1.0),
)


@pytest.fixture(scope="module", params=[False, True], ids=["not inverted", "inverted"])
def truth(request, tmp_path_factory) -> tuple[bool, SimulatedProject]:
    settings = replace(WIDE, are_angles_inverted=request.param)
    return request.param, simulate_project(tmp_path_factory.mktemp("hand") / "p", settings)


@pytest.fixture(scope="module")
def populations(truth, tmp_path_factory) -> tuple[Path, Path]:
    """With the sign that the images have, and with the other one in the XML."""
    inverted, made = truth
    folder, xml = tmp_path_factory.mktemp("pops"), made.files.xml("TS_01")
    import_simulated(folder / "right", made, "right")
    text = xml.read_text("utf-8-sig")
    assert f'AreAnglesInverted="{inverted}"' in text
    xml.write_text(text.replace(f'AreAnglesInverted="{inverted}"', f'AreAnglesInverted="{not inverted}"'), "utf-8")
    import_simulated(folder / "wrong", made, "wrong")
    return folder / "right", folder / "wrong"


def test_the_right_sign_wins(truth, populations, capsys):
    inverted, _ = truth
    assert command(["population", "verify", str(populations[0]), "--hand"]) == 0
    said = capsys.readouterr()
    assert f"is right (AreAnglesInverted = {inverted})" in said.out
    assert "TS_01, passes over its images: 6 done" in said.err  # progress, without a terminal
    assert command(["population", "verify", str(populations[1]), "--hand", "--json"]) == 1
    wrong = json.loads(capsys.readouterr().out)["hand"]
    assert (wrong["verdict"], wrong["confidence"] > 0.998) == ("wrong", True)
    right = verify_hand(populations[0])
    assert right.series[0].are_angles_inverted is inverted
    # the same comparison, the other way round
    assert right.difference == pytest.approx(-wrong["difference"], rel=1e-6)


def test_refined_with_the_right_sign_the_images_agree_better(populations):
    """One iteration of poses and defocus each, from the same start: the wrong sign does not get as far."""
    settings = RunSettings(RefineSettings(iterations=1, particles=True, defocus=True, max_passes=14))
    likelihood, score = [], []
    for path in populations:
        run(path, Physics(), settings, InlineExecutor())
        summary = read_summary(load_population(path).files(1).series("TS_01")) or {}
        likelihood.append(summary["numbers"]["details"]["objective"][1])
        score.append(summary["numbers"]["cross_score"])
    # exp(30) to one; poses may follow a wrong defocus to some extent, so less than the test finds at fixed poses
    assert likelihood[0] - likelihood[1] > 30, likelihood
    assert score[0] > score[1], score


def test_a_verdict_needs_three_standard_deviations():
    def hand(difference: float, sigma: float) -> Hand:
        return Hand((SeriesHand("TS_01", False, 10, difference, sigma, 100.0),))

    assert hand(2.9, 1.0).verdict == "undecided"
    assert hand(-3.1, 1.0).verdict == "wrong"
    assert hand(0.0, 0.0).verdict == "undecided"
    # of a normal distribution, 0.99865 lies below 3 standard deviations
    assert hand(3.0, 1.0).confidence == pytest.approx(0.99865, abs=1e-5)
    assert "refine first" in hand(1.0, 1.0).lines[0]
    two = Hand((*hand(3.0, 1.0).series, *hand(4.0, 1.0).series))
    assert two.sigmas == pytest.approx(7 / np.sqrt(2))


def test_the_hand_of_a_relion_project(truth, populations, tmp_path):
    """The same images as a project of RELION: rlnTomoHand is what it has to be, and the other value is found wrong."""
    inverted, made = truth
    export(ExportRequest(populations[0], tmp_path / "relion"), "relion5")
    (table,) = (tmp_path / "relion").rglob("tomograms.star")
    blocks = read_blocks(table)
    rows = blocks["global"]
    assert rows["rlnTomoHand"].tolist() == [-1.0 if inverted else 1.0]
    particles = next((tmp_path / "relion").rglob("particles.star"))
    species = made.species
    for verdict, hand in (("right", 1), ("wrong", -1)):
        table.unlink()
        write_table(table, blocks | {"global": rows.assign(rlnTomoHand=hand * rows["rlnTomoHand"])})
        path = tmp_path / verdict
        create_population(path, verdict)
        add_relion_source(path, SourceRequest("grid", table))
        maps = made.half_maps[0], made.half_maps[1], made.mask
        add_species(path, SpeciesRequest("phantom", *maps, particles, species.diameter_A, species.symmetry))
        assert verify_hand(path).verdict == verdict
        assert not verify_population(path).of("error")
