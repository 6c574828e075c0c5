"""Where the samples of particle images are kept: in memory, in a scratch file read block by block, or on a card."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.errors import DiskFull, MprError, SeriesError
from mpr_dist.units import F32, I64

# read at a time, at least one particle: large enough for the speed of the disk
STREAM_BYTES = 64 << 20

Shape = tuple[int, int, int, int]


class StreamedValues:
    """An array (particles, tilts, samples, 2) float32 in a file that has no name: it goes with this process.

    Rows of one tilt are written and read like those of an array, ``values[rows, t]``; what was never written is zero.
    """

    def __init__(self, shape: Shape, directory: Path | None = None) -> None:
        self.shape = shape
        self._directory = directory or Path(tempfile.gettempdir())
        try:
            self._file: BinaryIO = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # closed by its room
            self._file.truncate(self.nbytes)
        except OSError as error:
            raise self._refused(error) from error

    @property
    def nbytes(self) -> int:
        return values_bytes(self.shape)

    @property
    def block_particles(self) -> int:
        """Particles that are read at a time."""
        return block_particles(self.shape)

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def __setitem__(self, place: tuple[I64, int], values: F32) -> None:
        rows, t = place
        for row, one in zip(rows, np.ascontiguousarray(values, np.float32), strict=True):
            self._transfer(os.pwritev, one, self._offset(int(row), t))

    def __getitem__(self, place: tuple[I64, int]) -> F32:
        rows, t = place
        out = np.empty((len(rows), *self.shape[2:]), np.float32)
        for row, one in zip(rows, out, strict=True):
            self._transfer(os.preadv, one, self._offset(int(row), t))
        return out

    def blocks(self) -> Iterator[tuple[slice, F32]]:
        """Particle after particle, as many at a time as fit; the array is the same every time, with other values."""
        step = self.block_particles
        buffer = np.empty((min(step, self.shape[0]), *self.shape[1:]), np.float32)
        for start in range(0, self.shape[0], step):
            part = slice(start, min(start + step, self.shape[0]))
            values = buffer[: part.stop - start]
            self._transfer(os.preadv, values, self._offset(start, 0))
            yield part, values

    def _offset(self, particle: int, tilt: int) -> int:
        _, tilts, samples, parts = self.shape
        return (particle * tilts + tilt) * samples * parts * 4

    def _transfer(self, how, values: F32, offset: int) -> None:  # type: ignore[no-untyped-def]  # preadv or pwritev
        view, done = values.reshape(-1).view(np.uint8).data, 0
        try:
            while done < len(view):
                count = how(self._file.fileno(), [view[done:]], offset + done)
                if count == 0:
                    raise MprError(f"{self._directory}: a scratch file has become shorter than it was written")
                done += count
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> MprError:
        need = (
            f"images that exceed the memory need {self.nbytes / 2**30:.2f} GiB there: give another one with --scratch, "
            "or more --memory-per-worker"
        )
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return DiskFull(f"the scratch directory {self._directory} is full; {need}")
        return SeriesError(f"the scratch directory {self._directory} cannot be used ({error.strerror}); {need}")


class CardValues:
    """The same array in the memory of a card."""

    def __init__(self, shape: Shape, device: Device) -> None:
        self.shape, self.device = shape, device
        self._array = device.xp.zeros(shape, np.float32)

    def __setitem__(self, place: tuple[I64, int], values: Any) -> None:
        rows, t = place
        self._array[self.device.put(rows), t] = values

    def __getitem__(self, place: tuple[I64, int]) -> Any:
        rows, t = place
        return self._array[self.device.put(rows), t]

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """All particles at once."""
        yield slice(0, self.shape[0]), self._array


class CardStream:
    """An array that a card cannot hold: the host keeps it, and puts as many particles there at a time as fit."""

    def __init__(self, kept: F32 | StreamedValues, device: Device) -> None:
        self.shape, self.device = kept.shape, device
        self._kept = kept

    def __setitem__(self, place: tuple[I64, int], values: Any) -> None:
        self._kept[place] = self.device.take(values)

    def __getitem__(self, place: tuple[I64, int]) -> Any:
        return self.device.put(self._kept[place])

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """Particle after particle. On a card that others fill meanwhile, fewer of them at a time."""
        step = max(1, self.device.room_bytes() // 4 // max(1, values_bytes((1, *self.shape[1:]))))
        for part, values in blocks(self._kept):
            start = part.start
            while start < part.stop:
                end = min(start + step, part.stop)
                try:
                    there = self.device.put(values[start - part.start : end - part.start])
                except MemoryError:
                    if step == 1:
                        raise
                    self.device.release()
                    step //= 2
                    continue
                yield slice(start, end), there
                start = end


Values = F32 | StreamedValues | CardValues | CardStream


def device_of(values: Values) -> Device:
    """Where images are computed with."""
    return values.device if isinstance(values, CardValues | CardStream) else HOST


def values_bytes(shape: Shape) -> int:
    """Bytes of the samples of so many images."""
    return 4 * int(np.prod(shape, dtype=np.int64))


def block_particles(shape: Shape) -> int:
    """Particles that are read at a time from a file of this shape."""
    return max(1, STREAM_BYTES // max(1, values_bytes((1, *shape[1:]))))


def blocks(values: Values) -> Iterator[tuple[slice, F32]]:
    """Which particles, and their samples (some, tilts, samples, 2); all at once where they are in memory."""
    if isinstance(values, np.ndarray):
        yield slice(0, len(values)), values
    else:
        yield from values.blocks()


class ImageRoom:
    """Memory for images, ``bytes_left`` of it (None: no limit); what does not fit goes to files in ``scratch``.

    With a card they lie there, as far as half of its room goes; the rest is for what is computed with them. A context:
    at its end the files are gone, and what the card kept of this series.
    """

    def __init__(self, bytes_left: int | None = None, scratch: Path | None = None, device: Device = HOST) -> None:
        self.device = device
        self._left = bytes_left
        self._scratch = scratch
        self._files = ExitStack()

    def reserve(self, count: int) -> None:
        """Leave so many bytes to others."""
        if self._left is not None:
            self._left -= count

    def place(self, shape: Shape) -> Values:
        """Zeros of this shape, where there is room for them."""
        if not self.device.is_card:
            return self._place_on_host(shape)
        if 2 * values_bytes(shape) > self.device.room_bytes():
            self.device.settle()  # a card has better use for the room of sums that wait for the next series
        if 2 * values_bytes(shape) > self.device.room_bytes():
            return CardStream(self._place_on_host(shape), self.device)
        try:
            return CardValues(shape, self.device)
        except MemoryError:  # others were faster
            self.device.release()
            return CardStream(self._place_on_host(shape), self.device)

    def _place_on_host(self, shape: Shape) -> F32 | StreamedValues:
        needed = values_bytes(shape)
        if self._left is not None and needed > self._left:
            self.reserve(block_particles(shape) * values_bytes((1, *shape[1:])))
            streamed = StreamedValues(shape, self._scratch)
            self._files.callback(streamed.close)
            return streamed
        self.reserve(needed)
        return np.zeros(shape, np.float32)

    def __enter__(self) -> ImageRoom:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
        self.device.release(all_of_it=False)
