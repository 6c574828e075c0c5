"""Batches are disjoint, cover everything, and do not depend on the order of what they are made from."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpr_dist.refinement.batches import guided_batches

costs = st.dictionaries(st.text(min_size=1, max_size=4), st.floats(0, 1e6), max_size=60)
workers = st.integers(1, 20)
limits = st.none() | st.integers(1, 10)


@given(cost=costs, workers=workers, largest=limits)
def test_every_series_in_exactly_one_batch(cost: dict[str, float], workers: int, largest: int | None) -> None:
    batches = guided_batches(cost, workers, largest=largest)
    assert sorted(name for batch in batches for name in batch) == sorted(cost)
    assert all(batches)
    assert largest is None or max(map(len, batches), default=0) <= largest


@given(cost=costs, workers=workers, seed=st.integers())
def test_order_of_the_input_does_not_matter(cost: dict[str, float], workers: int, seed: int) -> None:
    items = list(cost.items())
    random.Random(seed).shuffle(items)
    assert guided_batches(dict(items), workers) == guided_batches(cost, workers)


@given(cost=costs, workers=workers)
def test_costliest_first(cost: dict[str, float], workers: int) -> None:
    order = [cost[name] for batch in guided_batches(cost, workers) for name in batch]
    assert order == sorted(order, reverse=True)


@given(count=st.integers(1, 500), workers=workers)
def test_batches_shrink_to_single_series(count: int, workers: int) -> None:
    sizes = [len(batch) for batch in guided_batches({str(i): 1.0 for i in range(count)}, workers)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_few_partials_for_many_series() -> None:
    assert len(guided_batches({str(i): 1.0 for i in range(5000)}, workers=8)) < 150


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        guided_batches({"a": 1.0}, workers=0)
