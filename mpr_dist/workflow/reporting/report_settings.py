"""What was asked for, in the words of the options: what settings.toml holds beyond that is for the program itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from mpr_dist.model.settings import PROTOCOLS, Priors, RefineSettings
from mpr_dist.workflow.series.release_plan import refined_words
from mpr_dist.workflow.series.widths import WORDS, settings_in

# the priors of each class, by fields
PRIORS_OF: dict[str, tuple[str, ...]] = {
    "image_warp": ("image_warp_A",),
    "volume_warp": ("volume_warp_A",),
    "stage_angles": ("stage_angle_deg",),
    "rigid_stage": ("rigid_stage_deg",),
    "particles": ("position_A", "orientation_deg"),
    "temporal_samples": ("trajectory_A", "trajectory_deg"),
    "defocus": ("defocus_A",),
    "astigmatism": ("astigmatism_A",),
    "phase_shift": ("phase_shift_pi",),
    "cs": ("cs_mm",),
    "aberrations": ("aberration_rad",),
    "magnification": ("magnification_percent",),
}
# told in one sentence, or of no concern
TOLD = {*PRIORS_OF, "priors", "protocol", "weights", "only_weights", "tilt_movies", "movie_motion", "defocus_search"}
LATER = {"location_grid": "weights", "priors_from": "", "priors_by_hand": ""}


def setting_rows(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, value) of settings.toml of an iteration; what was left as it always is has no row."""
    refine = table.get("refine", {})
    asked = settings_in(refine)
    yield "refined", ", ".join(refined_words(asked)) or "nothing: reconstruction only"
    for field in fields(RefineSettings):
        value = getattr(asked, field.name)
        if field.name in TOLD or field.name in LATER or value == field.default:
            continue
        yield spoken(field.name), _text(value)
    if asked.weights == "position":
        yield "grid of the weights by position", _text(asked.location_grid)
    if asked.refines_anything and not asked.only_weights:
        yield "widths of the priors", "; ".join(_priors(asked, table.get("widths", {})))
    common = table.get("taken_out", {}).get("log_magnification")
    if common:
        text = (
            f"{100 * common:+.3f} %, which all series shared after the last iteration: the pixel of the images counts"
        )
        yield "magnification taken out", text
    for name, value in sorted(table.get("change", {}).items()):
        yield f"change of an earlier iteration: {spoken(name)}", _text(value)
    yield "program", f"mpr_dist {table.get('software', '')}, {table.get('science', '')}".strip(", ")
    libraries = table.get("versions", {})
    if libraries:
        yield "with", ", ".join(f"{name} {version}" for name, version in libraries.items())


def spoken(name: str) -> str:
    """A field as people say it: "ctf_min_resolution_A" is "ctf min resolution (A)"."""
    return f"{name[:-2].replace('_', ' ')} (A)" if name.endswith("_A") else name.replace("_", " ")


def _priors(asked: RefineSettings, widths: Mapping[str, Any]) -> Iterator[str]:
    """Groups of widths with where they come from; widths: of settings.toml, what earlier data said."""
    found, usual = widths.get("numbers", {}), Priors()
    groups: dict[str, list[str]] = {}
    for name, priors in PRIORS_OF.items():
        if not getattr(asked, name) and asked.protocol == PROTOCOLS[0]:
            continue
        for each in priors:
            value = getattr(asked.priors, each)
            given = each in asked.priors_by_hand or value != getattr(usual, each)
            origin = "given by hand" if given else "default"
            origin = f"found in iteration {widths.get('iteration', 0):03d}" if each in found else origin
            groups.setdefault(origin, []).append(f"{WORDS[each][0]} {value:.4g} {WORDS[each][1]}")
    yield from (f"{origin}: {', '.join(values)}" for origin, values in groups.items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        numbers = all(isinstance(each, int) for each in value)
        return ("x" if numbers else ", ").join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
