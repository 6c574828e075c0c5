"""The M-refined series of EMPIAR-10491: every grid, and positions, views and CTFs as Warp predicts them.

What is expected is computed here from the text of the XML alone: natural splines of scipy, rotation matrices and
formulas written out. A second file has nodes in every grid, also in those that this series left empty.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicSpline, RegularGridInterpolator

from mpr_dist.imaging.ctf import (
    ctf_terms,
    envelope,
    location_levels,
    tilt_bfactors_A2,
    tilt_scales,
    warp_damping,
)
from mpr_dist.imaging.geometry import project, views
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.units import A_PER_UM

PIXEL_A = 0.834
VOLUME_A, IMAGE_A = np.array([4000.0, 5700.0, 1000.0]) * PIXEL_A, np.array([5760.0, 4092.0]) * PIXEL_A
POINTS = VOLUME_A / 2 + np.array([[0.0, 0, 0], [500, -300, 200], [-900, 700, -350], [1200, 2000, 100]])
EULER = np.array([[30.0, 70.0, -50.0], [0.0, 10.0, 5.0], [-120.0, 95.0, 60.0], [170.0, 33.0, -4.0]])
QX, QY = np.random.default_rng(0).uniform(-0.25, 0.25, (2, 60))

# width, height, depth (and duration) of the second file, and the size of its random nodes
FILLED = {
    "GridCTF": ((1, 1, 41), 0.2, 2.8),
    "GridCTFDefocusDelta": ((1, 1, 41), 0.1, 0.0),
    "GridCTFDefocusAngle": ((1, 1, 41), 40.0, 0.0),
    "GridCTFPhase": ((1, 1, 41), 0.3, 0.0),
    "GridMovementX": ((6, 4, 41), 8.0, 0.0),
    "GridMovementY": ((3, 5, 7), 8.0, 0.0),
    "GridVolumeWarpX": ((3, 2, 2, 4), 9.0, 0.0),
    "GridVolumeWarpY": ((2, 1, 3, 1), 9.0, 0.0),
    "GridVolumeWarpZ": ((1, 4, 1, 6), 9.0, 0.0),
    "GridAngleX": ((2, 3, 41), 1.0, 0.0),
    "GridAngleY": ((1, 1, 41), 1.0, 0.0),
    "GridAngleZ": ((3, 1, 5), 1.0, 0.0),
    "GridDoseBfacs": ((1, 1, 41), 80.0, -150.0),
    "GridDoseBfacsDelta": ((1, 1, 41), 20.0, 0.0),
    "GridDoseBfacsAngle": ((1, 1, 41), 60.0, 0.0),
    "GridDoseWeights": ((1, 1, 41), 0.1, 0.6),
    "GridLocationBfacs": ((4, 3, 1), 15.0, -10.0),
    "GridLocationWeights": ((3, 2, 1), 0.1, 0.9),
}


@dataclass(frozen=True)
class Plain:
    """The XML and nothing of the program."""

    root: ET.Element

    def numbers(self, tag: str) -> np.ndarray:
        return np.array([float(word) for word in self.root.findtext(tag, "").split()])

    def nodes(self, tag: str) -> np.ndarray:
        """[(w,) z, y, x]."""
        element = self.root.find(tag)
        assert element is not None
        names = [name for name in ("Duration", "Depth", "Height", "Width") if name in element.attrib]
        out = np.full([int(element.get(name, 1)) for name in names], np.nan)
        for node in element:
            place = tuple(int(node.get(axis, 0)) for axis in "WZYX"[4 - out.ndim :])
            out[place] = float(node.get("Value", "nan"))
        return out

    def cubic(self, tag: str, x: float, y: float, z: float) -> float:
        values = self.nodes(tag)
        for place in (z, y, x):
            n = len(values)
            spline = CubicSpline(np.linspace(0, 1, n), values, bc_type="natural") if n > 1 else None
            values = values[0] if spline is None else spline(place)
        return float(values)

    def linear(self, tag: str, x: float, y: float, z: float, w: float) -> float:
        values = self.nodes(tag)
        places = [p for n, p in zip(values.shape, (w, z, y, x), strict=True) if n > 1]
        axes = [np.linspace(0, 1, n) for n in values.shape if n > 1]
        if not axes:
            return float(values.ravel()[0])
        return float(RegularGridInterpolator(axes, values.squeeze())(places)[0])

    def param(self, name: str) -> str:
        return next(p.get("Value", "") for p in self.root.iterfind("CTF/Param") if p.get("Name") == name)

    def attribute(self, name: str) -> float:
        return float(self.root.get(name, "nan"))


def turn(axis: str, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array(
        {
            "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
            "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        }[axis]
    )


def tilt_matrix(p: Plain, t: int) -> np.ndarray:
    level_x, level_y = p.attribute("LevelAngleX"), p.attribute("LevelAngleY")
    axis, angle = p.numbers("AxisAngle")[t], p.numbers("Angles")[t]
    return turn("z", axis) @ turn("y", -(angle + level_y)) @ turn("x", level_x)


def position(p: Plain, point: np.ndarray, t: int) -> np.ndarray:
    """x, y (A), defocus (um)."""
    dose, n = p.numbers("Dose"), len(p.numbers("Angles"))
    u, tau, delta = point / VOLUME_A, t / (n - 1), (dose[t] - dose.min()) / np.ptp(dose)
    c = point - VOLUME_A / 2 + [p.linear(f"GridVolumeWarp{axis}", *u, delta) for axis in "XYZ"]
    q = tilt_matrix(p, t) @ c
    x = q[0] + p.numbers("AxisOffsetX")[t] + IMAGE_A[0] / 2
    y = q[1] + p.numbers("AxisOffsetY")[t] + IMAGE_A[1] / 2
    at = x / IMAGE_A[0], y / IMAGE_A[1], tau
    depth = -q[2] if p.root.get("AreAnglesInverted") == "True" else q[2]
    defocus = p.cubic("GridCTF", u[0], u[1], tau) + 1e-4 * depth
    return np.array([x - p.cubic("GridMovementX", *at), y - p.cubic("GridMovementY", *at), defocus])


def view(p: Plain, point: np.ndarray, euler: np.ndarray, t: int) -> np.ndarray:
    u, tau = point / VOLUME_A, t / (len(p.numbers("Angles")) - 1)
    x, y, z = (p.cubic(f"GridAngle{axis}", u[0], u[1], tau) for axis in "XYZ")
    rot, tilt, psi = euler
    particle = turn("z", -psi) @ turn("y", -tilt) @ turn("z", -rot)
    return turn("z", z) @ turn("y", y) @ turn("x", x) @ tilt_matrix(p, t) @ particle


def weights(p: Plain, point: np.ndarray, t: int) -> tuple[float, float, float, float]:
    """Scale, B, delta B (A^2) and its angle (deg): Warp's, location grids and weights of the series included."""
    u, tau = point / VOLUME_A, t / (len(p.numbers("Angles")) - 1)
    dose = p.numbers("Dose")[t]
    b, scale = -4 * dose, np.cos(np.deg2rad(p.numbers("Angles")[t]))
    if p.nodes("GridDoseBfacs").size > 1:
        b = min(p.cubic("GridDoseBfacs", 0.5, 0.5, tau), -3 * dose)
    if p.nodes("GridDoseWeights").size > 1:
        scale = p.cubic("GridDoseWeights", 0.5, 0.5, tau)
    b += p.cubic("GridLocationBfacs", u[0], u[1], 0) + p.attribute("Bfactor")
    scale *= p.cubic("GridLocationWeights", u[0], u[1], 0) * p.attribute("Weight")
    if p.root.findtext("UseTilt", "").split()[t] == "False":
        scale *= 1e-4
    return scale, b, p.cubic("GridDoseBfacsDelta", 0.5, 0.5, tau), p.cubic("GridDoseBfacsAngle", 0.5, 0.5, tau)


