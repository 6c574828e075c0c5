"""Every kernel compiles for every card, and keeps what it works with in registers. Needs cuda-core, but no card."""

from __future__ import annotations

import importlib.util
import io
import re

import pytest

from mpr_dist.maths.kernels.cards import MOST_EXTRA, kernel
from mpr_dist.workflow.benchmarks.benchmark_card import FUSED_OPERATIONS, INSERT_ADDITIONS

ARCHES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
FUSED = [("compare", "compare", {"N_EXTRA": n, "CURVED": c}) for n in range(MOST_EXTRA + 1) for c in (0, 1)]
INSERTION = [("insert", "insert", {"CURVED": c}) for c in (0, 1)]
OTHERS = [("extract", "cut", {}), ("extract", "pack", {}), ("symmetrise", "symmetrise", {})]
OTHERS += [("shells", "ring_means", {}), ("shells", "shell_sums", {}), ("shells", "correlate_shells", {})]
OTHERS += [("rates", "multiply_add", {}), ("rates", "add_whole", {})]

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


def instructions(name, entry, macros):
    """Lines of the loop over samples, in the intermediate code for sm_80."""
    from cuda.bindings import nvrtc

    chosen = kernel(name, entry, **macros)
    options = [option.encode() for option in ("--gpu-architecture=compute_80", *chosen.options)]
    program = nvrtc.nvrtcCreateProgram(chosen.text.encode(), b"kernel.cu", 0, [], [])[1]
    assert int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) == 0
    code = b" " * nvrtc.nvrtcGetPTXSize(program)[1]
    nvrtc.nvrtcGetPTX(program, code)
    lines = code.decode().splitlines()
    labels = {line.strip()[:-1]: i for i, line in enumerate(lines) if line.strip().endswith(":")}
    loops = [
        (i - labels[to], lines[labels[to] : i])
        for i, line in enumerate(lines)
        for to in re.findall(r"bra(?:\.uni)?\s+(\S+);", line)
        if labels.get(to, i) < i
    ]
    return [line.split()[0] for line in max(loops)[1] if line.strip() and not line.strip().startswith(("@", "$"))]


@pytest.mark.parametrize(("name", "entry", "macros"), [*FUSED[:2], *INSERTION], ids=str)
def test_arrays_come_through_the_read_only_path(name, entry, macros):
    """Every load of the loop over samples is ld.global.nc; nothing is float64; the floors count what is there."""
    found = instructions(name, entry, macros)
    loads = [each for each in found if each.startswith("ld.global")]
    assert len(loads) > 8
    assert all(each.startswith("ld.global.nc") for each in loads)
    assert not [each for each in found if "f64" in each]
    arithmetic = [each for each in found if re.fullmatch(r"(fma|mul|add|sub|neg|max)(\.\w+)*\.f32", each)]
    if name == "compare" and not macros["CURVED"]:
        assert len(arithmetic) == pytest.approx(FUSED_OPERATIONS, rel=0.05)  # compilers differ
    additions = [each for each in found if each.startswith(("atom.", "red."))]
    # six lanes add to four rows of cells; the loop may be unrolled
    rows = len(additions) // 4 if name == "insert" else 0
    assert len(additions) == 4 * rows
    assert (rows > 0) == (name == "insert")
    assert INSERT_ADDITIONS == 6 * 4


@pytest.mark.parametrize(("name", "entry", "macros"), [*FUSED[:2], *INSERTION, *OTHERS[:2]], ids=str)
def test_no_float64_by_accident(name, entry, macros):
    """The text of every kernel but the symmetrisation is float32: no constant and no variable is double."""
    text = re.sub(r"//[^\n]*", "", kernel(name, entry, **macros).text)
    assert "double" not in text
    # a literal with a point and without an f is a double
    assert not re.findall(r"(?<![\w.])\d+\.\d*(?:e-?\d+)?(?![\w.])", text)
