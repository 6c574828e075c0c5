"""Arithmetic that kernels share: fused multiply-add, and sin and cos of turns, the same bits in every process.

Kernels do without fastmath: a process that compiles a kernel and one that loads it from numba's cache would run code
that was optimised differently. What is written here is the whole freedom that the compiler has.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numba.core import types
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
    """sin and cos of 2 pi t; Taylor polynomials on a quarter turn, error below 1e-7."""
    k = np.rint(_f(2.0) * t)
    x = fma(_f(-0.5), k, t) * TWO_PI
    sign = _f(1.0) - _f(2.0) * np.float32(np.int32(k) & np.int32(1))
    y = x * x
    s = fma(y, fma(y, _f(-1 / 39916800), _f(1 / 362880)), _f(-1 / 5040))
    s = fma(y, fma(y, s, _f(1 / 120)), _f(-1 / 6))
    c = fma(y, fma(y, _f(1 / 479001600), _f(-1 / 3628800)), _f(1 / 40320))
    c = fma(y, fma(y, fma(y, c, _f(-1 / 720)), _f(1 / 24)), _f(-1 / 2))
    x *= sign
    return fma(x * y, s, x), fma(sign * y, c, sign)
