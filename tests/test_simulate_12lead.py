"""Virtual people with twelve leads: laws, repeatability, and labels that the truth bears out."""
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import get_cohort
from biossl.cohorts.statements import CLASSES
from biossl.data.errors import CohortError, RequestError
from biossl.data.people_12lead import draw_person
from biossl.data.simulate_12lead import (DOWER, findings, heart_vector, limb_angle, longest_pr,
                                         simulate_12lead, sites, twelve)

LIMBS = slice(0, 6)


def crowd(seed, count):
    return [draw_person(seed, k) for k in range(count)]


def held(sim):
    "Which class each person has, `(N, 24)`."
    return np.array([[o in findings(r) for o in CLASSES] for r in sim.readings])


@pytest.fixture(scope="module")
def many():
    return simulate_12lead(crowd(3, 640))


@pytest.fixture(scope="module")
def clean():
    "Without noise at 500 Hz: what a second reader can measure."
    return simulate_12lead(crowd(4, 160), rate=500, noise=0)


# the leads --------------------------------------------------------------------------------------

def test_einthoven_and_goldberger_hold_to_rounding(many):
    one, two, three, avr, avl, avf = np.moveaxis(many.ecg[:, LIMBS].astype(np.float64), 1, 0)
    tiny = 1e-6 * np.abs(many.ecg).max()
    for x, y in ((one + three, two), (avr, -(one + two) / 2), (avl, one - two / 2),
                 (avf, two - one / 2), (avr + avl + avf, 0)):
        np.testing.assert_allclose(x, y, rtol=0, atol=tiny)


def test_the_leads_directions_invert_to_the_published_inverse():
    "Edenbrandt and Pahlm 1988, J Electrocardiol 21, 361: x, y, z of I, II, V1-V6."
    published = [(0.156, -0.010, -0.172, -0.074, 0.122, 0.231, 0.239, 0.194),
                 (-0.227, 0.887, 0.057, -0.019, -0.106, -0.022, 0.041, 0.048),
                 (0.022, 0.102, -0.229, -0.310, -0.246, -0.063, 0.055, 0.108)]
    np.testing.assert_allclose(np.linalg.pinv(DOWER), published, atol=0.0011)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 5), st.floats(-179, 179), st.floats(-3, 3))
def test_a_vector_is_seen_as_it_was_asked_for(size, angle, front):
    seen = twelve(DOWER) @ heart_vector(size, angle, front)
    turn = np.deg2rad(angle)
    np.testing.assert_allclose(seen[[0, 7]], [size * np.cos(turn), front], atol=1e-9)
    np.testing.assert_allclose(seen[5], size * np.sin(turn) * np.sqrt(0.75), atol=1e-9)
    np.testing.assert_allclose(limb_angle(heart_vector(size, angle, front)), angle, atol=1e-6)


# the same people in any company -----------------------------------------------------------------

def test_a_person_is_the_same_in_cohorts_of_three_and_of_forty():
    small, large = ([*get_cohort("simulated_12lead", subjects=o, seed=5).recordings()]
                    for o in (3, 40))
    assert [o.subject for o in small] == ["s12_0000", "s12_0001", "s12_0002"] and len(large) == 40
    for a, b in zip(small, large):
        assert a.name == b.name and dict(a.labels) == dict(b.labels)
        np.testing.assert_array_equal(a.signal("ecg").samples, b.signal("ecg").samples)
    assert a.signal("ecg").samples.shape == (12, 1000) and a.labels["source"] == "simulated"


def test_people_and_populations_differ(many):
    rows = many.ecg[:60, 1]
    close = np.abs(rows[:, None] - rows[None]).max(-1) < 0.01
    assert (close == np.eye(60, dtype=bool)).all()
    assert not np.allclose(simulate_12lead(crowd(5, 2)).ecg, many.ecg[:2], atol=0.01)


