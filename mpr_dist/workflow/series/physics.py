"""The science of the run loop: references, refinement of a series, back-projection, maps.

Everything is computed with one BLAS thread, whatever the engine: the number of threads changes the last bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from mpr_dist.arrays import card_errors
from mpr_dist.errors import MprError, NotSeen, SeriesError
from mpr_dist.imaging.ctf import LOCATION_STEPS, most_levels, tilt_scales
from mpr_dist.imaging.image_store import ImageRoom
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.imaging.reconstruct import accumulator_shape, backproject
from mpr_dist.imaging.reference import Reference
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.species import Species
from mpr_dist.refinement.plan import solver_bytes
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.release import largest
from mpr_dist.refinement.state import State
from mpr_dist.refinement.step import SeriesResult, refine_series, score
from mpr_dist.refinement.weighing import uncertain_of
from mpr_dist.storage.read_ahead import read_ahead
from mpr_dist.units import I64
from mpr_dist.workflow.series.class_numbers import Asked
from mpr_dist.workflow.series.common_magnification import without
from mpr_dist.workflow.series.footing import on_footing
from mpr_dist.workflow.series.maps import finish_species
from mpr_dist.workflow.series.movies import with_movies
from mpr_dist.workflow.series.series_numbers import series_numbers
from mpr_dist.workflow.state import footprint as fp
from mpr_dist.workflow.state import science
from mpr_dist.workflow.state.reference_files import load_references, make_reference
from mpr_dist.workflow.state.resources import Resources
from mpr_dist.workflow.state.series_io import (
    SeriesState,
    read_state,
    tilt_reader,
    with_scales,
    write_sigmas,
    write_state,
)
from mpr_dist.workflow.state.series_results import publish_summary, read_summary

# a series that does not agree with the reference must not outweigh those that do: their scales are about 0.1
LEAST_SCALE = 0.01


@dataclass(frozen=True)
class Physics:
    """Implements ``workflow.science.Science``.

    Attributes:
        version: of what is computed; two that differ do not share an iteration.
        resources: of a worker; but for the device they change no bit, so they are part of no hash.
        conditions: what the plan knows of the series; used for ``footprint`` alone.
    """

    version: str = "physics-11"
    resources: Resources = field(default_factory=Resources)
    conditions: fp.Conditions = field(default_factory=fp.Conditions)

    @staticmethod
    def on(resources: Resources) -> Physics:
        """The science of workers with these resources. Bits of a card are not the host's: a version of its own."""
        version = Physics.version if resources.device == "cpu" else f"{Physics.version}-{resources.device}"
        return Physics(version, resources)

    def footprint(self, species: Species) -> science.Footprint:
        _, z, y, x, _ = accumulator_shape(species)
        samples, known = fp.samples_per_image(species, self.conditions.defocus_um), self.conditions
        return science.Footprint(
            (z, y, x),
            fp.reference_bytes(species),
            8 * samples,
            fp.prepare_bytes(species),
            fp.finish_bytes(species),
            fp.tilt_bytes(species, known.image_px, known.pixel_A, samples),
            fp.table_bytes(1, samples),
            fp.BASE_BYTES,
        )

    def prepare(self, job: science.PrepareJob) -> science.Reference:
        with threadpool_limits(1, user_api="blas"), card_errors(self.resources.device):
            return make_reference(job, self.resources.open_device())

    def read_ahead(self, job: science.SeriesJob) -> None:
        with suppress(MprError):  # whatever is wrong with it will be said when its turn comes
            series = read_state(job, job.imported).series
            read_ahead(path for path, used in zip(series.image_paths, series.active, strict=False) if used)

    def refine_and_backproject(self, job: science.SeriesJob, accumulators: Mapping[str, I64]) -> science.SeriesOutcome:
        with threadpool_limits(1, user_api="blas"), card_errors(self.resources.device):
            if not job.reuse:
                _refine(job, self.resources)
            start = time.monotonic()
            _backproject(job, accumulators, self.resources)
        summary = read_summary(job.output) or {}
        numbers = {key: value for key, value in summary.get("numbers", {}).items() if isinstance(value, int | float)}
        return science.SeriesOutcome(numbers | {"backproject_seconds": time.monotonic() - start})

    def settle(self) -> None:
        with card_errors(self.resources.device):
            self.resources.open_device().settle()

    def finish(self, job: science.FinishJob, accumulator: I64) -> science.SpeciesOutcome:
        with threadpool_limits(1, user_api="blas"), card_errors(self.resources.device):
            return finish_species(job, accumulator, self.resources.open_device())


