"""How alike the beats of a window are, and one paper's cleaning: against NeuroKit2, by loops."""
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data import signals
from biossl.data.errors import RecordingError, RequestError
from biossl.data.recordings import Recording, Signal
from biossl.data.windowing import Windowing, cut

nk = pytest.importorskip("neurokit2")
few = settings(deadline=None, max_examples=8)


def wave(key, rate=125, seconds=10, heart=75, noise=0.1, seed=0, jitter=0.05):
    "One lead with beats of known time: `(T,)`, and the times."
    rng = np.random.default_rng(seed)
    beats = 0.3 + np.cumsum(60 / heart * (1 + jitter * rng.normal(size=int(seconds * 4))))
    beats, t = beats[beats < seconds - 0.05], np.arange(seconds * rate) / rate
    width = dict(ecg=0.02, ppg=0.12)[key]
    x = np.exp(-((t[:, None] - beats) / width)**2 / 2).sum(1)
    return x + noise * rng.normal(size=len(t)), beats


def theirs(x, rate, key, peaks=None):
    "NeuroKit2's own score by sample, and of these the 15th percentile."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if key == "ecg": samples = nk.ecg_quality(x, peaks, rate, method="templatematch")
        else: samples = nk.ppg_quality(x, peaks, rate, method="templatematch")
    return np.percentile(samples, 15)


# ---- the score

@few
@given(key=st.sampled_from(["ecg", "ppg"]), heart=st.integers(45, 150), noise=st.floats(0, 1),
       seed=st.integers(0, 99), rate=st.sampled_from([100, 125, 250]))
def test_the_score_is_neurokits_for_the_same_beats(key, heart, noise, seed, rate):
    x, beats = wave(key, rate, heart=heart, noise=noise, seed=seed)
    peaks = np.round(beats * rate).astype(int)
    rows = np.concatenate([peaks / rate, [np.nan] * 3])[None]
    assert signals.template_quality(x[None], rate, rows)[0] == pytest.approx(
        theirs(x, rate, key, peaks), abs=1e-9)


@few
@given(key=st.sampled_from(["ecg", "ppg"]), noise=st.floats(0.02, 0.3), seed=st.integers(0, 99))
def test_with_beats_of_its_own_it_is_neurokits_too(key, noise, seed):
    x, _ = wave(key, noise=noise, seed=seed)
    clean = signals.neurokit_clean(x[None], 125, key)
    beats = signals.neurokit_beats(clean, 125, key)
    assert signals.template_quality(clean, 125, beats)[0] == pytest.approx(
        theirs(clean[0], 125, key), abs=1e-9)


@few
@given(gain=st.floats(1e-3, 1e3), offset=st.floats(-100, 100), seed=st.integers(0, 9))
def test_gain_and_offset_do_not_matter(gain, offset, seed):
    x, beats = wave("ppg", noise=0.3, seed=seed)
    one, other = signals.template_quality(np.stack([x, gain * x + offset]), 125,
                                          np.stack([beats, beats]))
    assert one == pytest.approx(other, abs=1e-6)


def score(x, beats, rate=125): return signals.template_quality(x[None], rate, beats[None])[0]


@pytest.mark.parametrize("bad, low", [(1, False), (4, True)])
def test_a_sixth_of_the_time_may_be_bad(bad, low):
    "One of a dozen beats may be upside down, four may not."
    x, beats = wave("ppg", noise=0, jitter=0)
    for beat in beats[3:3 + bad]:
        at = abs(np.arange(len(x)) / 125 - beat) < 0.4
        x[at] *= -1
    assert (score(x, beats) < 0.5) == low and score(*wave("ppg", noise=0, jitter=0)) > 0.999


def test_too_few_beats_and_flat_windows_score_zero():
    x, beats = wave("ecg")
    assert score(x, beats[:3]) == 0 and score(x, beats[:4]) > 0.3
    assert score(x, np.full(5, np.nan)) == 0 and score(0 * x + 3, beats) == 0
    assert score(x, np.array([0.1, 5.0, 9.8, 9.95])) == 0     # of these only one is a whole cycle


def test_beats_outside_of_the_window_are_not_of_it():
    x, beats = wave("ecg", noise=0.2)
    more = np.concatenate([[-0.5], beats, [10.0, 11.2]])
    assert score(x, more) == score(x, beats)