def test_noise_changes_no_truth_and_a_longer_recording_begins_with_the_same_beats():
    people = crowd(6, 24)
    still, noisy = (simulate_12lead(people, noise=o) for o in (0, 2))
    assert list(map(repr, still.readings)) == list(map(repr, noisy.readings))
    added = np.abs(noisy.ecg - still.ecg).max((1, 2))
    assert (added > 0.005).all()
    long = simulate_12lead(people, seconds=20, noise=0)
    np.testing.assert_allclose(long.ecg[..., :900], still.ecg[..., :900], atol=1e-5)
    for a, b in zip(still.readings, long.readings):
        np.testing.assert_allclose(a.onsets, b.onsets[:len(a.onsets)], atol=1e-9)


def test_noise_is_that_of_electrodes():
    people = crowd(6, 8)
    noise = simulate_12lead(people).ecg - simulate_12lead(people, noise=0).ecg
    steps = np.diff(noise, axis=-1)            # what drifts slowly is small in these
    alike = np.mean([np.corrcoef(o[[0, 1, 6, 7]]) for o in steps], 0)
    np.testing.assert_allclose(alike[0, 1], 1 / 2, atol=0.05)       # I and II share the right arm
    np.testing.assert_allclose(alike[2, 3], 1 / 4, atol=0.05)       # V1, V2 share the terminal
    np.testing.assert_allclose(alike[:2, 2:], 0, atol=0.05)
    np.testing.assert_allclose(np.corrcoef(steps[:, 0]), np.eye(8), atol=0.15)   # to each his own


# the truth, measured again ----------------------------------------------------------------------

def quiet(clean, *, rhythms=("sinus", "junctional"), gap=0.0):
    "Row, reading and onset of one regular beat among regular ones of those with silent atria."
    for row, o in enumerate(clean.readings):
        rr = np.diff(o.onsets)
        for k in range(1, len(rr)):
            if o.rhythm in rhythms and not any(o.kinds[k - 1:k + 2]) and min(rr[k - 1:k + 1]) > gap:
                yield row, o, o.onsets[k]
                break


def cut(clean, row, start, end):
    return clean.ecg[row, :, round(start * 500):round(end * 500) + 1].astype(np.float64)


def test_axis_and_voltage_are_those_of_the_signal(clean):
    off, ratio = [], []
    for row, o, at in quiet(clean, gap=0.7):
        x = cut(clean, row, at, at + o.qrs)
        area = x.sum(1)
        angle = np.rad2deg(np.arctan2(area[5] * 2 / np.sqrt(3), area[0]))
        off.append(abs((angle - o.axis + 180) % 360 - 180))
        ratio.append(np.ptp(x[LIMBS], axis=1).max() / o.limb_voltage)
    assert len(off) > 60 and np.median(off) < 2.5 and np.quantile(off, 0.9) < 10
    assert np.quantile(np.abs(np.log(ratio)), 0.9) < 0.06


def test_qrs_ends_when_the_reading_says(clean):
    for row, o, at in quiet(clean, gap=0.7):
        inside, after = cut(clean, row, at, at + o.qrs), cut(clean, row, at + o.qrs + 0.012,
                                                             at + o.qrs + 0.022)
        assert np.abs(np.diff(after)).max() < 0.25 * np.abs(np.diff(inside)).max(), o


def test_q_waves_point_down_first(clean):
    for row, o, at in quiet(clean, gap=0.7):
        x = cut(clean, row, at, at + o.qrs)
        for lead in range(12):
            first = x[lead, (np.abs(x[lead]) > 0.035).argmax()]
            if o.q_wide[lead] > 0.02 and o.q_deep[lead] > 0.12: assert first < 0
            if not o.q_wide[lead] and o.r[lead] > 0.3: assert first > 0
            if o.q_wide[lead] and o.q_wide[lead] < o.qrs - 0.02 and o.r[lead] > 0.2:
                upto = x[lead].argmax()
                assert abs(-x[lead, :upto + 1].min() - o.q_deep[lead]) < 0.05 + 0.1 * o.q_deep[lead]


