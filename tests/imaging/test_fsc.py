"""FSC: its laws on noise and on identical maps, and agreement with an independent program on real half-maps."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.fsc import first_shell_below, fsc, masked_fsc, randomise_phases, resolution_A
from mpr_dist.maths.filters import soft_sphere
from mpr_dist.maths.fourier import crop_or_pad_real, radial_profile, shell_sums, shells, to_fourier, to_real
from mpr_dist.maths.symmetry import rotations


def noise(n, seed):
    return np.random.default_rng(seed).standard_normal((n, n, n)).astype(np.float32)


def signal(n, seed=9):
    """White signal that falls off smoothly with frequency."""
    spectrum = to_fourier(noise(n, seed)) * np.exp(-((shells(n) / (0.2 * n)) ** 2))
    return to_real(spectrum.astype(np.complex64), (n, n, n))


def test_identical_maps_agree_in_every_shell():
    volume = noise(16, 0)
    assert np.allclose(fsc(volume, volume), 1, atol=1e-6)
    assert np.allclose(fsc(volume, -2 * volume), -1, atol=1e-6)
    assert fsc(volume, volume).shape == (9,)


def test_a_scale_per_shell_changes_nothing():
    a, b = noise(16, 0) + noise(16, 1), noise(16, 0) + noise(16, 2)
    gain = np.exp(-0.1 * shells(16)).astype(np.float32)
    filtered = to_real(to_fourier(a) * gain, a.shape)
    assert np.allclose(fsc(filtered, b), fsc(a, b), atol=1e-4)


def test_independent_noise_shares_nothing():
    n = 32
    curve = fsc(noise(n, 1), noise(n, 2))
    independent = shell_sums(np.full((n, n, n // 2 + 1), 0.5, np.float32))[0]
    assert np.all(np.abs(curve[1:]) < 4 / np.sqrt(independent[1:]))
    assert np.mean(np.abs(curve[1:]) * np.sqrt(independent[1:]) < 3) > 0.95


def test_signal_and_noise_give_their_expected_ratio():
    common = noise(32, 1)
    curve = fsc(common + noise(32, 2), common + noise(32, 3))
    assert np.allclose(curve[6:], 0.5, atol=0.1)


def test_empty_maps_give_zero():
    assert np.array_equal(fsc(np.zeros((8, 8, 8)), noise(8, 1)), np.zeros(5))


def test_random_phases_keep_amplitudes_and_come_from_a_real_map():
    spectrum = to_fourier(noise(16, 4))
    random = randomise_phases(spectrum, 3, np.random.default_rng(0))
    assert random.dtype == np.complex64
    assert np.allclose(np.abs(random), np.abs(spectrum), rtol=1e-4, atol=1e-4)
    kept = shells(16) < 3
    assert np.array_equal(random[kept], spectrum[kept])
    # a transform without Hermitian symmetry would not survive the way to a real map and back
    assert np.allclose(to_fourier(to_real(random, (16, 16, 16))), random, atol=1e-3)
    beyond = shells(16) >= 3
    assert abs(np.mean(random[beyond] / spectrum[beyond])) < 0.05


def test_masking_alone_gives_no_resolution():
    n = 48
    mask = soft_sphere(n, 9, 5)
    common = signal(n)
    halves = [common + 0.02 * noise(n, s) for s in (1, 2)]
    curves = masked_fsc(halves[0] * 1, halves[1] * 1, mask, 2.0)
    blank = masked_fsc(noise(n, 5), noise(n, 6), mask, 2.0)
    assert np.isinf(blank.resolution_A)
    assert 4.0 < curves.resolution_A < 96
    k = curves.randomised_from
    assert curves.unmasked[k - 1] >= 0.8 > curves.unmasked[k]
    assert np.array_equal(curves.corrected[: k + 2], curves.masked[: k + 2])
    expected = (curves.masked - curves.randomised) / (1 - curves.randomised)
    assert np.allclose(curves.corrected[k + 2 :], expected[k + 2 :])
    assert np.all(np.abs(curves.randomised[k + 6 :]) < 0.5)


@pytest.mark.parametrize("n", [40, 60, 90])
def test_padding_changes_no_resolution(n):
    """The box is no property of the maps: padded with zeros, they are as good as before, to half a shell."""
    box, mask = 40, soft_sphere(40, 9, 4)
    falling = np.exp(-((shells(box) / (0.11 * box)) ** 2))
    common = to_real((to_fourier(noise(box, 3)) * falling).astype(np.complex64), (box,) * 3) * mask
    halves = [common + 0.4 * common.std() * noise(box, seed) for seed in (1, 2)]
    plain = masked_fsc(*halves, mask, 2.0)
    padded = masked_fsc(*(crop_or_pad_real(each, n) for each in (*halves, mask)), 2.0)
    assert 2 * 2.0 < plain.resolution_A < 20.0
    shell = box * 2.0 / plain.resolution_A
    assert abs(box * 2.0 / padded.resolution_A - shell) < 0.5


def test_the_same_seed_gives_the_same_curves():
    n = 16
    a, b = signal(n) + 0.1 * noise(n, 1), signal(n) + 0.1 * noise(n, 2)
    mask = soft_sphere(n, 5, 2)
    first, again, other = (masked_fsc(a, b, mask, 1.5, seed) for seed in (3, 3, 4))
    assert first.corrected.tobytes() == again.corrected.tobytes()
    assert not np.array_equal(first.randomised, other.randomised)
    assert np.array_equal(first.unmasked, other.unmasked)
    assert np.allclose(first.frequency_per_A, np.arange(9) / 24)


def test_perfect_maps_are_never_randomised():
    volume, mask = noise(16, 1), soft_sphere(16, 5, 2)
    curves = masked_fsc(volume, volume, mask, 1.5)
    assert curves.randomised_from == 9
    assert np.array_equal(curves.corrected, curves.masked)
    assert curves.resolution_A == 3.0


def test_resolution_is_interpolated_between_shells():
    curve = np.array([1, 1, 1, 1, 0.9, 0.5, 0.1, 0.3, 0.0])
    assert np.isclose(resolution_A(curve, 2.0, 16, 0.3), 32 / 5.5)
    assert resolution_A(np.ones(9), 2.0, 16) == 4.0
    assert first_shell_below(curve, 0.3) == 6
    assert first_shell_below(np.ones(9), 0.3) == 9


def test_dips_in_the_first_shells_are_forgiven_but_nothing_is_nothing():
    assert np.isclose(resolution_A(np.array([1, 0.1, -0.2, 0.9, 0.5, 0.1, 0, 0, 0]), 2.0, 16, 0.3), 32 / 4.5)
    assert np.isclose(resolution_A(np.array([1, 1.0, 0.9, 0.1, 0, 0, 0, 0, 0]), 2.0, 16, 0.5), 32 / 2.5)
    assert np.isinf(resolution_A(np.array([1, 0.1, 0.0, -0.1, 0.2, 0, 0, 0, 0.2]), 2.0, 16))
    assert np.isinf(resolution_A(np.array([1, 0.4, 0.3, 0.2, 0.2, 0, 0, 0, 0]), 2.0, 16))


def test_maps_of_different_size_are_refused():
    with pytest.raises(InputError, match="cubes"):
        fsc(noise(8, 1), noise(10, 1))
    with pytest.raises(InputError, match="cubes"):
        masked_fsc(noise(8, 1), noise(8, 1), np.ones((8, 8)), 1.0)


def test_power_spectrum_of_white_noise_is_flat():
    power = radial_profile(np.abs(to_fourier(noise(32, 1))) ** 2)
    assert np.allclose(power[4:] / 32**3, 1, atol=0.15)


@pytest.fixture(scope="module")
def shared_folder():
    folder = os.environ.get("MPR_DIST_SHARED")
    if not folder or not Path(folder, "data/apoferritin/relion/half1.mrc").exists():
        pytest.skip("MPR_DIST_SHARED does not point to the shared test data")
    return Path(folder)


def test_agrees_with_the_independent_scorer_on_half_maps(shared_folder):
    spec = importlib.util.spec_from_file_location("score", shared_folder / "tools/score.py")
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    relion = shared_folder / "data/apoferritin/relion"
    (a, pixel), (b, _) = score.read(relion / "half1.mrc"), score.read(relion / "half2.mrc")
    mask = score.soft_sphere(len(a), pixel, 136)
    expected = score.fsc(a * mask, b * mask)
    curve = fsc((a * mask).astype(np.float32), (b * mask).astype(np.float32))
    assert np.allclose(curve[:-1], expected, atol=1e-4)
    found = resolution_A(curve, pixel, len(a))
    assert np.isclose(found, score.crossing(expected, pixel, len(a), 0.143), rtol=1e-3)
    curves = masked_fsc(a.astype(np.float32), b.astype(np.float32), mask.astype(np.float32), pixel)
    assert found * 0.99 < curves.resolution_A < 1.15 * found


def _octahedral(volume):
    """Sum over the rotations of O about the central voxel of an odd box, which permute and flip its axes."""
    total = np.zeros_like(volume)
    for matrix in rotations("O"):
        axes = np.abs(matrix).argmax(1)
        turned = np.transpose(volume, [2 - axes[2], 2 - axes[1], 2 - axes[0]])
        flips = [2 - i for i in range(3) if matrix[i, axes[i]] < 0]
        total += np.flip(turned, flips)
    return np.ascontiguousarray(total[:-1, :-1, :-1])


def test_symmetric_noise_has_no_resolution():
    """Noise with octahedral symmetry under a mask has few independent coefficients; its first shells mean nothing."""
    mask = soft_sphere(48, 12.0, 4.0)
    for seed in range(12):
        a, b = (_octahedral(noise(49, 2 * seed + i)) for i in range(2))
        assert np.isinf(masked_fsc(a, b, mask, 2.0, copies=24).resolution_A)
