"""Twelve-lead features: against beats whose intervals are known, plain loops, and cardiologists."""
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import Given

from biossl.cohorts.registry import get_cohort, locate
from biossl.cohorts.twelve_lead import LEADS
from biossl.data.errors import MethodError
from biossl.data.store import Windowing, pack
from biossl.methods.clinical_12lead import (LEAD_FEATURES, Clinical12Lead, agreement, limb_scales,
                                            twelve_lead_features, without_beats)
from biossl.methods.contract import as_array, check_method, get_method
from biossl.train.probe import boost_labels, probe_labels

RATE, T = 100, 1000
FRONTAL = np.radians([0, 60, 120, -150, -30, 90])      # I, II, III, aVR, aVL, aVF


@dataclass(frozen=True)
class Heart:
    "A beat drawn with ruler and compass; seconds and degrees."
    pr: float = 0.16
    qrs: float = 0.09
    qt: float = 0.38
    axis: float = 50.0
    t_axis: float = 40.0
    p: float = 0.15


def bump(t, start, end):
    "A raised cosine from `start` to `end`."
    u = (t - start) / (end - start)
    return np.where((u > 0) & (u < 1), .5 - .5 * np.cos(2 * np.pi * u), 0)


def seen(axis):
    "What twelve leads see of a vector in the frontal plane; V1 to V6 turn from right to left."
    limb = np.cos(np.radians(axis) - FRONTAL) * [1, 1, 1, 3**-.5 * 1.5, 3**-.5 * 1.5, 3**-.5 * 1.5]
    return np.concatenate([limb, np.linspace(-1, 1, 6) + .1])


def one_beat(t, o: Heart):
    "The twelve leads at `t` seconds after the onset of QRS."
    qrs = bump(t, 0, o.qrs) * seen(o.axis)[:, None]
    p = o.p * bump(t, -o.pr, -o.pr + .1) * seen(60)[:, None]
    return qrs + p + .3 * bump(t, o.qt - .18, o.qt) * seen(o.t_axis)[:, None]


ONSETS = tuple(.7 + .8 * np.arange(11))
USUAL = Heart()


def strip(heart=USUAL, onsets=ONSETS, hearts=None, noise=.004, seed=0):
    "A window `(1, 12, 1000)` with QRS onsets at `onsets`, and its beats `(1, B)`."
    t, hearts = np.arange(T) / RATE, hearts or [heart] * len(onsets)
    x = sum(one_beat(t - at, o) for at, o in zip(onsets, hearts))
    x = x + noise * np.random.default_rng(seed).normal(size=x.shape)
    return x[None], np.array([[at + o.qrs / 2 for at, o in zip(onsets, hearts)]])


def measured(*args, **kwargs):
    return {k: v[0] for k, v in twelve_lead_features(*strip(*args, **kwargs), RATE).items()}


# -- known beats -------------------------------------------------------------------------------
HEARTS = [Heart(), Heart(pr=.26), Heart(pr=.12, qt=.34), Heart(qrs=.15, qt=.44), Heart(qt=.5),
          Heart(axis=-60.0), Heart(axis=120.0, t_axis=-20.0), Heart(axis=170.0)]


@pytest.mark.parametrize("heart", HEARTS, ids=str)
def test_intervals_and_axes_are_those_that_were_drawn(heart):
    found = measured(heart)
    assert abs(found["pr"] - heart.pr) < .022 and abs(found["qrs"] - heart.qrs) < .015
    assert abs(found["qt"] - heart.qt) < .03
    assert abs(found["qtc_bazett"] - found["qt"] / .8**.5) < 1e-3
    assert abs(found["qtc_fridericia"] - found["qt"] / .8**(1 / 3)) < 1e-3
    apart = abs((heart.axis - heart.t_axis + 180) % 360 - 180)
    for name, degrees in (("axis", heart.axis), ("t_axis", heart.t_axis), ("p_axis", 60)):
        assert abs((found[name] - degrees + 180) % 360 - 180) < 5, name
    assert abs(found["qrs_t_angle"] - apart) < 8 and found["einthoven"] > .98


def test_twice_as_much_longer_is_twice_as_much_longer():
    "What one tenth of a second is, does not hang on where it starts."
    for name, steps in (("pr", (.14, .18, .22, .26)), ("qrs", (.08, .1, .12, .14)),
                        ("qt", (.34, .38, .42, .46))):
        found = [measured(Heart(**{"qt": .44, name: o}))[name] for o in steps]
        np.testing.assert_allclose(np.diff(found), .04 if name != "qrs" else .02, atol=.009)


