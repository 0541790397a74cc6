"""Verdicts, calibration, what is read from embeddings and warps: against plain second computations."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import get_cohort
from biossl.data.errors import MethodError, RequestError
from biossl.data.store import Windowing, pack
from biossl.evaluation.alignment import (arrival_times, clock_errors, follows, moves, read_warps,
                                         relative_shifts, tested_warps, undoes)
from biossl.evaluation.anatomy import anatomy, draw
from biossl.evaluation.calibration import calibration_error, reliability
from biossl.evaluation.claims import (FALLS, OPEN, STANDS, UNRUN, Results, at_chance, exceeds, means,
                                      resolution, share_of_gain, stored_results, verdict)
from biossl.evaluation.knowledge import beat_targets, explained, learned, opened, runs_of
from biossl.evaluation.statistics import (Answers, Difference, Estimate, Resamples, detectable_difference,
                                          resample_answers)
from biossl.evaluation.tables import Row, Table, save
from biossl.methods.contract import get_method
from biossl.nn.layers import parameters
from biossl.train.profiles import get_profile

PPG = (("signals", ("ppg",)),)
BRIEF = Windowing(seconds=10, hop=30)
TABLE = Table("table9", "99_test", "A test", "af", metrics=("f1_macro", "auroc", "brier"),
              versus="Chance", brief=BRIEF,
              rows=(Row("Chance", "chance", penalties=(1.0,)),
                    Row("Pulse", "clinical", PPG, penalties=(1.0,)),
                    Row("Pulse again", "clinical", PPG, penalties=(1.0,)),
                    Row("Network", "tsta", (("site", "input"), ("depth", 1), ("hidden", 16)))))


def answers(seed=0, subjects=12, windows=10):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(subjects) % 2, windows)
    p = 1 / (1 + np.exp(-(2 * truth - 1 + 2 * rng.normal(size=len(truth)))))
    who = np.repeat([f"p{k:02d}" for k in range(subjects)], windows)
    return Answers(truth, np.stack([1 - p, p], 1), who, ("0", "1"))


def replicated(answers, weights, subjects):
    "The answers with each subject's windows as often as drawn: the bootstrap, spelled out."
    rows = np.concatenate([np.flatnonzero(answers.subjects == name)
                           for name, n in zip(subjects, weights) for _ in range(n)])
    return Answers(answers.truth[rows], answers.scores[rows], answers.subjects[rows], answers.classes)


# ---- verdicts --------------------------------------------------------------------------------

@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_verdict_turns_over_with_the_sides(value, below, above):
    one = Difference(value, value - below, value + above, 0.5)
    other = Difference(-value, -one.high, -one.low, 0.5)
    opposite = {STANDS: FALLS, FALLS: STANDS, OPEN: OPEN}
    assert verdict(other) == opposite[verdict(one)]
    assert (verdict(one) == STANDS) == (one.low > 0)


def test_without_an_interval_nothing_can_be_told():
    assert verdict(Difference(0.5, np.nan, np.nan, np.nan)) == OPEN


def draws(*values): return Estimate(float(np.mean(values)), np.nan, 3, np.array(values, float))


def test_a_share_of_a_gain_is_a_quotient_of_paired_draws():
    full, without, least = draws(8, 9, 10), draws(6, 6, 6), draws(4, 5, 2)
    share = share_of_gain(full, without, least)
    assert share.value == pytest.approx((9 - 6) / (9 - 11 / 3)) and share.undefined == 0
    expected = np.percentile([2 / 4, 3 / 4, 4 / 8], [2.5, 97.5])
    assert (share.low, share.high) == pytest.approx(tuple(expected)) and share.known
    lost = share_of_gain(full, without, draws(9, 5, 2))
    assert lost.undefined == pytest.approx(1 / 3) and not lost.known and "no share" in str(lost)
    assert (lost.low, lost.high) == pytest.approx(tuple(np.percentile([3 / 4, 4 / 8], [2.5, 97.5])))
    with pytest.raises(RequestError, match="same resamples"): share_of_gain(full, without, draws(1, 2))


# ---- calibration -----------------------------------------------------------------------------

def plain_error(answers, bins=10):
    "The calibration error as in its definition, bin by bin."
    p, error = answers.scores[:, 1], 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (p > low) & (p <= high) if k else (p <= high)
        if inside.any():
            error += inside.mean() * abs(p[inside].mean() - answers.truth[inside].mean())
    return error


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_is_its_definition_on_the_people_and_on_every_draw(seed):
    one = answers(seed)
    drawn = resample_answers(one, 6, seed)
    found = calibration_error({0: one}, drawn)
    assert found.mean == pytest.approx(plain_error(one))
    expected = [plain_error(replicated(one, w, drawn.subjects)) for w in drawn.weights]
    assert np.allclose(found.draws, expected) and found.n == 12


def test_a_reliability_curve_counts_every_window_and_names_its_share():
    one = answers(1)
    curve = reliability({0: one, 1: answers(2)})
    assert curve.windows.sum() == 240 and (np.diff(curve.said) > 0).all()
    p = np.concatenate([o.scores[:, 1] for o in (one, answers(2))])
    truth = np.concatenate([o.truth for o in (one, answers(2))])
    first = p <= 0.1
    assert curve.said[0] == pytest.approx(p[first].mean())
    assert curve.seen[0] == pytest.approx(truth[first].mean())


# ---- what is known ---------------------------------------------------------------------------

def test_explained_variance_is_scikit_learns_on_the_people_and_on_every_draw():
    from sklearn.metrics import r2_score
    rng = np.random.default_rng(3)
    truth = rng.normal(70, 12, 90)
    frame = pd.DataFrame(dict(row="r", fold=0, seed=0, window=range(90), truth=truth,
                              score=truth + rng.normal(0, 9, 90),
                              subject=np.repeat([f"p{k}" for k in range(9)], 10)))
    found = explained(frame, 5)
    assert found.mean == pytest.approx(r2_score(frame.truth, frame.score))
    one = Answers(truth, frame.score.to_numpy(), frame.subject.to_numpy(), ())
    drawn = resample_answers(one, 5)
    again = [replicated(one, w, drawn.subjects) for w in drawn.weights]
    assert np.allclose(found.draws, [r2_score(o.truth, o.scores) for o in again])


# ---- warps -----------------------------------------------------------------------------------

class Beats:
    "Windows with beats only."
    def __init__(self, ecg, ppg):
        self.arrays = dict(ecg_beats=self._rows(ecg), ppg_beats=self._rows(ppg))

    @staticmethod
    def _rows(rows):
        out = np.full((len(rows), 1, max(map(len, rows)) + 2), np.nan)
        for k, row in enumerate(rows): out[k, 0, :len(row)] = row
        return out


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_arrival_times_are_the_median_wait_for_the_next_pulse(seed):
    rng = np.random.default_rng(seed)
    ecg = [np.sort(rng.uniform(0, 30, rng.integers(0, 25))) for _ in range(4)]
    ppg = [np.sort(rng.uniform(0, 30, rng.integers(0, 25))) for _ in range(4)]
    found = arrival_times(Beats(ecg, ppg))
    for mine, theirs, value in zip(ecg, ppg, found):
        waits = [min(p - r for p in theirs if p >= r) for r in mine if (theirs >= r).any()]
        waits = [o for o in waits if o <= 1.5]
        if len(waits) < 3: assert np.isnan(value)
        else: assert value == pytest.approx(np.median(waits))


def test_clock_errors_are_what_a_clock_adds_to_the_same_hearts(home):
    options = dict(subjects=3, seconds=60.0)
    right, wrong = (get_cohort("simulated", **options, **o) for o in ({}, dict(offset=0.5, drift=300.0)))
    windows = pack(wrong, BRIEF)
    found = clock_errors(wrong, windows)
    assert np.abs(clock_errors(right, pack(right, BRIEF))).max() < 1e-9
    for number in range(3):
        a, b = (o.simulation(number).truth.pulses[0] for o in (right, wrong))
        late = np.nanmean(b - a)
        mine = windows.labels("recording") == f"sim{number:03d}"
        assert np.abs(found[mine] - late).max() < 300e-6 * 60 and 0.001 < abs(late) < 0.52
    with pytest.raises(RequestError, match="not known"):
        clock_errors(get_cohort("mimic_perform_af"), windows)


def warps_of(read, fold=(0, 0, 0, 0, 0)):
    "Warps of five people's three windows each, the PPG read `read (5,)` s later."
    frame = pd.DataFrame(dict(window=range(15), subject=np.repeat(list("abcde"), 3), fold=np.repeat(fold, 3)))
    parts = [frame.assign(signal="ecg", seconds=0.0), frame.assign(signal="ppg",
                                                                   seconds=np.repeat(read, 3))]
    return pd.concat(parts, ignore_index=True).assign(samples=lambda o: 42 * o.seconds)


def test_shifts_are_told_for_each_person_and_judged():
    delay = np.array([-0.3, -0.1, 0.0, 0.2, 0.4])
    shifts = relative_shifts(warps_of(0.5 * delay), np.repeat(delay, 3))
    assert shifts.index.tolist() == list("abcde") and np.allclose(shifts.read, 0.5 * delay)
    assert undoes("", shifts).verdict == STANDS and "50.0 %" in undoes("", shifts).evidence
    assert undoes("", shifts.assign(read=-shifts.read)).verdict == FALLS
    fold = np.array([0, 1, 0, 1, 0])                            # one network's warp begins elsewhere
    apart = relative_shifts(warps_of(0.5 * delay + 3 * fold, fold), np.repeat(delay, 3))
    assert apart.fold.tolist() == fold.tolist() and follows(apart)[0] == pytest.approx(1)
    assert "50.0 %" in undoes("", apart).evidence
    assert np.isnan(follows(shifts.assign(read=0.3))[0])
    assert moves("", warps_of(np.full(5, 0.1)).query("signal == 'ppg'")).verdict == STANDS
    assert moves("", warps_of(np.full(5, 0.02))).verdict == FALLS


# ---- anatomy ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name, hyper", [
    ("tsta", {}), ("tsta", dict(site="stem")), ("tsta", dict(signals=("ecg",))), ("simclr", {}),
    ("clip", dict(learned_tau=False)), ("random_init", dict(readout="mean"))])
def test_parts_hold_all_weights_and_the_classifiers_shape(name, hyper):
    method = get_method(name, **hyper)
    windows = {key: torch.randn(4, 1, 512) for key in method.signals}
    parts = anatomy(method, windows, classes=3)
    assert sum(o.parameters for o in parts) == parameters(method) + parameters(method.head(3))
    assert parts[-1].shape == (3,)
    assert [o.shape for o in parts if o.name == "stem"] == [(128, 64)] * len(method.signals)
    written = {o.get_text() for o in draw(parts).axes[0].texts}
    assert {"128 × 64", f"{parts[-1].parameters:,}"} <= written


# ---- together --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "A table in its smallest form, run once, in a home of its own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOSSL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("BIOSSL_DATA", raising=False)
        yield TABLE.run("simulated", "smoke", workers=1, device="cpu")


def test_results_say_what_the_table_says(ran):
    frame, launched = ran
    results = Results(launched.predictions, launched.records, 200)
    for metric in TABLE.metrics:
        told = means(frame, metric)
        for row in told.index:
            assert 100 * results.estimate(row, metric).mean == pytest.approx(told[row], abs=1e-3)
    gap = frame.query("row == 'Pulse' and metric == 'f1_macro'").iloc[0]
    found = results.difference("Pulse", "Chance")
    assert (100 * found.value, found.p) == pytest.approx((gap.difference, gap.p), abs=1e-3)


def test_stored_results_are_the_same_though_two_rows_share_their_runs(ran, tmp_path):
    frame, launched = ran
    save(tmp_path, {TABLE: ran})
    fresh, stored = Results(launched.predictions, launched.records), stored_results(tmp_path, "table9")
    assert set(stored.runs) == set(fresh.runs) == {o.name for o in TABLE.rows}
    assert stored.number("Pulse again") == stored.number("Pulse") == fresh.number("Pulse")
    assert exceeds(stored, "", "Pulse", ["Pulse again"]).verdict == OPEN
    assert stored_results(tmp_path, "table8") is None and stored_results(tmp_path / "none", "x") is None


def test_rows_that_were_not_run_are_said_and_not_guessed(ran):
    results = Results(ran[1].predictions, [*ran[1].records, dict(row="Broken", error="it broke")])
    assert exceeds(results, "", "Broken", ["Pulse"]).verdict == UNRUN
    assert exceeds(results, "", "Pulse", ["Broken"]).verdict == UNRUN
    assert at_chance(results, "", "Broken").verdict == UNRUN
    assert at_chance(results, "", "Chance").verdict == STANDS
    with pytest.raises(RequestError, match="depends on the data"):
        at_chance(results, "", "Pulse", "f1_macro")
    with pytest.raises(RequestError, match="was not run"): results.estimate("Broken")


def test_resolution_is_that_of_the_peoples_own_shares(ran):
    results = Results(ran[1].predictions, ran[1].records)
    mine = results.predictions.query("row == 'Pulse'")
    right = (mine["score_1"] > mine["score_0"]) == (mine["truth"].astype(int) == 1)
    shares = right.groupby(mine["subject"]).mean()
    found = resolution(results, "Pulse")
    assert found.subjects == len(shares) and found.sd == pytest.approx(shares.std(ddof=1))
    assert found.half_width == detectable_difference(len(shares), found.sd)
    assert resolution(results, "Pulse", "Pulse again").half_width == 0


def test_rows_are_looked_into_as_they_were_run(ran):
    runs = runs_of(TABLE, "Network", "simulated", "smoke", device="cpu")
    assert {o.key for o in runs} <= {o["key"] for o in ran[1].records} and len(runs) == 2
    windows, task = opened(runs[0])
    # ninety seconds of each person, cut into 10 s every 30 s
    assert len(windows) == 3 * get_profile("smoke").subjects and task.name == "af"
    told = learned({"Pulse": runs_of(TABLE, "Pulse", "simulated", "smoke"), "Network": runs}, "cpu", 50)
    assert told.row.tolist() == ["Pulse"] * 2 + ["Network"] * 2
    assert set(told.target) == set(beat_targets(windows)) and (told.low <= told.high).all()
    warps = tested_warps(runs, "cpu")
    assert len(warps) == 2 * len(windows) and warps.groupby("signal").window.nunique().eq(len(windows)).all()
    assert np.allclose(warps.seconds, warps.b * 5) and np.allclose(warps.samples, warps.b * 419 / 2)
    with pytest.raises(MethodError, match="no branches"):
        read_warps(get_method("raw_moments"), windows, np.arange(2))
