"""Windows and splits: the page's numbers, disjointness, full-context shifts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.zeta.windows import cut, shifted, split_windows, window_count


def ends(part):
    return int(part[0]), int(part[-1])


def test_the_splits_of_the_default_series_are_the_pages():
    count = window_count(2_001_051, 256)
    assert count == 7816
    height = split_windows(count, "height", share=1.0)
    assert [ends(p) for p in (height.train, height.val, height.test)] == [
        (0, 6253),
        (6254, 7034),
        (7035, 7815),
    ]
    source = split_windows(count, "source", share=1.0)
    assert ends(source.train) == (0, 7034)
    assert ends(source.val) == ends(source.test) == (7035, 7815)


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(10, 9000),
    kind=st.sampled_from(["height", "source", "interpolation"]),
    share=st.floats(0.01, 1.0),
)
def test_parts_are_ascending_and_training_meets_no_test_window(count, kind, share):
    split = split_windows(count, kind, share=share)
    for part in (split.train, split.val, split.test):
        assert len(part) >= 1
        assert (np.diff(part) > 0).all()
        assert part[0] >= 0
        assert part[-1] < count
    held = set(split.val) | set(split.test)
    assert not set(split.train) & held
    if kind != "source":
        assert not set(split.val) & set(split.test)
    whole = split_windows(count, kind, share=1.0)
    assert len(whole.train) + len(set(whole.val) | set(whole.test)) == count
    assert len(split.train) == max(1, round(share * len(whole.train)))


def test_interpolation_tests_low_and_high_windows_alike():
    split = split_windows(7816, "interpolation", share=1.0)
    assert split.test[0] < 400
    assert split.test[-1] > 7400
    assert (np.diff(split.test) > 1).sum() == 20 - 1


def test_windows_are_cut_without_overlap():
    series = np.arange(1000.0)
    windows = cut(series, np.array([0, 2]), 256)
    assert (windows[1] == np.arange(512.0, 768.0)).all()


@pytest.mark.parametrize("stride", [8, 32, 256])
def test_shifted_windows_predict_every_spacing_of_a_window_once_at_full_context(stride):
    series = np.arange(2560.0)
    windows = shifted(series, np.array([1, 5]), 256, stride=stride)
    assert windows.shape == (2, 256 // stride, 256)
    assert (np.diff(windows, axis=-1) == 1).all()
    targets = windows[:, :, -stride:].reshape(2, 256)
    assert (targets == cut(series, np.array([1, 5]), 256)).all()


def test_too_few_zeros_and_bad_strides_are_told():
    with pytest.raises(ValueError, match=r"zeta.zeros.count"):
        window_count(2000, 256)
    with pytest.raises(ValueError, match=r"stride 100 must divide window 256"):
        shifted(np.arange(2560.0), np.array([1]), 256, stride=100)
    with pytest.raises(ValueError, match=r"start after the first"):
        shifted(np.arange(2560.0), np.array([0]), 256, stride=64)
