"""A card that is none: the CUDA text of the kernels, compiled by g++, on arrays that do not mix with the host's.

The arrays are numpy's, but as strict as cupy's: a function that gets some of them and some of numpy's is an error, and
so is taking one for an array of the host. So the way of data between host and card is tested without a card.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

from mpr_dist.arrays import AnyCard, Kernel

HERE = Path(__file__).parent


class Memory:
    """Bytes of all arrays of the pretended card that are alive; more than ``limit`` is refused, as on a real one."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self.limit: int | None = None

    def hold(self, array: np.ndarray) -> None:
        """Count an array until nobody uses it."""
        if self.limit is not None and self.live + array.nbytes > self.limit:
            raise MemoryError(f"{array.nbytes} bytes beyond {self.live} of {self.limit}")
        self.live += array.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(array, self._release, array.nbytes)

    def _release(self, nbytes: int) -> None:
        self.live -= nbytes


MEMORY = Memory()


class Traffic:
    """Bytes that went to the pretended card and came from it, and how often the host waited for them."""

    def __init__(self) -> None:
        self.up = self.down = self.waits = 0

    def since(self) -> tuple[int, int, int]:
        """What there was since this was asked last: bytes up, bytes down, waits."""
        found = self.up, self.down, self.waits
        self.__init__()  # type: ignore[misc]
        return found


TRAFFIC = Traffic()


class StrictArray(np.ndarray):
    """An array of the pretended card."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):  # type: ignore[no-untyped-def]
        plain = [_plain(value) for value in inputs]
        if out is not None:
            keywords["out"] = tuple(_plain(value) for value in out)
        found = getattr(ufunc, method)(*plain, **keywords)
        return out[0] if out is not None and len(out) == 1 else _strict(found)

    def __array_function__(self, function, types, arguments, keywords):  # type: ignore[no-untyped-def]
        return _strict(function(*_plain(arguments), **_plain(keywords)))

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        return _strict(self.view(np.ndarray)[_plain(place)])

    def __setitem__(self, place, values):  # type: ignore[no-untyped-def]
        self.view(np.ndarray)[_plain(place)] = _plain(values)

    def __float__(self) -> float:
        return float(_number(self))

    def __bool__(self) -> bool:
        return bool(_number(self))


def _number(array: StrictArray) -> np.ndarray:
    """A number that the host asks a card for."""
    TRAFFIC.waits += 1
    TRAFFIC.down += array.nbytes
    return array.view(np.ndarray)


def _plain(value: Any) -> Any:
    """The same for numpy; an array of the host among the arguments is what cupy refuses."""
    if isinstance(value, StrictArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray):
        raise TypeError("an array of the host where one of the card is needed: put() is missing")
    if isinstance(value, tuple | list):
        return type(value)(_plain(each) for each in value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def _strict(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.base is None and not isinstance(value, StrictArray):  # no view of another
            MEMORY.hold(value)
        return value.view(StrictArray)
    # as with cupy, sums and single elements stay on the card
    if isinstance(value, np.generic):
        return np.asarray(value).view(StrictArray)
    if isinstance(value, tuple | list):
        return type(value)(_strict(each) for each in value)
    return value


class StrictModule:
    """numpy, or a part of it, for arrays of the pretended card alone."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if isinstance(found, type) or not callable(found):
            return StrictModule(found) if type(found).__name__ == "module" else found
        return lambda *a, **k: _strict(found(*_plain(a), **_plain(k)))


