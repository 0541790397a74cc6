"Where rebuilt beats lie, and whether the controls can tell models apart whose behaviour is known."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.timing import (LongPairs, Trial, feet, findings_frame, foreign_ecg, foreign_ppg,
                                      goes_on, hidden, intact, place, r_peaks, reads_delay,
                                      reversed_ppg, says_mean_delay, shifted_ppg, skill, unshown,
                                      upslopes)


def gaussians(t, centres, width, height=1.0):
    return height * np.exp(-0.5 * ((t - np.asarray(centres)[:, None]) / width)**2).sum(0)


def made_pairs(people=24, each=6, irregular=0.04, seed=0, seconds=11.0):
    "LongPairs whose delay is independent of heart rate and pulse shape; `truth (N,)` in s beside."
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * 100)) / 100
    ecg, ppg, beats, truth = [], [], [], []
    for _ in range(people * each):
        rr, delay = 60 / rng.uniform(55, 100), np.clip(0.25 + 0.05 * rng.normal(), 0.12, 0.42)
        x = np.cumsum(rr * (1 + irregular * rng.normal(size=40))) - 2
        late = x + delay + 0.005 * rng.normal(size=40)
        waves = (0, 0.014, 1), (-0.03, 0.012, -0.15), (0.03, 0.012, -0.2), (-0.16, 0.025, 0.12), \
            (0.28 * rr**0.5, 0.045, 0.25)
        ecg.append(sum(gaussians(t, x + a, w, h) for a, w, h in waves) + 0.02 * rng.normal(size=len(t)))
        ppg.append(gaussians(t, late + 0.13, 0.06) + gaussians(t, late + 0.36, 0.1, 0.45)
                   + 0.01 * rng.normal(size=len(t)))
        inside = x[(x > 0) & (x < seconds)]
        beats.append(np.append(inside, np.full(40 - len(inside), np.nan)))
        truth.append(delay)
    subjects = np.repeat([f"p{k:03d}" for k in range(people)], each)
    return LongPairs(np.array(ecg)[:, None], np.array(ppg)[:, None], np.array(beats), subjects), np.array(truth)


def blocks(n, shown=5, patches=25, seed=0):
    start = np.random.default_rng(seed).integers(0, patches - shown + 1, n)
    return start[:, None] + np.arange(shown)


@pytest.fixture(scope="module")
def pairs(): return made_pairs()[0]


@given(at=st.floats(0.2, 3.7), width=st.floats(0.012, 0.05))
@settings(deadline=None, max_examples=40)
def test_a_peak_is_found_between_samples(at, width):
    x = gaussians(np.arange(400) / 100, [at], width)[None]
    assert abs(r_peaks(x, 100)[0, 0] - at) < 1e-3


@given(shift=st.floats(-0.02, 0.02))
@settings(deadline=None, max_examples=20)
def test_foot_and_upslope_move_with_the_pulse(shift):
    t, beats = np.arange(500) / 100, np.array([[0.5, 1.4, 2.3, 3.2]])
    pulse = lambda later: (gaussians(t, beats[0] + 0.38 + later, 0.06)      # noqa: E731
                           + gaussians(t, beats[0] + 0.61 + later, 0.1, 0.45))[None]
    at, moved = (upslopes(pulse(o), beats, 100) for o in (0, shift))
    assert np.abs(at[0] - beats[0] - 0.32).max() < 2e-3
    assert np.abs(moved - at - shift).max() < 1.5e-3
    low, moved_low = feet(pulse(0), at, 100), feet(pulse(shift), moved, 100)
    assert (low < at - 0.08)[0, 1:].all() and np.isnan(low[0, 0])     # before the first all is flat
    assert np.abs(moved_low - low - shift)[0, 1:].max() < 4e-3


def test_a_beat_without_a_pulse_has_no_arrival():
    t, beats = np.arange(600) / 100, np.array([[0.5, 1.4, 2.3, 3.2, 4.1, np.nan]])
    x = gaussians(t, beats[0, [0, 1, 3, 4]] + 0.38, 0.06)[None]
    found = np.isfinite(upslopes(x + 1e-3 * np.sin(t * 40), beats, 100))
    assert found.tolist() == [[True, True, False, True, True, False]]


def test_arrival_of_the_generator_is_measured_at_100_Hz():
    made, truth = made_pairs(people=10)
    measured = np.nanmean(made.arrival, axis=1)
    error = measured - truth
    assert abs(error.mean() - 0.07) < 3e-3 and error.std() < 4e-3   # steepest 1 sd before the crest


