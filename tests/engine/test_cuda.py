"""The engine cuda without a card: one line that says what is missing; and workers that see one card each."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import engine_tasks as tasks

from mpr_dist.engine.choice import EngineChoice
from mpr_dist.engine.cuda import cards_cluster, open_cuda
from mpr_dist.engine.dask_executor import DaskExecutor
from mpr_dist.engine.local import client_of
from mpr_dist.errors import InputError

NO_EXTRA = importlib.util.find_spec("dask_cuda") is None
NO_CARD = shutil.which("nvidia-smi") is None


@pytest.mark.skipif(not NO_EXTRA, reason="dask-cuda is installed")
def test_without_the_extra_one_line_names_it() -> None:
    with pytest.raises(InputError, match=r"pip install 'mpr_dist\[cuda12\]'") as caught:
        open_cuda(EngineChoice("cuda"))
    assert "dask-cuda" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(NO_EXTRA or not NO_CARD, reason="needs dask-cuda and no card")
def test_without_a_card_one_line_says_so() -> None:
    with pytest.raises(InputError, match="needs an NVIDIA card") as caught:
        open_cuda(EngineChoice("cuda"))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(NO_EXTRA or NO_CARD, reason="needs dask-cuda and a card")
def test_one_worker_per_card() -> None:
    executor = open_cuda(EngineChoice("cuda"))
    try:
        places = {done.unwrap()[1].split(",")[0] for done in executor.map_unordered(tasks.place, range(16))}
    finally:
        executor.close()
    assert len(places) == executor._asked


def test_several_workers_per_card() -> None:
    """Two workers for each of two cards; no card is needed to see which one they would take."""
    cluster = cards_cluster(("0", "1"), 2, 1, None, None)
    executor = DaskExecutor(client_of(cluster), 4, closing=(cluster.close,))
    try:
        places = {done.unwrap()[:2] for done in executor.map_unordered(tasks.place, range(16))}
    finally:
        executor.close()
    assert sorted(cards for _, cards in places) == ["0", "0", "1", "1"]
