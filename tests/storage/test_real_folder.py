"""Every real file that other programs wrote is read, or refused for the reason it deserves; none is passed over."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import MprError
from mpr_dist.storage.alignments import read_aln, read_com, read_edf, read_numbers
from mpr_dist.storage.ctf_table import read_ctf_table
from mpr_dist.storage.mdoc import read_mdoc
from mpr_dist.storage.motive_lists import read_motive_list, read_tomogram_names
from mpr_dist.storage.mrc import read_header, read_image, read_stack
from mpr_dist.storage.relion import read_particles
from mpr_dist.storage.relion_tilts import read_tilts
from mpr_dist.storage.relion_tomograms import read_tomograms
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_settings import read_settings, read_tomostar
from mpr_dist.storage.warp_xml import read_tilt_series

PEOPLE = {  # short names of those who published the files
    "@": "turonova+cryoCAT__",
    "$": "ml-struct-bio+cryodrgn__",
    "%": "chanzuckerberg+cryoet-data-portal-backend__",
    "&": "uermel+cryoet-alignment__",
    "=": "bpowell122+tomodrgn__",
    "~": "warpem+warpylib__",
    "^": "alisterburt+dynamo2m__",
    "#": "3dem+relion__",
    "!": "teamtomo+",
}


def particles(path: Path) -> str:
    table = read_particles(path)
    return f"{len(table)} particles in {len(set(table.series))} series"


def listed(path: Path) -> str:
    found = read_motive_list(path)
    return f"{len(found.tomogram)} particles in {len(set(found.tomogram.tolist()))} tomograms"


def tomograms(path: Path) -> str:
    table = read_tomograms(path)
    tilts = [read_tilts(table, row)[0].n_tilts for row in range(len(table.rows))]
    return f"{len(tilts)} series of {min(tilts)} to {max(tilts)} tilts"


def first_of_tutorial(path: Path) -> str:
    """Only the tilts of the first of its series are there."""
    table = read_tomograms(path)
    tilts, _ = read_tilts(table, 0)
    return f"{len(table.rows)} series, {tilts.name} of {tilts.n_tilts} tilts, hand {tilts.hand:g}"


def mdoc(path: Path) -> str:
    found = read_mdoc(path)
    assert all(image.time is not None and image.movie for image in found.images)
    return f"{len(found.images)} images, axis {found.axis_deg}"


def aln(path: Path) -> str:
    found = read_aln(path)
    return f"{len(found.image)} of {found.n_images} images, axis {found.axis_deg[0]:.2f}"


def xml(path: Path) -> str:
    series = read_tilt_series(path, volume_size_A=(1.0, 1.0, 1.0))
    return f"{series.n_tilts} tilts, image warp {series.image_warp.x.values.shape[::-1]}"


def stack(path: Path) -> str:
    data = read_stack(path)
    assert np.isfinite(data).all()
    return f"{data.shape} at {read_header(path)[3]:g} A"


def image(path: Path) -> str:
    return f"{read_image(path).shape}"


def settings(path: Path) -> str:
    found = read_settings(path)
    return f"{found.pixel_size_A:g} A, {found.volume_px}"


def tomostar(path: Path) -> str:
    found = read_tomostar(path)
    start = found.angle_deg[found.dose.argmin()]
    return f"{len(found.movies)} tilts, first {found.angle_deg[0]:g}, first exposed {start:g}"


READERS: dict[str, Callable[[Path], str]] = {
    "particles": particles,
    "list": listed,
    "tomograms": tomograms,
    "tutorial": first_of_tutorial,
    "mdoc": mdoc,
    "aln": aln,
    "xml": xml,
    "stack": stack,
    "image": image,
    "settings": settings,
    "tomostar": tomostar,
    "names": lambda path: f"{len(read_tomogram_names(path))} names",
    "xf": lambda path: f"{len(read_numbers(path, 6))} transforms",
    "angles": lambda path: f"{len(read_numbers(path, 1))} angles",
    "tilt.com": lambda path: f"{read_com(path)['FULLIMAGE']} {read_com(path)['THICKNESS']}",
    "newst.com": lambda path: f"{read_com(path)['SIZETOOUTPUTINXANDY']} {read_com(path)['BINBYFACTOR']}",
    "edf": lambda path: read_edf(path)["batchruntomo.a.align.AngleOffset"],
    "ctf": lambda path: f"{len(read_ctf_table(path))} tilts, {read_ctf_table(path).u_A[0]:.2f} A",
    "table": lambda path: f"{sum(len(block) for block in read_blocks(path).values())} rows",
}
# file -> reader, and what it finds; "refused" and the words
REAL: dict[str, tuple[str, str]] = {
    "aretomo/%TS_run1.aln": ("aln", "3 of 3 images, axis 88.34"),
    "aretomo/!alnfile__test_data_with_local.EXCERPT.aln": ("aln", "refused: is the file cut off"),
    "aretomo/&TiltSeries_Metrics.csv": ("ctf", "refused: no column of defocus"),
    "aretomo/&test.aln": ("aln", "refused: 4 tilts and 4 dark frames, but the stack has 90 images"),
    "aretomo/&test_CTF.txt": ("ctf", "3 tilts, 25951.41 A"),
    "aretomo/&test_thickness.aln": ("aln", "refused: is the file cut off"),
    "dynamo/^example.doc": ("names", "54 names"),
    "dynamo/^example.tbl": ("list", "4934 particles in 48 tomograms"),
    "dynamo/!dynamotable__t_complex.tbl": ("list", "8742 particles in 48 tomograms"),
    "dynamo/!dynamotable__t_double.tbl": ("list", "300 particles in 2 tomograms"),
    "dynamo/!dynamotable__tmap_complex.doc": ("names", "48 names"),
    "dynamo/@b4_motl_CR_tm_topbott_clean600_1_dynamo.tbl": ("list", "1343 particles in 70 tomograms"),
    "dynamo/@bin1.6_SG_j013_afterM_24k_subtomos_MN_Dyn_v2.first1500lines.tbl": (
        "list",
        "1500 particles in 5 tomograms",
    ),
    "dynamo/@crop.tbl": ("list", "4485 particles in 25 tomograms"),
    "imod/!etomofiles__TS_001.edf": ("edf", "2.85"),
    "imod/!etomofiles__TS_001.rawtlt": ("angles", "40 angles"),
    "imod/!etomofiles__TS_001.tlt": ("angles", "40 angles"),
    "imod/!etomofiles__TS_001.xf": ("xf", "40 transforms"),
    "imod/!etomofiles__TS_001.xtilt": ("angles", "40 angles"),
    "imod/&tilt.com": ("tilt.com", "2032 2032 900"),
    "imod/uermel+cryoet-alignment_imod_1__newst.com": ("newst.com", "928,958 4"),
    "imod/uermel+cryoet-alignment_imod_1__tilt.com": ("tilt.com", "3708 3832 2000"),
    "imod/uermel+cryoet-alignment_imod_1__tilt_1.tlt": ("angles", "59 angles"),
    "imod/uermel+cryoet-alignment_imod_1__tilt_1.xf": ("xf", "59 transforms"),
    "imod/uermel+cryoet-alignment_imod_1__tilt_1.xtilt": ("angles", "59 angles"),
    "imod/~00254.tlt": ("angles", "41 angles"),
    "imod/~00254.xf": ("xf", "41 transforms"),
    "mdoc/!mdocfile__frame_set_multiple.mdoc": ("mdoc", "1 images, axis None"),
    "mdoc/!mdocfile__frame_set_single.mdoc": ("mdoc", "1 images, axis None"),
    "mdoc/!mdocfile__tilt_series.mdoc": ("mdoc", "41 images, axis 85.3"),
    "mdoc/@TS_019_0000_8.0.mrc.mdoc": ("mdoc", "1 images, axis None"),
    "mdoc/@TS_019_0001_10.0.mrc.mdoc": ("mdoc", "1 images, axis None"),
    "mdoc/@TS_019_0008_-0.0.mrc.mdoc": ("mdoc", "1 images, axis None"),
    "motl_em/@au_1.em": ("list", "64 particles in 1 tomograms"),
    "motl_em/@au_2.em": ("list", "11 particles in 1 tomograms"),
    "motl_em/@motl_ribosome_b4_trim_shift_t126.em": ("list", "50 particles in 1 tomograms"),
    "motl_em/@tric.em": ("list", "139 particles in 5 tomograms"),
    "relion3.0/^example.star": ("particles", "1399 particles in 47 series"),
    "relion3.0/%relion_3_star.star": ("particles", "6 particles in 3 series"),
    "relion3.0/$empiar_10076_7.star": ("particles", "refused: single-particle"),
    "relion3.0/@bin1_1deg_500.star": ("particles", "2 particles in 2 series"),
    "relion3.0/@relion_3.0.star": ("particles", "3 particles in 1 series"),
    "relion3.1/^relion3.1.star": ("particles", "57 particles in 1 series"),
    "relion3.1/%tomoman_relion_star.star": ("particles", "6 particles in 3 series"),
    "relion3.1/$relion31.6opticsgroups.star": ("particles", "refused: single-particle"),
    "relion3.1/$relion31.star": ("particles", "refused: single-particle"),
    "relion3.1/!starfile__rln3.1_data_style.star": ("particles", "refused: 2 tables could be the particles"),
    "relion3.1/@bin6_TM_starfile.star": ("particles", "177 particles in 2 series"),
    "relion4/%relion_4_star.star": ("particles", "6 particles in 3 series"),
    "relion5/$relion5.star": ("particles", "refused: single-particle"),
    "relion5/@R5_tutorial_run_data.first1200lines.star": ("particles", "1142 particles in 1 series"),
    "relion5/@R5_tutorial_run_tomograms.star": ("tutorial", "5 series, TS_01 of 40 tilts, hand -1"),
    "relion5/@relion5_TS_01_tilt.star": ("particles", "refused: this is a tilt series"),
    **{
        f"relion5_tilt_series/#220728_TS_{i}.star": ("particles", "refused: this is a tilt series")
        for i in ("01", "03", "43", "45", "54")
    },
    "relion5_tilt_series/#tilt_series.star": ("tomograms", "5 series of 41 to 41 tilts"),
    "warp_m_2d_series_relion30/$sta_testing.star": ("particles", "refused: one row per tilt"),
    "warp_m_2d_series_relion30/$sta_testing_bin8.star": ("particles", "refused: one row per tilt"),
    "warp_numbers/ctf_reference.mrc": ("stack", "(2, 256, 129)"),
    "warp_numbers/reference1d.star": ("table", "60 rows"),
    "warp_numbers/reference2d.star": ("table", "2560 rows"),
    "warp_numbers/reference3d.star": ("table", "8480 rows"),
    "warp_numbers/shift_reference.mrc": ("image", "(8, 8)"),
    "warp_numbers/shift_shifted_2.5_3.3.mrc": ("image", "(8, 8)"),
    "warp_relion_export/=Unt_050_12.00A_000001.mrcs": ("stack", "(37, 32, 32) at 12 A"),
    "warp_relion_export/=Unt_083_12.00A_000001.mrcs": ("stack", "(37, 32, 32) at 12 A"),
    "warp_relion_export/=warptools_test_4-tomos.star": ("particles", "40 particles in 4 series"),
    "warp_relion_export/=warptools_test_4-tomos_optimisation_set.star": ("particles", "40 particles in 4 series"),
    "warp_relion_export/=warptools_test_4-tomos_tomograms.star": ("tomograms", "4 series of 37 to 37 tilts"),
    "warp_settings/&test.settings": ("settings", "1.54 A, (4096, 4096, 2000)"),
    "warp_tomostar/&test.tomostar": ("tomostar", "31 tilts, first 45.01, first exposed 0.01"),
    "warp_xml/~00254.xml": ("xml", "41 tilts"),
    "warp_xml/~TS_1.star": ("table", "1175 rows"),
    "warp_xml/~TS_1.xml": ("xml", "41 tilts, image warp (6, 4, 41)"),
    "warp_xml/~xf_import_00254.xml": ("xml", "41 tilts, image warp (1, 1, 1)"),
}
# files that name others are laid out as they were where they come from
LAID_OUT = {
    "relion5/@R5_tutorial_run_tomograms.star": {
        "relion5/@relion5_TS_01_tilt.star": "Tomograms/job006/tilt_series/TS_01.star"
    },
    "relion5_tilt_series/#tilt_series.star": {
        f"relion5_tilt_series/#220728_TS_{i}.star": f"tilt_series_metadata/tilt_series/220728_TS_{i}.star"
        for i in ("01", "03", "43", "45", "54")
    },
    "warp_relion_export/=warptools_test_4-tomos_optimisation_set.star": {
        "warp_relion_export/=warptools_test_4-tomos.star": "NAMED",
    },
}


def real_name(short: str) -> str:
    folder, sign, rest = re.fullmatch(r"([^/]+)/([^\w])?(.*)", short).groups()
    return f"{folder}/{PEOPLE.get(sign or '', sign or '')}{rest}"


def test_no_file_is_passed_over(shared: Path) -> None:
    folder = shared / "data/real"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"}
    assert found == {real_name(short) for short in REAL}


@pytest.mark.parametrize("short", REAL)
def test_real_file(shared: Path, short: str, tmp_path: Path) -> None:
    folder = shared / "data/real"
    path = folder / real_name(short)
    if short in LAID_OUT:
        path = Path(shutil.copy(path, tmp_path))
        for source, target in LAID_OUT[short].items():
            if target == "NAMED":
                target = str(read_blocks(path)[""]["rlnTomoParticlesFile"])
            (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / real_name(source), tmp_path / target)
    reader, expected = REAL[short]
    try:
        found = READERS[reader](path)
    except MprError as error:
        found = f"refused: {error}"
        assert path.name in found
    words = expected.removeprefix("refused: ")
    assert found.startswith("refused") == expected.startswith("refused"), found
    assert words in found