def test_t_stands_where_qt_says(clean):
    seen = []
    for row, o, at in quiet(clean, gap=0.85):
        stretch = o.qt / 0.4
        x = cut(clean, row, at + o.qt - 0.1 * stretch, at + o.qt + 0.06)
        t = np.array(o.t)
        big = np.abs(t) > 0.12
        peak = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)[:, 0]
        np.testing.assert_allclose(peak[big], t[big], rtol=0.15, atol=0.03)
        when = np.abs(x[big]).argmax(1) / 500 - 0.1 * stretch   # 2 sd of its fall before the end
        np.testing.assert_allclose(when, -2 * 0.036 * stretch, atol=0.018 * stretch)
        assert (np.abs(x[big, -1]) < 0.2 * np.abs(t[big]) + 0.03).all()
        seen.append(big.sum())
    assert len(seen) > 30 and np.sum(seen) > 100


def test_p_waves_are_where_the_reading_says_and_only_there(clean):
    count = dict(sinus=0, junctional=0)
    for row, o, at in quiet(clean, gap=0.95):
        count[o.rhythm] += 1
        if o.rhythm == "sinus":
            p = np.abs(cut(clean, row, at - o.pr, at - o.pr + o.p_wide)).max()
            assert p > 0.03 and p > 2 * np.abs(cut(clean, row, at - o.pr - 0.04,
                                                   at - o.pr - 0.03)).max()
        else:
            assert np.isnan(o.pr) and np.abs(cut(clean, row, at - 0.25, at - 0.03)).max() < 0.02
    assert count["sinus"] > 20 and count["junctional"] > 2


def test_extra_beats_come_early_and_those_of_ventricles_are_broad(clean):
    kinds = [0, 0, 0]
    for row, o in enumerate(clean.readings):
        if o.rhythm != "sinus": continue
        rr = np.diff(o.onsets)
        for k in range(1, len(o.onsets)):
            kinds[o.kinds[k]] += 1
            if not o.kinds[k]: continue
            assert rr[k - 1] < 0.9 * 60 / o.heart_rate
            late = np.abs(np.diff(cut(clean, row, o.onsets[k] + 0.125, o.onsets[k] + 0.14))).max()
            if o.kinds[k] == 2: assert late > 0.015
            elif o.qrs < 0.11: assert late < 0.01
    assert min(kinds) > 8


def placed(clean, name):
    "Of each person with a finding: all leads, and those of its site, in all its spans of beats inside."
    for row, o in enumerate(clean.readings):
        if (site := sites(o).get(name)) is None: continue
        for start, end in site.spans:
            if 0.05 < start and end < 9.9: yield o, cut(clean, row, start, end), list(site.leads)


def test_findings_are_where_their_sites_say(clean):
    deep = [x[leads].min(1) for _, x, leads in placed(clean, "QAb")]
    assert len(deep) > 20 and np.mean(np.concatenate(deep) < -0.08) > 0.9
    down = [x[leads].mean(1) for _, x, leads in placed(clean, "TInv")]
    assert len(down) > 50 and np.mean(np.concatenate(down) < 0) > 0.97
    flat = [np.ptp(x[leads], axis=1) for _, x, leads in placed(clean, "TAb")]
    assert len(flat) > 50 and np.median(np.concatenate(flat)) < 0.15
    spikes = [np.abs(np.diff(x, 2, axis=1)).max() for _, x, _ in placed(clean, "PR")]
    assert len(spikes) > 20 and np.min(spikes) > 0.2


def test_sites_are_of_findings_with_a_place_and_of_the_beats_that_have_it(many):
    everywhere = {"AF", "AFL", "Brady", "SA", "SB", "NSR", "STach"}
    seen = set()
    for o in many.readings:
        found = sites(o)
        seen |= set(found)
        assert set(found) == set(findings(o)) - everywhere
        for name, site in found.items():
            beats = dict(PVC=o.kinds.count(2), PAC=o.kinds.count(1)).get(name)
            regular = len([k for k in o.kinds if k != 2])
            assert len(site.spans) in ({beats} if beats else {regular, o.kinds.count(0)})
            assert site.leads and all(a < b for a, b in site.spans)
        if "QAb" in found: assert set(found["QAb"].leads) <= dict(
            inferior={1, 2, 5}, anterior={6, 7, 8, 9}, lateral={0, 4, 10, 11})[o.scar]
    assert seen == set(CLASSES) - everywhere


