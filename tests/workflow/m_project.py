"""A project as M leaves it, made from a simulated one: files in M's own form, with things that only M knows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.workflow.simulation.simulate import SimulatedProject

NAME = "TS_01"
HASH = "H4dENXaB_9bW0-Sa_-CerxT4lMI"
SOURCE_GUID, SPECIES_GUID = "11111111-aaaa-4000-8000-000000000001", "22222222-bbbb-4000-8000-000000000002"
SAMPLES = 3

POPULATION = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<Population>
  <Param Name="Name" Value="my apoferritin" />
  <Species><Species GUID="{species}" Path="species\\phantom_22222222\\phantom.species" /></Species>
  <Sources><Source GUID="{source}" Path="warp_tiltseries/grid.source" /></Sources>
  <LastRefinementOptions>
    <Param Name="DoZernike13" Value="True" /><Param Name="NIterations" Value="2" />
    <Param Name="DoImageWarp" Value="True" /><Param Name="ImageWarpWidth" Value="6" />
    <Param Name="ImageWarpHeight" Value="4" /><Param Name="DoParticlePoses" Value="True" />
    <Param Name="DoVolumeWarp" Value="False" /><Param Name="FromTheFuture" Value="12" />
  </LastRefinementOptions>
</Population>"""

SOURCE = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<DataSource>
  <Param Name="DimensionsZ" Value="{z}" /><Param Name="DimensionsX" Value="{x}" />
  <Param Name="Version" Value="Vs0" /><Param Name="GUID" Value="{guid}" /><Param Name="Name" Value="grid 1" />
  <Param Name="DimensionsY" Value="{y}" /><Param Name="PixelSize" Value="{pixel}" />
  <Param Name="RelativeWeight" Value="1" /><Param Name="FrameLimit" Value="7" />
  <Param Name="FromTheFuture" Value="a;b" />
  <UsedSpecies><Species GUID="x" Version="y" /></UsedSpecies>
  <Files>
    <File Hash="{hash}" Name="TS_01.tomostar" Weight="1" Bfactor="0" Later="kept" />
    <File Hash="{other}" Name="TS_99.tomostar" Weight="1" Bfactor="0" />
  </Files>
</DataSource>"""

SPECIES = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<Species>
  <Param Name="TemporalResolutionMovement" Value="{samples}" /><Param Name="Symmetry" Value="O" />
  <Param Name="GUID" Value="{guid}" /><Param Name="Version" Value="abcd1234" /><Param Name="Name" Value="phantom" />
  <Param Name="PixelSize" Value="{pixel}" /><Param Name="DiameterAngstrom" Value="128" />
  <Param Name="MolecularWeightkDa" Value="440" /><Param Name="HelicalUnits" Value="1" />
  <Param Name="DoEwald" Value="True" /><Param Name="EwaldReverse" Value="True" />
  <Param Name="TemporalResolutionRotation" Value="{samples}" /><Param Name="MaskAutoThreshold" Value="0.2" />
  <UsedDataSources />
</Species>"""


@dataclass(frozen=True, eq=False)
class MProject:
    """positions (particles, samples, 3) in A and angles in degrees are what the particle table holds."""

    population: Path
    source: Path
    species: Path
    table: Path
    position_A: np.ndarray
    angles_deg: np.ndarray


def make_m_project(root: Path, made: SimulatedProject) -> MProject:
    """``root``: a copy of the project's folder, which becomes M's."""
    settings = made.settings
    folder = root / "species" / "phantom_22222222"
    folder.mkdir(parents=True)
    for kind in ("half1", "half2", "mask"):
        volume, pixel = read_volume(root / "relion" / f"{kind}.mrc")
        write_volume(folder / f"phantom_{kind}.mrc", volume, pixel)
    particles = made.particles[NAME]
    rng = np.random.default_rng(7)
    n = len(particles)
    position = particles.position_A + rng.normal(0, 2, (n, SAMPLES, 3))
    angles = particles.angles_deg + rng.normal(0, 3, (n, SAMPLES, 3))
    _write_table(folder / "phantom_particles.star", position, angles, particles.half)
    texts = {
        root / "my.population": POPULATION.format(species=SPECIES_GUID, source=SOURCE_GUID),
        root / "warp_tiltseries" / "grid.source": SOURCE.format(
            guid=SOURCE_GUID, hash=HASH, other="A" * 27, pixel=settings.pixel_A, **_dimensions(made)
        ),
        folder / "phantom.species": SPECIES.format(guid=SPECIES_GUID, samples=SAMPLES, pixel=settings.pixel_A),
    }
    for path, text in texts.items():
        path.write_text(text, "utf-8")
    paths = list(texts)
    return MProject(paths[0], paths[1], paths[2], folder / "phantom_particles.star", position, angles)


def _dimensions(made: SimulatedProject) -> dict[str, int]:
    size = np.rint(made.series[NAME].volume_size_A / made.settings.pixel_A).astype(int)
    return dict(zip("xyz", size.tolist(), strict=True))


def _write_table(path: Path, position: np.ndarray, angles: np.ndarray, half: np.ndarray) -> None:
    """In M's order: all coordinates, all angles, then the rest, and columns that pass through."""
    names = [f"wrpCoordinate{a}{k + 1}" for k in range(SAMPLES) for a in "XYZ"]
    names += [f"wrpAngle{a}{k + 1}" for k in range(SAMPLES) for a in ("Rot", "Tilt", "Psi")]
    names += ["wrpRandomSubset", "wrpSourceName", "wrpSourceHash", "myClass", "myLabel"]
    lines = ["", "data_", "", "loop_", *(f"_{name} #{i}" for i, name in enumerate(names, 1))]
    for i in range(len(half)):
        numbers = [f"{v:.5f}" for v in (*position[i].ravel(), *angles[i].ravel())]
        # the name is wrong in the last row: M goes by the hash
        name = "renamed.tomostar" if i == len(half) - 1 else f"{NAME}.tomostar"
        lines.append(" ".join([*numbers, str(half[i]), name, HASH, str(i % 3), "null"]))
    path.write_text("\n".join([*lines, ""]))


def copy_of(made: SimulatedProject, folder: Path) -> Path:
    return Path(shutil.copytree(made.files.root, folder / "m"))
