"""An iteration of a population on a card and on the host. Needs the whole program, unlike its neighbours here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_population import build_population

from mpr_dist.arrays import HOST
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import PopulationError
from mpr_dist.maths.fourier import shell_sums, to_fourier
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.mrc import read_volume
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.state import resources
from mpr_dist.workflow.state.resources import Resources
from mpr_dist.workflow.state.run_settings import RunSettings

SETTINGS = RefineSettings(iterations=1, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)


@pytest.fixture
def on_card(card, monkeypatch):
    """Resources of a worker with a card; one that is none takes the place of the first of this machine."""
    if card.name != "gpu":
        monkeypatch.setattr(resources, "open_device", lambda name, workers: card if name == "gpu" else HOST)
    return Resources(device="gpu")


def iterated(directory, made, used, settings=SETTINGS):
    return run(build_population(directory, made).path, Physics.on(used), RunSettings(settings), InlineExecutor())


def halves(population):
    files = population.files(population.iteration).species("phantom")
    return [read_volume(path)[0] for path in (files.half1, files.half2)]


def fsc(one, other):
    a, b = to_fourier(one), to_fourier(other)
    cross, first, second = shell_sums((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    return cross[1:] / np.sqrt(first[1:] * second[1:])


def test_half_maps_of_an_iteration_are_those_of_the_host(on_card, card, project, tmp_path, monkeypatch):
    """From the same start: FSC above 0.999 in every shell; a second run on a real card has the same bits.

    The reference is made on the card and stays there: it never goes up.
    """
    here = iterated(tmp_path / "here", project, Resources())
    put, shapes = card.put, set()

    def watched(values, dtype=None):
        shapes.add(np.shape(values))
        return put(values, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(card, "put", watched)
        there = iterated(tmp_path / "there", project, on_card)
    n = there.species_named("phantom").species.box_px
    assert (n, n, n) in shapes
    assert (2, n + 3, n + 3, n // 2 + 2, 2) not in shapes
    for one, other in zip(halves(here), halves(there), strict=True):
        assert fsc(one, other).min() > 0.999
    if card.name == "gpu":
        again = iterated(tmp_path / "again", project, on_card)
        assert [one.tobytes() for one in halves(there)] == [one.tobytes() for one in halves(again)]


def test_an_iteration_keeps_to_its_device(on_card, project, tmp_path):
    """What was begun on one is not continued on the other: the last bits would differ."""
    begun = build_population(tmp_path / "pop", project)
    settings = RunSettings(replace(SETTINGS, iterations=1))
    settings.begin(begun.files(1), Physics.on(Resources()).version, True)
    with pytest.raises(PopulationError, match=r"science: physics-\d+ then, physics-\d+-gpu now"):
        run(begun.path, Physics.on(on_card), settings, InlineExecutor())
