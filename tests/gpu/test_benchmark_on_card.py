"""The benchmark of the kernels runs where there is room, and its arithmetic is right."""

from __future__ import annotations

import json

import pytest

from mpr_dist.workflow.benchmarks import benchmark_card
from mpr_dist.workflow.benchmarks.benchmark_card import (
    CardTimes,
    KernelTime,
    Rates,
    card_lines,
    card_record,
    measure_kernels,
    measure_rates,
)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(benchmark_card, "LEAST_S", 1e-9)


def test_every_kernel_is_measured_beside_its_floors(card):
    rates = measure_rates(card, 1 << 20, 8)
    assert min(rates.bytes_s, rates.operations_s, rates.additions_s) > 0
    found = list(measure_kernels(card, rates, (16, 24), particles=2, tilts=2))
    assert [(each.kernel, each.box_px) for each in found] == [
        (name, box) for box in (16, 24) for name in ("fused pass", "insertion")
    ]
    for each in found:
        assert each.images == 4
        assert min(each.sample_ps, each.memory_ps, each.operations_ps) > 0
    measured = CardTimes("a card", {"machine": "some"}, rates, tuple(found))
    assert len(card_lines(measured)) == 4 + len(found)
    assert len(json.loads(json.dumps(card_record(measured)))["times"]) == len(found)


def test_a_box_without_room_is_left_out(shim_card):
    """The others are measured all the same."""
    rates = Rates(1e12, 1e13, 1e11)
    shim_card.refusals = 1
    found = list(measure_kernels(shim_card, rates, (16,), particles=1, tilts=2))
    assert [each.kernel for each in found] == ["insertion"]


def test_the_higher_floor_is_what_counts():
    assert KernelTime("x", 64, 1, 20.0, 5.0, 10.0).share == 0.5
    assert KernelTime("x", 64, 1, 20.0, 16.0, 10.0).share == 0.8


def test_floors_are_bytes_and_operations_over_rates():
    """1,000 samples that move 8 kB at 10^12 B/s take 8 ps each; 328 operations at 10^13/s, 32.8 ps."""
    rates = Rates(1e12, 1e13, 1e12)
    assert benchmark_card._floors(rates, 8000, 328, 0, 1000) == pytest.approx((8.0, 32.8))
    assert benchmark_card._floors(rates, 8000, 107, 24, 1000) == pytest.approx((8.0, 24.0))
