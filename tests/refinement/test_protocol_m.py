"""M's published order: what is refined once is refined on, and options say how."""

from __future__ import annotations

import itertools

from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.protocol_m import at_step, new_at, steps

ASKED = RefineSettings(protocol="m")


def test_the_order_is_the_published_one():
    added = [new_at(ASKED, step) for step in range(len(steps(ASKED)))]
    assert added == [
        ("image warp 6x4", "particles"),
        ("defocus", "astigmatism"),
        ("stage angles",),
        ("cs", "magnification", "aberrations of order 3"),
        ("2 temporal samples",),
    ]


def test_nothing_is_taken_back():
    for one, next_one in itertools.pairwise(steps(ASKED)):
        assert set(one.refined) < set(next_one.refined)
    assert at_step(ASKED, 99) == steps(ASKED)[-1]


def test_options_say_how_and_what_not():
    asked = RefineSettings(
        protocol="m", image_warp=(3, 3), volume_warp=(2, 2, 1, 4), temporal_samples=3, rigid_stage=True,
        defocus_search=True, excluded=("cs", "astigmatism"),
    )  # fmt: skip
    first, *_, last = steps(asked)
    assert (first.image_warp, first.volume_warp, first.temporal_samples) == ((3, 3), (2, 2, 1, 4), 0)
    assert last.temporal_samples == 3
    assert (first.rigid_stage, last.rigid_stage) == (False, True)
    assert (first.defocus_search, steps(asked)[1].defocus_search) == (False, True)
    assert (last.cs, last.astigmatism) == (False, False)
    assert last.magnification


def test_without_particles_there_are_no_trajectories():
    last = steps(RefineSettings(protocol="m", excluded=("particles", "defocus")))[-1]
    assert not last.particles
    assert last.temporal_samples == 0
