"""The simulated pictures obey the physics they claim, and what is said of them is true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openus.demo.phantom import (
    LINES,
    PROBES,
    RF_SAMPLES,
    SAMPLES,
    SPEED,
    Patient,
    ProbeKind,
    analytic,
    draw_patient,
    draw_probe,
    echoes,
    spread,
    view,
)


def _patients(lesion: str | None, count: int = 10) -> list[Patient]:
    return [draw_patient(5, number, lesion) for number in range(count)]  # type: ignore[arg-type]


@given(
    kind=st.sampled_from(PROBES),
    seed=st.integers(0, 1000),
    s=st.floats(0, 1),
    u=st.floats(-1, 1),
)
def test_beam_and_space_coordinates_are_inverse(kind: ProbeKind, seed: int, s: float, u: float) -> None:
    probe = draw_probe(np.random.default_rng(seed), kind)
    depth, across = np.float32([s * probe.depth]), np.float32([u])
    if kind == "phased" and s < 1e-3:  # all lines of a phased array begin in one point
        return
    x, z = probe.to_space(depth, across)
    back, place = probe.to_beam(x, z)
    assert back == pytest.approx(depth, abs=2e-3 * probe.depth)
    assert place == pytest.approx(across, abs=2e-2)
    left, right, top, bottom = probe.box()
    assert left - 0.1 <= x[0] <= right + 0.1
    assert top - 0.1 <= z[0] <= bottom + 0.1


def test_speckle_of_even_tissue_is_fully_developed() -> None:
    """A Rayleigh envelope has a mean of sqrt(pi / (4 - pi)) = 1.91 standard deviations (Burckhardt 1978)."""
    rng = np.random.default_rng(1)
    ratios = []
    for kind in PROBES:
        envelope = np.abs(echoes(rng, draw_probe(rng, kind), np.zeros((SAMPLES, LINES), np.float32)))
        rows = envelope[SAMPLES // 8 : -SAMPLES // 8]
        local = rows / rows.mean(axis=1, keepdims=True)  # the level changes a little with the beam's width
        ratios.append(local.mean() / local.std())
    assert np.mean(ratios) == pytest.approx(1.91, abs=0.08)


def test_echo_of_one_point_has_the_length_of_the_pulse() -> None:
    """A Gaussian spectrum of full width B has an envelope of 0.882 / B in time, c / 2 of it in depth."""
    probe = draw_probe(np.random.default_rng(2), "linear")
    rf = np.zeros((RF_SAMPLES, LINES), np.float32)
    rf[RF_SAMPLES // 2, LINES // 2] = 1
    line = np.abs(analytic(rf, probe))[:, LINES // 2]
    assert abs(int(line.argmax()) - SAMPLES // 2) <= 1
    fine = np.interp(np.arange(0, SAMPLES, 0.02), np.arange(SAMPLES), line)
    width = (fine > fine.max() / 2).sum() * 0.02 * probe.depth / SAMPLES
    expected = 0.882 / (probe.bandwidth * probe.frequency) * SPEED / 2
    assert width == pytest.approx(expected, rel=0.12)


def test_beam_is_narrowest_at_its_focus() -> None:
    probe = draw_probe(np.random.default_rng(3), "convex")
    signal = np.zeros((SAMPLES, LINES), np.complex64)
    signal[:, LINES // 2] = 1
    out = np.abs(spread(signal, probe))
    widths = (out > out.max(axis=1, keepdims=True) / 2).sum(axis=1)
    focus = int(probe.focus * SAMPLES)
    assert widths[focus] < widths[5]
    assert widths[focus] <= widths[-5]
    spill = (out.sum(axis=1) / out.max(axis=1))[[5, focus, -5]]
    assert spill.argmin() == 1


def test_same_arguments_give_the_same_picture_and_others_do_not() -> None:
    patient = draw_patient(7, 3, "cyst")
    first, again = view(patient, 0, size=96), view(draw_patient(7, 3, "cyst"), 0, size=96)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.mask, again.mask)
    other = view(patient, 1, size=96)
    assert other.pixels.shape == first.pixels.shape  # one probe, one field of view
    assert not np.array_equal(other.pixels, first.pixels)
    assert draw_patient(7, 4, "cyst") != patient


@pytest.mark.parametrize("kind", PROBES)
def test_field_of_view_is_where_it_is_said_to_be(kind: ProbeKind) -> None:
    phantom = view(draw_patient(11, 2, None, kind), 0, size=160, margin=9)
    height, width = phantom.pixels.shape
    assert min(height, width) == 160 + 18
    assert phantom.pixels.dtype == np.uint8
    assert not phantom.pixels[~phantom.sector].any()
    assert (phantom.pixels[phantom.sector] > 0).mean() > 0.7
    assert not phantom.mask.any()
    assert phantom.lesion is None
    rows, columns = np.nonzero(phantom.sector)
    assert (columns.min(), columns.max()) == pytest.approx((9, width - 10), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((9, height - 10), abs=1)
    if kind == "linear":
        assert phantom.apex is None
        assert phantom.sector[9:-9, 9:-9].all()
        return
    # Every pixel of the sector lies within the outermost lines, seen from the apex, and some lie on them.
    assert phantom.apex is not None
    angle = np.abs(np.arctan2(columns + 0.5 - phantom.apex[0], rows + 0.5 - phantom.apex[1]))
    assert angle.max() == pytest.approx(phantom.probe.half_angle, abs=0.02)


@pytest.mark.parametrize(("lesion", "sign"), [("cyst", 1), ("solid", -1)])
def test_lesions_are_dark_and_change_what_is_behind_them(lesion: str, sign: int) -> None:
    inside, behind = [], []
    for patient in _patients(lesion, 24):
        phantom = view(patient, 0)
        assert phantom.lesion == lesion
        assert phantom.mask.any()
        assert not (phantom.mask & ~phantom.sector).any()
        rows, columns = np.nonzero(phantom.mask)
        extent = rows.max() - rows.min()
        shadow = np.zeros_like(phantom.mask)
        middle = slice(int(np.percentile(columns, 35)), int(np.percentile(columns, 65)) + 1)
        shadow[rows.max() + 3 : rows.max() + 3 + extent, middle] = True
        beside = np.zeros_like(phantom.mask)
        beside[rows.max() + 3 : rows.max() + 3 + extent] = True
        beside[:, columns.min() - extent // 2 : columns.max() + extent // 2] = False
        grey = phantom.pixels.astype(float)
        if (shadow & phantom.sector).sum() < 30 or (beside & phantom.sector).sum() < 30:
            continue
        tissue = grey[phantom.sector & ~phantom.mask].mean()
        inside.append(tissue - grey[phantom.mask].mean())
        behind.append(grey[shadow & phantom.sector].mean() - grey[beside & phantom.sector].mean())
    assert len(inside) > 15
    assert np.mean(inside) > 25
    assert sign * np.mean(behind) > 4
