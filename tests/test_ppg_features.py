"""The pulse wave's 35 numbers against plain loops, and what they do not depend on."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from biossl.methods.contract import check_method, get_method
from biossl.methods.ppg_features import FEATURES

RATE = 100.0


def plain(x, beats):
    "The 35 of one window by name, one after another."
    x, beats = [float(o) for o in x], [float(o) for o in beats if not math.isnan(o)]
    r = [round(b - a, 4) for a, b in zip(beats, beats[1:])]
    return plain_samples(x) | plain_peaks(x, beats) | plain_rhythm([o for o in r if .25 < o < 2.5])


def plain_samples(x):
    n, mean = len(x), sum(x) / len(x)
    sd = math.sqrt(sum((o - mean) ** 2 for o in x) / n)
    q25, q50, q75 = (quantile(x, q) for q in (.25, .5, .75))
    one = [b - a for a, b in zip(x, x[1:])]
    two = [b - a for a, b in zip(one, one[1:])]
    crossings = sum((a >= 0) != (b >= 0) for a, b in zip(x, x[1:]))
    return dict(
        sig_mean=mean, sig_std=sd, sig_median=q50, sig_q25=q25, sig_q75=q75, sig_iqr=q75 - q25,
        sig_min=min(x), sig_max=max(x), sig_amp_range=max(x) - min(x),
        sig_rms=math.sqrt(sum(o * o for o in x) / n), sig_mad=quantile([abs(o - q50) for o in x], .5),
        sig_skew=stats.skew(x), sig_kurtosis=stats.kurtosis(x), diff1_std=deviation(one),
        diff1_abs_mean=sum(map(abs, one)) / len(one), diff2_std=deviation(two),
        zero_cross_rate=crossings / (n - 1))


def quantile(values, q):
    "Between neighbours in order, linearly."
    values, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def deviation(values, less=0):
    mean = sum(values) / len(values)
    return math.sqrt(sum((o - mean) ** 2 for o in values) / (len(values) - less))


def plain_peaks(x, beats):
    heights = [x[round(o * RATE)] for o in beats]
    said = dict(n_peaks=len(beats), peak_rate_per_sec=len(beats) / (len(x) / RATE))
    if not heights: return said
    return said | dict(peak_amp_mean=sum(heights) / len(heights), peak_amp_std=deviation(heights),
                       peak_amp_max=max(heights))


def plain_rhythm(r):
    if len(r) < 2: return {}
    d = [abs(b - a) for a, b in zip(r, r[1:])]
    said = dict(rmssd=math.sqrt(sum(o * o for o in d) / len(d)), sdnn=deviation(r, 1),
                pnn50=sum(round(o, 6) > .05 for o in d) / len(d))
    for name, values in (("ibi", r), ("hr", [60 / o for o in r])):
        said |= {f"{name}_mean": sum(values) / len(values), f"{name}_median": quantile(values, .5),
                 f"{name}_std": deviation(values), f"{name}_min": min(values),
                 f"{name}_max": max(values)}
    return said


def made_up(seed, n, samples):
    "Noise and waves at several heights, beats that may be too dense, too rare, few or none."
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(size=(n, 1)), 1, (n, samples)).cumsum(1) if seed % 2 else \
        rng.gamma(1.0, size=(n, samples)) - rng.random((n, 1))
    beats = np.full((n, samples // 20), np.nan)
    for row in beats:
        number = rng.integers(0, len(row))
        row[:number] = np.sort(rng.choice(samples, number, replace=False)) / RATE
    return x, beats


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(100, 400))
def test_the_numbers_are_those_of_loops(seed, n, samples):
    x, beats = made_up(seed, n, samples)
    ours = get_method("ppg_features").embed(dict(ppg=x[:, None], ppg_beats=beats[:, None]))
    for row, wave, times in zip(ours.numpy(), x, beats):
        truth = plain(wave, times)
        expected = [truth.get(o, math.nan) for o in FEATURES]
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-6, err_msg=str(FEATURES))


def test_names_are_those_of_the_table():
    assert len(FEATURES) == len(set(FEATURES)) == 35
    assert FEATURES[0] == "sig_mean" and FEATURES[11] == "sig_skew" and FEATURES[20] == "n_peaks"


def a_batch(n=6, samples=1000, seed=0):
    x, beats = made_up(seed, n, samples)
    return dict(ppg=x[:, None].astype("float32"), ppg_beats=beats[:, None].astype("float32"))


def test_a_scaled_window_has_three_constants():
    batch = a_batch()
    low, high = (f(batch["ppg"], axis=-1, keepdims=True) for f in (np.min, np.max))
    batch["ppg"] = 2 * (batch["ppg"] - low) / (high - low) - 1
    made = get_method("ppg_features").embed(batch).numpy()
    still = {o for o, column in zip(FEATURES, made.T) if np.ptp(column) < 1e-6}
    assert still == {"sig_min", "sig_max", "sig_amp_range"}


def test_the_rate_of_the_windowing_is_used():
    batch = a_batch(samples=250)
    slow = get_method("ppg_features", rates=(("ecg", 100.0), ("ppg", 25.0))).embed(batch)
    fast = get_method("ppg_features").embed(a_batch(samples=250))
    rate = FEATURES.index("peak_rate_per_sec")
    torch.testing.assert_close(4 * slow[:, rate], fast[:, rate])


def test_a_window_without_beats_keeps_its_other_numbers():
    batch = a_batch()
    batch["ppg_beats"][0] = math.nan
    made = dict(zip(FEATURES, get_method("ppg_features").embed(batch)[0].tolist()))
    unknown = {o for o, value in made.items() if math.isnan(value)}
    assert unknown == set(FEATURES[17:20]) | set(FEATURES[22:]) and made["n_peaks"] == 0


@pytest.mark.parametrize("name", ["ppg_features", "heart_rate_only", "window_sd"])
def test_the_contract_is_kept_by_two_signals_as_well(name):
    batch = a_batch()
    both = batch | dict(ecg=batch["ppg"][::-1].copy(), ecg_beats=batch["ppg_beats"][::-1].copy())
    hyper = dict(rates=(("ecg", RATE), ("ppg", RATE))) if name == "ppg_features" else {}
    method = get_method(name, signals=("ecg", "ppg"), **hyper)
    check_method(method, both)
    made, single = method.embed(both), get_method(name).embed(batch)
    torch.testing.assert_close(made, torch.cat([single.flip(0), single], 1), equal_nan=True)


def test_heart_rate_only_is_four_numbers_of_the_35():
    batch = a_batch(40)
    said = dict(zip(FEATURES, get_method("ppg_features").embed(batch).T))
    made = get_method("heart_rate_only").embed(batch).T
    rate = 60 / said["ibi_median"]
    expected = torch.stack([rate, rate ** 2, said["rmssd"], said["sdnn"]])
    torch.testing.assert_close(made, expected, equal_nan=True)
    assert made.isfinite().any() and made.isnan().any()


def test_fifty_milliseconds_are_not_more_than_fifty():
    "On a grid of 10 ms half of all such differences are, in binary, a little more."
    r = np.round(np.arange(.3, 1.2, .05), 2)
    beats = np.cumsum(np.r_[0.0, r]).astype("float32")[None, None]
    batch = dict(ppg=np.random.default_rng(0).normal(size=(1, 1, 2000)), ppg_beats=beats)
    assert get_method("ppg_features").embed(batch)[0, FEATURES.index("pnn50")] == 0


def test_window_sd_looks_at_nothing_else():
    "Neither order nor offset of the samples changes it, their scale does."
    method, batch = get_method("window_sd"), a_batch()
    made = method.embed(batch)
    np.testing.assert_allclose(made[:, 0], batch["ppg"][:, 0].std(1), rtol=1e-5)
    np.testing.assert_allclose(method.embed(dict(ppg=batch["ppg"][..., ::-1] + 1)), made, rtol=1e-5)
    np.testing.assert_allclose(method.embed(dict(ppg=2 * batch["ppg"])), 2 * made, rtol=1e-5)
