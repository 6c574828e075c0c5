"""The settings of a report are the user's words; what the program keeps for itself has no row."""

from __future__ import annotations

import tomllib

from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.storage.population import write_table
from mpr_dist.workflow.reporting.report_settings import setting_rows
from mpr_dist.workflow.series.widths import settings_in
from mpr_dist.workflow.state.run_settings import RunSettings, versions


def _written(settings: RefineSettings, folder) -> dict:
    path = folder / f"{len(list(folder.iterdir()))}.toml"
    write_table(path, {**RunSettings(settings).table("physics-4", False), "versions": versions()})
    return tomllib.loads(path.read_text("utf-8"))


ASKED = RefineSettings(
    iterations=4,
    image_warp=(6, 4),
    particles=True,
    stage_angles=True,
    aberrations=(2, 3),
    ctf_min_resolution_A=8.0,
    ewald="reversed",
    priors=Priors(image_warp_A=7.5),
)


def test_what_was_asked_for_is_told_and_internals_are_not(tmp_path):
    rows = dict(setting_rows(_written(ASKED, tmp_path)))
    assert rows["refined"] == "image warp 6x4, particles, stage angles, aberrations of order 2, aberrations of order 3"
    assert rows["widths of the priors"].startswith("given by hand: image warp 7.5 A; default: stage angles 1 deg")
    assert "Cs" not in rows["widths of the priors"]  # was not refined
    assert (rows["ctf min resolution (A)"], rows["ewald"]) == ("8", "reversed")
    assert "numpy" in rows["with"]
    assert set(rows) == {
        "refined", "widths of the priors", "ctf min resolution (A)", "ewald", "program", "with",
    }  # fmt: skip
    everything = " ".join((*rows, *rows.values()))
    assert not [
        word
        for word in ("{", "[", "exponent", "is_first", "refine.", "_", "False")
        if word in everything.replace("mpr_dist", "")
    ]


def test_settings_come_back_as_they_were_written(tmp_path):
    for one in (ASKED, RefineSettings(), RefineSettings(protocol="auto", excluded=("cs",), weights="position")):
        back = settings_in(_written(one, tmp_path)["refine"])
        assert back == RefineSettings(**{**vars(one), "iterations": back.iterations})


def test_a_reconstruction_and_a_protocol_say_so(tmp_path):
    rows = dict(setting_rows(_written(RefineSettings(), tmp_path)))
    assert rows["refined"] == "nothing: reconstruction only"
    assert not [name for name in rows if "priors" in name]
    auto = dict(setting_rows(_written(RefineSettings(protocol="auto", excluded=("cs",)), tmp_path)))
    assert "protocol auto" in auto["refined"]
    assert auto["excluded"] == "cs"
    assert auto["widths of the priors"].startswith("default: ")  # the first iteration has found nothing yet
    assert "defocus 300 A" in auto["widths of the priors"]


def test_widths_that_earlier_data_gave_name_their_iteration(tmp_path):
    """Of three widths one was found, one given (with the value of the default), one neither."""
    asked = RefineSettings(
        protocol="auto", priors=Priors(image_warp_A=2.5), priors_by_hand=("stage_angle_deg",)
    )  # fmt: skip
    path = tmp_path / "settings.toml"
    table = RunSettings(asked, widths={"iteration": 2, "numbers": {"image_warp_A": 100}}).table("physics-4", False)
    write_table(path, table)
    told = dict(setting_rows(tomllib.loads(path.read_text("utf-8"))))["widths of the priors"].split("; ")
    assert "found in iteration 002: image warp 2.5 A" in told
    assert "given by hand: stage angles 1 deg" in told
    assert next(each for each in told if each.startswith("default")).count("image warp") == 0