def zernike_even(p: Plain) -> np.ndarray:
    """The eight even terms by hand, in x and y (1/A)."""
    x, y, r2 = QX, QY, QX**2 + QY**2
    terms = [2 * x * y, 2 * r2 - 1, x**2 - y**2, 4 * x**3 * y - 4 * x * y**3, (4 * r2 - 3) * 2 * x * y]
    terms += [6 * r2**2 - 6 * r2 + 1, (4 * r2 - 3) * (x**2 - y**2), x**4 - 6 * x**2 * y**2 + y**4]
    values = [float(v) for v in p.param("ZernikeCoeffsEven").split(";")]
    return np.sum([v * term for v, term in zip(values, terms, strict=True)], axis=0)


def warp_ctf(p: Plain, point: np.ndarray, t: int) -> np.ndarray:
    """-sin(gamma) times scale and envelope at QX, QY, from m_algorithm's CTF model."""
    q2, theta, volts = QX**2 + QY**2, np.arctan2(QY, QX), 1e3 * float(p.param("Voltage"))
    lam = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    delta, angle, phase = (p.nodes(f"GridCTF{name}").ravel()[t] for name in ("DefocusDelta", "DefocusAngle", "Phase"))
    dz = -1e4 * (position(p, point, t)[2] + 0.5 * delta * np.cos(2 * (theta - np.deg2rad(angle))))
    a = float(p.param("Amplitude"))
    gamma = np.pi * lam * dz * q2 + np.pi / 2 * float(p.param("Cs")) * 1e7 * lam**3 * q2**2
    gamma += -np.pi * phase - np.arctan(a / np.sqrt(1 - a * a)) + zernike_even(p)
    scale, b, b_delta, b_angle = weights(p, point, t)
    b = b + b_delta * np.cos(2 * (theta - np.deg2rad(b_angle)))
    return -np.sin(gamma) * scale * np.exp(b / 4 * q2)


