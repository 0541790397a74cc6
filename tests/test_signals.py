"""Gaps, rates, filters, normalisation, quality and beats of single records."""
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data import signals
from biossl.data.errors import BiosslError, RecordingError, RequestError

modest = settings(deadline=None, max_examples=60)
rates = st.sampled_from([25.0, 32.0, 42.0, 62.5, 64.0, 100.0, 125.0, 250.0, 360.0, 500.0, 700.0])
values = st.floats(-1e3, 1e3, width=32)


def sine(freq, rate, seconds=120):
    return np.sin(2 * np.pi * freq * np.arange(int(seconds * rate)) / rate)


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


# resampling -------------------------------------------------------------------------------------

@pytest.mark.parametrize("samples, rate, to, out", [
    (3750, 125, 42, 1260), (5600, 700, 32, 256), (5600, 700, 64, 512), (150001, 125, 42, 50401)])
def test_lengths_of_the_paper(samples, rate, to, out):
    assert signals.resample(np.zeros(samples), rate, to).shape == (out,)


@pytest.mark.parametrize("freq, gain", [(10, 1.0), (17, 1.0), (19, .915), (20, .743), (22, .255),
                                        (25, .002), (30, .0007)])
def test_response_of_the_polyphase_filter(freq, gain):
    x = sine(freq, 125)
    assert rms(signals.resample(x, 125, 42)[100:-100]) / rms(x) == pytest.approx(gain, abs=.004)


def test_a_sine_above_the_new_band_vanishes():
    x = sine(30, 125, 30)
    assert rms(signals.resample(x, 125, 42)[42:-42]) < 0.002 * rms(x)   # its ends are steps


@modest
@given(rates, rates, st.integers(1, 700), st.integers(1, 3))
def test_resampled_length(rate, to, samples, rows):
    up, down = signals.ratio(rate, to).as_integer_ratio()
    out = signals.resample(np.ones((rows, samples)), rate, to)
    assert out.shape == (rows, -(-samples * up // down))
    np.testing.assert_allclose(out, 1, rtol=1e-6)      # a constant stays that constant, edges too


@modest
@given(rates, rates, st.integers(0, 2**32 - 1), values, values)
def test_resampling_is_linear(rate, to, seed, a, b):
    x, y = np.random.default_rng(seed).normal(size=(2, 400))
    both = signals.resample(a * x + b * y, rate, to)
    apart = a * signals.resample(x, rate, to) + b * signals.resample(y, rate, to)
    np.testing.assert_allclose(both, apart, atol=1e-9 * (1 + abs(a) + abs(b)))


@pytest.mark.parametrize("rate, to", [(125, 42), (700, 32), (100, 125), (360, 100)])
def test_a_slow_sine_is_found_again_at_the_new_instants(rate, to):
    t = np.arange(int(30 * rate)) / rate
    out = signals.resample(np.sin(2 * np.pi * 2.3 * t), rate, to)
    new = np.arange(out.size) / to
    inside = slice(to, -to)
    assert np.abs(out - np.sin(2 * np.pi * 2.3 * new))[inside].max() < .005


def test_float32_stays_float32_and_the_input_is_not_touched():
    x = np.linspace(0, 1, 500, dtype=np.float32)
    kept = x.copy()
    for out in (signals.resample(x, 125, 42), signals.bandpass(x, 125, .5, 8), signals.zscore(x),
                signals.resample(x, 125, 125), signals.fill_gaps(x, 125)[0], signals.minmax(x)):
        assert out.dtype == np.float32 and not np.shares_memory(out, x)
    np.testing.assert_array_equal(x, kept)


# what is refused --------------------------------------------------------------------------------

@pytest.mark.parametrize("call", [
    lambda x, r: signals.resample(x, r, 42), lambda x, r: signals.bandpass(x, r, 1, 2),
    lambda x, r: signals.zscore(x), lambda x, r: signals.minmax(x)])
@pytest.mark.parametrize("x", [[1, np.nan, 2], [1, np.inf], [], np.zeros((2, 0))])
def test_what_must_be_finite_and_there_is_named(call, x):
    with pytest.raises(RecordingError) as error: call(np.asarray(x, float), 125)
    assert error.value.field == "samples"


@pytest.mark.parametrize("rate", [0, -1, np.nan, np.inf])
@pytest.mark.parametrize("call", [
    lambda r: signals.resample(np.ones(9), r, 42), lambda r: signals.resample(np.ones(9), 42, r),
    lambda r: signals.bandpass(np.ones(9), r, 1, 2), lambda r: signals.fill_gaps(np.ones(9), r),
    lambda r: signals.beats(np.ones(9), r), lambda r: signals.quality(np.ones(9), r)])
def test_a_rate_is_positive(call, rate):
    with pytest.raises(RecordingError, match="rate is"): call(rate)


@pytest.mark.parametrize("low, high", [(2, 1), (1, 1), (0, 5), (None, 63), (-1, None), (1, 62.5)])
def test_a_band_fits_between_zero_and_half_the_rate(low, high):
    with pytest.raises(RequestError, match="band"): signals.bandpass(np.ones(500), 125, low, high)


def test_beats_of_an_unknown_signal():
    with pytest.raises(RequestError, match="resp"): signals.beats(np.ones(500), 125, "resp")


# gaps -------------------------------------------------------------------------------------------

def plain_fill(x, limit):
    "Second implementation: walk from gap to gap."
    out, mask, i = x.copy(), np.zeros(len(x), bool), 0
    if not np.isfinite(x).any(): return np.zeros_like(x), np.full(len(x), len(x) > limit)
    while i < len(x):
        j = i
        while j < len(x) and not np.isfinite(x[j]): j += 1
        if j > i:
            mask[i:j] = j - i > limit
            left = x[i - 1] if i else x[j]
            right = x[j] if j < len(x) else left
            for k in range(i, j): out[k] = left + (right - left) * (k - i + 1) / (j - i + 1)
        i = j + 1
    return out, mask


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(values, st.just(np.nan), st.just(np.inf)), min_size=1, max_size=40),
       st.sampled_from([1.0, 2.0, 5.0]),
       st.one_of(st.floats(0, 4), st.sampled_from([1.0, 2.0, 3.0])))