def test_amplitudes_are_in_units_of_the_leads_own_spread():
    heart = Heart(axis=60.0, t_axis=-120.0)
    x, beats = strip(heart, noise=0)
    found = {k: v[0] for k, v in twelve_lead_features(x, beats, RATE).items()}
    sd = x[0].std(-1)
    for k, lead in enumerate(LEADS[:3]):
        size = seen(60)[k] / sd[k]
        np.testing.assert_allclose([found[f"r_{lead}"], found[f"p_{lead}"]],
                                   [size, .15 * size], rtol=.06)
        np.testing.assert_allclose(found[f"t_{lead}"], -.3 * size, rtol=.06)
        assert abs(found[f"t_share_{lead}"] + .3) < .02 and found[f"net_{lead}"] > .95
    assert found["s_AVR"] < -1 and found["net_AVR"] < -.95 and found["t_AVR"] > 0
    assert found["net_V1"] < -.9 and found["net_V6"] > .9


def test_two_r_waves_in_v1_and_a_late_peak_in_v6_are_told():
    "Right bundle branch block draws rSR' in V1; in V6 the peak then comes early."
    x, beats = strip(Heart(qrs=.14), noise=0)
    x[0, LEADS.index("V1")] = 0
    t = np.arange(T) / RATE
    for at in ONSETS:
        x[0, 6] += (.4 * bump(t, at, at + .05) - .6 * bump(t, at + .03, at + .09)
                    + bump(t, at + .07, at + .14))
    found = {k: v[0] for k, v in twelve_lead_features(x, beats, RATE).items()}
    r, q, first = (found[f"{o}_V1"] for o in ("r", "q", "r_first"))
    np.testing.assert_allclose([q / r, first / r], [-.55, .35], atol=.12)
    assert found["r_last_V1"] < .1 * r and found["notches_V1"] >= 3
    assert found["r_time_V1"] > found["r_time_V6"] + .02 and found["terminal_V1"] > .2


def test_neither_gain_nor_offset_of_a_lead_counts_and_its_sign_does():
    x, beats = strip()
    rng = np.random.default_rng(1)
    changed = x * rng.uniform(.1, 30, (12, 1)) + rng.normal(size=(12, 1))
    a, b = (twelve_lead_features(o, beats, RATE) for o in (x, changed))
    for k in a: np.testing.assert_allclose(a[k], b[k], rtol=2e-3, atol=2e-3, err_msg=k)
    x[:, 10] *= -1
    c = twelve_lead_features(x, beats, RATE)
    np.testing.assert_allclose(c["t_V5"], -a["t_V5"], rtol=1e-3)
    np.testing.assert_allclose(c["r_V5"], -a["s_V5"], atol=2e-2)


# -- rhythm ------------------------------------------------------------------------------------
def test_a_premature_beat_is_told_by_its_time_and_its_shape():
    onsets = np.array([.7, 1.5, 2.3, 2.8, 4.0, 4.8, 5.6, 6.1, 7.3, 8.1, 8.9])
    early = np.isin(np.arange(11), (3, 7))
    other = [Heart(qrs=.16, axis=-100.0, p=0) if o else Heart() for o in early]
    found = [measured(onsets=onsets), measured(onsets=onsets, hearts=other)]
    np.testing.assert_allclose([o["premature"] for o in found], .2)
    np.testing.assert_allclose([o["premature_alike"] for o in found], [.2, 0])
    np.testing.assert_allclose([o["premature_other"] for o in found], [0, .2])
    np.testing.assert_allclose([o["unlike"] for o in found], [0, 2 / 11])
    np.testing.assert_allclose([o["longest_pause"] for o in found], 1.2, atol=.05)
    np.testing.assert_allclose(found[0]["shortest_share"], .5 / .8, atol=1e-6)
    assert found[0]["shape_least"] > .95 > found[1]["shape_least"]
    np.testing.assert_allclose(found[1]["axis"], measured()["axis"], atol=2)     # the usual beat's


def test_p_waves_that_do_not_recur_are_none():
    rng = np.random.default_rng(4)
    t, (x, beats) = np.arange(T) / RATE, strip(Heart(p=0))
    for f, phase in zip(rng.uniform(4, 9, 12), rng.uniform(0, 6, 12)):
        x = x + .02 * np.sin(2 * np.pi * f * t + phase)
    fibrillating, sinus = twelve_lead_features(x, beats, RATE), measured()
    for lead in ("", "_II", "_V1"):
        assert fibrillating[f"p_alike{lead}"][0] < .8 < .95 < sinus[f"p_alike{lead}"]
    assert fibrillating["p_height"][0] < sinus["p_height"]