def test_flutter_waves_go_evenly_into_beats(clean):
    rows = [k for k, o in enumerate(clean.readings) if o.rhythm == "flutter"]
    for k in rows:
        o, person = clean.readings[k], clean.people[k]
        assert o.rr_range < 1e-9 and o.block in (2, 4)
        np.testing.assert_allclose(o.heart_rate * o.block / 60, person.flutter_rate, rtol=1e-9)
        period = 500 * o.block / person.flutter_rate      # beats and waves repeat together
        x, shift = clean.ecg[k, 1], round(period)
        assert np.corrcoef(x[:-shift], x[shift:])[0, 1] > 0.8
    assert len(rows) > 3


# labels -----------------------------------------------------------------------------------------

def columns(readings):
    table = [asdict(o) for o in readings]
    return {k: np.array([o[k] for o in table], object if k in ("onsets", "kinds") else None)
            for k in table[0]}


def test_every_label_keeps_to_its_threshold(many):
    "In ms, degrees and beats a minute as a textbook has them, both ways."
    o, y = columns(many.readings), dict(zip(CLASSES, held(many).T))
    ms = {k: 1000 * o[k] for k in ("pr", "qrs", "qtc", "rr_range")}
    rate, axis, sinus = o["heart_rate"], o["axis"], o["rhythm"] == "sinus"
    own, right, left = (o["conduction"] == k for k in ("paced", "right", "left"))
    own, uneven = ~own, sinus & (ms["rr_range"] > 120)
    same = np.testing.assert_array_equal
    same(y["IAVB"], ms["pr"] > 200)
    same(y["AF"], o["rhythm"] == "af")
    same(y["AFL"], o["rhythm"] == "flutter")
    same(y["PR"], o["rhythm"] == "paced")
    same(y["SB"], sinus & (rate < 60))
    same(y["STach"], sinus & (rate > 100))
    same(y["SA"], uneven)
    same(y["NSR"], sinus & ~uneven & ~y["SB"] & ~y["STach"])
    same(y["Brady"], np.isin(o["rhythm"], ("af", "junctional")) & (rate < 60))
    same(y["CRBBB"], right & (ms["qrs"] >= 120))
    same(y["IRBBB"], right & (ms["qrs"] >= 110) & (ms["qrs"] < 120))
    same(y["LBBB"], left & (ms["qrs"] >= 120))
    same(y["NSIVCB"], own & ~right & ~left & (ms["qrs"] > 110))
    same(y["LAD"], own & (axis < -30) & (axis >= -90))
    same(y["RAD"], own & (axis > 90))
    same(y["LAnFB"], (o["conduction"] == "anterior") & (axis <= -45) & (axis >= -90)
         & (ms["qrs"] < 120))
    same(y["LQRSV"], own & (o["limb_voltage"] < 0.5))
    same(y["LQT"], ms["qtc"] > 480)
    same(y["PAC"], [1 in k for k in o["kinds"]])
    same(y["PVC"], [2 in k for k in o["kinds"]])
    limits = np.select([rate <= 70, rate <= 90, rate <= 110, rate <= 130],
                       [210, 200, 190, 180], 170)
    same(y["LPR"], ms["pr"] > limits)
    primary = own & (ms["qrs"] < 120)
    assert not (y["TInv"] | y["TAb"])[~primary].any()
    assert (o["t"][y["TInv"]][:, [0, 1, 4, 5, 7, 8, 9, 10, 11]] < -0.1).sum(1).min() >= 2
    small = np.abs(o["t"]) < np.maximum(0.1, 0.1 * o["r"])
    assert small[y["TAb"]][:, [0, 1, 9, 10, 11]].sum(1).min() >= 3
    deep = ((o["q_wide"] >= 0.03) & (o["q_deep"] >= 0.1)).sum(1)
    assert (deep[y["QAb"]] >= 2).all() and (o["scar"][y["QAb"]] != "none").all()


def test_intervals_fit_each_other(many):
    for o in many.readings:
        rr = np.diff(o.onsets)
        np.testing.assert_allclose(o.heart_rate, 60 / rr.mean())
        np.testing.assert_allclose(o.qtc, o.qt / np.sqrt(rr.mean()))
        assert 0.07 <= o.qrs < 0.22 and o.qrs < o.qt < 0.8
        assert np.isnan(o.pr) == (o.rhythm != "sinus") and not o.pr < o.p_wide
        assert 0 <= min(o.onsets) and max(o.onsets) + o.qrs <= 10


