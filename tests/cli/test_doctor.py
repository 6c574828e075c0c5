"""mpr-dist doctor: what a machine has, what is missing, what does not fit together."""

from __future__ import annotations

import json

import pytest
import scipy.fft

from mpr_dist.arrays import HOST, Device, why_no_card
from mpr_dist.workflow.checking.doctor import FAILED, OK, examine, mixed_cuda
from mpr_dist.workflow.checking.self_test import failed_parts


def by_name(findings):
    return {each.name: each for each in findings}


def test_the_kernels_of_this_machine_give_known_answers(mpr):
    """The self-test passes here, and the command says so and ends with 0."""
    told = mpr("doctor", "--json")
    assert told.code == 0
    record = json.loads(told.out)
    assert record["well"] is True
    states = {each["name"]: each["state"] for each in record["findings"]}
    assert states["self-test cpu"] == "ok"
    assert {"versions", "threads", "memory", "scratch", "cupy", "dask-cuda"} <= set(states)


def test_a_kernel_that_computes_something_else_is_found(monkeypatch):
    """An insertion that loses a cell, and transforms of half the size: both are named, the others pass."""
    from mpr_dist.workflow.checking import self_test

    insert_images = self_test.insert_images

    def forgetful(sums, *others):
        insert_images(sums, *others)
        sums[:, sums.shape[1] // 2] = 0  # the plane of the zero frequency

    class Halved(Device):
        class fft:
            rfft2, rfftn = staticmethod(scipy.fft.rfft2), staticmethod(scipy.fft.rfftn)
            irfft2 = staticmethod(lambda values, s: 0.5 * scipy.fft.irfft2(values, s=s))

    assert failed_parts(HOST) == {}
    assert set(failed_parts(Halved())) == {"transforms"}
    monkeypatch.setattr(self_test, "insert_images", forgetful)
    assert set(failed_parts(HOST)) == {"insertion"}


def test_a_missing_card_fails_only_who_asked_for_one(mpr):
    if why_no_card() is None:
        pytest.skip("this machine has a card")
    assert mpr("doctor").code == 0
    told = mpr("doctor", "--device", "gpu")
    assert told.code == 1
    line = next(line for line in told.out.splitlines() if line.startswith("computing on cards"))
    assert "failed" in line
    assert why_no_card() in line
    assert mpr("doctor", "--device", "tpu").code == 2


def test_hidden_cards_are_told(monkeypatch):
    """CUDA_VISIBLE_DEVICES is shown; empty, it hides all cards."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = by_name(examine())["CUDA_VISIBLE_DEVICES"]
    assert found.state == "warning"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert by_name(examine())["CUDA_VISIBLE_DEVICES"].text == "2,3"


def test_scratch_that_cannot_be_used_fails(tmp_path):
    assert by_name(examine(tmp_path))["scratch"].state != FAILED
    found = by_name(examine(tmp_path / "nowhere"))["scratch"]
    assert found.state == FAILED
    assert "--scratch" in found.text


@pytest.mark.parametrize(
    ("installed", "majors"),
    [
        ({"cupy-cuda12x": "14.2.0", "nvidia-cuda-nvrtc-cu12": "12.9.86", "cuda-bindings": "12.9.10"}, None),
        ({"cupy-cuda13x": "14.2.0", "cuda-toolkit": "13.0.2", "numpy": "2.4.6"}, None),
        ({}, None),
        ({"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}, ("12", "13")),
        ({"cupy-cuda13x": "14.2.0", "cuda-bindings": "12.9.10"}, ("12", "13")),
        ({"cuda-bindings": "12.9.1", "cuda-toolkit": "13.0.2"}, ("12", "13")),
    ],
)
def test_two_versions_of_cuda_in_one_environment_are_told(installed, majors):
    """pip lets the extras be mixed: cupy of one beside bindings of the other."""
    found = mixed_cuda(installed)
    assert (found is None) == (majors is None)
    if majors:
        assert all(f"CUDA {major}" in found for major in majors)
        assert "fresh environment" in found


def test_this_environment_is_not_mixed():
    assert by_name(examine())["self-test cpu"].state == OK
    assert "CUDA packages" not in by_name(examine())
