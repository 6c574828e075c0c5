"""Steps that overshoot, or near a summit, are held back: in the turns of particles and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bent_equations import after_step, random_equations

from mpr_dist.maths.solve import NormalEquations, solve
from mpr_dist.refinement.braking import MEMORY, Braking

TURNS = np.arange(12) % 6 >= 3


def test_what_bends_as_its_matrix_says_is_not_held() -> None:
    e = random_equations()
    step, poses = solve(e)
    braking = Braking.none(4).after(e, after_step(e, step, poses, np.ones(4)), step, poses)
    np.testing.assert_allclose(braking.overshot, 0.0, atol=1e-9)  # rounding
    np.testing.assert_array_equal(Braking.none(4).braked(e).p, e.p)


@pytest.mark.parametrize("bend", [0.3, 1.0, 2.5, 9.0])
def test_the_secant_finds_how_much_more_a_slope_bends(bend: float) -> None:
    """What bends less than expected is safe with whole steps; a memory fades when it bends as expected again."""
    e = random_equations(1)
    step, poses = solve(e)
    bends = np.array([bend, 1.0, 1.0, bend])
    braking = Braking.none(4).after(e, after_step(e, step, poses, bends), step, poses)
    np.testing.assert_allclose(braking.overshot, np.maximum(bends - 1.0, 0.0), atol=1e-9)
    faded = braking.after(e, after_step(e, step, poses, np.ones(4)), step, poses)
    np.testing.assert_allclose(faded.overshot, MEMORY * braking.overshot, atol=1e-9)


def test_only_turns_are_held_and_by_the_larger_of_both() -> None:
    e = random_equations(2)
    held = replace(Braking.none(4), overshot=np.array([0.0, 5.0, 0.5, 1.0]), near=1).braked(e)
    share = held.p / e.p
    turning = np.outer(TURNS, TURNS)
    for point, factor in enumerate((2.0, 6.0, 2.0, 2.0)):
        np.testing.assert_allclose(share[point][turning], factor)
        np.testing.assert_allclose(share[point][~turning], 1.0)
    np.linalg.cholesky(held.p)


def test_steps_count_from_the_first_near_the_summit_on() -> None:
    braking = Braking.none(2).taken(100.0, 100.0).taken(50.0, 150.0)
    assert braking.near == 0
    braking = braking.taken(10.0, 160.0)
    assert braking.near == 1
    assert braking.taken(100.0, 100.0).near == 2  # of a second round, which begins anew


def test_a_slope_that_wanders_is_averaged() -> None:
    """Slopes like random walks: from starts that differ by a millionth, held steps end closer together than full ones.

    Steps of 1/k average k independent slopes, so their spread falls like its root: after 12 steps by more than a half.
    """
    rng, points, cell = np.random.default_rng(3), 400, 1e-3
    walk = np.cumsum(0.5 * np.sqrt(cell) * rng.standard_normal((points, 20001)), axis=1)
    walk -= walk[:, 10000:10001]
    e = NormalEquations(np.eye(1), np.zeros((1, points, 6)), np.tile(np.eye(6), (points, 1, 1)), np.zeros(1), None)

    def at(turn: np.ndarray) -> NormalEquations:
        place = np.clip(np.rint(turn / cell).astype(int) + 10000, 0, 20000)
        h = np.zeros((points, 6))
        h[:, 3] = walk[np.arange(points), place] - turn
        return replace(e, h=h)

    def end(offset: float, *, is_held: bool) -> np.ndarray:
        turn, braking = np.linspace(-3, 3, points) + offset, Braking.none(points)
        for _ in range(12):
            now = at(turn)
            step, poses = solve(braking.braked(now) if is_held else now)
            turn = turn + poses[:, 3]
            if is_held:
                braking = replace(braking.after(now, at(turn), step, poses), near=braking.near + 1)
        return turn

    full, held = (end(2e-3, is_held=each) - end(0.0, is_held=each) for each in (False, True))
    assert np.sqrt((held**2).mean()) < 0.5 * np.sqrt((full**2).mean())
