"""Every kernel compiles for every card, and keeps what it works with in registers. Needs cuda-core, but no card."""

from __future__ import annotations

import importlib.util
import io
import re

import pytest

from mpr_dist.maths.kernels.cards import MOST_EXTRA, kernel

ARCHES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
FUSED = [("compare", "compare", {"N_EXTRA": n, "CURVED": c}) for n in range(MOST_EXTRA + 1) for c in (0, 1)]
INSERTION = [("insert", "insert", {"CURVED": c}) for c in (0, 1)]
OTHERS = [("extract", "cut", {}), ("extract", "pack", {}), ("symmetrise", "symmetrise", {})]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cuda.core") is None if importlib.util.find_spec("cuda") else True,
    reason="cuda-core is missing: pip install 'mpr_dist[cuda-compile]'",
)


def resources(name, entry, macros, arch):
    """(registers, bytes of stack, bytes of spills) of one kernel, and the machine's code."""
    from cuda.core import Program, ProgramOptions

    chosen, log = kernel(name, entry, **macros), io.StringIO()
    defined = [option.removeprefix("-D") for option in chosen.options if option.startswith("-D")]
    options = ProgramOptions(arch=arch, std="c++17", ptxas_options="-v", define_macro=defined or None)
    Program(chosen.text, "c++", options).compile("cubin", logs=log)
    of_entry = log.getvalue().split(f"Compiling entry function '{entry}'")[1].split("Compiling entry function")[0]
    stack, stores, loads = map(
        int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", of_entry).groups()
    )
    return int(re.search(r"Used (\d+) registers", of_entry)[1]), stack, stores + loads


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("name", "entry", "macros"), FUSED + INSERTION, ids=str)
def test_fused_pass_and_insertion_keep_to_registers(name, entry, macros, arch):
    """0 bytes of stack, 0 bytes of spills; the common case leaves room for four blocks of 128 threads."""
    registers, stack, spills = resources(name, entry, macros, arch)
    assert (stack, spills) == (0, 0)
    assert registers <= (255 if macros.get("N_EXTRA") else 128)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("name", "entry", "macros"), OTHERS, ids=str)
def test_the_others_compile(name, entry, macros, arch):
    """And spill nothing either."""
    registers, _, spills = resources(name, entry, macros, arch)
    assert 0 < registers <= 128
    assert spills == 0


@pytest.mark.parametrize(("name", "entry", "macros"), [*FUSED[:2], *INSERTION, *OTHERS[:2]], ids=str)
def test_no_float64_by_accident(name, entry, macros):
    """The text of every kernel but the symmetrisation is float32: no constant and no variable is double."""
    text = re.sub(r"//[^\n]*", "", kernel(name, entry, **macros).text)
    assert "double" not in text
    # a literal with a point and without an f is a double
    assert not re.findall(r"(?<![\w.])\d+\.\d*(?:e-?\d+)?(?![\w.])", text)