def test_labels_occur_together_as_in_hearts(many):
    found = [set(findings(o)) for o in many.readings]
    rhythms = {"AF", "AFL", "PR", "SB", "STach", "NSR"}
    assert all("LAD" in o for o in found if "LAnFB" in o)
    assert all(len(o & rhythms) <= 1 for o in found)
    assert not any(o & {"LPR", "IAVB", "PAC"} and o & {"AF", "AFL", "PR"} for o in found)
    assert not any({"LAD", "RAD"} <= o or {"CRBBB", "LBBB"} <= o for o in found)


@pytest.mark.parametrize("seed", (0, 1, 2))
def test_240_people_hold_enough_of_each_class(seed):
    people = get_cohort("simulated_12lead", seed=seed)
    count = held(people.simulation(*range(people.subjects))).sum(0)
    assert (count >= 8).sum() >= 16 and (count > 0).all()


def test_longest_pr_shortens_with_the_rate():
    assert [longest_pr(o) for o in (50, 70, 71, 100, 120, 140)] == pytest.approx(
        [0.21, 0.21, 0.20, 0.19, 0.18, 0.17])


# what can be told from the signal ---------------------------------------------------------------

def intervals(at, rate=100):
    rr = np.diff(at) / rate if len(at) > 3 else np.ones(3)
    return [rr.mean(), rr.min(), rr.max(), rr.std(), np.median(rr), np.ptp(rr), np.diff(rr).std()]


def features(ecg):
    "Intervals, the median beat, how much one beat differs from it, and slow spectra of II and V1."
    from scipy.signal import butter, find_peaks, sosfiltfilt
    x, rows = sosfiltfilt(butter(2, (0.5, 40), "bandpass", fs=100, output="sos"), ecg), []
    steep = np.abs(np.diff(x, axis=-1)).sum(1)
    for one, slope in zip(x, steep):
        slope = np.convolve(slope, np.ones(8) / 8, "same")
        at, _ = find_peaks(slope, height=0.35 * np.quantile(slope, 0.98), distance=25)
        inner = at[(at >= 35) & (at < len(slope) - 50)]
        beats = np.stack([one[:, k - 35:k + 50] for k in inner])
        usual = np.median(beats, 0)
        odd = np.abs(beats - usual).max((1, 2))
        spectrum = np.abs(np.fft.rfft(one[[1, 6]]))[:, 10:120].reshape(2, -1, 5).mean(-1)
        rows.append(np.concatenate([intervals(at), [odd.max(), np.median(odd)],
                                    np.ptp(usual[:, 25:50], axis=1), usual[:, ::4].ravel(),
                                    spectrum.ravel()]))
    return np.array(rows)


def test_twelve_classes_and_more_can_be_told_from_the_signal(many):
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score
    x, y = features(many.ecg), held(many)
    forest = ExtraTreesClassifier(50, min_samples_leaf=2, max_features=0.2, random_state=0)
    scores = forest.fit(x[:400], y[:400]).predict_proba(x[400:])
    auroc = [roc_auc_score(y[400:, k], o[:, -1]) for k, o in enumerate(scores)]
    told = [name for name, o in zip(CLASSES, auroc) if o > 0.8]
    assert len(told) >= 16, dict(zip(CLASSES, np.round(auroc, 2)))


# bad input --------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong", (dict(people=[]), dict(seconds=1), dict(seconds=np.nan),
                                   dict(rate=20), dict(noise=-1), dict(noise=np.nan)))
def test_what_cannot_be_simulated_is_refused(wrong):
    with pytest.raises(RequestError, match="remedy"):
        simulate_12lead(**dict(people=crowd(0, 1)) | wrong)


def test_nobody_is_refused():
    with pytest.raises(RequestError): draw_person(0, -1)
    with pytest.raises(RequestError): draw_person(-1, 0)
    with pytest.raises(CohortError): get_cohort("simulated_12lead", subjects=0)
