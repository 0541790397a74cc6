"Where rebuilt beats lie, and whether the controls can tell models apart whose behaviour is known."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.claims import FALLS, OPEN, STANDS, UNRUN
from biossl.evaluation.clocks import clock, clock_check, clock_summary, clocked_pairs, draw_clock
from biossl.evaluation.controls import (Trial, findings_frame, foreign_ecg, foreign_ppg, goes_on,
                                        intact, reads_delay, reversed_ppg, says_mean_delay,
                                        shifted_ppg, unshown)
from biossl.evaluation.readout import (ROWS, Evidence, conclusion, correlation, draw_timing, embedded,
                                       gather, read_outs, settled)
from biossl.evaluation.timing import (UNTRAINED, LongPairs, centred, feet, hidden, place, r_peaks,
                                      skill, skill_within, upslopes, window_means)


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


def test_a_model_that_draws_peaks_everywhere_is_not_believed(pairs):
    "Among many peaks one is always near: recall and skill are perfect, and mean nothing."
    comb = np.zeros((len(pairs), 1, pairs.length))
    comb[..., ::14] = 1.0
    trial = Trial(lambda ppg, ecg, keep: comb[:len(ppg)], pairs, blocks(len(pairs)), resamples=50)
    said = {o.measure: o for o in intact(trial)}
    assert said["recall"].estimate.mean > .99 and said["S"].estimate.mean > .8
    assert not any(o.trusted for o in said.values()) and "false peaks a beat" in str(said["S"])


def test_a_tall_t_wave_where_there_is_one_is_no_false_peak(pairs):
    "The true ECG itself draws nothing false; T waves drawn where nobody has one are."
    t, keep = np.arange(pairs.ecg.shape[-1]) / 100, blocks(len(pairs))
    known = [o[np.isfinite(o)] for o in pairs.beats]
    bare, tall = (np.stack([gaussians(t, o, 0.014) + height * gaussians(t, o + 0.3, 0.03)
                            for o in known])[:, None] for height in (0, 0.7))
    draws = Trial(lambda ppg, ecg, keep: replace(pairs, ecg=tall).cut()[0][:len(ppg)],
                  replace(pairs, ecg=tall), keep, at_once=len(pairs))
    assert draws.placed.recall > .99 and draws.placed.false_rate == 0
    assert replace(draws, pairs=replace(pairs, ecg=bare)).placed.false_rate > 0.8


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


# Read-outs.

def columns(n=240, people=40, seed=0):
    "A truth that is half a person's own, with columns that tell its parts."
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(people), n // people)
    own, change = rng.normal(size=people)[subjects], rng.normal(size=n)
    return own, change, 250 + 40 * (own + change), subjects.astype(str), rng


def test_a_read_out_finds_what_is_there_and_nothing_else():
    own, change, truth, subjects, rng = columns()
    blocks = dict(rate=rng.normal(size=(240, 4)), embedding=np.c_[own, rng.normal(size=(240, 5))],
                  untrained=np.c_[change, rng.normal(size=(240, 5))])
    read = read_outs(blocks, truth, subjects, resamples=300)
    assert set(read.across) == {"heart rate", "embedding", "heart rate + embedding", "untrained",
                                "heart rate + untrained"}
    assert abs(read.across["heart rate"].mean) < 0.15 and abs(read.within["heart rate"].mean) < 0.15
    assert 0.5 < read.across["embedding"].mean < 0.85           # a person's own part, half of it
    assert abs(read.within["embedding"].mean) < 0.2             # which does not change within a person
    assert read.within["untrained"].mean > 0.95
    assert read.difference("heart rate + embedding", "heart rate").low > 0.2
    gap = read.differences([("heart rate + embedding", "embedding"), ("PPG-only", "embedding")])
    assert len(gap) == 1 and gap["low"][0] < 0 < gap["high"][0]
    assert (read.frame().query("kind == 'across'")["people"] == 40).all() and read.windows == 240


def test_noise_is_not_read_with_a_negative_sign():
    # pooled as they are, predictions of noise follow the other folds' mean: r of about -0.3
    r = [read_outs(dict(rate=rng.normal(size=(60, 2))), truth, who, resamples=9).across["heart rate"].mean
         for _, _, truth, who, rng in (columns(60, 10, k) for k in range(12))]
    assert abs(np.mean(r)) < 0.1


