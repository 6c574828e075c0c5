"""A process that compiles a kernel and one that loads it from numba's cache return the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PRINT_DIGEST = """
import hashlib, numba
from mpr_dist.maths.kernels.compare import compare
from mpr_dist.maths.kernels.correlate import correlate
from mpr_dist.maths.kernels.insert import insert
import test_compare, test_correlate, test_insert, numpy as np
numba.set_num_threads(1)
rng = np.random.default_rng(3)
digest = hashlib.sha256()
for is_curved in (False, True):
    digest.update(test_compare.run(test_compare.a_problem(3, 3, seed=3, is_curved=is_curved)).tobytes())
    sums = test_insert.accumulators()
    views, fixed = test_insert.random_views(rng), rng.uniform(-1, 1, (2, test_insert.COUNT))
    test_insert.add(sums, [0, 1], test_insert.random_images(rng), views, fixed=fixed, is_curved=is_curved)
    digest.update(sums.tobytes())
problem = test_correlate.a_problem()
digest.update(test_correlate.sums(problem, np.arange(test_correlate.S) % 5, blur=[3.0, 2.0, 0.5, 900.0]).tobytes())
hits = [sum(f.stats.cache_hits.values()) for f in (compare, insert, correlate)]
print(hits, digest.hexdigest())
"""


def digest(cache: Path) -> list[str]:
    """Whether the kernels came from the cache, and a digest of what they return, in a process of its own."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", PRINT_DIGEST], env=env, capture_output=True, text=True, check=True)
    return run.stdout.strip().rsplit(" ", 1)


def test_compiled_or_loaded_changes_no_bit(tmp_path):
    """The first process compiles, the second loads: one digest."""
    compiled, loaded = digest(tmp_path), digest(tmp_path)
    assert compiled[0] == "[0, 0, 0]"
    assert loaded[0] == "[1, 1, 1]"
    assert compiled[1] == loaded[1]
