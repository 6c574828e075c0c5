"""A run in a process of its own, for tests that interrupt or kill it: drive.py DIRECTORY ENGINE WORKERS SECONDS."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fake_science import FakeScience

from mpr_dist.engine.events import Console
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.errors import DiskFull, MprError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings

EXIT_FULL = 28


def main() -> int:
    directory, engine, workers, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    science = FakeScience(directory / "calls", seconds)
    executor = InlineExecutor() if engine == "inline" else LocalExecutor(workers)
    try:
        run(directory / "pop", science, RunSettings(RefineSettings(iterations=2)), executor, (Console(),))
    except MprError as error:
        print(error, file=sys.stderr)
        return EXIT_FULL if isinstance(error, DiskFull) else error.exit_code
    finally:
        executor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