def test_flutter_waves_are_found_once_the_beats_are_gone():
    t, (x, beats) = np.arange(T) / RATE, strip(Heart(p=0), noise=.02)
    x = x + .06 * np.sin(2 * np.pi * 4.7 * t) * seen(-90)[:, None]
    flutter, none = twelve_lead_features(x, beats, RATE), measured(Heart(p=0), noise=.02)
    assert abs(flutter["atrial_hz_II"][0] - 4.7) < .25
    assert flutter["atrial_line_II"][0] > .8 > .4 > none["atrial_line_II"]
    assert flutter["rest_II"][0] > 2 * none["rest_II"]


# -- second implementations --------------------------------------------------------------------
def test_the_scales_of_limb_leads_are_least_squares():
    x = strip(noise=.05)[0]
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    a, b, share = limb_scales(x)
    expected, rest, *_ = np.linalg.lstsq(x[0, [0, 2]].T, x[0, 1], rcond=None)
    np.testing.assert_allclose([a[0], b[0]], expected)
    np.testing.assert_allclose(share, 1 - rest / (x[0, 1]**2).sum())
    x[:, 1] = np.random.default_rng(0).normal(size=1000)             # no law of Einthoven's here
    assert np.isnan(limb_scales(x)[0]).all()


def test_correlations_are_numpys():
    rng = np.random.default_rng(0)
    each, typical = rng.normal(size=(2, 3, 4, 20)), rng.normal(size=(2, 4, 20))
    inside = np.arange(20) < np.array([[8], [15]])
    each[1, 2, :, :5] = np.nan
    for n in range(2):
        for b in range(3):
            keep = inside[n] & np.isfinite(each[n, b, 0])
            pair = [o[:, keep] for o in (each[n, b], typical[n])]
            expected = np.corrcoef(*((o - o.mean(1)[:, None]).ravel() for o in pair))[0, 1]
            np.testing.assert_allclose(agreement(each, typical, inside)[n, b], expected)


def test_each_sample_loses_the_nearest_beat():
    rng = np.random.default_rng(0)
    x, typical, at = rng.normal(size=(1, 2, 90)), rng.normal(size=(1, 2, 30)), [12, 40, 71]
    left = without_beats(x, np.array([[*at, -1]]), typical, 10)
    for i in range(90):
        nearest = min(at, key=lambda o: (abs(i - o), -o))            # of two, the later
        lag = min(max(i - nearest + 10, 0), 29)
        np.testing.assert_allclose(left[0, :, i], x[0, :, i] - typical[0, :, lag])


# -- what cannot be measured -------------------------------------------------------------------
def test_nothing_is_guessed():
    x, beats = strip()
    flat = x.copy()
    flat[:, LEADS.index("V4")] = 3.3
    found = twelve_lead_features(flat, beats, RATE)
    assert {k for k in found if k.endswith("_V4")} == {
        k for k, v in found.items() if np.isnan(v).any()} == {f"{o}_V4" for o in LEAD_FEATURES}
    few = twelve_lead_features(x, beats[:, :3], RATE)                # two intervals
    kept = {k for k, v in few.items() if np.isfinite(v).all()}
    assert all(o.startswith("band_") or o in ("einthoven", "scale_I", "scale_III", "beats")
               for o in kept) and "band_3_V1" in kept


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 4), beats=st.integers(1, 30), seed=st.integers(0, 999))
def test_noise_gives_numbers_or_nothing_and_neighbours_do_not_matter(n, beats, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12, 500)) * rng.choice([0, 1], size=(n, 12, 1), p=[.1, .9])
    at = np.where(rng.random((n, beats)) < .3, np.nan, rng.uniform(-1, 7, (n, beats)))
    with np.errstate(all="raise", under="ignore"): found = twelve_lead_features(x, at, RATE)
    alone = twelve_lead_features(x[-1:], at[-1:], RATE)
    for k, v in found.items():
        assert v.shape == (n,) and not np.isinf(v).any(), k
        np.testing.assert_allclose(alone[k][0], v[-1], rtol=1e-5, atol=1e-6, err_msg=k)


# -- the method, and the floors beside it ------------------------------------------------------
def a_batch(n=6):
    made = [strip(Heart(pr=.14 + .02 * i), noise=.01, seed=i) for i in range(n)]
    return dict(ecg=np.concatenate([x for x, _ in made]).astype("float32"),
                ecg_beats=np.stack([b for _, b in made]).astype("float32"),
                ecg_moments=np.random.default_rng(0).normal(size=(n, 12, 2)).astype("float32"),
                start=np.zeros(n))


