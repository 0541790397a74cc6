"""People who move: hearts that lag, one body under two sensors, and no constant that tells."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import get_cohort
from biossl.data.errors import CohortError, RequestError
from biossl.data.simulate_activity import (ACTIVITIES, BODY_RATE, EIGHT, THREE, Bout, Wear, draw_mover,
                                           draw_plan, felt, follow, heart_rate, simulate_activity,
                                           target)
from biossl.data.store import Windowing, pack

STILL, MOVED = Wear(0, 0, 0), Wear(0, 1, 0)


def one(activity, seconds=120.0):
    return (Bout(activity, 0.0, seconds),)


# ---- what they do ------------------------------------------------------------------------------

@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([THREE, EIGHT, ("walk",)]), st.floats(1, 8))
def test_a_plan_holds_every_activity_once_and_no_hole(number, activities, stretch):
    seconds = 20 * len(activities) * stretch
    plan = draw_plan(3, number, seconds, activities)
    assert sorted(o.activity for o in plan[::2]) == sorted(activities)
    assert {o.activity for o in plan[1::2]} <= {"transient"}
    assert plan[0].start == 0 and plan[-1].end == seconds
    assert all(a.end == b.start for a, b in zip(plan, plan[1:]))
    lengths = np.array([o.end - o.start for o in plan])
    assert lengths.min() > 0 and lengths[::2].min() > lengths[1::2].max(initial=0)


def test_orders_are_peoples_own():
    orders = [tuple(o.activity for o in draw_plan(0, k, 300)[::2]) for k in range(60)]
    assert len(set(orders)) == 6 and max(map(orders.count, orders)) < 25


@pytest.mark.parametrize("wrong", [dict(seconds=10.0), dict(activities=()),
                                   dict(activities=("sit", "wlak"))])
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(RequestError): draw_plan(0, 0, **dict(dict(seconds=300.0), **wrong))


@pytest.mark.parametrize("plan", [(), (Bout("sit", 1, 30),), (Bout("sit", 0, 9), Bout("run", 8, 30))])
def test_bouts_must_follow_each_other(plan):
    with pytest.raises(RequestError, match="follow"): simulate_activity(draw_mover(0, 0), plan)


# ---- heart and breath --------------------------------------------------------------------------

@pytest.mark.parametrize("number", range(4))
def test_the_heart_rate_is_the_solution_of_its_equation(number):
    "Euler's steps of dh/dt = (goal - h) / tau, tau by direction."
    mover, plan, step = draw_mover(1, number), draw_plan(1, number, 240, EIGHT), 0.01
    t, h, found = np.arange(0, 240, step), mover.rest, []
    goals = [target(mover, next(o for o in plan if x < o.end)) for x in t + 1e-9]
    for goal in goals:
        found.append(h)
        h += step * (goal - h) / (mover.rise if goal > h else mover.fall)
    np.testing.assert_allclose(heart_rate(mover, plan, t), found, atol=0.2)


@pytest.mark.parametrize("rise, fall", [(15.0, 90.0), (40.0, 25.0)])
def test_beats_show_the_time_constants_that_were_asked_for(rise, fall):
    mover = replace(draw_mover(0, 5), rise=rise, fall=fall)
    plan = Bout("run", 0.0, 300.0), Bout("sit", 300.0, 800.0)
    beats = simulate_activity(mover, plan, wear=STILL).beats
    t, rate = (beats[1:] + beats[:-1]) / 2, 60 / np.diff(beats)
    for start, end, tau in ((0, 300, rise), (300, 800, fall)):
        inside = (t > start) & (t < end)
        last = np.median(rate[inside & (t > end - 60)])
        first = mover.rest if not start else np.median(rate[(t > 260) & (t < 300)])
        gone = (rate[inside] - first) / (last - first)
        nearest = np.argsort(np.abs(gone - (1 - np.exp(-1))))[:9]
        assert 0.75 < np.median(t[inside][nearest] - start) / tau < 1.33


def test_the_fit_work_less_for_the_same():
    easy, hard = (replace(draw_mover(0, 1), fitness=o) for o in (0.9, 0.1))
    assert all(target(easy, o) < target(hard, o) for o in (Bout("walk", 0, 9), Bout("run", 0, 9)))


def swing(mover, plan, start):
    "Amplitude of the beat intervals' oscillation with the breath, as a share of their mean."
    made = simulate_activity(mover, plan, wear=STILL)
    r, t = np.diff(made.beats), made.beats[1:]
    inside = t > start
    r, t = r[inside] / r[inside].mean(), t[inside]
    turn = 2 * np.pi * np.interp(t, made.course.t, made.course.breaths)
    basis = np.stack([np.sin(turn), np.cos(turn), np.ones_like(t), t], 1)
    return np.hypot(*np.linalg.lstsq(basis, r, rcond=None)[0][:2])


def test_the_breath_quickens_with_effort_and_leaves_the_heart_alone():
    people = [draw_mover(2, k) for k in range(6)]
    rest, run = (np.mean([swing(o, one(a, 400.0), 200) for o in people]) for a in ("sit", "run"))
    assert rest > 3 * run and rest > 0.008
    for mover in people:
        still, fast = (np.gradient(follow(mover, one(o, 400.0), 400).breaths)[-500:].mean()
                       for o in ("sit", "run"))
        assert fast > 1.4 * still


# ---- one body ----------------------------------------------------------------------------------

def coherence(x, y, at):
    from scipy.signal import coherence as squared
    f, c = squared(x, y, 125, nperseg=1024)
    return c[np.abs(f - at).argmin()]


def cadence(mover, activity): return mover.stride * ACTIVITIES[activity].cadence


def artefacts(mover, plan):
    "What the body adds to the ECG and to the PPG."
    moved, still = (simulate_activity(mover, plan, wear=o) for o in (MOVED, STILL))
    return moved.ecg[0] - still.ecg[0], moved.ppg[0] - still.ppg[0]


@pytest.mark.parametrize("activity", ["walk", "run"])
def test_both_sensors_feel_one_body(activity):
    people = [draw_mover(4, k) for k in range(3)]
    added = [artefacts(o, one(activity)) for o in people]
    for k, mover in enumerate(people):
        at = cadence(mover, activity)
        assert coherence(*added[k], at) > 0.9
        assert coherence(added[k][0], added[k - 1][1], at) < 0.6


def test_what_is_common_at_the_cadence_goes_with_the_motion():
    "Of whole signals, hearts and noise included; two artefacts alone would be common by definition."
    mover = draw_mover(4, 1)
    common = [coherence(made.ecg[0], made.ppg[0], cadence(mover, "run")) for made in (
        simulate_activity(mover, one("run", 240.0), wear=Wear(motion=o)) for o in (1, 0))]
    assert common[0] > 0.8 and common[1] < 0.3


def test_without_motion_the_sensors_are_on_a_body_that_lies():
    mover, plan = draw_mover(4, 1), one("run", 40.0)
    deaf = replace(mover, ecg_gain=0.0, ppg_gain=0.0, muscle=0.0)
    a, b = simulate_activity(mover, plan, wear=Wear(motion=0)), simulate_activity(deaf, plan)
    np.testing.assert_array_equal(a.ecg, b.ecg)
    np.testing.assert_array_equal(a.ppg, b.ppg)


def test_the_accelerometer_wears_gravity_and_the_same_body():
    mover, plan = draw_mover(4, 2), one("walk")
    acc, ppg = simulate_activity(mover, plan, wear=MOVED).acc, artefacts(mover, plan)[1]
    down = acc.mean(1)
    assert abs(np.linalg.norm(down) - 1) < 0.05
    t = np.arange(len(ppg)) / 125
    along = np.interp(t, np.arange(acc.shape[1]) / 32, down @ acc)
    assert coherence(along, ppg, cadence(mover, "walk")) > 0.9


@pytest.mark.parametrize("late, cutoff", [(0.0, 3.0), (0.1, 5.0)])
def test_a_sensor_is_late_and_deaf_to_what_is_fast(late, cutoff):
    t = np.arange(3000) / BODY_RATE
    for f in (0.2, cutoff, 12.0):
        y = felt(np.sin(2 * np.pi * f * t), late, cutoff, 125.0, 3750)[1250:]
        share = np.sqrt(2) * y.std()
        assert abs(share - 1 / np.hypot(1, f / cutoff)) < 0.12
    slow = felt(np.sin(2 * np.pi * 0.2 * t), late, cutoff, BODY_RATE, 3000)
    lag = np.angle(np.vdot(np.exp(2j * np.pi * 0.2 * t[1000:]), slow[1000:])) + np.pi / 2
    assert abs(-lag / (2 * np.pi * 0.2) - late - 1 / (2 * np.pi * cutoff)) < 0.02


@pytest.mark.parametrize("wrong", [dict(noise=-1), dict(motion=np.nan), dict(wander=np.inf)])
def test_disturbances_are_multiples(wrong):
    with pytest.raises(RequestError, match=next(iter(wrong))): Wear(**wrong)


# ---- the same, and not the same ----------------------------------------------------------------

def test_a_person_is_the_same_in_any_company():
    few, many = ([r for r in get_cohort("simulated_activity", subjects=n, seconds=70.0).recordings()]
                 for n in (2, 4))
    for a, b in zip(few, many):
        assert a.name == b.name and a.intervals == b.intervals
        for key in ("ecg", "ppg", "acc"):
            np.testing.assert_array_equal(a.signal(key).samples, b.signal(key).samples)


def test_people_and_populations_differ():
    made = [simulate_activity(draw_mover(s, k), one("walk", 30.0)) for s, k in ((0, 0), (0, 1), (1, 0))]
    for i in range(3):
        for key in ("ecg", "ppg", "acc"):
            a, b = (getattr(made[j], key) for j in (i, i - 1))
            assert not np.allclose(a, b, rtol=0.05)


def test_hearts_do_not_hear_of_sensors():
    mover, plan = draw_mover(0, 9), draw_plan(0, 9, 90)
    a, b = (simulate_activity(mover, plan, rate, rate, wear=o)
            for rate, o in ((125.0, Wear()), (64.0, Wear(2, 0, 3))))
    np.testing.assert_array_equal(a.beats, b.beats)
    np.testing.assert_array_equal(a.pulses, b.pulses)


def test_found_beats_are_those_put_in_though_the_body_moves():
    from biossl.data.signals import beats
    made = simulate_activity(draw_mover(0, 0), draw_plan(0, 0, 180))
    found = np.asarray(beats(made.ecg[0], 125.0, "ecg"))
    near = np.abs(found[:, None] - made.beats[None]).min(1) < 0.06
    assert near.mean() > 0.95 and abs(len(found) / len(made.beats) - 1) < 0.05


# ---- the cohort --------------------------------------------------------------------------------

def windows_of(**options):
    cohort = get_cohort("simulated_activity", **options)
    both = (("ecg", 64.0), ("ppg", 64.0))
    return cohort, pack(cohort, Windowing(signals=both, seconds=8, hop=8))


def f1(x, y, groups):
    "Macro-F1 of logistic regression on people it was not fitted on."
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    said = cross_val_predict(model, x, y, groups=groups, cv=GroupKFold(5))
    return f1_score(y, said, average="macro")


def heart_and_cadence(windows, rows):
    "The median interval of the ECG's beats, and the log power of each signal in eight bands."
    with np.errstate(all="ignore"):
        r = np.nanmedian(np.diff(windows.arrays["ecg_beats"][rows, 0], axis=1), axis=1)
    columns = [60 / np.nan_to_num(r, nan=0.7)]
    for key in ("ecg", "ppg"):
        x = windows.arrays[key][rows, 0] * np.hanning(512)
        power = np.abs(np.fft.rfft(x, axis=1))**2
        columns += [np.log(part.sum(1)) for part in np.split(power[:, 4:36], 8, axis=1)]
    return np.stack(columns, 1)


def test_no_constant_tells_three_activities_but_heart_and_cadence_do(home):
    cohort, windows = windows_of(subjects=30, seconds=200.0)
    truth = windows.labels("activity")
    rows = np.flatnonzero([o in THREE for o in truth])
    y, people = truth[rows].astype(str), windows.labels("subject")[rows].astype(str)
    moments = {k: windows.arrays[f"{k}_moments"][rows, 0].astype(float) for k in ("ecg", "ppg")}
    both = np.concatenate([*moments.values(), np.log([o[:, 1] for o in moments.values()]).T], 1)
    scaled = np.concatenate([[o.mean(-1), o.std(-1)] for o in (
        windows.arrays[k][rows, 0].astype(float) for k in ("ecg", "ppg"))]).T
    simple = [f1(o, y, people) for o in (*moments.values(), both, scaled)]
    assert max(simple) < 0.5
    assert f1(heart_and_cadence(windows, rows), y, people) > max(0.5, max(simple) + 0.1)


def test_a_day_has_nine_classes_eight_and_two(home):
    cohort, windows = windows_of(activities="eight", subjects=3, seconds=480.0)
    told = {o.name: o for o in cohort.tasks}
    assert {k: len(o.classes) for k, o in told.items()} == dict(activity=9, activity_eight=8, exercise=2)
    there = windows.labels("activity")
    assert {o for o in there if o is not None} == set(told["activity"].classes)
    exercise = windows.labels("exercise")
    for name, flag in zip(there, exercise):
        if name in ("walk", "stairs", "soccer", "cycle"): assert flag == 1
        if name in ("sit", "drive", "lunch", "work"): assert flag == 0
        if name == "transient": assert flag != flag


def test_only_pure_windows_have_a_label(home):
    cohort, windows = windows_of(subjects=4, seconds=120.0)
    plans = {o.name: o.intervals for o in cohort.recordings()}
    for name, start, told in zip(*(windows.labels(o) for o in ("recording", "start", "activity"))):
        inside = {o.value for o in plans[name] if o.start < start + 8 and o.end > start}
        assert told == (inside.pop() if len(inside) == 1 else None)


@pytest.mark.parametrize("wrong", [dict(activities="nine"), dict(subjects=0)])
def test_a_cohort_that_cannot_be_is_refused(wrong):
    with pytest.raises(CohortError, match="|".join(wrong)): get_cohort("simulated_activity", **wrong)
