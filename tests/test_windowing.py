"""Windowing against a second implementation by loops, and the laws it obeys."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import noise

from biossl.data.errors import BiosslError, RecordingError, RequestError
from biossl.data.recordings import Interval, Recording, Signal
from biossl.data.signals import resample
from biossl.data.windowing import Windowing, cut, interval_label, window_starts

PLAIN = Windowing(signals=(("ecg", 0),), seconds=2, hop=2, normalise="none", beats=())
quick = settings(deadline=None, max_examples=60)


def recording(seconds=20.0, rate=50, key="ecg", leads=("II",), seed=0, **kwargs):
    signal = noise(np.random.default_rng(seed), seconds, rate, leads)
    return Recording("r", "s", {key: signal}, **kwargs)


def windows_by_loops(signals, seconds, hop):
    "Starts, and for each signal its windows as lists, by walking along the clock sample by sample."
    begin = max(o.offset for o in signals)
    end = min(o.offset + o.samples.shape[1] / o.rate for o in signals)
    starts, found, k = [], [[] for _ in signals], 0
    while begin + k * hop + seconds <= end + 1e-6:
        starts.append(begin + k * hop)
        for signal, list_ in zip(signals, found):
            first = min(range(signal.samples.shape[1]), key=lambda j: round(abs(
                signal.offset + j / signal.rate - starts[-1]), 9))
            n = int(seconds * signal.rate + 1e-6)
            list_.append([[row[first + j] for j in range(n)] for row in signal.samples])
        k += 1
    return starts, found


@quick
@given(rates=st.tuples(*[st.sampled_from([4, 10, 12.5, 25])] * 2),
       seconds=st.sampled_from([1.0, 2.0, 4.0]), hop=st.sampled_from([0.5, 1.0, 3.0, 4.0]),
       lengths=st.tuples(*[st.floats(1, 12)] * 2), offset=st.sampled_from([0.0, 0.4, 2.0, -1.0]))
def test_windows_equal_those_of_loops(rates, seconds, hop, lengths, offset):
    rng = np.random.default_rng(0)
    ecg = noise(rng, max(lengths[0], 1 / rates[0]), rates[0], ("I", "II"))
    ppg = noise(rng, max(lengths[1], 1 / rates[1]), rates[1], ("p",), offset=offset)
    windowing = replace(PLAIN, signals=(("ppg", 0), ("ecg", 0)), seconds=seconds, hop=hop)
    made = cut(Recording("r", "s", dict(ecg=ecg, ppg=ppg)), windowing)
    starts, (p, e) = windows_by_loops([ppg, ecg], seconds, hop)
    if not starts: assert made.drops == {"recordings shorter than a window": 1}
    else:
        assert made.columns["start"] == pytest.approx(starts)
        assert made.arrays["ppg"].tolist() == np.array(p).tolist()
        assert made.arrays["ecg"].tolist() == np.array(e).tolist()


@quick
@given(length=st.floats(0, 500), seconds=st.floats(0.1, 60), hop=st.floats(0.1, 60))
def test_law_of_the_number_of_windows(length, seconds, hop):
    starts = window_starts(0.0, length, replace(PLAIN, seconds=seconds, hop=hop))
    if not len(starts): assert length < seconds
    else:
        assert starts[0] == 0 and np.allclose(np.diff(starts), hop)
        assert starts[-1] + seconds <= length + 1e-5          # covered ...
        assert starts[-1] + hop + seconds > length - 1e-5     # ... and one more would not be


def test_the_main_reading_of_the_paper():
    "150,001 samples at 125 Hz: 40 windows of 1,260, cut from the whole recording resampled."
    rng = np.random.default_rng(0)
    x = noise(rng, 150_001 / 125, 125, ("II",))
    both = Recording("r", "s", dict(ecg=x, ppg=x))
    made = cut(both, Windowing(normalise="none", beats=()))
    assert made.arrays["ecg"].shape == (40, 1, 1260)
    whole = resample(x.samples, 125, 42)[0, :40 * 1260]
    assert np.array_equal(made.arrays["ecg"].reshape(-1), whole.astype(np.float32))
    normal = cut(both, Windowing(beats=()))
    for raw, z, moments in zip(made.arrays["ecg"][:, 0], normal.arrays["ecg"][:, 0],
                               normal.arrays["ecg_moments"][:, 0]):
        mean = sum(map(float, raw)) / 1260
        sd = (sum((float(o) - mean) ** 2 for o in raw) / 1260) ** 0.5
        assert moments == pytest.approx([mean, sd], abs=1e-5)
        assert z == pytest.approx([(o - mean) / sd for o in raw], abs=1e-4)


def test_a_tone_beyond_the_new_rate_does_not_fold_into_it():
    t = np.arange(125 * 60) / 125
    made = {}
    for hz in (5, 30):
        x = Signal(np.sin(2 * np.pi * hz * t)[None], 125, ("II",), "mV")
        windowing = Windowing(signals=(("ecg", 42),), normalise="none", beats=())
        made[hz] = cut(Recording("r", "s", {"ecg": x}), windowing).arrays["ecg_moments"][0, 0, 1]
    assert made[5] == pytest.approx(np.sqrt(0.5), rel=0.01) and made[30] < 0.01


def test_the_last_window_ends_with_the_recording():
    made = cut(recording(21.0), replace(PLAIN, seconds=4, take="last"))
    assert made.columns["start"] == [17.0]
    assert np.array_equal(made.arrays["ecg"][0], recording(21.0).signals["ecg"].samples[:, -200:])


def test_gaps_are_bridged_or_flagged_and_nan_never_stays():
    samples = recording(20.0).signals["ecg"].samples.copy()
    samples[0, 10:40] = np.nan        # 0.6 s in window 0: bridged
    samples[0, 510:575] = np.nan      # 1.3 s in window 5: flagged
    samples[0, 795:805] = np.inf      # across windows 7 and 8: bridged
    made = cut(Recording("r", "s", {"ecg": Signal(samples, 50, ("II",), "mV")}), PLAIN)
    assert np.flatnonzero(made.columns["gap"]).tolist() == [5]
    assert all(np.isfinite(o).all() for o in made.arrays.values())
    assert np.allclose(np.diff(made.arrays["ecg"][0, 0, 9:41], 2), 0, atol=1e-5)


def test_a_gap_of_one_signal_flags_by_the_clock_not_by_the_sample():
    rng = np.random.default_rng(0)
    ppg = noise(rng, 20, 25, ("p",), offset=1.0)
    ppg.samples[0, 25 * 4:25 * 4 + 30] = np.nan   # 5.0 to 6.2 s on the clock; windows start at 1
    both = Recording("r", "s", dict(ecg=noise(rng, 21, 50), ppg=ppg))
    made = cut(both, replace(PLAIN, signals=(("ecg", 0), ("ppg", 0))))
    assert [s for s, g in zip(made.columns["start"], made.columns["gap"]) if g] == [5.0]


def test_flat_windows_leave_where_asked_and_are_counted():
    samples = recording(20.0).signals["ecg"].samples.copy()
    samples[0, 200:360] = 1.0
    flat = Recording("r", "s", {"ecg": Signal(samples, 50, ("II",), "mV")})
    made = cut(flat, replace(PLAIN, flattest=0.9))
    assert made.drops == {"windows of a flat signal": 1} and 4.0 not in made.columns["start"]
    assert len(made.arrays["ecg"]) == len(made.columns["start"]) == 9
    assert len(cut(flat, replace(PLAIN, normalise="zscore")).arrays["ecg"]) == 10


@pytest.mark.parametrize("change, reason", [
    (dict(signals=(("ecg", 0), ("ppg", 0))), "recordings without ppg"),
    (dict(leads=(("ecg", ("V1",)),)), "recordings without lead V1"),
    (dict(seconds=20.1), "recordings shorter than a window")])
def test_what_a_recording_lacks_is_the_reason_of_its_drop(change, reason):
    made = cut(recording(20.0), replace(PLAIN, **change))
    assert made.drops == {reason: 1} and not made.arrays


def test_leads_are_taken_by_name_in_the_order_asked():
    three = recording(leads=("I", "II", "V1"))
    made = cut(three, replace(PLAIN, leads=(("ecg", ("v1", "I")),)))
    assert np.array_equal(made.arrays["ecg"][0], three.signals["ecg"].samples[[2, 0], :100])


def test_errors_about_samples_name_the_recording_and_the_signal():
    with pytest.raises(BiosslError, match="r, ecg"):
        cut(recording(), replace(PLAIN, filters=(("ecg", None, 40.0),)))
    with pytest.raises(RecordingError, match="r, start"):
        cut(recording(labels={"start": 1}), PLAIN)
    with pytest.raises(RecordingError, match="r, spectrum"):
        cut(recording(labels={"spectrum": np.zeros(3)}), PLAIN)


@quick
@given(pieces=st.lists(st.tuples(st.floats(0, 20), st.floats(0, 8), st.sampled_from("abc")),
                       max_size=8), purity=st.sampled_from([0.3, 0.6, 0.8, 1.0]))
def test_a_name_covers_its_share_of_the_window(pieces, purity):
    "Second implementation: count the hundredths of a second that each name covers."
    pieces = [(round(a, 2), round(a + d, 2), v) for a, d, v in pieces]
    ticks = np.arange(400) / 100 + 6.005
    share = {v: np.mean([any(a <= t < b for a, b, o in pieces if o == v) for t in ticks])
             for v in "abc"}
    found = interval_label([Interval(*o[:2], "k", o[2]) for o in pieces], 6.0, 4.0, purity)
    best = max(share.values())
    if found is None: assert best < purity + 0.004
    else: assert share[found] > purity - 0.004 and share[found] > best - 0.004


@quick
@given(values=st.lists(st.floats(30, 200), min_size=12, max_size=12), start=st.floats(0, 8))
def test_a_measure_is_the_mean_over_time(values, start):
    parts = [Interval(i, i + 1, "hr", v) for i, v in enumerate(values)]
    ticks = start + (np.arange(4000) + 0.5) / 1000
    expected = np.mean([values[int(t)] for t in ticks])
    assert interval_label(parts, start, 4.0, 1.0) == pytest.approx(expected, rel=1e-2)
    hole = parts[:int(start) + 1] + parts[int(start) + 3:]
    assert interval_label(hole, start, 4.0, 0.9) is None


@pytest.mark.parametrize("field, value", [
    ("signals", ()), ("signals", (("ekg", 1),)), ("signals", (("ecg", 1), ("ecg", 2))),
    ("signals", (("ecg", -1),)), ("seconds", 0), ("hop", float("nan")), ("purity", 1.01),
    ("flattest", -0.1), ("longest_gap", -1), ("normalise", "l2"), ("take", "first"),
    ("beats", ("abp",)), ("filters", (("ppg", 1, 2),)), ("filters", (("ecg", 2, 1),)),
    ("leads", (("ppg", ("I",)),)), ("signals", (("ecg", 1e7),)), ("signals", (("ecg", 10_001),)),
    ("signals", (("ecg", float("nan")),)), ("seconds", -1), ("seconds", float("nan")),
    ("seconds", float("inf")), ("flattest", float("nan")), ("longest_gap", float("nan"))])
def test_a_windowing_without_meaning_is_refused(field, value):
    with pytest.raises(RequestError, match=field): replace(PLAIN, **{field: value})


@pytest.mark.parametrize("rate", [25.0, 0.0])
@pytest.mark.parametrize("field, value, least", [("hop", 1e-9, 0.04), ("hop", 0.039, 0.04),
                                                 ("seconds", 0.079, 0.08)])
def test_windows_shorter_or_closer_than_samples_are_refused(rate, field, value, least):
    "At the rate that is asked for at once, at the published rate when a recording is cut."
    asked = replace(PLAIN, signals=(("ecg", rate),))
    with pytest.raises(RequestError, match=f"windowing, {field}.*25 Hz.*{least}"):
        wrong = replace(asked, **{field: value})
        assert not rate, "should have been refused by now"
        cut(recording(rate=25), wrong)
    assert len(cut(recording(rate=25), replace(asked, **{field: least})).arrays["ecg"]) > 8