class ShimCard(AnyCard):
    """What ``Card`` is for cupy.

    Attributes:
        backward: threads run last to first; order: of the blocks of a launch, from their number.
        refusals: so many launches still fail, as if memory had run out.
        room: bytes that may still be allocated, as it says, while ``MEMORY`` has no limit.
    """

    name = "shim"
    xp = StrictModule(np)
    fft = StrictModule(scipy.fft)

    def __init__(self, backward: bool = False, order: Callable[[int], Sequence[int]] = range) -> None:
        super().__init__()
        self.backward, self.order = backward, order
        self.refusals, self.room = 0, 1 << 31

    def put(self, values: Any, dtype: Any = None) -> Any:
        if isinstance(values, StrictArray):
            return _strict(np.asarray(_plain(values), dtype, order="C"))
        there = np.array(values, dtype, order="C")
        TRAFFIC.up += there.nbytes
        return _strict(there)

    def take(self, values: Any, out: Any = None) -> Any:
        TRAFFIC.waits += 1
        TRAFFIC.down += values.nbytes
        if out is None:
            return np.array(_plain(values))
        out[...] = _plain(values)
        return out

    def room_bytes(self) -> int:
        return self.room if MEMORY.limit is None else max(0, MEMORY.limit - MEMORY.live)

    def factorised(self, matrix: Any) -> Callable[[Any], Any]:
        factor = scipy.linalg.cho_factor(_plain(matrix), lower=True)
        return lambda right: _strict(scipy.linalg.cho_solve(factor, _plain(right)))

    def launch(self, kernel: Kernel, blocks: Sequence[int], arguments: Sequence[Any]) -> None:
        if 0 in blocks:
            return
        if self.refusals:
            self.refusals -= 1
            raise MemoryError
        call = getattr(library(kernel.text, kernel.entry, kernel.options), f"run_{kernel.entry}")
        width, height, depth = (*blocks, 1, 1)[:3]
        order = np.array(list(self.order(width * height * depth)), np.uint32)
        sizes = (ctypes.c_uint(n) for n in (width, height, len(order), kernel.threads, self.backward))
        call(order.ctypes.data_as(ctypes.c_void_p), *sizes, *(_argument(value) for value in arguments))


def _argument(value: Any) -> Any:
    if isinstance(value, StrictArray):
        assert value.flags.c_contiguous
        return value.ctypes.data_as(ctypes.c_void_p)
    if isinstance(value, np.uint32):
        return ctypes.c_uint(int(value))
    if isinstance(value, np.float32):
        return ctypes.c_float(float(value))
    if isinstance(value, np.float64):
        return ctypes.c_double(float(value))
    raise TypeError(f"a kernel cannot take {type(value)}")


def has_compiler() -> bool:
    return shutil.which("g++") is not None


@cache
def library(text: str, entry: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The text and a launcher for one of its kernels as a shared library, kept in the temporary folder."""
    source = f'#include "shim.h"\n{text}\n{_launcher(text, entry)}'
    flags = [
        "-O2",
        "-U_FORTIFY_SOURCE",
        "-ffp-contract=off",
        "-fPIC",
        "-shared",
        "-Wno-unknown-pragmas",
        f"-I{HERE}",
        *options,
    ]
    with tempfile.TemporaryDirectory() as folder:
        path, built = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        path.write_text(source)
        subprocess.run(["g++", *flags, str(path), "-o", str(built)], check=True)
        return ctypes.CDLL(str(built))


def _launcher(text: str, entry: str) -> str:
    """A function that runs every block of a grid; its parameters follow from the kernel's declaration."""
    declared = re.search(rf"__launch_bounds__\(THREADS\) {entry}\((.*?)\)\s*{{", re.sub(r"//[^\n]*", "", text), re.S)
    assert declared is not None
    parameters = [" ".join(part.split()) for part in declared[1].split(",")]
    names = [re.findall(r"\w+", part)[-1] for part in parameters]
    plain = [part.replace("__restrict__", "") for part in parameters]
    kept = [part.strip().removesuffix(name) for part, name in zip(plain, names, strict=True)]
    statics = "\n".join(f"static {kind} a_{name};" for kind, name in zip(kept, names, strict=True))
    sets = " ".join(f"a_{name} = {name};" for name in names)
    taken = ", ".join(f"{kind} {name}" for kind, name in zip(kept, names, strict=True))
    call = ", ".join(f"a_{name}" for name in names)
    return f"""
{statics}
extern "C" void run_{entry}(
    const unsigned *l_order, unsigned l_width, unsigned l_height, unsigned l_blocks, unsigned l_threads,
    unsigned l_backward, {taken}) {{
    {sets}
    shim::body = [] {{ {entry}({call}); }};
    for (unsigned i = 0; i < l_blocks; i++) {{
        const unsigned b = l_order[i];
        shim::block = Index3{{b % l_width, b / l_width % l_height, b / l_width / l_height}};
        shim::run_block(l_threads, l_backward);
    }}
}}
"""