def test_places_equal_a_loop_over_beats():
    made, _ = made_pairs(people=3, each=4, irregular=0.15, seed=5)
    rng = np.random.default_rng(1)
    t, keep = np.arange(1000) / 100, blocks(12, seed=3)
    rebuilt = np.stack([gaussians(t, row[np.isfinite(row)][::2 if k % 3 else 1]
                                  + 0.05 * rng.normal(), 0.014) for k, row in enumerate(made.own)])
    rebuilt += 0.6 * (rng.random(rebuilt.shape) < 0.003)
    placed = place(rebuilt[:, None], made.own, keep)
    for k in range(12):
        times, peaks = (o[np.isfinite(o)] for o in (made.own[k], r_peaks(rebuilt[k:k + 1], 100)[0]))
        open_ = lambda s, k=k: 0.6 <= s <= 9.4 and int(s / 0.4) not in keep[k]      # noqa: E731
        false = [p for p in peaks if open_(p) and np.abs(times - p).min() > 0.15]
        assert placed.false[k] == len(false) and placed.found[k] == sum(map(open_, peaks))
        for j, r in enumerate(made.own[k]):
            assert placed.asked[k, j] == (np.isfinite(r) and open_(r))
            if not placed.asked[k, j]: continue
            gap = peaks[np.abs(peaks - r).argmin()] - r
            beside = min(abs(o - r) for o in times if o != r)
            assert placed.gap[k, j] == pytest.approx(gap)
            assert placed.hit[k, j] == (abs(gap) <= 0.15)
            assert np.isfinite(placed.error[k, j]) == (abs(gap) <= 0.4 * beside)


def test_a_flat_rebuilt_line_with_ripples_has_no_beats(pairs):
    ripples = 0.05 * np.sin(np.arange(1000) * 0.5) * np.ones((len(pairs), 1, 1))
    placed = place(ripples, pairs.own, np.zeros((len(pairs), 0), int))
    assert placed.recall == 0 and not placed.found.any()
    assert place(20 * ripples, pairs.own, blocks(len(pairs))).recall > 0.9   # relative height would do so


def test_chance_recall_and_spread_are_what_random_beats_reach(pairs):
    rng, t = np.random.default_rng(0), np.arange(1000) / 100
    random = np.stack([gaussians(t, rng.uniform(0, rr) + rr * np.arange(-1, 25), 0.014)
                       for rr in pairs.interval])[:, None]
    placed = place(2 * random - 1, pairs.own, blocks(len(pairs)))
    assert placed.recall == pytest.approx(placed.chance_recall, abs=0.06)
    # as many phases lie within the gate of ± 0.4 RR as not beyond it, evenly
    assert np.nanstd(placed.error) == pytest.approx(placed.chance_spread, rel=0.12)


def test_the_interval_of_skill_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(25), 6)
    delay = 0.04 * rng.normal(size=25)[people] + 0.02 * rng.normal(size=150)
    error = 0.5 * delay + 0.01 * rng.normal(size=150)
    error[4] = np.nan
    found = skill(error, delay, people, 2000)
    known = np.isfinite(error)
    assert found.mean == pytest.approx(1 - error[known].var() / delay[known].var())
    draws = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(known & (people == p)) for p in rng.choice(25, 25)])
        draws.append(1 - error[rows].var() / delay[rows].var())
    assert found.interval == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.03)


@pytest.mark.parametrize("change, field", [
    (dict(ppg=np.zeros((3, 1, 1000))), "ecg"), (dict(ecg=np.zeros((3, 1, 900)), ppg=np.zeros((3, 1, 900))), "ecg"),
    (dict(beats=np.zeros((2, 5))), "beats"), (dict(subjects=np.zeros(4)), "beats")])
def test_pairs_that_do_not_fit_are_refused(change, field):
    good = dict(ecg=np.zeros((3, 1, 1100)), ppg=np.zeros((3, 1, 1100)), beats=np.zeros((3, 5)),
                subjects=np.arange(3))
    LongPairs(**good)
    with pytest.raises(RequestError) as told: LongPairs(**good | change)
    assert told.value.field == field


def test_a_cut_never_wraps(pairs):
    few = pairs.take(np.arange(5))
    ecg, ppg = few.cut()
    same, later = few.cut(0.2)
    assert np.array_equal(ecg, same) and ppg.min() == -1 and ppg.max() == 1
    raw = few.ppg[:, :, 30:1030]
    assert np.allclose(later, 2 * (raw - raw.min(-1, keepdims=True)) / np.ptp(raw, axis=-1)[..., None] - 1,
                       atol=1e-5)
    with pytest.raises(RequestError): few.cut(0.6)


# Three models whose behaviour is known, and what the controls must say of each.

@pytest.fixture(scope="module")
def trials():
    made, _ = made_pairs(24, 3)
    delay, keep = np.nanmean(made.arrival), blocks(len(made))
    models = dict(mean=says_mean_delay(delay), rhythm=goes_on(), reads=reads_delay(delay))
    return {name: Trial(model, made, keep, 200) for name, model in models.items()}


@pytest.fixture(scope="module")
def steady():
    made, _ = made_pairs(16, 2, irregular=0.005, seed=2)
    return Trial(goes_on(), made, blocks(len(made)), 200)


def number(findings, measure): return next(o for o in findings if o.measure == measure)


def value(findings, measure): return number(findings, measure).estimate.mean


