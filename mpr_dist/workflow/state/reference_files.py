"""Prepared references on the disk, known by their content, and kept once per process that works with them."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from typing import Any

import numpy as np

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.errors import InputError, PopulationError
from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.imaging.reference import Reference, prepare_reference
from mpr_dist.maths.filters import soft_sphere
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.publish import disk, publish_directory, temporary_beside
from mpr_dist.units import F32
from mpr_dist.workflow.state import science
from mpr_dist.workflow.state.science import Context, PrepareJob, SpeciesInput

VOLUMES, VALUES = "volumes.npy", "reference.json"

_kept: dict[str, Reference] = {}


def read_mask(species: SpeciesInput) -> F32:
    """(box, box, box) float32; a sphere of the particle's diameter for a species without a mask.

    Raises:
        InputError: cannot be read, or is not of the size of the half-maps.
    """
    n, pixel_A = species.species.box_px, species.species.pixel_size_A
    if species.mask is None:
        return soft_sphere(n, species.species.diameter_A / (2 * pixel_A), 0.0)
    mask, _ = read_volume(species.mask)
    return check_shape(mask, species.species, str(species.mask))


def make_reference(job: PrepareJob, device: Device = HOST) -> science.Reference:
    """Prepare and publish the reference of one species; without anything to refine it is empty and never used.

    A card on which it is made keeps it, and this process with it: whoever refines here need not read it again. The
    host takes what is too large for a card.
    """
    settings = job.context.settings
    if settings.refines_anything:
        halves = [
            check_shape(read_volume(path)[0], job.species.species, str(path))
            for path in (job.species.previous.half1, job.species.previous.half2)
        ]
        fraction = settings.first_iteration_fraction if job.context.is_first else 1.0
        mask, species = read_mask(job.species), job.species.species

        def made(where: Device) -> tuple[Reference, FscCurves]:
            return prepare_reference(halves[0], halves[1], mask, species, settings.share_below_A, fraction, where)

        reference, curves = there_or_here(device, made)
        published = _publish(job, reference, curves)
        if device.is_card:
            _kept[published.sha256] = reference
        return published
    return _publish(job, Reference(np.zeros((2, 0, 0, 0, 2), np.float32), 0, 0.0, np.inf), None)


def check_shape(volume: F32, species: Species, path: str) -> F32:
    if volume.shape != (species.box_px,) * 3:
        found = " x ".join(str(n) for n in volume.shape[::-1])
        raise InputError(f"{path}: has {found} voxels, species {species.name} has a box of {species.box_px}")
    return volume


def _publish(job: PrepareJob, reference: Reference, curves: FscCurves | None) -> science.Reference:
    stream = io.BytesIO()
    np.save(stream, reference.volumes)
    volumes = stream.getvalue()
    values: dict[str, Any] = {
        "grid_px": reference.grid_px,
        "q_max": reference.q_max,
        "resolution_A": reference.resolution_A if np.isfinite(reference.resolution_A) else None,
        "fsc": [] if curves is None else curves.corrected.tolist(),
        "frequency_per_A": [] if curves is None else curves.frequency_per_A.tolist(),
    }
    text = json.dumps(values, sort_keys=True).encode()
    key = sha256(text + volumes).hexdigest()
    final = job.directory / f"{job.species.name}-{key[:24]}"
    if not final.exists():
        temporary = temporary_beside(final)
        disk().mkdir(temporary)
        disk().write(temporary / VOLUMES, volumes)
        disk().write(temporary / VALUES, text)
        publish_directory(temporary, final)
    return science.Reference(job.species.name, final, key, {"q_max": reference.q_max})


def load_references(context: Context) -> dict[str, Reference]:
    """Species -> reference. Read, and compared with their hashes, once per process; older ones are let go.

    Raises:
        PopulationError: the files are not those that were written.
    """
    wanted = {reference.sha256: reference for reference in context.references}
    for key in [key for key in _kept if key not in wanted]:
        _kept.pop(key, None)
    for key, reference in wanted.items():
        if key not in _kept:
            _kept[key] = _load(reference)
    return {reference.species: _kept[reference.sha256] for reference in context.references}


def _load(reference: science.Reference) -> Reference:
    try:
        text = (reference.path / VALUES).read_bytes()
        volumes = (reference.path / VOLUMES).read_bytes()
    except OSError as error:
        raise PopulationError(f"{reference.path}: the reference cannot be read ({error.strerror})") from error
    found = sha256(text)
    found.update(volumes)  # not text + volumes, which would be one more copy
    if found.hexdigest() != reference.sha256:
        raise PopulationError(f"{reference.path}: the bytes of the reference are not those written; remove it")
    values = json.loads(text)
    resolution = values["resolution_A"]
    return Reference(
        np.load(io.BytesIO(volumes)),
        int(values["grid_px"]),
        float(values["q_max"]),
        np.inf if resolution is None else float(resolution),
    )
