import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openus.dedup.cine import spread, thin_clip
from openus.manifest import CineSettings
from openus.stages.dedup import thin


def frame(bits: int) -> np.ndarray:
    """A hash with the first `bits` bits set, so that distances are differences."""
    return np.packbits(np.arange(256) < bits)


def test_frames_near_one_kept_before_are_left_out() -> None:
    times = [0, 2, 4, 6, 20, 21, 3, 40]
    found = list(thin_clip(map(frame, times), CineSettings(distance=4, window=8)))
    assert [kept for kept, _, _ in found] == [True, False, False, True, True, False, False, True]
    assert found[1] == (False, 2, 0) and found[5] == (False, 1, 4) and found[6] == (False, 3, 0)


def test_the_window_bounds_what_is_remembered() -> None:
    times = [0, 50, 100, 0]
    assert [k for k, _, _ in thin_clip(map(frame, times), CineSettings(distance=4, window=3))][-1] is False
    assert [k for k, _, _ in thin_clip(map(frame, times), CineSettings(distance=4, window=2))][-1] is True


@given(st.integers(0, 300), st.integers(1, 40))
def test_a_cap_is_kept_and_even(count: int, cap: int) -> None:
    stays = np.flatnonzero(spread(count, cap))
    assert len(stays) == min(count, cap)
    if count:
        assert stays[0] == 0
    if len(stays) > 2:
        assert np.ptp(np.diff(stays)) <= 1
    assert spread(count, None).all()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="distance"):
        CineSettings(distance=-1)


def test_clips_of_one_name_are_thinned_each_in_its_own_source_and_held_out_sets_never() -> None:
    """Three alike pictures, in clips that three sources call the same; the third is a benchmark's."""
    rows = [("a", "pretrain"), ("a", "pretrain"), ("b", "pretrain"), ("bench", "bench"), ("bench", "bench")]
    facts = pd.DataFrame(
        [
            {"source": source, "set": part, "clip": "1", "member": f"m{i}", "index": 0, "phash": "0" * 64}
            for i, (source, part) in enumerate(rows)
        ]
    )
    assert thin(facts, CineSettings(distance=4, window=8)) == {1: "0 bits from a/m0#0"}
    assert thin(facts, None) == {}
