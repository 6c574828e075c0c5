"""The ledger keeps every complete line, whatever happened to the last one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpr_dist.errors import PopulationError
from mpr_dist.storage.ledger import Ledger, read_ledger


def test_records_come_back_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("accept", partial="a", series=["TS_01"])
    ledger.append("failed", series="TS_02", reason="no images")
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.records == ledger.records
    assert [r["partial"] for r in again.of_kind("accept")] == ["a"]


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(min_value=0, max_value=200))
def test_a_torn_tail_costs_only_the_torn_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    ledger = Ledger(path)
    for number in range(4):
        ledger.append("accept", number=number)
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = data.count(b"\n")
    assert [r["number"] for r in read_ledger(path)] == list(range(whole))
    Ledger(path).append("accept", number=99)
    assert [r["number"] for r in read_ledger(path)] == [*range(whole), 99]


def test_a_spoiled_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"kind": "a"}\n{"ki\n{"kind": "b"}\n')
    with pytest.raises(PopulationError, match="line 2"):
        read_ledger(path)
