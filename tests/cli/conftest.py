"""A command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpr_dist.cli.app import run

CHOICE = ("--image-warp", "2x2", "--particles", "--stage-angles", "--defocus", "--engine", "inline")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def is_one_line(self) -> bool:
        return self.err.startswith("mpr-dist: ") and self.err.count("\n") == 1 and "Traceback" not in self.err


Mpr = Callable[..., Result]


@pytest.fixture
def mpr(capsys) -> Mpr:
    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def add_source(mpr, tmp_path) -> Mpr:
    """A new population (made if need be) gets the source of a project."""

    def call(root: Path, *more: object) -> Result:
        if not (tmp_path / "pop").exists():
            assert mpr("population", "create", tmp_path / "pop", "--name", "test").code == 0
        settings = root / "warp_tiltseries.settings"
        return mpr("source", "add", tmp_path / "pop", "--name", "src", "--warp-settings", settings, *more)

    return call


@pytest.fixture
def add_species(mpr, tmp_path) -> Mpr:
    """The phantom of a project; ``more`` options win, given as in --name value."""

    def call(root: Path, *more: object) -> Result:
        relion = root / "relion"
        options: dict[str, object] = {"--name": "phantom", "--half1": relion / "half1.mrc"}
        options |= {"--half2": relion / "half2.mrc", "--mask": relion / "mask.mrc"}
        options |= {"--particles": relion / "run_data.star", "--diameter": 128, "--symmetry": "O"}
        flags = ["--no-images", *(word for word in more if word == "--ignore-unmatched")]
        rest = [word for word in more if word != "--ignore-unmatched"]
        options |= dict(zip(rest[::2], rest[1::2], strict=True))
        return mpr("species", "add", tmp_path / "pop", *(word for pair in options.items() for word in pair), *flags)

    return call
