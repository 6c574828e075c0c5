"""M's published order: which classes are refined in which iteration.

The order of the tutorial for EMPIAR-10491: image warp and poses, then defocus, then stage angles, then magnification,
Cs and aberrations, then weights, then temporal samples. Weights (scales and B-factors of the tilts) are refined in
every iteration here, so they are no step of their own. What was refined once is refined in all later steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mpr_dist.model.settings import RefineSettings

# as the tutorial has them, unless something else is asked for
IMAGE_WARP, ABERRATIONS, SAMPLES = (6, 4), (3,), 2


def steps(asked: RefineSettings) -> tuple[RefineSettings, ...]:
    """The settings of every step; classes and grids that were asked for say how, the order says when."""
    grids = {"image_warp": asked.image_warp or IMAGE_WARP, "volume_warp": asked.volume_warp, "particles": True}
    ctf = {"defocus": True, "defocus_search": asked.defocus_search, "astigmatism": True}
    optics = {"magnification": True, "cs": True, "aberrations": asked.aberrations or ABERRATIONS}
    added: tuple[dict[str, Any], ...] = (
        grids,
        ctf | {"phase_shift": asked.phase_shift},
        {"stage_angles": True, "rigid_stage": asked.rigid_stage},
        optics,
        {"temporal_samples": asked.temporal_samples or SAMPLES},
    )
    nothing = RefineSettings()
    names = {name for step in added for name in step}
    settings = replace(asked, **{name: getattr(nothing, name) for name in names})
    found = []
    for step in added:
        kept = {name: value for name, value in step.items() if name not in asked.excluded}
        if "particles" in asked.excluded:
            kept.pop("temporal_samples", None)
        if "defocus" in asked.excluded:
            kept.pop("defocus_search", None)
        settings = replace(settings, **kept)
        if settings not in found:
            found.append(settings)
    return tuple(found)


def at_step(asked: RefineSettings, earlier: int) -> RefineSettings:
    """The settings of the iteration that ``earlier`` iterations of this protocol came before; the last step goes on."""
    every = steps(asked)
    return every[min(earlier, len(every) - 1)]


def new_at(asked: RefineSettings, step: int) -> tuple[str, ...]:
    """What a step adds, in words."""
    every = steps(asked)
    before = every[step - 1].refined if step else ()
    return tuple(word for word in every[step].refined if word not in before)
