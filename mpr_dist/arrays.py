"""The one door to cupy: where arrays live and what computes with them, the host or a card.

A ``Device`` holds the array module (numpy or cupy), its Fourier transforms and the few things that both do under
different names. Code that takes a device runs on either; nothing touches a card before ``open_device("gpu")``.
"""

from __future__ import annotations

import importlib.util
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import scipy.fft
import scipy.linalg

from mpr_dist.errors import InputError, MprError

DEVICES = ("cpu", "gpu")
# set by whoever starts several workers on one card; the run may not know of it
WORKERS_PER_CARD = "MPR_DIST_WORKERS_PER_CARD"
# of a card's memory: what workers may share among them; the rest is for the driver and for contexts
SHARED = 0.92
# of what is free when a worker opens the card: others may be about to take some
TAKEN = 0.9
# of a card's room: an array that stays there from one series to the next, and sums that wait there
LASTING = 0.125
WAITING = 0.25
# of sums that come down to the host at a time, at least one plane
SETTLED_BYTES = 64 << 20
T = TypeVar("T")


class Device:
    """The host: numpy and scipy.

    Attributes:
        xp, fft: array module, and its Fourier transforms under scipy's names.
        real: type of tilt images while they are filtered; cards are slow at float64.
    """

    name = "cpu"
    is_card = False
    xp: Any = np
    fft: Any = scipy.fft
    real: type[np.floating[Any]] = np.float64

    def put(self, values: Any, dtype: Any = None) -> Any:
        """Values as a contiguous array of this device; what is one already stays as it is."""
        return np.asarray(values, dtype, order="C")

    def take(self, values: Any, out: Any = None) -> Any:
        """An array of this device, on the host; from a card it comes into ``out`` if there is one."""
        return np.asarray(values)

    def resident(self, values: Any, lasting: bool = False) -> Any:
        """The same as ``put`` for a large array that does not change: kept until ``release``. None: no room for it.

        lasting: wanted for many series; kept while the host has it, if it takes little of the room.
        """
        return values

    def kept(self, values: Any) -> Any:
        """Values that never change, on this device; a card keeps them until ``release`` if there is room."""
        there = self.resident(values)
        return self.put(values) if there is None else there

    def fetched(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Arrays of one type of this device on the host, of a card in one piece: the host waits once."""
        return tuple(self.take(each) for each in values)

    def adopt(self, values: Any, there: Any) -> None:
        """What ``resident(values, lasting=True)`` gives from now on: the same values, which are there already."""

    def sums_of(self, values: Any) -> Any:
        """What is to be added to an array of the host comes here: zeros of its shape, the same ones until ``settle``.

        None: they would take too much of the room.
        """
        return values

    def settle(self) -> None:
        """Add what waits in ``sums_of`` to the arrays of the host, where nobody uses it any more."""

    def room_bytes(self) -> int:
        """What may still be allocated."""
        return 1 << 62

    def release(self, all_of_it: bool = True) -> None:
        """Give back what is not in use; all_of_it: also what would last or wait."""

    def wait(self) -> None:
        """Until all that was launched is done."""

    def about(self) -> str:
        """Its name, for reports."""
        return "host"

    def factorised(self, matrix: Any) -> Callable[[Any], Any]:
        """Solver of a symmetric positive definite system; LinAlgError if it is none."""
        factor = scipy.linalg.cho_factor(matrix, lower=True)
        return lambda right: np.asarray(scipy.linalg.cho_solve(factor, right))

    def inverse(self, matrices: Any) -> Any:
        """Inverses of (..., n, n); LinAlgError if there are none."""
        return np.linalg.inv(matrices)

    def launch(self, kernel: Kernel, blocks: Sequence[int], arguments: Sequence[Any]) -> None:
        """Run a kernel; the host has none of these: it has their numba twins."""
        raise NotImplementedError(f"{kernel.entry} is a kernel for cards")


class Kernel:
    """CUDA C++ text and one function in it, with the macros it is compiled with; the same one is compiled once."""

    def __init__(self, text: str, entry: str, threads: int, macros: Mapping[str, int] | None = None) -> None:
        self.text, self.entry, self.threads = text, entry, threads
        self.options = ("-std=c++17", *(f"-D{name}={value}" for name, value in sorted((macros or {}).items())))


HOST = Device()


class AnyCard(Device):
    """What cards have in common: arrays that stay there until they are released, as far as there is room."""

    is_card = True
    real = np.float32

    def __init__(self) -> None:
        # by the id of the host's array, which is kept as well, or known to live: its id belongs to it while it does
        self._residents: dict[int, tuple[Any, Any]] = {}
        self._lasting: dict[int, tuple[weakref.ref[Any], Any]] = {}
        self._sums: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def resident(self, values: Any, lasting: bool = False) -> Any:
        if type(values) is not np.ndarray:  # it is there already
            return self.put(values)
        known = self._lasting.get(id(values)) or self._residents.get(id(values))
        if known is None:
            room = self.room_bytes()
            if 2 * values.nbytes > room:
                return None
            there = self.put(values)
            if lasting and values.nbytes <= LASTING * room:
                self._lasting[id(values)] = _while_alive(values, self._lasting), there
            else:
                self._residents[id(values)] = values, there
            return there
        return known[1]

    def adopt(self, values: Any, there: Any) -> None:
        if values.nbytes <= LASTING * self.room_bytes():
            self._lasting[id(values)] = _while_alive(values, self._lasting), there

    def sums_of(self, values: Any) -> Any:
        known = self._sums.get(id(values))
        if known is None:
            if values.nbytes > WAITING * self.room_bytes():
                return None
            try:
                there = self.xp.zeros(values.shape, values.dtype)
            except MemoryError:  # others were faster
                return None
            known = self._sums[id(values)] = _while_alive(values, self._sums), there
        return known[1]

    def settle(self) -> None:
        for reference, there in list(self._sums.values()):
            values = reference()
            if values is None:
                continue
            step = max(1, SETTLED_BYTES // max(1, values[0, :1].nbytes))
            buffer = self.arrivals((step, *values.shape[2:]), values.dtype)
            for half, start in np.ndindex(len(values), -(-values.shape[1] // step)):
                target = values[half, start * step : (start + 1) * step]
                arrived = buffer[: len(target)]
                self.take(there[half, start * step : (start + 1) * step], arrived)
                target += arrived
        self._sums.clear()

    def fetched(self, values: Sequence[Any]) -> tuple[Any, ...]:
        ends = np.cumsum([each.size for each in values])
        flat = self.take(self.xp.concatenate([each.ravel() for each in values]))
        return tuple(f.reshape(each.shape) for f, each in zip(np.split(flat, ends[:-1]), values, strict=True))

    def arrivals(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory of the host to take arrays into, again and again."""
        return np.empty(shape, dtype)

    def release(self, all_of_it: bool = True) -> None:
        self._residents.clear()
        if all_of_it:
            self.settle()
            self._lasting.clear()


def _while_alive(values: Any, table: dict[int, Any]) -> weakref.ref[Any]:
    """Its entry leaves the table when an array of the host does: nobody can ask for it any more."""
    key = id(values)
    return weakref.ref(values, lambda _: table.pop(key, None))


class Card(AnyCard):
    """One NVIDIA card through cupy, the first that CUDA_VISIBLE_DEVICES names.

    ``workers`` processes share its memory; each keeps to its part.
    """

    name = "gpu"

    def __init__(self, workers: int = 1) -> None:
        import cupy
        import cupyx
        import cupyx.scipy.fft
        import cupyx.scipy.linalg

        super().__init__()
        self.xp, self.fft, self._cupyx = cupy, cupyx.scipy.fft, cupyx
        free, total = cupy.cuda.runtime.memGetInfo()
        self.limit_bytes = memory_share(free, total, workers)
        self._pool = cupy.get_default_memory_pool()
        self._pool.set_limit(size=self.limit_bytes)
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}

    def put(self, values: Any, dtype: Any = None) -> Any:
        return self.xp.asarray(values, dtype, order="C")

    def take(self, values: Any, out: Any = None) -> Any:
        return self.xp.asnumpy(values, out=out)

    def arrivals(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._cupyx.empty_pinned(shape, dtype)

    def room_bytes(self) -> int:
        return max(0, self.limit_bytes - int(self._pool.used_bytes()))

    def release(self, all_of_it: bool = True) -> None:
        super().release(all_of_it)
        self.xp.fft.config.get_plan_cache().clear()
        self._pool.free_all_blocks()
        # memory of the host, through which arrays go to the card
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def wait(self) -> None:
        self.xp.cuda.Device().synchronize()

    def about(self) -> str:
        cuda = self.xp.cuda
        name = cuda.runtime.getDeviceProperties(cuda.Device().id)["name"].decode()
        version = cuda.runtime.runtimeGetVersion()
        return f"{name}, cupy {self.xp.__version__}, CUDA {version // 1000}.{version % 1000 // 10}"

    def factorised(self, matrix: Any) -> Callable[[Any], Any]:
        triangular = self._cupyx.scipy.linalg.solve_triangular
        with self._cupyx.errstate(linalg="raise"):
            factor = self.xp.linalg.cholesky(matrix)

        def solve(right: Any) -> Any:
            below = triangular(factor, right, lower=True)
            return triangular(factor, below, lower=True, trans=1)

        return solve

    def inverse(self, matrices: Any) -> Any:
        with self._cupyx.errstate(linalg="raise"):
            return self.xp.linalg.inv(matrices)

    def launch(self, kernel: Kernel, blocks: Sequence[int], arguments: Sequence[Any]) -> None:
        if 0 in blocks:
            return
        key = kernel.text, kernel.options
        if key not in self._modules:
            self._modules[key] = self.xp.RawModule(code=kernel.text, options=kernel.options)
        try:
            function = self._modules[key].get_function(kernel.entry)
        except self.xp.cuda.compiler.CompileException as error:
            raise MprError(f"the kernel {kernel.entry} does not compile for this card: {error}") from error
        function(tuple(blocks), (kernel.threads,), tuple(arguments))


def memory_share(free: int, total: int, workers: int) -> int:
    """Bytes of a card that one of its workers may use; as many as the run or who started them says, the larger."""
    started = os.environ.get(WORKERS_PER_CARD, "")
    sharing = max(workers, int(started) if started.isdigit() else 1)
    return int(min(SHARED * total / sharing, TAKEN * free))


def why_no_card() -> str | None:
    """What is missing for computing on a card, in the user's words; None if nothing is. No card is touched."""
    if importlib.util.find_spec("cupy") is None:
        return "the package cupy is missing: pip install 'mpr_dist[cuda12]' (CUDA 12) or 'mpr_dist[cuda13]'"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "CUDA_VISIBLE_DEVICES is empty, which hides all cards"
    import cupy

    if not cupy.cuda.is_available():
        return "no NVIDIA card or driver was found (see nvidia-smi)"
    return None


@lru_cache(maxsize=2)
def open_device(name: str, workers: int = 1) -> Device:
    """The device of this process: "cpu", or "gpu" of which ``workers`` processes have a share each.

    Raises:
        InputError: there is no such device; one line that says what is missing.
    """
    if name not in DEVICES:
        raise InputError(f"device {name!r} is not known; there are {', '.join(DEVICES)}")
    if name == "cpu":
        return HOST
    missing = why_no_card()
    if missing is not None:
        raise InputError(f"--device gpu: {missing}; there is --device cpu")
    try:
        return Card(workers)
    except (ImportError, RuntimeError) as error:  # a library that cupy needs, or the driver
        why = (str(error).splitlines() or [""])[0]
        raise InputError(f"--device gpu: cupy cannot use the card ({why}); see mpr-dist doctor") from error


@contextmanager
def card_errors(name: str) -> Iterator[None]:
    """What a card or a library of it says goes on as an MprError of one line; ``name``: of the device that is used."""
    try:
        yield
    except RuntimeError as error:  # cupy's errors of driver, runtime and libraries are such
        if name == "cpu":
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise MprError(f"the card failed: {why}; mpr-dist doctor --device gpu tests it") from error


def there_or_here(device: Device, work: Callable[[Device], T]) -> T:
    """What ``work`` gives on a device; on the host if a card has too little memory for it."""
    try:
        return work(device)
    except MemoryError:
        if not device.is_card:
            raise
    device.release()
    return work(HOST)


def in_blocks(device: Device, count: int, size: int, work: Callable[[slice], None]) -> None:
    """``work`` on 0..count in pieces of at most ``size``; a piece that runs out of memory is halved and tried again.

    Work that fails must leave nothing behind. Raises MemoryError when not even one fits.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + max(1, size), count))
        try:
            work(part)
        except MemoryError:
            if part.stop - part.start == 1:
                raise
            device.release()
            size = (part.stop - part.start) // 2
            continue
        start = part.stop
