"""Arithmetic that kernels share: fused multiply-add, sin and cos of turns, places in a grid; the same bits everywhere.

Kernels do without fastmath: a process that compiles a kernel and one that loads it from numba's cache would run code
that was optimised differently. What is written here is the whole freedom that the compiler has.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_f = np.float32
TWO_PI = np.float32(2.0 * math.pi)


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c of float32 numbers, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@nb.njit(inline="always")
def sincos_turns(t):  # type: ignore[no-untyped-def]
    """sin and cos of 2 pi t; Taylor polynomials on an eighth of a turn, error below 1e-7, exact on quarter turns."""
    k = np.rint(_f(4.0) * t)
    x = fma(_f(-0.25), k, t) * TWO_PI
    y = x * x
    s = fma(y, fma(y, fma(y, _f(1 / 362880), _f(-1 / 5040)), _f(1 / 120)), _f(-1 / 6))
    c = fma(y, fma(y, fma(y, fma(y, _f(-1 / 3628800), _f(1 / 40320)), _f(-1 / 720)), _f(1 / 24)), _f(-0.5))
    s, c = fma(x * y, s, x), fma(y, c, _f(1.0))
    quarter = np.int32(k)
    swapped = (quarter & np.int32(1)) != np.int32(0)
    sign_s = _f(1.0) - _f(quarter & np.int32(2))
    sign_c = _f(1.0) - _f((quarter + np.int32(1)) & np.int32(2))
    return sign_s * (c if swapped else s), sign_c * (s if swapped else c)


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index] (flat), which will be written soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(view.data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, *(ir.Constant(ir.IntType(32), value) for value in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.uintp), generate


@intrinsic
def add_rounded(typing_context: Any, sums: Any, at: Any, a: Any, b: Any, c: Any, w0: Any, w1: Any) -> Any:
    """sums[at : at + 6] += rint((a, b, c) w0), rint((a, b, c) w1): flat int64 sums, float32 factors, exact products."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        i32 = ir.IntType(32)
        ints, doubles = ir.VectorType(ir.IntType(64), 8), ir.VectorType(ir.DoubleType(), 8)

        def vector(numbers: list[Any], order: list[int]) -> Any:
            four = ir.Constant(ir.VectorType(ir.FloatType(), 4), ir.Undefined)
            for i, number in enumerate(numbers):
                four = builder.insert_element(four, number, i32(i))
            lanes = builder.shuffle_vector(four, four, ir.Constant(ir.VectorType(i32, 8), order))
            return builder.fpext(lanes, doubles)

        values = vector(arguments[2:5], [0, 1, 2, 0, 1, 2, 0, 0])
        weights = vector(arguments[5:7], [0, 0, 0, 1, 1, 1, 0, 0])
        rint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(doubles, [doubles]), "llvm.rint.v8f64")
        whole = builder.fptosi(builder.call(rint, [builder.fmul(values, weights)]), ints)
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        for first, size in ((0, 4), (4, 2)):
            lanes = ir.VectorType(ir.IntType(64), size)
            part = builder.shuffle_vector(
                whole, whole, ir.Constant(ir.VectorType(i32, size), [*range(first, first + size)])
            )
            index = builder.add(arguments[1], ir.Constant(arguments[1].type, first))
            place = builder.bitcast(builder.gep(array.data, [index]), lanes.as_pointer())
            builder.store(builder.add(builder.load(place, align=8), part), place, align=8)
        return context.get_dummy_value()

    f32 = types.float32
    return types.void(sums, types.uintp, f32, f32, f32, f32, f32), generate


@nb.njit(inline="always")
def places(view, qx, qy, qz, sign, start, n, ny, place, cell):  # type: ignore[no-untyped-def]
    """Where n samples fall in the grid. place: fractions x y z of a cell, and -1 if mirrored; cell: line and column."""
    v00, v01, v02 = view[0, 0], view[0, 1], view[0, 2]
    v10, v11, v12 = view[1, 0], view[1, 1], view[1, 2]
    v20, v21, v22 = view[2, 0], view[2, 1], view[2, 2]
    half = _f(ny // 2)
    for i in range(n):
        x, y, z = qx[start + i], qy[start + i], sign * qz[start + i]
        # rows of the view are the image axes in the reference frame: k = A^T (x, y, z)
        kx = fma(v20, z, fma(v10, y, v00 * x))
        ky = fma(v21, z, fma(v11, y, v01 * x))
        kz = fma(v22, z, fma(v12, y, v02 * x))
        flip = _f(-1.0) if kx < _f(0.0) else _f(1.0)
        kx, ky, kz = flip * kx, fma(flip, ky, half), fma(flip, kz, half)
        ix, iy, iz = np.int32(kx), np.int32(ky), np.int32(kz)
        place[0, i], place[1, i], place[2, i] = kx - _f(ix), ky - _f(iy), kz - _f(iz)
        place[3, i] = flip
        cell[0, i], cell[1, i] = np.int32(iz * np.int32(ny) + iy), ix