def _nyquist(species: Species) -> float:
    return 0.5 / species.pixel_size_A


def _refine(job: science.SeriesJob, resources: Resources) -> None:
    """Refine one series as far as there is anything to refine and to compare with, and publish it."""
    start = time.monotonic()
    imported, previous = read_state(job, job.imported), read_state(job, job.previous)
    _check(job, imported, previous)
    previous, numbers = with_movies(job, previous, partial(_frame_room, job, previous, resources))
    with resources.room() as room:
        _refine_against_references(job, imported, previous, numbers, room, start)


def _frame_room(job: science.SeriesJob, state: SeriesState, resources: Resources, beside: int) -> ImageRoom:
    """Room for the frames of a tilt, on the host: what the series will take later is not there yet. beside: bytes."""
    room = ImageRoom(resources.memory_bytes, resources.scratch)
    _reserve(room, job, state, None, beside)
    return room


def _refine_against_references(
    job: science.SeriesJob,
    imported: SeriesState,
    previous: SeriesState,
    numbers: Mapping[str, float],
    room: ImageRoom,
    start: float,
) -> None:
    settings = job.context.settings
    references = load_references(job.context) if settings.refines_anything else {}
    names = tuple(name for name in previous.particles if name in references and references[name].q_max > 0)
    result: SeriesResult | None = None
    after = on_footing(previous, imported, job.context.footing)
    seconds, asked = {}, Asked(names, settings.priors)
    if names:
        q_max = max(references[name].q_max for name in names)
        _reserve(room, job, previous, q_max, _solver(settings, previous, imported))
        found, unseen = _load(job, previous, {name: references[name] for name in names}, room)
        names, data = tuple(found), tuple(found.values())
        seconds["load"] = time.monotonic() - start
        result = refine_series(
            previous.series,
            tuple(previous.particles[name] for name in names),
            imported.series,
            tuple(imported.particles[name] for name in names),
            data,
            settings,
            is_first=job.context.is_first,
        )
        asked = Asked(tuple(names[i] for i in result.taken), settings.priors, names, unseen)
        after = _found(previous, result, asked.species, settings) if result.found else _not_found(previous, data, names)
        seconds["refine"] = time.monotonic() - start - seconds["load"]
    common = job.context.common_log_magnification  # against maps that have it; the next have not
    after = replace(after, series=without(after.series, common))
    if result is not None and result.found:
        result = replace(result, state=replace(result.state, series=without(result.state.series, common)))
    write_state(job, after)
    sigmas, end = (result.sigmas, result.state) if result is not None else (None, None)
    tables = result.weights.tables if result is not None and result.weights else None
    write_sigmas(job.output.sigma, after, sigmas, asked.species, end, tables)
    publish_summary(job, series_numbers(imported, previous, after, result, asked, seconds) | dict(numbers))


def _solver(settings: RefineSettings, state: SeriesState, imported: SeriesState) -> int:
    if settings.only_weights:
        both = tuple(zip(*((p, imported.particles[name]) for name, p in state.particles.items()), strict=True))
        settings = uncertain_of(state.series, imported.series, both[0], both[1], settings)
    samples = max(each.n_samples for each in state.particles.values())
    if settings.protocol == "auto":
        image_size_A = state.series.image_size_A
        settings = largest(settings, state.series.n_tilts, state.n_particles, image_size_A, samples)
    return solver_bytes(settings, state.series.n_tilts, state.n_particles, samples)


def _reserve(room: ImageRoom, job: science.SeriesJob, state: SeriesState, q_max: float | None, solver: int) -> None:
    """Keep the room's memory free of what a worker needs besides images, references included."""
    species = tuple(each.species for each in job.context.species)
    pixel_A, series = job.source.pixel_size_A, state.series
    width, height = (int(n) for n in np.rint(series.image_size_A / pixel_A))
    defocus = float(np.abs(series.optics.defocus_um.values).max())
    samples = max(fp.samples_per_image(each, defocus, q_max) for each in species)
    levels = most_levels(series)
    if job.context.settings.weights == "position":
        levels = LOCATION_STEPS**2
    room.reserve(fp.series_bytes(species, (width, height), pixel_A, series.n_tilts, samples, solver, levels))