@pytest.mark.parametrize("name", ["clinical_12lead", "raw_moments", "chance"])
def test_methods_keep_the_contract_with_twelve_leads(name):
    signals = () if name == "chance" else ("ecg",)
    check_method(get_method(name, signals=signals), a_batch())


def test_columns_have_names_and_other_leads_are_refused():
    method = Clinical12Lead()
    names, out = method.feature_names, as_array(method.embed(a_batch()))
    assert out.shape == (6, len(names)) and 150 <= len(set(names)) == len(names) <= 300
    np.testing.assert_allclose(np.diff(out[:, names.index("pr")]), .02, atol=.012)
    few = {k: v[:, :2] if k == "ecg" else v for k, v in a_batch().items()}
    with pytest.raises(MethodError, match="twelve leads"): method.embed(few)


def test_chance_is_the_frequency_of_each_label():
    rng = np.random.default_rng(0)
    truth = (rng.random((90, 2)) < (.1, .6)).astype(int)
    zeros = as_array(get_method("chance").embed(dict(start=np.zeros(90))))
    for judge in (probe_labels, boost_labels):
        said = judge(zeros, truth, np.arange(90), zeros[:5], "ab").scores
        np.testing.assert_allclose(said, np.tile(truth.mean(0), (5, 1)), atol=2e-3)
    moments = as_array(get_method("raw_moments", signals=("ecg",)).embed(a_batch()))
    assert moments.shape == (6, 24) and len(np.unique(moments)) == 144


# -- real recordings ---------------------------------------------------------------------------
WINDOWS = Windowing(signals=(("ecg", 100.0),), seconds=10.0, hop=10.0, beats=("ecg",),
                    filters=(("ecg", .5, 40.0),))


def embedded(recordings):
    "Windows and named columns of `recordings`, one window of each."
    windows = pack(Given(tuple(recordings)), WINDOWS)
    batch = windows.batch(np.arange(len(windows)), ("ecg", "ecg_beats"))
    return windows, twelve_lead_features(batch["ecg"], batch["ecg_beats"][:, 0], 100.0)


@pytest.mark.real
def test_intervals_are_those_that_cardiologists_marked(real_data):
    cohort = get_cohort("ludb")
    recordings = list(islice(cohort.recordings(locate(cohort)), 32))
    found = embedded(recordings)[1]
    marked = np.array([_marked(o) for o in recordings])
    for name, truth, most in zip(("pr", "qrs", "qt"), marked.T, (.02, .025, .04)):
        both = np.isfinite(truth) & np.isfinite(found[name])
        off = np.abs(found[name] - truth)[both]
        assert both.sum() > 24 and np.median(off) < most, (name, np.median(off))
        assert np.corrcoef(found[name][both], truth[both])[0, 1] > .5, name


def _marked(recording):
    "PR, QRS and QT in lead II: medians of the marks."
    waves = [o for o in recording.intervals if o.key == "wave:ii"]
    rows = []
    for i, o in enumerate(waves):
        if o.value != "QRS": continue
        before, after = ([p for p in waves[max(i - 1, 0):i] if p.value == "P"],
                         [p for p in waves[i + 1:i + 2] if p.value == "T"])
        rows.append((o.start - before[0].start if before else np.nan, o.end - o.start,
                     after[0].end - o.start if after else np.nan))
    columns = [np.array(o)[np.isfinite(o)] for o in zip(*rows)]
    return [np.median(o) if len(o) else np.nan for o in columns]


@pytest.mark.real
def test_trees_on_these_features_know_fibrillation_and_bundle_branch_block(real_data):
    cohort = get_cohort("ptb_xl_filtered")
    everyone = list(islice(cohort.recordings(locate(cohort)), 700))
    ill = [o for o in everyone if o.labels["dx_AF"] or o.labels["dx_CRBBB"] or o.labels["dx_LBBB"]]
    windows, found = embedded(ill + [o for o in everyone if o not in ill][::4])
    classes = ("AF", "CRBBB", "LBBB")
    truth = np.stack([windows.labels(f"dx_{o}").astype(int) for o in classes], 1)
    x, train = np.stack(list(found.values()), 1), windows.labels("strat_fold").astype(int) <= 6
    subjects = windows.labels("subject").astype(str)
    assert not set(subjects[train]) & set(subjects[~train])
    done = boost_labels(x[train], truth[train], subjects[train], x[~train], classes)
    from sklearn.metrics import roc_auc_score
    for k, name in enumerate(classes):
        assert roc_auc_score(truth[~train][:, k], done.scores[:, k]) > .9, name