def test_beats_between_two_samples_all_go_the_same_way():
    "A window may begin half a sample late; rounding must not tear the beats apart."
    x = np.tile(np.r_[1, 0.3, -0.8, np.zeros(97)], 10)
    beats = np.arange(50, 1000, 100) / 100
    x = np.roll(x, 50)
    for late in (0, 0.005, 0.005 + 1e-8, 0.005 - 1e-8):
        assert score(x, (beats + late).astype(np.float32), 100) > 0.999


def test_samples_that_are_missing_are_named():
    x, beats = wave("ecg")
    x[5] = np.nan
    with pytest.raises(RecordingError, match="not finite"): score(x, beats)


@few
@given(seed=st.integers(0, 2**32 - 1), gain=st.floats(0.01, 100), offset=st.floats(-100, 100))
def test_minmax_goes_from_minus_one_to_one(seed, gain, offset):
    x = np.random.default_rng(seed).normal(size=(3, 2, 50))
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    np.testing.assert_allclose(signals.minmax(gain * x + offset), 2 * (x - low) / (high - low) - 1,
                               atol=1e-6)


# ---- in windows

def recording(seconds=60, rate=250, noise=0.05, seed=0, flat=None, gap=None):
    "ECG at twice the rate of the PPG; `flat` seconds of the PPG, a `gap` in the ECG."
    ecg, _ = wave("ecg", rate, seconds, noise=noise, seed=seed)
    ppg, _ = wave("ppg", rate // 2, seconds, noise=noise, seed=seed)
    if flat: ppg[flat[0] * rate // 2:flat[1] * rate // 2] = 0.5
    if gap: ecg[int(gap[0] * rate):int(gap[1] * rate)] = np.nan
    return Recording("r", "s", dict(ecg=Signal(ecg[None], rate, ("II",), "mV"),
                                    ppg=Signal(ppg[None], rate // 2, ("P",), "NU")))


PAIRS = Windowing(signals=(("ecg", 100.0), ("ppg", 100.0)), seconds=10, hop=10, normalise="minmax",
                  quality=("ecg", "ppg"))
FILTERED = replace(PAIRS, filters=(("ecg", 0.5, 40.0), ("ppg", 0.5, 8.0)))
NEUROKIT = replace(PAIRS, clean="neurokit")


def test_scores_stand_beside_their_windows_and_go_with_them():
    random = np.random.default_rng(5)
    made = recording()
    ecg = made.signals["ecg"].samples.copy()
    ecg[0, 2500:5000] = random.normal(size=2500)              # noise from 10 to 20 s
    made = replace(made, signals=dict(made.signals, ecg=Signal(ecg, 250, ("II",), "mV")))
    told = cut(made, FILTERED).columns
    assert told["ecg_quality"][1] < 0.5 and min(told["ecg_quality"][2:]) > 0.85
    assert min(told["ppg_quality"]) > 0.85 and len(told["ppg_quality"]) == 6
    flat = recording(flat=(20, 30))
    fewer = cut(replace(flat, signals=dict(made.signals, ppg=flat.signals["ppg"])),
                replace(FILTERED, flattest=0.9))
    assert fewer.drops == {"windows of a flat signal": 1} and fewer.columns["start"][2] == 30
    assert fewer.columns["ecg_quality"] == told["ecg_quality"][:2] + told["ecg_quality"][3:]
    assert not {"ecg_quality", "ppg_quality"} & set(cut(made, replace(FILTERED, quality=())).columns)


def test_scores_are_those_of_the_filtered_record_at_its_own_rate():
    made = recording(noise=0.3)
    told = cut(made, FILTERED)
    for key, rate, band in (("ecg", 250, (0.5, 40)), ("ppg", 125, (0.5, 8))):
        x = signals.bandpass(made.signals[key].samples[0], rate, *band)
        beats = signals.beats(made.signals[key].samples[0], rate, key)
        for i in range(6):
            peaks = np.round((beats - 10 * i) * rate).astype(int)
            peaks = peaks[(peaks >= 0) & (peaks < 10 * rate)]
            expected = theirs(x[10 * i * rate:10 * (i + 1) * rate], rate, key, peaks)
            assert told.columns[f"{key}_quality"][i] == pytest.approx(expected, abs=6e-4)


def test_scores_do_not_hang_on_what_else_is_kept():
    told = cut(recording(noise=0.3), FILTERED).columns
    fewer = cut(recording(noise=0.3), replace(FILTERED, beats=(), moments=False))
    assert "ecg_beats" not in fewer.arrays
    assert [fewer.columns[f"{o}_quality"] for o in ("ecg", "ppg")] == [
        told[f"{o}_quality"] for o in ("ecg", "ppg")]


def test_a_window_with_a_long_gap_scores_zero_or_is_dropped():
    made = recording(gap=(31, 33.5))
    told = cut(made, FILTERED)
    assert told.columns["gap"] == [False] * 3 + [True] + [False] * 2
    assert told.columns["ecg_quality"][3] == 0 and told.columns["ppg_quality"][3] > 0.8
    for most, lost in ((0.0, 1), (0.24, 1), (0.26, 0), (1.0, 0)):   # a quarter of it is gap
        fewer = cut(made, replace(FILTERED, gappiest=most))
        assert fewer.drops == ({"windows with a gap": 1} if lost else {})
        assert len(fewer.arrays["ecg"]) == len(fewer.arrays["ppg"]) == 6 - lost
    assert cut(recording(gap=(31, 31.9)), replace(FILTERED, gappiest=0)).drops == {}   # is bridged
    both = recording(gap=(31, 33.5), flat=(30, 40))
    assert cut(both, replace(FILTERED, gappiest=0, flattest=0.9)).drops == {
        "windows of a flat signal": 1}                                   # and not twice


def test_the_papers_cleaning_is_neurokits_window_by_window():
    made = recording(noise=0.1, seed=3)
    told = cut(made, NEUROKIT)
    for key, rate, clean in (("ecg", 250, nk.ecg_clean), ("ppg", 125, nk.ppg_clean)):
        for i in range(6):
            raw = made.signals[key].samples[0, 10 * i * rate:10 * (i + 1) * rate].astype(float)
            fine = np.asarray(clean(raw, rate))
            x = np.asarray(nk.signal_resample(fine, desired_length=1000))
            x = 2 * (x - x.min()) / (x.max() - x.min()) - 1
            np.testing.assert_allclose(told.arrays[key][i, 0], x, atol=2e-5)
            assert told.columns[f"{key}_quality"][i] == pytest.approx(theirs(fine, rate, key), abs=6e-4)


def test_cleaning_can_keep_the_published_rate_and_the_offset():
    made = recording()
    ppg = replace(made.signals["ppg"], offset=0.5)
    told = cut(replace(made, signals=dict(made.signals, ppg=ppg)),
               replace(NEUROKIT, signals=(("ecg", 0), ("ppg", 0))))
    assert told.arrays["ecg"].shape == (5, 1, 2500) and told.arrays["ppg"].shape == (5, 1, 1250)
    assert told.columns["start"][0] == 0.5


def test_settings_that_make_no_sense_are_refused():
    for wrong, field in ((dict(quality=("resp",)), "quality"), (dict(clean="neurokid"), "clean"),
                         (dict(signals=(("ecg", 100),), quality=("ppg",)), "quality"),
                         (dict(clean="neurokit", filters=(("ecg", 1, 40),)), "filters"),
                         (dict(clean="neurokit", signals=(("resp", 25),)), "clean"),
                         (dict(clean="neurokit", seconds=0.5), "seconds"),
                         (dict(gappiest=1.5), "gappiest")):
        with pytest.raises(RequestError) as e: Windowing(**wrong)
        assert e.value.field == field
    made = recording()
    with pytest.raises(RecordingError, match="name of a column of ours"):
        cut(replace(made, labels=dict(ecg_quality=1.0)), FILTERED)
    assert cut(replace(made, labels=dict(ecg_quality=1.0)),
               replace(FILTERED, quality=())).columns["ecg_quality"] == [1.0] * 6


def test_later_settings_are_in_keys_only_where_they_are_not_as_usual():
    usual = Windowing()
    assert set(vars(usual)) - set(usual.told) == {"gappiest", "quality", "clean"}
    for more in (dict(gappiest=0.1), dict(quality=("ppg",)), dict(clean="neurokit")):
        told = replace(usual, **more).told
        assert set(told) - set(usual.told) == set(more) and Windowing(**told) == Windowing(**more)
