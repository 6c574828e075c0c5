"""Workers of this machine keep to their threads, also below a script that imports numba before them."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = '''
import numba
from mpr_dist.engine.local import LocalExecutor

def compiled(number):
    """Threads, once some were launched and another function was compiled after that."""
    numba.set_num_threads(1)
    numba.njit(lambda x: x + 1)(number)
    return numba.config.NUMBA_NUM_THREADS

if __name__ == "__main__":
    executor = LocalExecutor(1, threads=1)
    try:
        for done in executor.map_unordered(compiled, [1]):
            print("threads", done.result, done.error)
    finally:
        executor.close()
'''


def test_a_script_that_imports_numba_first_gets_as_many_threads_as_were_asked_for(tmp_path):
    """multiprocessing imports the script in every worker before Dask sets the environment there."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert "threads 1 None" in done.stdout, done.stdout + done.stderr
