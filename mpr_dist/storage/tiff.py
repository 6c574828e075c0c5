"""Masks of tilt images as Warp stores them: TIFF, with the rows the other way round than in MRC."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.units import Bool

MASKED = 0.5  # Warp's masks are 0 and 1; other programs' may be soft


def mask_path(image_path: Path) -> Path:
    """Where Warp keeps the mask of an average: mask/<root>.tif beside average/<root>.mrc."""
    return image_path.parent.parent / "mask" / f"{image_path.stem}.tif"


def read_mask(path: Path) -> Bool:
    """A mask (height, width), True where there is dirt, with its rows in the order of an MRC image.

    Warp turns every TIFF upside down, whatever its tag of orientation says: the first row of the file is the last one
    of the image.

    Raises:
        SeriesError: missing, not TIFF, cut off, several images or colours, NaN, or compressed in a way that takes a
            package which is not installed.
    """
    import tifffile

    path = Path(path)
    try:
        with tifffile.TiffFile(path) as file:
            n_pages, page = len(file.pages), file.pages[0]
            values = np.asarray(page.asarray()) if n_pages == 1 else np.zeros(())
    except OSError as error:
        raise SeriesError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RuntimeError, LookupError, ArithmeticError, TypeError, struct.error) as error:
        if "imagecodecs" in str(error):
            raise SeriesError(
                f"{path}: is compressed (Warp compresses its masks), which takes a further package to read; "
                "install it: pip install imagecodecs"
            ) from error
        raise SeriesError(f"{path}: is no TIFF image, or is damaged ({error}); make it again or remove it") from error
    if n_pages != 1 or values.ndim != 2:
        raise SeriesError(f"{path}: expected one grey image, got {n_pages} of shape {values.shape}; a mask is 0 or 1")
    if not np.isfinite(values).all():
        raise SeriesError(f"{path}: holds NaN or infinite values; make the mask again or remove it")
    return np.ascontiguousarray(values[::-1] >= MASKED)
