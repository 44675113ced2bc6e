"""Calibration mends what was done to honest outputs, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from usfmae.tasks.network.calibration import Calibration, fit_calibration
from usfmae.tasks.scores.classification import expected_calibration_error, point_estimates


def honest(n: int, seed: int, share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, 2] that are the true log-odds of classes of which the second has this share."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int64)
    x = rng.normal(size=n) + 1.5 * y
    odds = 1.5 * x - 1.125 + np.log(share / (1 - share))
    return torch.tensor(np.stack([np.zeros(n), odds], 1)), torch.tensor(y)


def test_a_spoilt_scale_and_offset_are_found_again() -> None:
    logits, y = honest(6000, 0)
    spoilt = 3 * logits + torch.tensor(
        [0.0, 2.0], dtype=torch.float64
    )  # too sure, and pushed to the second class
    found = fit_calibration(spoilt, y, "vector")
    assert found.temperature == pytest.approx(3, rel=0.15)
    assert found.offset[1] - found.offset[0] == pytest.approx(-2 / 3, abs=0.15)
    held, hy = honest(4000, 1)
    before = F.softmax(3 * held + torch.tensor([0.0, 2.0]), 1).numpy()
    after = F.softmax(found.apply(3 * held + torch.tensor([0.0, 2.0])), 1).numpy()
    a, b = point_estimates(hy.numpy(), before, 1), point_estimates(hy.numpy(), after, 1)
    assert b["auroc"] == pytest.approx(a["auroc"]) and b["f1_weighted"] > a["f1_weighted"]
    assert b["ece"] < 0.03 < a["ece"]


def test_honest_outputs_stay() -> None:
    found = fit_calibration(*honest(6000, 0), "vector")
    assert found.temperature == pytest.approx(1, abs=0.1) and max(map(abs, found.offset)) < 0.1


def test_temperature_alone_keeps_decisions() -> None:
    logits, y = honest(500, 2)
    found = fit_calibration(5 * logits, y, "temperature")
    assert found.offset == () and found.temperature > 3
    assert torch.equal(found.apply(5 * logits).argmax(1), logits.argmax(1))
    assert expected_calibration_error(y.numpy(), F.softmax(found.apply(5 * logits), 1).numpy()) < 0.06


def test_mirror_images_are_calibrated_together() -> None:
    logits, y = honest(3000, 3)
    pair = torch.stack([logits + 0.3, logits - 0.3])
    assert fit_calibration(pair, y, "vector").temperature == pytest.approx(1, abs=0.15)
    aside = torch.tensor([0.0, 2.0], dtype=torch.float64)  # pushed apart, they are right together
    apart = fit_calibration(torch.stack([logits + aside, logits - aside]), y, "vector").offset
    assert abs(apart[1] - apart[0]) < 1  # about -2 by the first alone


def test_small_and_one_sided_parts_do_not_run_away() -> None:
    assert fit_calibration(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64), "vector") == Calibration()
    perfect = torch.tensor([[5.0, -5.0], [-5.0, 5.0]] * 4)
    found = fit_calibration(perfect, torch.tensor([0, 1] * 4), "vector")
    assert 0.05 < found.temperature <= 1.5 and max(map(abs, found.offset)) < 1
    absent = fit_calibration(torch.randn(40, 3), torch.arange(40) % 2, "vector")
    assert all(abs(value) < 6 for value in absent.offset)


def test_stored_and_read_back() -> None:
    found = Calibration(1.7, (0.2, -0.2))
    assert Calibration.from_json(found.to_json()) == found and Calibration.from_json(None) == Calibration()
