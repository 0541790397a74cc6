"""Virtual patients: the same people in any company, and truth that their signals confirm."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import at_hand, get_cohort
from biossl.cohorts.simulated import Simulated
from biossl.data import signals
from biossl.data.errors import BiosslError, RequestError
from biossl.data.rhythm import (DRAWS, LEAD, RHYTHMS, Patient, beat_times, columns, draw_patient,
                                enough_beats)
from biossl.data.simulate import (CLEAN, Canvas, Sensors, knot_count, simulate, simulate_windows,
                                  spline)

TRUTH = ("number", "beats", "kind", "delays", "pulses", "strength")


def people(*rhythms, seed=0, each=1):
    return [draw_patient(seed, 100 * i + k, o) for i, o in enumerate(rhythms) for k in range(each)]


def of_row(x, row):
    return x[row][np.isfinite(x[row])]


# who they are -----------------------------------------------------------------------------------

def test_a_patient_is_the_same_in_cohorts_of_three_and_of_ten():
    small, large = simulate_windows(3, 2, seed=5), simulate_windows(10, 2, seed=5)
    for key in ("ecg", "ppg"):
        np.testing.assert_array_equal(getattr(small, key), getattr(large, key)[:6])
    for key in TRUTH:
        a, b = getattr(small.truth, key), getattr(large.truth, key)[:6]
        np.testing.assert_array_equal(a, b[:, :a.shape[1]] if a.ndim > 1 else b)
        if a.ndim > 1: assert np.isnan(b[:, a.shape[1]:]).all()
    assert small.truth.patients == large.truth.patients[:3]


def test_groups_of_patients_are_invisible():
    "A call is worked off in groups; alone or in the second group, a patient is the same."
    many = simulate_windows(40, 30, seconds=20)
    alone = simulate([draw_patient(0, 33)], 30, 20, 42, 42)
    np.testing.assert_array_equal(many.ppg[33 * 30:34 * 30], alone.ppg)
    np.testing.assert_array_equal(many.ecg[33 * 30:34 * 30], alone.ecg)
    assert (many.truth.number == np.repeat(np.arange(40), 30)).all()


def test_people_differ_and_populations_differ():
    sim = simulate_windows(6, 2)
    rows = sim.ppg[:, 0]
    close = np.abs(rows[:, None] - rows[None]).max(-1) < 1e-3
    assert (close == np.eye(len(rows), dtype=bool)).all()
    assert not np.allclose(simulate_windows(6, 2, seed=1).ecg, sim.ecg)


def test_a_longer_recording_begins_with_the_same_beats():
    patient = draw_patient(1, 4)
    short, long = (simulate([patient], 1, o, sensors=CLEAN) for o in (60, 200))
    a, b = of_row(short.truth.beats, 0), of_row(long.truth.beats, 0)
    np.testing.assert_allclose(a, b[:len(a)], atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_every_pair_of_neighbours_holds_one_with_af(seed, pair):
    two = [draw_patient(seed, 2 * pair + o) for o in (0, 1)]
    assert two[0].af != two[1].af and all(o.rhythm in RHYTHMS for o in two)
    assert all(np.isfinite(v) for o in two for v in vars(o).values() if not isinstance(v, str))


def test_a_given_rhythm_changes_rhythm_and_rate_alone():
    own, other = draw_patient(2, 8, "sinus"), draw_patient(2, 8, "af")
    changed = {k for k in Patient.__annotations__ if getattr(own, k) != getattr(other, k)}
    assert changed <= {"rhythm", "heart_rate", "ectopy"}


# when their hearts beat -------------------------------------------------------------------------

@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(RHYTHMS), st.floats(1, 400))
def test_beats_cover_the_window_in_everyone(number, rhythm, seconds):
    p = columns([draw_patient(0, number, rhythm)], 3)
    z = np.random.default_rng(number).standard_normal((3, enough_beats(seconds), DRAWS))
    b = beat_times(p, z)
    assert (b.times[:, 0] < -LEAD + 2).all() and (b.times[:, -1] > seconds + LEAD).all()
    np.testing.assert_allclose(np.diff(b.times), b.rr[:, 1:], atol=1e-9)
    assert b.rr.min() > 0.15 and not ((b.kind[:, 1:] > 0) & (b.kind[:, :-1] > 0)).any()


def test_rhythms_are_what_their_names_say():
    sims = {o: simulate(people(o, each=12), 1, 120, 42, 42, CLEAN).truth for o in RHYTHMS}
    rr = {k: [np.diff(of_row(v.beats, i)) for i in range(12)] for k, v in sims.items()}
    cv = {k: np.array([o.std() / o.mean() for o in v]) for k, v in rr.items()}
    assert cv["af"].min() > 0.08 > np.median(cv["sinus"])
    assert sims["tachycardia"].heart_rate.min() > 90 and sims["bradycardia"].heart_rate.max() < 65
    premature = {k: np.nanmean(v.kind > 0) for k, v in sims.items()}
    assert premature["ectopy"] > 0.03 > premature["sinus"]
    follow = np.mean([np.corrcoef(o[1:], o[:-1])[0, 1] for o in rr["af"]])
    assert abs(follow) < 0.1           # fibrillating intervals do not know each other


def test_heart_rate_is_that_of_the_beats():
    truth = simulate_windows(4, 3).truth
    for row in range(12):
        beats = of_row(truth.beats, row)
        assert truth.heart_rate[row] == pytest.approx(60 / np.diff(beats).mean())
    assert (truth.af == [o.af for o in truth.patients for _ in range(3)]).all()


# what their sensors show ------------------------------------------------------------------------

@pytest.mark.parametrize("rate", [125, 250])
def test_detected_r_peaks_are_the_true_ones(rate):
    sim = simulate(people("sinus", "tachycardia", "af", each=3), 1, 60, rate, rate, CLEAN)
    for row in range(9):
        true = of_row(sim.truth.beats, row)
        found = signals.beats(sim.ecg[row, 0], rate)
        near = np.abs(true[2:-2, None] - found).min(1)
        assert np.quantile(near, .95) < 1.5 / rate, sim.truth.patients[row]


def test_the_pulse_rises_when_the_truth_says_so():
    "The steepest upstroke after each R lies the true delay behind it."
    sim = simulate(people("sinus", "bradycardia", each=3), 1, 60, 250, 250, CLEAN)
    for row in range(6):
        slope = np.gradient(sim.ppg[row, 0])
        beats, delays = of_row(sim.truth.beats, row)[:-2], of_row(sim.truth.delays, row)[:-2]
        after = [slope[int(250 * (o + .1)):int(250 * (o + .5))] for o in beats]
        steepest = [o.argmax() / 250 + .1 for o in after]
        assert np.abs(np.array(steepest) - delays).max() < .02
        assert 0.15 < delays.min() and delays.max() < 0.45
        np.testing.assert_allclose(of_row(sim.truth.pulses, row)[:-2], beats + delays)


def test_detected_pulses_follow_the_true_ones():
    sim = simulate(people("sinus", each=4), 1, 60, 125, 125, CLEAN)
    for row in range(4):
        pulses = of_row(sim.truth.pulses, row)
        found = signals.beats(sim.ppg[row, 0], 125, "ppg")
        behind = np.array([(found[found > o] - o).min() for o in pulses[1:-2]])
        assert behind.std() < .03 and 0 < np.median(behind) < .2


def test_short_intervals_make_weak_pulses():
    truth = simulate(people("af", each=6), 4, 60, 42, 42, CLEAN).truth
    rr, strength = np.diff(truth.beats, axis=1), truth.strength[:, 1:]
    short, long = np.nanmean(strength[rr < .45]), np.nanmean(strength[rr > .8])
    assert short < 0.65 * long


def around_p(sim, row):
    "The averaged stretch 0.25 to 0.07 s before R, without its own line."
    x, t = sim.ecg[row, 0].astype(float), np.arange(sim.ecg.shape[-1]) / 250
    beats = of_row(sim.truth.beats, row)
    beats = beats[1:][np.diff(beats) > .8]        # the last T is over by then
    lags = np.arange(-.25, -.07, .004)
    mean = np.mean([np.interp(o + lags, t, x) for o in beats], axis=0)
    return np.ptp(mean - np.linspace(mean[0], mean[-1], len(mean)))


def test_af_has_no_p_wave():
    "Averaged over beats, the same persons show P while slow and next to nothing in AF."
    calm = [o for o in range(30) if draw_patient(3, o, "af").heart_rate < 85]
    for number in calm[:6]:
        sinus, af = (simulate([draw_patient(3, number, o)], 1, 300, 250, 250, CLEAN)
                     for o in ("bradycardia", "af"))
        p = draw_patient(3, number).p
        assert around_p(sinus, 0) > 0.7 * p
        assert around_p(af, 0) < 0.35 * around_p(sinus, 0)


def test_fibrillatory_waves_fill_the_pauses():
    "Away from QRS and T, the power between 4 and 9 Hz is there in AF only."
    power = {}
    for rhythm in ("sinus", "af"):
        sim = simulate([draw_patient(3, 1, rhythm)], 1, 300, 250, 250, CLEAN)
        beats, x = of_row(sim.truth.beats, 0), sim.ecg[0, 0]
        late = [x[int(250 * (o - .42)):int(250 * (o - .26))]
                for o, gap in zip(beats[1:], np.diff(beats), strict=True) if gap > .95]
        power[rhythm] = np.mean([np.ptp(o) for o in late])
    assert power["af"] > 5 * power["sinus"]


def test_nothing_is_missing_and_everything_is_float32():
    for seconds, rates in ((1, (42, 42)), (7.3, (125, 25)), (30, (500, 64))):
        sim = simulate([draw_patient(0, o) for o in range(4)], 2, seconds, *rates)
        for x, rate in ((sim.ecg, rates[0]), (sim.ppg, rates[1])):
            assert x.shape == (8, 1, int(np.ceil(seconds * rate))) and x.dtype == np.float32
            assert np.isfinite(x).all()


def test_sensors_change_signals_and_not_hearts():
    plain, noisy = simulate(people("af"), 1, 60, sensors=CLEAN), simulate(people("af"), 1, 60)
    np.testing.assert_array_equal(plain.truth.pulses, noisy.truth.pulses)
    residue = noisy.ecg[0, 0] - plain.ecg[0, 0]
    assert 0.001 < residue.std() < 1
    silent = Sensors(noise=0, motion=0, wander=0, mains=5, clip=False)
    hum = simulate(people("af"), 1, 60, sensors=silent).ecg[0, 0] - plain.ecg[0, 0]
    top = np.abs(np.fft.rfft(hum)).argmax() / 60
    assert top == pytest.approx(60, abs=.1)


def test_monitors_clip():
    sim = simulate_windows(200, 1, seconds=5, rate=125)
    rail = np.array([o.rail for o in sim.truth.patients])
    assert sim.ecg[rail].max() <= 1.5 and sim.ecg[rail].min() >= -.5 and sim.ecg[~rail].max() > 1.5
    assert sim.ppg.min() >= 0 and sim.ppg.max() <= 4


def shift(a, b, rate, most=3.0):
    "Seconds that `b` lags behind `a`."
    a, b = a - a.mean(), b - b.mean()
    lags = np.arange(-int(most * rate), int(most * rate) + 1)
    inside = slice(int(most * rate), len(a) - int(most * rate))
    return lags[np.argmax([np.dot(a[inside], np.roll(b, -o)[inside]) for o in lags])] / rate


def test_clocks_apart_really_move_the_ppg():
    patient = [draw_patient(0, 5, "af")]
    true = simulate(patient, 1, 600, sensors=CLEAN)
    late = simulate(patient, 1, 600, sensors=Sensors(0, 0, 0, 0, clip=False, offset=.8, drift=2000))
    np.testing.assert_array_equal(true.ecg, late.ecg)
    np.testing.assert_array_equal(true.truth.beats, late.truth.beats)
    moved = late.truth.pulses - true.truth.pulses
    for start in (0, 500):
        part = slice(start * 125, (start + 100) * 125)
        here = (true.truth.beats >= start) & (true.truth.beats < start + 100)
        seen = shift(true.ppg[0, 0, part], late.ppg[0, 0, part], 125)
        assert seen == pytest.approx(moved[here].mean(), abs=.1)
    first, last = moved[0, 0], moved[np.isfinite(moved)][-1]
    assert 0.05 < abs(first) <= .81 and 0.05 < abs(last - first) <= 1.21


# the canvas -------------------------------------------------------------------------------------

def test_bumps_keep_their_area_at_every_rate():
    for rate in (25, 42, 125, 1000):
        canvas = Canvas(1, int(4 * rate), rate, .2)
        canvas.add(np.array([[2.0031]]), np.array([[.012]]), np.array([[1.0]]))
        area = canvas.read().sum() / rate
        assert area == pytest.approx(.012 * np.sqrt(2 * np.pi), rel=.05)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-3, 6), min_size=1, max_size=6), st.sampled_from([25.0, 42.0, 125.0]))
def test_canvas_against_plain_sums(centres, rate):
    t, width = np.arange(int(3 * rate)) / rate, .06
    canvas = Canvas(2, len(t), rate, .5)
    both = np.array([centres, [o + .5 for o in centres]])
    canvas.add(both, np.full_like(both, width), np.full_like(both, 2.0))
    wide = np.sqrt(width**2 + (.35 / rate)**2)
    for row, own in zip(canvas.read(), both, strict=True):
        plain = sum(2 * width / wide * np.exp(-.5 * ((t - o) / wide)**2) for o in own)
        np.testing.assert_allclose(row, plain, atol=1e-4 * len(centres))


def test_spline_against_scipy():
    from scipy.interpolate import BSpline
    knots = np.random.default_rng(0).normal(size=(3, knot_count(20, .7))).astype(np.float32)
    t = np.arange(20 * 50) / 50
    for row, own in zip(spline(knots, .7, len(t), 50), knots, strict=True):
        plain = BSpline(.7 * (np.arange(len(own) + 4) - 3.0), own, 3)(t)
        np.testing.assert_allclose(row, plain, atol=1e-4)


# what is refused --------------------------------------------------------------------------------

@pytest.mark.parametrize("call", [
    lambda: draw_patient(0, -1), lambda: draw_patient(-1, 0), lambda: draw_patient(0, 0, "vf"),
    lambda: simulate([], 1), lambda: simulate(people("af"), 0),
    lambda: simulate(people("af"), 1, 0),
    lambda: simulate(people("af"), 1, np.inf), lambda: simulate(people("af"), 1, 30, 0),
    lambda: simulate(people("af"), 1, 30, 125, np.nan), lambda: Sensors(noise=-1),
    lambda: Sensors(drift=np.nan),
    lambda: simulate(people("af"), 1, 3600, sensors=Sensors(drift=900))])
def test_nonsense_is_refused(call):
    with pytest.raises(RequestError): call()


# the cohort -------------------------------------------------------------------------------------

def test_recordings_of_the_cohort(home):
    cohort = get_cohort("simulated", subjects=5, seconds=40.0, ppg_rate=64.0)
    assert at_hand(cohort) == "made"
    found = list(cohort.recordings(None))
    assert [o.name for o in found] == [f"sim{k:03d}" for k in range(5)]
    for number, recording in enumerate(found):
        assert recording.subject == recording.name and recording.cohort == "simulated"
        assert recording.signal("ecg").samples.shape == (1, 5000)
        assert recording.signal("ppg").samples.shape == (1, 2560)
        assert {o.key for o in cohort.tasks} <= set(recording.labels)
        assert recording.labels["af"] == int(cohort.patient(number).af)
        truth = cohort.simulation(number).truth
        assert recording.labels["heart_rate"] == truth.heart_rate[0]
    again = Simulated(subjects=9, seconds=40.0, ppg_rate=64.0)
    np.testing.assert_array_equal(next(again.recordings()).signal("ppg").samples,
                                  found[0].signal("ppg").samples)


def test_labels_do_not_depend_on_length_or_sensors():
    def of(**options):
        return [(o.labels["rhythm"], o.labels["age"])
                for o in Simulated(subjects=8, **options).recordings()]
    assert of(seconds=20) == of(seconds=45, noise=0, drift=50, ecg_rate=250)


@pytest.mark.parametrize("wrong", [dict(subjects=0), dict(seconds=0), dict(ecg_rate=-1),
                                   dict(noise=-1), dict(seed=-1)])
def test_impossible_cohorts_are_refused(wrong):
    with pytest.raises(BiosslError): list(Simulated(**wrong).recordings())


def macro_f1(features, truth, subjects):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    said = cross_val_predict(model, features, truth, groups=subjects, cv=folds)
    return f1_score(truth, said, average="macro")


@pytest.mark.parametrize("seed", [0, 1])
def test_no_cheap_number_gives_af_away(seed):
    "Mean and sd of the raw signals, or the mean interval, do not tell; irregularity does."
    sim = simulate_windows(150, 4, rate=42, seed=seed)
    both = np.concatenate([sim.ecg, sim.ppg], axis=1)
    raw = np.concatenate([both.mean(-1), both.std(-1)], axis=1)
    rr = np.diff(sim.truth.beats, axis=1)
    mean, sd = np.nanmean(rr, axis=1), np.nanstd(rr, axis=1)
    truth, subjects = sim.truth.af, sim.truth.number
    assert macro_f1(raw, truth, subjects) < 0.70
    assert macro_f1(mean[:, None], truth, subjects) < 0.70
    assert macro_f1(np.stack([mean, sd], 1), truth, subjects) > 0.80