def _check(job: science.SeriesJob, imported: SeriesState, previous: SeriesState) -> None:
    least = max(1, job.context.settings.min_particles)
    if previous.n_particles < least:
        raise SeriesError(f"series {job.name}: has {previous.n_particles} particles, at least {least} are needed")
    if not previous.series.active.any():
        raise SeriesError(f"series {job.name}: none of its tilts is in use; check the selection and the tilt limit")
    for name, particles in previous.particles.items():
        if not np.array_equal(particles.row, imported.particles[name].row):
            raise SeriesError(
                f"series {job.name}: {job.previous.poses} and {job.imported.poses} list different particles of {name}"
            )


def _load(
    job: science.SeriesJob, state: SeriesState, references: Mapping[str, Reference], room: ImageRoom
) -> tuple[dict[str, SpeciesData], dict[str, str]]:
    """Images of every species that has a reference, up to where that is to be trusted; and of those that no tilt shows,
    why.

    Raises:
        NotSeen: that holds for all of them.
    """
    read = tilt_reader(state.series, job.source.pixel_size_A)
    threshold = job.context.settings.weight_threshold
    species = {each.name: _curved(each.species, job.context.settings) for each in job.context.species}
    found: dict[str, SpeciesData] = {}
    unseen: dict[str, str] = {}
    for name, reference in references.items():
        particles = state.particles[name]
        try:
            images = load_particle_images(
                state.series, species[name], particles, read, reference.q_max, threshold, room
            )
        except NotSeen as error:
            unseen[name] = str(error)
            continue
        limit = job.context.settings.ctf_min_resolution_A
        is_coarse = limit > 0 and reference.resolution_A >= limit
        found[name] = SpeciesData(species[name], images, reference, state.series.optics if is_coarse else None)
    if not found:
        raise NotSeen("; ".join(unseen.values()))
    return found, unseen


def _curved(species: Species, settings: RefineSettings) -> Species:
    """The species with the Ewald sphere that this run is to assume."""
    return replace(species, ewald=settings.ewald_sign)


def _found(
    previous: SeriesState, result: SeriesResult, names: tuple[str, ...], settings: RefineSettings
) -> SeriesState:
    scales = np.exp(result.state.log_scale)
    if settings.only_weights:  # all else stays in the grids and digits that it came in
        series = replace(previous.series, weights=result.state.series.weights)
        return SeriesState(with_scales(series, scales), previous.particles)
    series = with_scales(result.state.series, scales)
    refined = dict(zip(names, result.state.particles, strict=True))
    return SeriesState(series, previous.particles | refined)


def _not_found(previous: SeriesState, data: tuple[SpeciesData, ...], names: tuple[str, ...]) -> SeriesState:
    """The geometry as it came, with the scale at which the images agree best with the reference, if only just."""
    weights = tilt_scales(previous.series)
    state = State(previous.series, tuple(previous.particles[name] for name in names), np.zeros(len(weights)))
    amplitude = max(score(state, data, weights).amplitude, LEAST_SCALE / float(weights.max()))
    return SeriesState(with_scales(previous.series, amplitude * weights), previous.particles)


def _backproject(job: science.SeriesJob, accumulators: Mapping[str, I64], resources: Resources) -> None:
    """Add what the published files say; nothing is taken from memory, so a continued run has the same bits.

    Species by species: only the images of one need room at a time. One that no tilt shows adds nothing.
    """
    settings, state = job.context.settings, read_state(job, job.output)
    read = tilt_reader(state.series, job.source.pixel_size_A)
    unseen = []
    for each in job.context.species:
        if each.name not in state.particles:
            continue
        species, particles = _curved(each.species, settings), state.particles[each.name]
        with resources.room() as room:
            _reserve(room, job, state, None, 0)
            try:
                images = load_particle_images(
                    state.series, species, particles, read, _nyquist(species), settings.weight_threshold, room
                )
            except NotSeen as error:
                unseen.append(error)
                continue
            backproject(accumulators[each.name], state.series, species, particles, images, job.context.exponent)
            del images  # before those of the next species are read
    if len(unseen) == len(state.particles):
        raise unseen[0]
