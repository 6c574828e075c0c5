"""Half-maps straight from 2D particle stacks: both layouts, premultiplied or not, of RELION and of Warp."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
from scipy import fft

from mpr_dist.cli.app import run
from mpr_dist.errors import InputError
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.geometry import contained, project
from mpr_dist.imaging.relion_stacks import StackOptics, model_of, samples_of
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import read_image, read_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.relion_tilts import read_tilts
from mpr_dist.storage.relion_tomograms import read_tomograms
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.relion_stacks import reconstruct_stacks
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.simulation.simulate import SimulatedProject
from mpr_dist.workflow.state.export_request import ExportRequest

BOX = 48


@pytest.fixture(scope="module")
def extracted(project: SimulatedProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RELION's form of the fixture at its true poses, with premultiplied stacks of visible tilts, made here."""
    root = tmp_path_factory.mktemp("stacks")
    import_simulated(root / "population", project, "stacks")
    population = load_population(root / "population")
    out = root / "relion"
    export(ExportRequest(population.path, out), "relion5")
    source, entry = population.series[0]
    files = population.files(0).series(entry.name)
    series = load_series(source, entry, files.xml)
    particles = read_poses(files.poses)[population.species[0].name]
    seen, pixel = project_of(series, particles), source.pixel_size_A
    shown = contained(series, seen, (BOX + 2) * pixel)
    images = [-_flat(read_image(path)) for path in series.image_paths]  # protein bright
    blocks = read_blocks(out / "particles.star")
    table = blocks["particles"]
    relion, _ = read_tilts(read_tomograms(out / "tomograms.star"), 0)
    rotation = np.stack([_rotation(*angles) for angles in relion.angles_deg])
    optics = StackOptics(relion, rotation, False, relion.hand)
    centred = table[[f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"]].to_numpy()
    for row in range(len(table)):
        tilts = np.flatnonzero(shown[row])
        cut = np.stack([_cut(images[t], seen[row, t] / pixel) for t in tilts])
        _write(out / f"raw/{row}.mrcs", cut, pixel)
        _write(out / f"multiplied/{row}.mrcs", _multiplied(cut, optics, tilts, centred[row], pixel), pixel)
    table["rlnTomoVisibleFrames"] = ["[" + ",".join(str(int(v)) for v in flags) + "]" for flags in shown]
    table["rlnImageName"] = [f"multiplied/{row}.mrcs" for row in range(len(table))]
    for name, value in (("rlnImagePixelSize", pixel), ("rlnImageSize", BOX), ("rlnTomoSubtomogramBinning", 1.0)):
        blocks["optics"][name] = value
    write_table(out / "particles.star", blocks)
    return out


def project_of(series, particles) -> np.ndarray:  # type: ignore[no-untyped-def]
    return project(series, particles).xy_A


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", [x, y, z], degrees=True).as_matrix()


def _flat(image: np.ndarray) -> np.ndarray:
    return (image - image.mean()) / image.std()


def _cut(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """A box with the particle at BOX / 2: whole pixels by cutting, the rest by a shift in Fourier space."""
    x, y = (int(v) for v in np.floor(xy))
    box = image[y - BOX // 2 : y + BOX // 2, x - BOX // 2 : x + BOX // 2]
    ky, kx = fft.fftfreq(BOX)[:, None], fft.rfftfreq(BOX)[None]
    shift = np.exp(2j * np.pi * (kx * (xy[0] - x) + ky * (xy[1] - y)))
    return fft.irfft2(fft.rfft2(box) * shift, s=(BOX, BOX))


def _multiplied(cut, optics, tilts, centred, pixel):  # type: ignore[no-untyped-def]
    """Images times their CTF and RELION's dose filter, as premultiplied stacks are."""
    samples = samples_of(Species("s", pixel, BOX, BOX * pixel, "C1"))
    grid = np.zeros((len(tilts), BOX, BOX // 2 + 1))
    model = model_of(optics, tilts, centred, samples)
    grid[:, samples.ky % BOX, samples.kx] = model
    on_axis = samples.kx == 0
    grid[:, -samples.ky[on_axis] % BOX, 0] = model[:, on_axis]
    return fft.irfft2(fft.rfft2(cut) * grid, s=(BOX, BOX))


def _write(path: Path, stack: np.ndarray, pixel: float) -> None:
    path.parent.mkdir(exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(stack.astype(np.float32))
        file.voxel_size = pixel


def variant(extracted: Path, folder: Path, change) -> Path:  # type: ignore[no-untyped-def]
    """A copy of the project with its particles changed; returns the optimisation set."""
    shutil.copytree(extracted, folder)
    blocks = read_blocks(folder / "particles.star")
    change(folder, blocks)
    write_table(folder / "particles.star", blocks)
    return folder / "optimisation_set.star"


def halves(out: Path) -> list[np.ndarray]:
    return [read_volume(out / f"half{h}.mrc")[0] for h in (1, 2)]


def test_the_map_is_that_of_the_population(extracted: Path, project: SimulatedProject, tmp_path: Path) -> None:
    """Other boxes and weights, but the same particle: half-maps agree with those that the images gave."""
    done = reconstruct_stacks(extracted / "optimisation_set.star", tmp_path / "maps", "O")
    assert done.particles == 8
    known = [read_volume(path)[0] for path in project.half_maps]
    n = min(len(known[0]), BOX)

    def middle(volume: np.ndarray) -> np.ndarray:
        start = (len(volume) - n) // 2
        return volume[start : start + n, start : start + n, start : start + n]

    truth = middle(known[0] + known[1])
    found = middle(sum(halves(tmp_path / "maps")))
    curve = fsc(found.astype(np.float32), truth.astype(np.float32))
    # the first shells hold the particle, the last noise of eight particles
    assert curve[1:6].min() > 0.95


def test_layouts_and_multiplication_do_not_matter(extracted: Path, tmp_path: Path) -> None:
    """Stacks of all tilts hold the same images; what is multiplied here, or was before, is the same up to rounding."""
    base = tmp_path / "base"
    reconstruct_stacks(extracted / "optimisation_set.star", base)

    def all_tilts(folder: Path, blocks: dict[str, pd.DataFrame]) -> None:
        for row, text in enumerate(blocks["particles"]["rlnTomoVisibleFrames"]):
            shown = np.array([flag == "1" for flag in text.strip("[]").split(",")])
            path = folder / f"multiplied/{row}.mrcs"
            whole = np.random.default_rng(row).normal(0, 9, (len(shown), BOX, BOX))  # never to be looked at
            whole[shown] = mrcfile.read(path)
            _write(path, whole, 3.0)

    layout = tmp_path / "layout"
    done = reconstruct_stacks(variant(extracted, tmp_path / "a", all_tilts), layout)
    assert "all tilts" in done.reading.paragraph

    def not_multiplied(folder: Path, blocks: dict[str, pd.DataFrame]) -> None:
        blocks["optics"]["rlnCtfDataAreCtfPremultiplied"] = 0
        blocks["particles"]["rlnImageName"] = [f"raw/{row}.mrcs" for row in range(len(blocks["particles"]))]

    plain = tmp_path / "plain"
    reconstruct_stacks(variant(extracted, tmp_path / "b", not_multiplied), plain)
    for one, same, other in zip(halves(base), halves(layout), halves(plain), strict=True):
        # the stacks are normalised by the standard deviation of the first one, noise included
        assert np.corrcoef(one.ravel(), same.ravel())[0, 1] > 1 - 1e-9
        # premultiplied images lost what lies beyond the last full ring
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9999


def test_origins_shift_the_images(extracted: Path, tmp_path: Path) -> None:
    """A stack that is centred elsewhere: rlnOrigin, in RELION's subtomogram frame, says where the particle is."""
    off = np.array([4.0, -3.0, 2.0])

    def moved(folder: Path, blocks: dict[str, pd.DataFrame]) -> None:
        table = blocks["particles"]
        relion, _ = read_tilts(read_tomograms(folder / "tomograms.star"), 0)
        for row, text in enumerate(table["rlnTomoVisibleFrames"]):
            path = folder / f"multiplied/{row}.mrcs"
            tilts = np.flatnonzero([flag == "1" for flag in text.strip("[]").split(",")])
            stack = np.array(mrcfile.read(path))
            ky, kx = fft.fftfreq(BOX)[:, None], fft.rfftfreq(BOX)[None]
            for i, t in enumerate(tilts):
                # the stack's centre lies at the particle plus the origin
                x, y = (_rotation(*relion.angles_deg[t]) @ off)[:2] / relion.pixel_A
                stack[i] = fft.irfft2(fft.rfft2(stack[i]) * np.exp(2j * np.pi * (kx * x + ky * y)), s=(BOX, BOX))
            _write(path, stack, 3.0)
        for i, axis in enumerate("XYZ"):
            table[f"rlnCenteredCoordinate{axis}Angst"] += off[i]
            table[f"rlnOrigin{axis}Angst"] = off[i]

    reconstruct_stacks(extracted / "optimisation_set.star", tmp_path / "base")
    reconstruct_stacks(variant(extracted, tmp_path / "a", moved), tmp_path / "moved")
    for one, same in zip(halves(tmp_path / "base"), halves(tmp_path / "moved"), strict=True):
        assert np.corrcoef(one.ravel(), same.ravel())[0, 1] > 0.999  # boxes lose a pixel or two at their edges


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("rlnTomoVisibleFrames", "[1,1]", ["2 flags"]),
        ("rlnTomoVisibleFrames", "[1,x]", ["rlnTomoVisibleFrames", "[1,x]"]),
        ("rlnImageName", "gone.mrcs", ["gone.mrcs"]),
        ("rlnTomoName", "TS_elsewhere", ["TS_elsewhere"]),
    ],
)
def test_bad_stacks_are_refused(extracted: Path, tmp_path: Path, column: str, value: str, words: list[str]) -> None:
    def spoiled(_: Path, blocks: dict[str, pd.DataFrame]) -> None:
        blocks["particles"][column] = value

    with pytest.raises(InputError) as error:
        reconstruct_stacks(variant(extracted, tmp_path / "a", spoiled), tmp_path / "out")
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out").exists()


def test_stacks_that_warp_wrote(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real export: 37 slices though 34 are visible, float16, two of 40 particles with their stacks at hand."""
    folder, name = shared / "data/real/warp_relion_export", "warptools_test_4-tomos_10-ptcls_box-32_angpix-12"
    source = "bpowell122+tomodrgn__"
    shutil.copy(folder / f"{source}warptools_test_4-tomos.star", tmp_path / f"{name}.star")
    shutil.copy(folder / f"{source}warptools_test_4-tomos_tomograms.star", tmp_path / f"{name}_tomograms.star")
    shutil.copy(folder / f"{source}warptools_test_4-tomos_optimisation_set.star", tmp_path / "set.star")
    for series in ("Unt_050", "Unt_083"):
        stack = f"{series}_12.00A_000001.mrcs"
        (tmp_path / name / series).mkdir(parents=True)
        shutil.copy(folder / f"{source}{stack}", tmp_path / name / series / stack)
        if series == "Unt_050":  # the first particles are all of one half-set: another one stands in
            shutil.copy(tmp_path / name / series / stack, tmp_path / name / series / f"{series}_12.00A_000002.mrcs")
    command = ["reconstruct", "--relion-stacks", str(tmp_path / "set.star"), "--out", str(tmp_path / "maps"), "--json"]
    assert run(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["particles"], told["images"]) == (3, 37 + 34 + 37)
    assert told["reading"]["dropped"] == [{"what": "particles", "count": 37, "reason": "their stacks are missing"}]
    notes = " ".join(told["reading"]["notes"])
    assert "all tilts" in notes
    assert "opposite of rlnTomoHand" in notes
    for half in halves(tmp_path / "maps"):
        assert half.shape == (32, 32, 32)
        assert half.std() > 0