def filled_file(real: Path, path: Path) -> Path:
    """The real file with nodes in every grid, some tilts deselected, and depth inverted."""
    tree = ET.parse(real)
    root, rng = tree.getroot(), np.random.default_rng(5)
    for tag, (shape, size, mean) in FILLED.items():
        element = root.find(tag)
        assert element is not None
        for child in list(element):
            element.remove(child)
        for name, n in zip(("Width", "Height", "Depth", "Duration"), shape, strict=False):
            element.set(name, str(n))
        for index in np.ndindex(shape[::-1]):
            place = dict(zip("XYZW", map(str, index[::-1]), strict=False))
            ET.SubElement(element, "Node", place | {"Value": f"{mean + size * rng.uniform(-1, 1):.6g}"})
    use = root.find("UseTilt")
    assert use is not None
    use.text = "\n".join(["False", *["True"] * 38, "False", "True"])
    root.attrib.update(Weight="0.7", Bfactor="-16.02326", AreAnglesInverted="True")
    tree.write(path)
    return path


@pytest.fixture(scope="module")
def real_xml(shared: Path) -> Path:
    return shared / "data/real/warp_xml/warpem+warpylib__TS_1.xml"


@pytest.fixture(scope="module", params=["as M left it", "every grid filled"])
def case(request: pytest.FixtureRequest, real_xml: Path, tmp_path_factory) -> tuple[Plain, TiltSeries]:
    path = real_xml
    if request.param != "as M left it":
        path = filled_file(real_xml, tmp_path_factory.mktemp("filled") / "TS_1.xml")
    series = read_tilt_series(path, volume_size_A=VOLUME_A, image_size_A=IMAGE_A)
    return Plain(ET.parse(path).getroot()), series


def particles() -> Particles:
    n = len(POINTS)
    return Particles(POINTS, EULER, np.ones(n, np.int8), np.arange(n))


def test_every_grid_is_loaded(case):
    """All 18 grids, node by node, and what stands beside them."""
    plain, series = case
    o, w, warp, stage = series.optics, series.weights, series.image_warp, series.stage_angles
    ours = {
        "GridCTF": o.defocus_um,
        "GridCTFDefocusDelta": o.defocus_delta_um,
        "GridCTFDefocusAngle": o.defocus_angle_deg,
        "GridCTFPhase": o.phase_shift_pi,
        "GridMovementX": warp.x,
        "GridMovementY": warp.y,
        "GridVolumeWarpX": series.volume_warp.x,
        "GridVolumeWarpY": series.volume_warp.y,
        "GridVolumeWarpZ": series.volume_warp.z,
        "GridAngleX": stage.x,
        "GridAngleY": stage.y,
        "GridAngleZ": stage.z,
        "GridDoseBfacs": w.bfactor,
        "GridDoseBfacsDelta": w.bfactor_delta,
        "GridDoseBfacsAngle": w.bfactor_angle,
        "GridDoseWeights": w.weight,
        "GridLocationBfacs": w.location_bfactor,
        "GridLocationWeights": w.location_weight,
    }
    assert set(ours) == {element.tag for element in plain.root if element.find("Node") is not None} == set(FILLED)
    for tag, grid in ours.items():
        np.testing.assert_array_equal(grid.values, plain.nodes(tag), err_msg=tag)
    for name, values in (("ZernikeCoeffsOdd", o.zernike_odd), ("ZernikeCoeffsEven", o.zernike_even)):
        assert values == tuple(float(v) for v in plain.param(name).split(";"))
    assert (w.series_bfactor, w.series_weight) == (plain.attribute("Bfactor"), plain.attribute("Weight"))
    assert o.cs_mm == float(plain.param("Cs"))  # refined by M; the options still say 2.7
    m11, m21, m12, m22 = (float(v) for v in plain.root.get("MagnificationCorrection", "").split(","))
    np.testing.assert_array_equal(o.magnification, [[m11, m12], [m21, m22]])