def test_correlation_is_that_of_numpy_and_leaves_windows_out():
    own, change, truth, subjects, _ = columns()
    found = correlation(own, truth, subjects, 200)
    assert found.mean == pytest.approx(np.corrcoef(own, truth)[0, 1]) and found.n == 40
    assert np.isnan(correlation(own, np.ones(240), subjects, 20).mean)
    gaps = np.where(np.arange(240) % 3, truth, np.nan)
    assert read_outs(dict(rate=truth[:, None]), gaps, subjects, resamples=9).windows == 160


def test_blocks_that_do_not_fit_are_refused():
    _, _, truth, subjects, _ = columns()
    for blocks in (dict(rate=np.zeros((3, 2))), dict(rate=np.zeros(240)), dict(other=np.zeros((240, 2)))):
        with pytest.raises(RequestError): read_outs(blocks, truth, subjects)
    read = read_outs(dict(rate=truth[:, None]), truth, subjects, resamples=9)
    with pytest.raises(RequestError, match="embedding"): read.difference("heart rate", "embedding")


# Clocks.

def walk(n=500, spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return np.cumsum(0.8 * (1 + spread * rng.normal(size=n))), rng


@pytest.mark.parametrize("lag, reason", [(0.3, ""), (-0.12, "before R"), (0.62, "above 500 ms"),
                                         (1.15, "above 500 ms")])
def test_an_uneven_rhythm_tells_the_lag(lag, reason):
    beats, rng = walk()
    found = clock(beats[rng.random(500) > 0.05], beats + lag + 0.01 * rng.normal(size=500))
    assert found.told and found.median == pytest.approx(1e3 * lag, abs=4) and found.reason == reason
    assert found.followed > 0.9 and found.sd == pytest.approx(10, abs=2)


def test_an_even_rhythm_leaves_the_choice_to_what_is_usual():
    beats, rng = walk(spread=0.001)
    found = [clock(beats, beats + 0.3, usual) for usual in (0.25, 1.0)]
    assert not found[0].told and [round(o.median, -1) for o in found] == [300, 1100]


def test_drift_and_pulses_that_do_not_follow():
    beats, rng = walk(seed=3)
    assert clock(beats, beats * (1 + 5e-5) + 0.3).drift == pytest.approx(3, abs=0.1)    # ms a minute
    assert clock(beats, np.sort(rng.uniform(0, beats[-1], 500))).reason == "pulses do not follow beats"
    assert clock(beats, beats[:4]).reason == "no beats, or no pulses"


class Packed:
    "As much of packed windows as the clock check reads."
    def __init__(self, pairs, recordings, crest):
        self.arrays = dict(ecg=pairs.ecg, ppg=pairs.ppg, ecg_beats=pairs.beats[:, None],
                           ppg_beats=(pairs.beats + crest)[:, None])
        self.index = pd.DataFrame(dict(recording=recordings, subject=pairs.subjects,
                                       start=np.arange(len(pairs)) * 30.0))
        self.windowing = type("Windowing", (), dict(seconds=30.0))


def test_the_clock_check_reads_windows_and_hands_over_its_lags():
    pairs, truth = made_pairs(people=4, each=3, irregular=0.1, seconds=30.0)
    pairs.beats[pairs.beats > 29] = np.nan
    recordings = np.array([f"r{k}" for k in range(12)])
    windows = Packed(pairs, recordings, truth[:, None] + 0.13)
    checked = clock_check(windows)
    assert checked["median"].to_numpy() == pytest.approx(1e3 * (truth + 0.07), abs=8)
    assert (checked["subject"] == pairs.subjects).all()
    assert checked["foot"].between(checked["median"] - 350, checked["median"] - 50).all()
    told = clock_summary(checked)
    assert told["recordings"] == 12 and told["followed"] == 12 and told["plausible"] + told.get(
        "rejected: above 500 ms", 0) == 12
    half = clocked_pairs(windows, checked[:6], seconds=28.0)
    assert len(half) == 6 and half.lag == pytest.approx(checked["median"][:6] / 1e3)
    assert np.nanmean(half.arrival, 1) == pytest.approx(half.lag, abs=5e-3)
    assert draw_clock(checked).axes
    with pytest.raises(RequestError): clocked_pairs(windows, checked.assign(recording=checked["recording"] + "x"))


# What it comes to.

@pytest.fixture(scope="module")
def evidence(trials):
    _, _, truth, subjects, rng = columns(72, 24)
    blocks = {o: rng.normal(size=(72, 3)) for names in ROWS.values() for o in names}
    read = read_outs(blocks, truth, subjects, resamples=50)
    return {name: gather([o, unshown(o)], read) for name, o in trials.items()}


def test_skill_may_be_asked_within_people_where_monitors_add_delays_of_their_own(trials):
    "A delay of each monitor's own makes any model that stays near its beats look skilled."
    trial = trials["mean"]
    late = trial.pairs.arrival + np.unique(trial.pairs.subjects, return_inverse=True)[1][:, None] * .3
    error, delay = window_means(trial.placed, late)
    assert skill(error, delay, trial.pairs.subjects, 20).mean > .9
    assert skill_within(error, delay, trial.pairs.subjects, 20).mean < .2
    asked = gather([trial, unshown(trial)], skill="S within people")
    assert {o.measure for o in asked.skills.values()} == {"S within people"}


def test_each_model_gets_the_verdict_it_deserves(evidence):
    verdicts = {name: [s.verdict for s in settled(o)[:2]] for name, o in evidence.items()}
    assert verdicts["reads"] == [STANDS, FALLS] and verdicts["mean"] == [FALLS, FALLS]
    assert verdicts["rhythm"][1] == UNTRAINED
    assert "measured in the visible block" in conclusion(evidence["reads"])
    assert "not measured" in conclusion(evidence["mean"])


def test_a_steady_rhythm_is_not_taken_for_a_measurement(steady):
    found = gather([steady, unshown(steady)])
    assert found.block.trusted and found.block.estimate.interval[0] > 0     # S alone would say so
    assert [o.verdict for o in settled(found)] == [FALLS, UNTRAINED, UNRUN]


def test_no_verdict_without_rebuilt_beats(trials):
    flat = Trial(lambda p, e, k: 0 * e, trials["mean"].pairs, trials["mean"].keep, 50)
    found = gather([flat, unshown(flat)])
    assert [o.verdict for o in settled(found)][:2] == [UNTRAINED] * 2
    assert conclusion(found).startswith("Not interpretable") and "80%" in conclusion(found)
    assert {o.verdict for o in settled(Evidence({}, {}))} == {UNRUN}


def test_the_embedding_has_to_exceed_everything_cheaper():
    own, change, truth, subjects, rng = columns()
    noise = lambda: rng.normal(size=(240, 2))       # noqa: E731
    good = np.c_[own, change]
    tell = lambda **o: embedded(Evidence({}, {}, None, read_outs(     # noqa: E731
        dict(rate=noise(), features=noise(), ppg_only=noise(), embedding=good) | o, truth, subjects,
        resamples=200))).verdict
    assert tell() == STANDS
    assert tell(ppg_only=good) == OPEN and tell(embedding=noise(), features=good) == FALLS
    assert tell(embedding=own[:, None]) != STANDS                  # it does not follow a person's changes


def test_the_figure_draws_whatever_there_is(evidence):
    for one in (*evidence.values(), Evidence({}, {})):
        axes = draw_timing(one, "made up").axes
        assert len(axes) == 3 and all(o.get_xlabel() for o in axes)
    words = [o.get_text() for o in draw_timing(evidence["rhythm"]).axes[0].texts]
    assert any(UNTRAINED in o for o in words)


def test_skill_within_takes_each_persons_mean_off():
    rng = np.random.default_rng(0)
    people, delay = np.repeat(np.arange(20), 5), rng.normal(size=100)
    error = delay - delay + np.repeat(rng.normal(size=20), 5)
    assert skill(error, delay, people, 20).mean < 0.5
    assert skill_within(error, delay, people, 20).mean == pytest.approx(1)
    x = centred(np.where(np.arange(100) == 3, np.nan, delay), people)
    assert np.isnan(x[3]) and np.nanmean(x[:5]) == pytest.approx(0)
