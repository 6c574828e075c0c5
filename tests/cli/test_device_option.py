"""--device: on a machine without a card one line says what is missing; the choice is checked before anything runs."""

from __future__ import annotations

import pytest

from mpr_dist.arrays import why_no_card
from mpr_dist.engine.choice import EngineChoice, JobOptions
from mpr_dist.errors import InputError
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.state.resources import Resources

CHOICE = ("--image-warp", "2x2", "--particles")


def test_without_a_card_one_line_says_what_is_missing(project, mpr, add_source, add_species, tmp_path):
    if why_no_card() is None:
        pytest.skip("this machine has a card")
    add_source(project.files.root)
    assert add_species(project.files.root).code == 0
    pop = tmp_path / "pop"
    commands = [("refine", *CHOICE, "--device", "gpu", "--engine", engine) for engine in ("inline", "local")]
    commands += [("refine", *CHOICE, "--engine", "cuda"), ("reconstruct", "--device", "gpu")]
    commands += [("batch", *CHOICE, "--index", "1", "--of", "1", "--device", "gpu")]
    for command in commands:
        refused = mpr(command[0], pop, *command[1:])
        assert refused.code == 2
        assert refused.is_one_line()
        assert "cupy" in refused.err or "card" in refused.err or "dask-cuda" in refused.err
        assert "cpu" in refused.err or "local" in refused.err  # what there is instead
    assert not (pop / "iterations" / "001").exists()


def test_what_contradicts_itself_is_refused():
    for wrong in ({"kind": "cuda", "device": "cpu"}, {"device": "tpu"}):
        with pytest.raises(InputError, match="--device"):
            EngineChoice(**wrong)


def test_workers_with_cards_compute_on_them():
    """cuda, and jobs with cards, unless asked otherwise; a scheduler of others is asked for."""
    with_card = JobOptions(gpus=1)
    assert EngineChoice("cuda").computes_on == "gpu"
    assert EngineChoice("slurm", job=with_card).computes_on == "gpu"
    assert EngineChoice("slurm", job=with_card, device="cpu").computes_on == "cpu"
    assert EngineChoice("slurm").computes_on == "cpu"
    assert EngineChoice("local").computes_on == "cpu"
    assert EngineChoice("tcp://host:8786").computes_on == "cpu"
    assert EngineChoice("tcp://host:8786", device="gpu").computes_on == "gpu"


def test_a_card_is_shared_by_those_who_use_it():
    assert EngineChoice("local", device="gpu").workers_per_card(3) == 3
    assert EngineChoice("cuda", workers_per_gpu=2).workers_per_card(8) == 2
    assert EngineChoice("slurm", workers_per_gpu=2, job=JobOptions(gpus=4)).workers_per_card(8) == 2


def test_bits_of_a_card_and_of_the_host_do_not_share_an_iteration():
    """The version of the science, which an iteration records, tells the device and nothing else of the resources."""
    assert Physics.on(Resources(1 << 30)).version == Physics.version
    assert Physics.on(Resources(device="gpu")).version == f"{Physics.version}-gpu"


def test_benchmarks_of_a_card_need_one(mpr):
    """One line before anything is simulated; a device that is none is named."""
    if why_no_card() is None:
        pytest.skip("this machine has a card")
    for command in (("kernels",), ("iteration", "--box", "64")):
        refused = mpr("benchmark", *command, "--device", "gpu")
        assert refused.code == 2
        assert refused.is_one_line()
        assert why_no_card() in refused.err
        assert mpr("benchmark", *command, "--device", "tpu").code == 2
    assert mpr("benchmark", "kernels", "--device", "gpu", "--boxes", "65").code == 2
