"""Directions in which classes that shape the CTF undo each other: sums of them that leave gamma as it is.

The even Zernikes of order 2 and 4 are polynomials in q, and so are what a phase shift, a defocus, an astigmatism common
to all tilts, and Cs add to gamma.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpr_dist.maths.kernels.compare import GAMMA
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.pupil import ABERRATION_Q
from mpr_dist.refinement.layout import Layout
from mpr_dist.units import F64

ZERNIKES = "aberrations_even"
PARTNERS = {
    "phase_shift": (("phase shift of all tilts", 0),),
    "cs": (("Cs", 0),),
    "astigmatism": (("astigmatism of all tilts (Cos)", 0), ("astigmatism of all tilts (Sin)", 1)),
    "defocus": (("defocus of all tilts", 0),),
}
# these take up what the Zernikes bring besides
HELPERS = ("phase_shift", "defocus")
# of gamma that may be left, relative
EXACT = 1e-6


def gamma_candidates(layout: Layout, series: TiltSeries) -> Iterator[tuple[str, F64]]:
    """Name and step (n_series,) of the series parameters, of the directions that there are among the refined."""
    if not layout.has(ZERNIKES):
        return
    functions = _functions(layout, series)
    seen: list[F64] = []
    for name, parts in PARTNERS.items():
        for words, index in parts if layout.has(name) else ():
            target = functions[name][index]
            basis = [*functions[ZERNIKES], *(one for other in HELPERS if other != name for one in functions[other])]
            step = _undoing(target, basis)
            if step is not None and not any(_same(step, other) for other in seen):
                seen.append(step)
                yield f"{words} against Zernikes, even", step


def _functions(layout: Layout, series: TiltSeries) -> dict[str, list[tuple[F64, F64]]]:
    """Class name -> per parameter common to all tilts its step and what it adds to gamma at points of the pupil."""
    q = np.linspace(-ABERRATION_Q, ABERRATION_Q, 25)
    qx, qy = (axis[np.hypot(*np.meshgrid(q, q)) <= ABERRATION_Q] for axis in np.meshgrid(q, q))
    found: dict[str, list[tuple[F64, F64]]] = {name: [] for name in (*PARTNERS, ZERNIKES)}
    for each in layout.classes:
        if each.name not in found:
            continue
        rows = [row.values for row in each.kernel_rows(series.optics.wavelength_A, qx, qy, 1.0) if row.kind == GAMMA]
        if each.name == "defocus":
            rows = [-0.5 * series.optics.wavelength_A * (qx**2 + qy**2)]  # the kernel's own derivative
        part = layout.slices[each.name]
        for i, row in enumerate(rows):
            step = np.zeros(layout.n_series)
            step[part.start + i : part.stop : len(rows)] = 1.0
            found[each.name].append((step, row))
    return found


def _undoing(target: tuple[F64, F64], basis: list[tuple[F64, F64]]) -> F64 | None:
    """The step of the target and of what undoes it; None when nothing does."""
    columns = np.stack([row for _, row in basis], 1)
    size = np.abs(columns).max(axis=0)
    found = np.linalg.lstsq(columns / size, -target[1], rcond=1e-9)[0] / size
    if np.abs(target[1] + columns @ found).max() > EXACT * np.abs(target[1]).max():
        return None
    return np.asarray(target[0] + sum(c * step for c, (step, _) in zip(found, basis, strict=True)))


def _same(a: F64, b: F64) -> bool:
    return bool(abs(a @ b) > (1 - 1e-6) * np.linalg.norm(a) * np.linalg.norm(b))