def test_gap_filling_against_a_plain_walk(x, rate, longest):
    x = np.asarray(x)
    kept = x.copy()
    out, mask = signals.fill_gaps(x, rate, longest)
    want, gaps = plain_fill(x, longest * rate)
    np.testing.assert_allclose(out, want, atol=1e-9)
    np.testing.assert_array_equal(mask, gaps)
    np.testing.assert_array_equal(x, kept)
    good = np.isfinite(x)
    np.testing.assert_array_equal(out[good], x[good])


def test_rows_are_filled_apart():
    x = np.arange(24.0).reshape(2, 3, 4)
    x[0, 1, 2] = x[1, 2] = np.nan
    out, mask = signals.fill_gaps(x, 1, longest=2)
    assert out[0, 1, 2] == 6 and (out[1, 2] == 0).all() and mask.sum() == 4 and mask[1, 2].all()


# filters and normalisation ----------------------------------------------------------------------

@pytest.mark.parametrize("low, high, freq, gain", [
    (.5, 8, 2, 1), (.5, 8, .05, 0), (.5, 8, 40, 0), (None, 5, 1, 1), (None, 5, 50, 0),
    (5, None, 30, 1), (5, None, .3, 0), (2, 8, 8, .5), (None, None, 3, 1)])
def test_filter_gain_and_phase(low, high, freq, gain):
    x = sine(freq, 125)
    out = signals.bandpass(x, 125, low, high)
    inside = slice(1250, -1250)
    assert np.abs(out - gain * x)[inside].max() < .02     # in phase, or it could not be this small