def test_skill_tells_reading_from_saying_the_usual(trials):
    told = {name: number(intact(o), "S") for name, o in trials.items()}
    assert abs(told["mean"].estimate.mean) < 0.05 and told["reads"].estimate.mean > 0.95
    assert told["rhythm"].estimate.mean < 0                    # RR varies by 4 %: it drifts away
    assert told["mean"].trusted and told["reads"].trusted


def test_on_a_steady_rhythm_skill_alone_would_mislead(steady):
    assert value(intact(steady), "S") > 0.5                    # and it has not looked at the PPG
    assert value(foreign_ppg(steady), "recall, change") == 0   # which this control shows


def test_rebuilt_beats_follow_a_shifted_pulse_only_without_measurement(trials, steady):
    slope = lambda o: value(shifted_ppg(o), "slope of e on the shift")     # noqa: E731
    assert slope(trials["mean"]) == pytest.approx(1, abs=0.02)
    assert slope(trials["reads"]) == pytest.approx(0, abs=0.02)
    assert slope(steady) == pytest.approx(0, abs=0.02)
    for name in ("mean", "reads"): assert slope(unshown(trials[name])) == pytest.approx(1, abs=0.02)


def test_with_nothing_shown_nobody_knows_the_delay(trials):
    for name in ("mean", "reads"):
        told = intact(unshown(trials[name]), "C2")
        assert value(told, "recall") > 0.99 and abs(value(told, "S")) < 0.05
        assert value(told, "sd of e, ms") == pytest.approx(value(told, "sd of PAT, ms"), rel=0.03)
    rhythm = intact(unshown(trials["rhythm"]), "C2")
    assert value(rhythm, "recall") == 0 and not number(rhythm, "S").trusted
    assert "not interpretable" in str(number(rhythm, "S"))


def test_a_foreign_block_moves_those_who_read_it(trials, steady):
    mean, reads, rhythm = (foreign_ecg(o) for o in (trials["mean"], trials["reads"], steady))
    slope, own = "slope of e on the block's phase", "recall of own beats"
    assert abs(value(mean, slope)) < 0.3 and value(mean, own) > 0.95
    assert value(reads, slope) == pytest.approx(1, abs=0.1)
    assert value(rhythm, "recall of the block's beats") > 0.95 > value(rhythm, own)
    scatter = "sd of e in a window, ms"
    assert value(rhythm, scatter) > 3 * value(reads, scatter)     # the distances are not the pulses'


def test_a_foreign_pulse_takes_beats_along(trials):
    for name in ("mean", "reads"):
        told = foreign_ppg(trials[name])
        assert value(told, "recall") == pytest.approx(value(told, "chance recall"), abs=0.1)
        assert number(told, "recall, change").estimate.interval[1] < -0.4
    assert value(foreign_ppg(trials["mean"]), "recall of the PPG's beats") > 0.95
    assert value(foreign_ppg(trials["rhythm"]), "recall, change") == 0


def test_a_reversed_pulse_misleads_only_where_the_rhythm_is_irregular(trials):
    made, _ = made_pairs(16, 2, irregular=0.15, seed=4)
    uneven = Trial(trials["reads"].rebuild, made, blocks(len(made)), 200)
    assert value(reversed_ppg(trials["mean"]), "recall, change") < -0.4
    assert value(reversed_ppg(uneven), "recall, change") < -0.25
    assert value(reversed_ppg(trials["reads"]), "recall, change") > -0.15   # mirrored pulses still beat


def test_findings_read_and_stack(trials):
    told = intact(trials["mean"])
    frame = findings_frame(told)
    assert frame["measure"].is_unique and (frame["people"] == 24).all() and (frame["verdict"] == "").all()
    row = frame.set_index("measure").loc["S"]
    assert row["low"] <= row["estimate"] <= row["high"] and "72 windows of 24 people" in str(number(told, "S"))


def test_a_model_may_answer_with_tensors_in_parts(trials):
    import torch
    arrays = trials["mean"].take(np.arange(9))
    tensors = Trial(lambda *o: torch.tensor(arrays.rebuild(*o), requires_grad=True), arrays.pairs,
                    torch.tensor(arrays.keep), at_once=4)
    assert np.array_equal(tensors.rebuilt, arrays.rebuilt)
    shown = np.repeat(~hidden(arrays.keep), 40, axis=1)
    assert np.array_equal(arrays.rebuilt[:, 0][shown], arrays.pairs.cut()[0][:, 0][shown])


@pytest.mark.parametrize("answer", [lambda p, e, k: e[..., :-1], lambda p, e, k: e * np.nan])
def test_a_faulty_answer_is_refused(trials, answer):
    faulty = Trial(answer, trials["mean"].pairs, trials["mean"].keep)
    with pytest.raises(MethodError): intact(faulty)


def test_one_person_alone_has_no_partner(trials):
    alone = trials["mean"].take(np.arange(3))
    for control in (foreign_ecg, foreign_ppg):
        with pytest.raises(RequestError): control(alone)
    with pytest.raises(RequestError): Trial(alone.rebuild, alone.pairs, alone.keep[:2])
