"""Rotations: right-handed, active, acting on column vectors; angles in degrees.

RELION's and Warp's Euler angles turn the particle frame into the tomogram (or image) frame by
A = Rz(-psi) Ry(-tilt) Rz(-rot).

What takes a ``device`` takes and gives its arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mpr_dist.arrays import HOST, Device
from mpr_dist.units import F64


def _about(axis: int, angle_deg: ArrayLike, device: Device) -> F64:
    xp = device.xp
    angle = xp.deg2rad(xp.asarray(angle_deg, np.float64))
    c, s = xp.cos(angle), xp.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix: F64 = xp.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., i, i] = c
    matrix[..., j, j] = c
    matrix[..., i, j] = -s
    matrix[..., j, i] = s
    return matrix


def rotation_x(angle_deg: ArrayLike, device: Device = HOST) -> F64:
    """(..., 3, 3) rotation about x."""
    return _about(0, angle_deg, device)


def rotation_y(angle_deg: ArrayLike, device: Device = HOST) -> F64:
    """(..., 3, 3) rotation about y."""
    return _about(1, angle_deg, device)


def rotation_z(angle_deg: ArrayLike, device: Device = HOST) -> F64:
    """(..., 3, 3) rotation about z."""
    return _about(2, angle_deg, device)


def euler_to_matrix(angles_deg: ArrayLike) -> F64:
    """(..., 3) rot, tilt, psi -> (..., 3, 3) matrix from the particle frame to the tomogram frame."""
    rot, tilt, psi = np.moveaxis(np.asarray(angles_deg, np.float64), -1, 0)
    return np.asarray(rotation_z(-psi) @ rotation_y(-tilt) @ rotation_z(-rot))


def matrix_to_euler(matrix: ArrayLike) -> F64:
    """(..., 3, 3) -> (..., 3) rot, tilt, psi in degrees with tilt in 0..180; rot is 0 where tilt is 0 or 180."""
    a = np.asarray(matrix, np.float64)
    tilt = np.arctan2(np.hypot(a[..., 0, 2], a[..., 1, 2]), a[..., 2, 2])
    regular = np.sin(tilt) > 1e-9
    rot = np.where(regular, np.arctan2(a[..., 2, 1], a[..., 2, 0]), 0.0)
    up = a[..., 2, 2] > 0
    polar = np.where(up, np.arctan2(-a[..., 1, 0], a[..., 0, 0]), np.arctan2(a[..., 1, 0], -a[..., 0, 0]))
    # at the poles only one angle is defined: psi takes all of it, with the sign that tilt 0 or 180 asks for
    psi = np.where(regular, np.arctan2(a[..., 1, 2], -a[..., 0, 2]), polar)
    return np.asarray(np.rad2deg(np.stack([rot, tilt, psi], -1)))


def skew(vector: ArrayLike, device: Device = HOST) -> F64:
    """(..., 3) -> (..., 3, 3) matrix of the cross product v x."""
    v = device.xp.asarray(vector, np.float64)
    out: F64 = device.xp.zeros((*v.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    out[..., 1, 0], out[..., 2, 0], out[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return out


def exp_rotation(vector_rad: ArrayLike, device: Device = HOST) -> F64:
    """(..., 3) rotation vector in radians -> (..., 3, 3), by Rodrigues' formula."""
    xp = device.xp
    v = xp.asarray(vector_rad, np.float64)
    angle = xp.linalg.norm(v, axis=-1)[..., None, None]
    k = skew(v, device)
    out: F64 = xp.eye(3) + xp.sinc(angle / np.pi) * k + 0.5 * xp.sinc(angle / (2 * np.pi)) ** 2 * (k @ k)
    return out


def log_rotation(matrix: ArrayLike) -> F64:
    """(..., 3, 3) -> (..., 3) rotation vector in radians, length 0..pi (inverse of exp_rotation)."""
    from scipy.spatial.transform import Rotation

    r = np.asarray(matrix, np.float64)
    if not r.size:
        return np.zeros(r.shape[:-1])
    return np.asarray(Rotation.from_matrix(r.reshape(-1, 3, 3)).as_rotvec().reshape(r.shape[:-1]))


def left_jacobian(vector_rad: ArrayLike, device: Device = HOST) -> F64:
    """(..., 3) v -> (..., 3, 3) J with exp(v + dv) = exp(J dv) exp(v) to first order."""
    xp = device.xp
    v = xp.asarray(vector_rad, np.float64)
    angle2 = xp.sum(v * v, axis=-1)[..., None, None]
    angle = xp.sqrt(angle2)
    k = skew(v, device)
    # (1 - cos a) / a^2 and (a - sin a) / a^3; the second by its series where the difference would cancel
    first = 0.5 * xp.sinc(angle / (2 * np.pi)) ** 2
    small = angle < 1e-2
    safe = xp.where(small, 1.0, angle)
    second = xp.where(small, 1 / 6 - angle2 / 120, (safe - xp.sin(safe)) / safe**3)
    out: F64 = xp.eye(3) + first * k + second * (k @ k)
    return out