@modest
@given(st.integers(1, 60), st.sampled_from([(None, 5.0), (.5, None), (.5, 8.0)]))
def test_short_records_are_filtered_too(samples, band):
    assert np.isfinite(signals.bandpass(np.arange(samples, dtype=float), 125, *band)).all()


@modest
@given(st.integers(0, 2**32 - 1), st.floats(.01, 100), st.floats(-100, 100))
def test_normalisation_forgets_gain_and_offset(seed, gain, offset):
    x = np.random.default_rng(seed).normal(size=(3, 2, 50))
    for scale in (signals.zscore, signals.minmax):
        np.testing.assert_allclose(scale(gain * x + offset), scale(x), atol=1e-6)


# quality ----------------------------------------------------------------------------------------

def test_quality_names_each_fault():
    good = sine(1.3, 42, 30) + .3 * sine(2.6, 42, 30)
    x = np.stack([good, np.zeros_like(good), np.clip(good, -.3, .3), good, sine(.2, 42, 30)])
    x[3, :630] = np.nan
    scores = signals.quality(x, 42, "ppg")
    assert all(o.shape == (5,) and (0 <= o).all() and (o <= 1).all() for o in scores.values())
    assert scores["missing"].tolist() == [0, 0, 0, .5, 0]
    assert scores["flat"][1] == 1 and scores["flat"][0] < .01
    assert scores["rail"][2] > .5 > .01 > scores["rail"][0]
    assert scores["band"][0] > .95 and scores["band"][4] < .05 and scores["band"][1] == 0


# beats ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("key", ["ecg", "ppg"])
@pytest.mark.parametrize("x", [
    np.zeros(4000), np.full(4000, np.nan), np.full(4000, 1e300), np.full(4000, 7.3), np.ones(1),
    np.ones(200), np.r_[np.nan, np.zeros(3999)], np.full(4000, 1e-320), np.linspace(0, 1, 50),
    np.r_[np.zeros(2000), 1, np.zeros(2000)], np.linspace(0, 1, 4000)])
def test_dead_inputs_have_no_beats_and_make_no_noise(x, key):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = signals.beats(x, 125, key)
    assert found.dtype == np.float64 and found.ndim == 1 and len(found) <= 2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from([25, 62.4725, 125, 500]),
       st.sampled_from(["ecg", "ppg"]), st.floats(-12, 12), st.floats(0, 1))
def test_beats_of_anything_are_sorted_times_inside(seed, samples, rate, key, scale, missing):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=samples).cumsum() * 10.0**scale
    x[:int(missing * samples)] = np.nan
    try: found = signals.beats(x, rate, key)
    except BiosslError as e: pytest.fail(str(e))
    assert (np.diff(found) > 0).all() and ((0 <= found) & (found < samples / rate)).all()


def pulses(key, rate, times, seconds):
    t = np.arange(int(seconds * rate)) / rate
    width = .012 if key == "ecg" else .1
    return sum(np.exp(-.5 * ((t - o) / width)**2) for o in times)


@pytest.mark.parametrize("key", ["ecg", "ppg"])
@pytest.mark.parametrize("gain", [1e-6, 1, 1e6])
@pytest.mark.parametrize("rate", [125, 250, 360])
def test_beats_where_they_were_put_at_any_gain(key, gain, rate):
    times = np.arange(1, 39, .83)
    found = signals.beats(gain * (3 + pulses(key, rate, times, 40)), rate, key)
    near = np.abs(times[:, None] - found[None]).min(1)
    assert len(found) <= len(times) and (near < .03).mean() > .95


@pytest.mark.parametrize("key", ["ecg", "ppg"])
def test_beats_in_long_gaps_are_left_out(key):
    "Also where the bridge over the gap begins on a peak and so makes one of its own."
    times = np.arange(1, 39, .8)
    for start in range(1250, 1250 + 100, 4):
        x = pulses(key, 125, times, 40)
        x[start:start + 1250] = np.nan
        found = signals.beats(x, 125, key) * 125
        assert not ((found >= start) & (found < start + 1250)).any() and (found > 2500).sum() > 15