def test_positions_and_views(case):
    """To the rounding of double precision, at places off the nodes."""
    plain, series = case
    seen, ours = project(series, particles()), views(series, particles())
    for i, (point, euler) in enumerate(zip(POINTS, EULER, strict=True)):
        for t in range(0, 41, 5):
            expected = position(plain, point, t)
            np.testing.assert_allclose(seen.xy_A[i, t], expected[:2], rtol=0, atol=1e-7)
            assert seen.defocus_um[i, t] == pytest.approx(expected[2], abs=1e-10)
            np.testing.assert_allclose(ours[i, t], view(plain, point, euler, t), rtol=0, atol=1e-11)


def test_ctfs_with_scale_and_damping(case):
    """The full CTF of a particle in a tilt, as Warp has it, at frequencies in all directions up to 2.8 A."""
    plain, series = case
    terms, seen = ctf_terms(series, QX, QY), project(series, particles())
    damping = warp_damping(series, POINTS, QX, QY)
    for i, point in enumerate(POINTS):
        for t in range(0, 41, 3):
            z = A_PER_UM * seen.defocus_um[i, t] + terms.astig_A[t] @ np.stack([terms.cos2, terms.sin2])
            ours = -np.sin(2 * np.pi * (terms.a2 * z + terms.fixed[t])) * damping[i, t]
            # gamma up to 100 rad from positions known to 1e-7 A
            np.testing.assert_allclose(ours, warp_ctf(plain, point, t), rtol=0, atol=1e-8)


def test_what_refinement_takes_differs_from_warp_where_it_says(case):
    """Scale, envelope and location terms are Warp's, but for the clamp at -3 dose, and deselected tilts."""
    plain, series = case
    levels, level = location_levels(series, POINTS[:1], QX**2 + QY**2)
    ours = tilt_scales(series)[:, None] * envelope(series, QX, QY) * levels[level[0]]
    theirs = warp_damping(series, POINTS[:1], QX, QY)[0]
    fitted = plain.nodes("GridDoseBfacs").ravel()
    np.testing.assert_allclose(tilt_bfactors_A2(series), fitted, atol=1e-9)
    clamped = fitted > -3 * series.dose
    same = series.use_tilt & ~clamped
    assert 2 < same.sum() < 41
    np.testing.assert_allclose(ours[same], theirs[same], rtol=1e-12)
    assert (ours[clamped] > theirs[clamped]).all()


def test_numbers_that_were_computed_elsewhere(shared: Path, real_xml: Path):
    """Positions and defocus of the reference file beside the geometry check, which agrees with Warp's C#."""
    reference = json.loads((shared / "geometry_check/warp_geometry_reference.json").read_text())
    examples = reference["numpy_vs_warpylib_TS_1"]["examples"]
    series = read_tilt_series(real_xml, volume_size_A=VOLUME_A, image_size_A=IMAGE_A)
    points = np.array([example["point_A"] for example in examples])
    n = len(points)
    at = Particles(points, np.zeros((n, 3)), np.ones(n, np.int8), np.arange(n))
    seen = project(series, at)
    assert n >= 9
    for i, example in enumerate(examples):
        np.testing.assert_allclose(seen.xy_A[i, example["tilt"]], example["xy_A"], rtol=0, atol=1e-6)
        assert seen.defocus_um[i, example["tilt"]] == pytest.approx(example["defocus_um"], abs=1e-9)
