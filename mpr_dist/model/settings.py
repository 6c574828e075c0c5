"""What the user asks for: settings are values, read once at the rim, stored beside every result."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpr_dist.errors import InputError

# scores and standard deviations take five, the search for a step the others
LEAST_PASSES = 10
MOST_SAMPLES = 20
ABERRATION_ORDERS = (2, 3, 4, 5)
_SWITCHES = ("particles", "stage_angles", "defocus", "astigmatism", "phase_shift", "cs", "magnification")
PROTOCOLS = ("manual", "auto", "m")
# what a protocol may release, by field; all else is refined only where it is asked for
RELEASED = ("image_warp", "volume_warp", "particles", "temporal_samples", *_SWITCHES[1:], "aberrations", "weights")
PRIORS_FROM = ("", "fixed", "data")
WEIGHTS = ("", "none", "series", "tilt", "position")
EWALD_SIGNS = {"off": 0, "on": 1, "reversed": -1}


@dataclass(frozen=True)
class Priors:
    """Standard deviations of the Gaussian priors, on offsets from the imported values.

    volume_warp_A: of a node at the last dose; it grows from the first like a random walk. trajectory_A, trajectory_deg:
    of a particle's own way from the first to the last dose. rigid_stage_deg: of stage angles that move the particles.
    aberration_rad: of every term, as its largest phase within 4 A.
    """

    image_warp_A: float = 5.0
    volume_warp_A: float = 3.0
    stage_angle_deg: float = 1.0
    rigid_stage_deg: float = 0.2
    position_A: float = 5.0
    orientation_deg: float = 3.0
    trajectory_A: float = 3.0
    trajectory_deg: float = 1.0
    defocus_A: float = 300.0
    astigmatism_A: float = 200.0
    phase_shift_pi: float = 0.05
    cs_mm: float = 0.1
    aberration_rad: float = 0.5
    magnification_percent: float = 1.0


@dataclass(frozen=True)
class RefineSettings:
    """One ``refine`` command.

    Attributes:
        iterations: outer iterations (references, refinement of all series, new half-maps).
        until: number of the iteration to end with, instead of so many; 0: so many.
        image_warp: nodes (width, height) of the image warp per tilt, or None to leave it as it is.
        volume_warp: nodes (width, height, depth, duration) of the volume warp, or None.
        particles, stage_angles, defocus, astigmatism, phase_shift, cs, magnification: classes to refine besides;
            amplitude scales are always refined.
        aberrations: orders of the Zernikes to refine, of 2, 3, 4, 5; order 3 comes with order 1.
        temporal_samples: of every particle's trajectory; 0 leaves as many as there are.
        rigid_stage: stage angles move the particles too, from now on.
        defocus_search: in the first iteration of the run, try defoci in a wide range in every tilt.
        ctf_min_resolution_A: species refine the CTF only if resolved better than this; 0: all do.
        ewald: "off", "on" (curved, the way that the depth of the series says), "reversed".
        first_iteration_fraction: share of the resolution range used in the first iteration.
        weight_threshold: a tilt is used up to the frequency where its dose envelope falls below this.
        share_below_A: frequencies below 1/share_below_A are averaged over both half-maps in the reference, as M does at
            40 A; 0 shares nothing, so that the cross-half score stays a test by images the reference never saw.
        tilt_movies: before all else make the averages again from the movies, as new files.
        movie_motion: nodes (width, height, time) of the motion within a tilt, which is refined against the reference
            before they are made; None takes it as it is.
        max_passes: passes over the images of a series per iteration, at most.
        min_particles: a series with fewer is left out.
        protocol: "manual" refines what is asked for; "auto" also what the images of a series determine well enough
            (refinement/release.py); "m" all classes in M's published order (refinement/protocol_m.py).
        excluded: switches and grids that no protocol may release.
        priors_from: "fixed", or "data": widths of the priors from all series of the last iteration; empty: "data" with
            the protocol auto, else "fixed". priors_by_hand: fields of ``Priors`` that are not touched then.
        weights: fit scales and B-factors to the agreement with the opposite half-map: "series" (tilts as they are),
            "tilt", "position" (tilts before it); "none" takes those of tilts from the fit of the geometry; "" the same,
            but the protocol auto fits them by tilt where the images determine them.
        anisotropic_weights: B-factors of tilts depend on the direction; with "tilt" and "position".
        location_grid: nodes (width, height) over the volume of the weights by position.
        only_weights: nothing moves; what was moved before is what is uncertain.
    """

    iterations: int = 4
    until: int = 0
    image_warp: tuple[int, int] | None = None
    volume_warp: tuple[int, int, int, int] | None = None
    particles: bool = False
    temporal_samples: int = 0
    stage_angles: bool = False
    rigid_stage: bool = False
    defocus: bool = False
    defocus_search: bool = False
    astigmatism: bool = False
    phase_shift: bool = False
    cs: bool = False
    aberrations: tuple[int, ...] = ()
    magnification: bool = False
    ctf_min_resolution_A: float = 0.0
    ewald: str = "off"
    first_iteration_fraction: float = 1.0
    weight_threshold: float = 0.05
    share_below_A: float = 0.0
    tilt_movies: bool = False
    movie_motion: tuple[int, int, int] | None = (1, 1, 4)
    max_passes: int = 40
    min_particles: int = 1
    protocol: str = "manual"
    excluded: tuple[str, ...] = ()
    priors_from: str = ""
    priors_by_hand: tuple[str, ...] = ()
    weights: str = ""
    anisotropic_weights: bool = False
    location_grid: tuple[int, int] = (3, 3)
    only_weights: bool = False
    priors: Priors = field(default_factory=Priors)

    def __post_init__(self) -> None:
        if min(self.iterations, self.until) < 0:
            raise InputError(f"iterations must be 0 or more, got {min(self.iterations, self.until)}")
        if self.image_warp is not None and min(self.image_warp) < 1:
            raise InputError(f"an image warp needs at least 1 x 1 nodes, got {self.image_warp}")
        if self.volume_warp is not None and (min(self.volume_warp) < 1 or self.volume_warp[3] < 2):
            raise InputError(
                f"a volume warp needs at least 1 x 1 x 1 x 2 nodes, got {self.volume_warp}: the first node along the "
                "dose is fixed"
            )
        if not set(self.aberrations) <= set(ABERRATION_ORDERS):
            raise InputError(f"aberrations are of order 2, 3, 4 or 5, got {', '.join(map(str, self.aberrations))}")
        if not 0 <= self.temporal_samples <= MOST_SAMPLES:
            raise InputError(f"temporal_samples must be 0 to {MOST_SAMPLES}, got {self.temporal_samples}")
        alone = self.protocol == "manual"  # a protocol brings what they need
        if alone and self.temporal_samples > 1 and not self.particles:
            raise InputError("temporal samples are refined with --particles; without it they would only be copies")
        if alone and self.rigid_stage and not self.stage_angles:
            raise InputError("a rigid stage is refined by its angles: give --stage-angles too")
        if self.movie_motion is not None and (min(self.movie_motion) < 1 or self.movie_motion[2] < 2):
            raise InputError(f"motion within a tilt needs at least 1 x 1 x 2 nodes, got {self.movie_motion}")
        if self.min_particles < 0:
            raise InputError(f"min_particles must be 0 or more, got {self.min_particles}")
        for name, known in (("protocol", PROTOCOLS), ("priors_from", PRIORS_FROM)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be {', '.join(filter(None, known))}, got {getattr(self, name)!r}")
        if self.ewald not in EWALD_SIGNS:
            raise InputError(f"ewald must be {', '.join(EWALD_SIGNS)}, got {self.ewald!r}")
        if not self.ctf_min_resolution_A >= 0:
            raise InputError(f"ctf_min_resolution_A must be 0 or more, got {self.ctf_min_resolution_A}")
        if alone and self.defocus_search and not self.defocus:
            raise InputError("a search for the defocus needs --defocus too: it starts what that refines")
        if not 0 < self.first_iteration_fraction <= 1:
            raise InputError(f"first_iteration_fraction must lie in 0..1, got {self.first_iteration_fraction}")
        if not 0 < self.weight_threshold < 1:
            raise InputError(f"weight_threshold must lie between 0 and 1, got {self.weight_threshold}")
        if not self.share_below_A >= 0:
            raise InputError(f"share_below_A must be 0 or more, got {self.share_below_A}")
        if self.weights not in WEIGHTS:
            raise InputError(f"weights are fitted by series, tilt or position, or none, got {self.weights!r}")
        if self.anisotropic_weights and self.weights not in ("tilt", "position"):
            raise InputError("B-factors that depend on the direction are those of tilts: fit weights by tilt")
        if min(self.location_grid) < 1:
            raise InputError(f"weights by position need at least 1 x 1 nodes, got {self.location_grid}")
        if self.only_weights and not self.fits_weights:
            raise InputError("only_weights needs weights: series, tilt or position")
        if self.may_fit_weights and not self.only_weights and self.max_passes < 2 * LEAST_PASSES:
            raise InputError(
                f"max_passes must be {2 * LEAST_PASSES} or more with weights, got {self.max_passes}: they are fitted "
                "twice in an iteration; --weights none leaves them out"
            )
        if self.max_passes < LEAST_PASSES:
            raise InputError(f"max_passes must be {LEAST_PASSES} or more, got {self.max_passes}: fewer allow no step")

    def count_after(self, iteration: int) -> int:
        """How many iterations are asked for where ``iteration`` is the last one that is finished."""
        return max(0, self.until - iteration) if self.until else self.iterations

    @property
    def refines_anything(self) -> bool:
        return bool(self.refined) or self.protocol != "manual"

    @property
    def learns_priors(self) -> bool:
        """Whether widths of the priors come from the data."""
        return self.priors_from == "data" or (not self.priors_from and self.protocol == "auto")

    @property
    def fits_weights(self) -> bool:
        """Whether weights are fitted to the opposite half-map, in every series."""
        return self.weights not in ("", "none")

    @property
    def may_fit_weights(self) -> bool:
        """The same, or in those series where the protocol auto finds them known well enough."""
        left_to_auto = self.protocol == "auto" and not self.weights and "weights" not in self.excluded
        return self.fits_weights or left_to_auto

    @property
    def refined(self) -> tuple[str, ...]:
        """What was asked for, in words."""
        weights = (f"weights by {self.weights}",) if self.fits_weights else ()
        return weights if self.only_weights else (*self._geometry, *weights)

    @property
    def _geometry(self) -> tuple[str, ...]:
        warps = (("image warp", self.image_warp), ("volume warp", self.volume_warp))
        words = [f"{name} {'x'.join(map(str, nodes))}" for name, nodes in warps if nodes is not None]
        words += [name.replace("_", " ") for name in _SWITCHES if getattr(self, name)]
        words += [f"{self.temporal_samples} temporal samples"] * (self.temporal_samples > 0)
        words += [f"motion of tilt movies {'x'.join(map(str, self.movie_motion or ()))}"] * self.refines_movies
        words += ["as a rigid stage"] * self.rigid_stage + ["with a search for the defocus"] * self.defocus_search
        return (*words, *(f"aberrations of order {order}" for order in self.aberrations))

    @property
    def refines_movies(self) -> bool:
        return self.tilt_movies and self.movie_motion is not None

    @property
    def ewald_sign(self) -> int:
        """0 flat, 1 curved the way that the depth of the series says, -1 the other way."""
        return EWALD_SIGNS[self.ewald]
