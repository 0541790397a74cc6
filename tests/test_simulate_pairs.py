"""Pairs with a known delay: the same people in any company, truth that signals confirm, no leak."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import get_cohort
from biossl.cohorts.simulated_pairs import (SimulatedPairs, af_intervals, beat_intervals,
                                            ectopy_intervals)
from biossl.data import signals
from biossl.data.errors import CohortError, RequestError
from biossl.data.rhythm import LEAD
from biossl.data.simulate_pairs import (BETWEEN, PAIR_RHYTHMS, PLAIN, Pairing, draw_wearer,
                                        pair_windows, simulate_pairs)
from biossl.data.windowing import Windowing, cut

TRUTH = ("number", "late", "beats", "rr", "kind", "delays", "feet", "reflection", "af")
TEN = Windowing((("ecg", 100.0), ("ppg", 100.0)), 10.0, 10.0, normalise="minmax", beats=())
SILENT = Pairing(noise=0.0)


def finite(row): return row[np.isfinite(row)]


def correlation(a, b): return np.corrcoef(a, b)[0, 1]


# who they are -----------------------------------------------------------------------------------

def test_a_person_is_the_same_in_any_company_and_with_more_windows():
    few, many = pair_windows(3, 2, seed=5), pair_windows(9, 4, seed=5)
    mine = np.flatnonzero(np.tile(np.arange(4) < 2, 9))[:6]
    for key in ("ecg", "ppg"):
        np.testing.assert_array_equal(getattr(few, key), getattr(many, key)[mine])
    for key in TRUTH:
        a, b = getattr(few.truth, key), getattr(many.truth, key)[mine]
        np.testing.assert_array_equal(a, b[:, :a.shape[1]] if a.ndim > 1 else b)


def test_groups_of_rows_are_invisible():
    "Long requests are worked off in groups; in the second one a person is the same."
    many = pair_windows(24, 50)
    alone = simulate_pairs([draw_wearer(0, 22)], 50)
    np.testing.assert_array_equal(many.ppg[22 * 50:23 * 50], alone.ppg)
    np.testing.assert_array_equal(many.ecg[22 * 50:23 * 50], alone.ecg)


def test_a_longer_recording_begins_with_the_same_signals():
    people = [draw_wearer(1, k) for k in range(4)]
    short, long = (simulate_pairs(people, 1, o) for o in (20, 90))
    np.testing.assert_allclose(short.ppg, long.ppg[..., :2000], atol=1e-5)
    np.testing.assert_allclose(short.ecg, long.ecg[..., :2000], atol=1e-5)


def test_rows_seeds_and_modes_differ_and_repeat():
    one, again = pair_windows(6, 2), pair_windows(6, 2)
    np.testing.assert_array_equal(one.ecg, again.ecg)
    rows = one.ppg[:, 0]
    assert (np.abs(rows[:, None] - rows[None]).max(-1) > 0.1).sum() == 12 * 11
    assert not np.allclose(one.ecg, pair_windows(6, 2, seed=1).ecg)
    tied = pair_windows(6, 2, how=Pairing("tied"))
    np.testing.assert_array_equal(one.ecg, tied.ecg)
    assert np.abs(one.truth.arrival - tied.truth.arrival).min() > 0.1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_four_neighbours_have_the_four_rhythms(seed, four):
    people = [draw_wearer(seed, 4 * four + k) for k in range(4)]
    assert {o.rhythm for o in people} == set(PAIR_RHYTHMS)
    assert all((o.ectopy > 0) == (o.rhythm == "ectopy") for o in people)
    assert all((o.burden > 0) == (o.rhythm in ("paroxysmal", "af")) for o in people)


# what signals show ------------------------------------------------------------------------------

def test_r_peaks_are_found_where_they_were_put():
    made = pair_windows(4, 1, 60.0)
    for ecg, true in zip(made.ecg[:, 0], made.truth.beats, strict=True):
        found, true = signals.beats(ecg, 100.0, "ecg"), finite(true)
        true = true[(true > 1) & (true < 59)]
        miss = np.abs(true[:, None] - found).min(1)
        assert np.mean(miss < 0.03) > 0.97 and abs(len(found) - len(true)) < 6


def test_pulses_rise_where_feet_and_clock_say():
    "Steepest upstroke of a lone Gaussian: its centre less its sd, 70 ms behind the foot."
    how = Pairing(offset=300.0, offset_sd=80.0, drift=500.0, noise=0.0)
    made = pair_windows(8, 1, 60.0, how=how, rhythm="sinus")
    truth = made.truth
    for ppg, feet in zip(made.ppg[:, 0], truth.feet, strict=True):
        slope = np.diff(ppg)
        at = np.rint(100 * (finite(feet) + 0.07)).astype(int)
        at = at[(at > 20) & (at < 5950)]
        best = np.array([i - 8 + slope[i - 8:i + 8].argmax() for i in at])
        assert abs(np.mean(best + 0.5 - at)) < 2.5
    lag = 1e3 * np.nanmean(truth.feet - truth.beats - truth.delays, axis=1)
    np.testing.assert_allclose(lag, truth.late + 0.5 * 30, atol=1.5)
    assert np.std(truth.late) > 30


def test_the_ecg_does_not_know_the_clock():
    here, late = (pair_windows(4, 2, how=Pairing(offset=o)) for o in (0.0, 200.0))
    np.testing.assert_array_equal(here.ecg, late.ecg)
    np.testing.assert_array_equal(here.truth.delays, late.truth.delays)
    np.testing.assert_allclose(late.ppg[..., 320:900], here.ppg[..., 300:880], atol=0.08)


def test_noise_is_white_with_the_stated_sd():
    loud, silent = (pair_windows(20, how=Pairing(noise=o)) for o in (2.0, 0.0))
    for key, sd in (("ecg", 0.04), ("ppg", 0.02)):
        rest = (getattr(loud, key) - getattr(silent, key))[:, 0]
        assert abs(rest.std() / sd - 1) < 0.03
        assert abs(correlation(rest[:, 1:].ravel(), rest[:, :-1].ravel())) < 0.03


def test_waves_stand_where_the_reference_has_them():
    "A second way to the same signals: sums of Gaussians over the true beats, sample by sample."
    made = pair_windows(6, 1, 6.0, how=Pairing(noise=0.0, rate=1000.0), rhythm="sinus")
    truth, t = made.truth, np.arange(1500, 4500) / 1000
    for row in range(6):
        r, feet, second = (finite(o[row]) for o in (truth.beats, truth.feet, truth.reflection))
        late_t = 0.28 / np.sqrt(truth.heart_rate[row] / 60)
        ecg = [(1, r, .014), (-.15, r - .03, .012), (-.2, r + .03, .012), (.12, r - .16, .025),
               (.25, r + late_t, .045)]
        ppg = [(1, feet + .13, .06), (.45, feet + second, .1)]
        for x, waves, close in ((made.ecg, ecg, 0.03), (made.ppg, ppg, 0.005)):
            own = sum(h * np.exp(-((t[:, None] - at) / sd)**2 / 2).sum(1) for h, at, sd in waves)
            np.testing.assert_allclose(x[row, 0, 1500:4500], own, atol=close)


def test_plain_windows_have_the_variance_of_the_reference():
    ecg, ppg = pair_windows(400, how=PLAIN, rhythm="sinus").scaled()
    assert 0.0855 < ecg.var(-1).mean() < 0.0915
    for x in (ecg, ppg):
        assert np.allclose(x.min(-1), -1) and np.allclose(x.max(-1), 1)


def test_one_shape_for_all_where_shape_does_not_vary():
    made = pair_windows(50, how=PLAIN)
    np.testing.assert_allclose(finite(made.truth.reflection.ravel()), 0.36)


def test_premature_beats_are_early_wide_and_weak():
    made = pair_windows(24, 1, 200.0, how=SILENT, rhythm="ectopy")
    truth, wide, weak = made.truth, [], []
    for row in range(24):
        kind, at = truth.kind[row], truth.beats[row]
        for i in np.flatnonzero(kind[2:-2] > 0) + 2:
            if not 1 < at[i] < 198: continue
            assert truth.rr[row, i] < 0.9 * truth.rr[row, i - 1]
            pause = truth.rr[row, i] + truth.rr[row, i + 1]
            usual = np.nanmedian(truth.rr[row, max(0, i - 4):i + 5])
            assert 0.8 < pause / (2 * usual) < 1.2
            area = [made.ecg[row, 0, int(100 * t) - 8:int(100 * t) + 9].sum()
                    for t in at[i - 1:i + 1]]
            top = [made.ppg[row, 0, int(100 * t):int(100 * t) + 18].max()
                   for t in truth.feet[row, i - 1:i + 1]]
            wide.append(area[1] / area[0])
            weak.append(top[1] / top[0])
    assert len(wide) > 30 and np.median(wide) > 1.8 and np.median(weak) < 0.75
    share = [o.ectopy for o in truth.wearers]
    assert correlation(truth.ectopy, share) > 0.75
    assert abs(np.mean(truth.ectopy) - np.mean(share)) < 0.02


def test_fibrillation_is_irregular_and_follows_the_burden():
    made = pair_windows(60, 1, 300.0, rhythm="paroxysmal")
    truth = made.truth
    middle = np.clip(100 * (truth.beats - truth.rr / 2), 0, 29999)
    middle = np.where(np.isfinite(middle), middle, 0).astype(int)
    af = np.take_along_axis(truth.af, middle, 1) & np.isfinite(truth.beats)
    spread = [[np.std(rr[mask]) / np.mean(rr[mask]) for mask in (own, ~own & np.isfinite(rr))]
              for own, rr in zip(af, truth.rr, strict=True) if 30 < own.sum() < 200]
    assert np.mean(np.array(spread)[:, 0]) > 2 * np.mean(np.array(spread)[:, 1])
    burden = [o.burden for o in truth.wearers]
    assert correlation(truth.af_burden, burden) > 0.7
    assert abs(np.mean(truth.af_burden) - np.mean(burden)) < 0.06


def test_a_window_that_fibrillates_has_no_p_waves():
    "The mean over beats 160 ms before R stands out in sinus, and not in fibrillation."
    def p_wave(rhythm):
        made = pair_windows(40, 1, 30.0, how=SILENT, rhythm=rhythm)
        rows = [(x, t) for x, row in zip(made.ecg[:, 0], made.truth.beats) for t in row
                if 1 < t < 29]
        lag = [-16, -24, -8]
        x = np.mean([[x[int(round(100 * t)) + k] for k in lag] for x, t in rows], axis=0)
        return x[0] - x[1:].mean()
    assert p_wave("sinus") > 0.06 and abs(p_wave("af")) < 0.015


# what they must not betray ----------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["free", "tied"])
def test_arrival_has_the_stated_spread_between_and_within(mode):
    truth = pair_windows(600, 4, 3.0, how=Pairing(mode)).truth
    arrival = truth.arrival.reshape(600, 4)
    within = arrival.var(1, ddof=1).mean()
    between = arrival.mean(1).var(ddof=1) - within / 4
    assert abs(arrival.mean() - 250) < 6 and abs(np.sqrt(within + between) - 49.5) < 2
    assert abs(between / (within + between) - BETWEEN) < 0.05
    assert finite(truth.delays.ravel()).min() > 0.09 and finite(truth.delays.ravel()).max() < 0.45


def test_free_arrival_goes_with_nothing():
    truth = pair_windows(3000, 1, 4.0).truth
    for other in (truth.shape, truth.heart_rate, truth.ectopy, truth.af_burden):
        assert abs(correlation(truth.arrival, other)) < 4 / np.sqrt(3000)
    means = [truth.arrival[truth.rhythm == o].mean() for o in PAIR_RHYTHMS]
    assert np.ptp(means) < 4 * 50 * np.sqrt(2 / 750)


@pytest.mark.parametrize("tie", [0.3, 0.8])
def test_tied_arrival_reaches_the_ceiling_between_and_within(tie):
    truth = pair_windows(600, 4, 3.0, how=Pairing("tied", tie=tie)).truth
    arrival, shape = (o.reshape(600, 4) for o in (truth.arrival, truth.shape))
    within = [(o - o.mean(1, keepdims=True)).ravel() for o in (arrival, shape)]
    for a, b in ((arrival.ravel(), shape.ravel()), within):
        assert abs(correlation(a, b)**2 - tie) < 0.05
    assert Pairing("tied", tie=tie).ceiling == tie and Pairing(tie=tie).ceiling == 0


def test_one_delay_for_all_where_arrival_does_not_vary():
    truth = pair_windows(50, how=Pairing(arrival=0.0)).truth
    assert abs(truth.arrival - 250).max() < 8 and 4 < 1e3 * np.nanstd(truth.delays) < 6


def read_out(features, y, train):
    "Correlation of a ridge regression, fitted on rows `train`, with `y` of the others."
    x = (features - features[train].mean(0)) / features[train].std(0)
    own = x[train]
    weights = np.linalg.solve(own.T @ own + 30 * np.eye(x.shape[1]),
                              own.T @ (y[train] - y[train].mean()))
    return correlation(x[~train] @ weights, y[~train])


def test_a_free_ppg_tells_its_rate_and_a_tied_one_its_delay_too():
    "Spectrum and samples of whole windows, people apart: also a leak through phase would show."
    told = {}
    for mode in ("free", "tied"):
        made = pair_windows(1600, how=Pairing(mode), rhythm="sinus")
        ppg = made.scaled()[1][:, 0]
        features = np.concatenate([np.abs(np.fft.rfft(ppg))[:, 5:80], ppg[:, ::20]], axis=1)
        train = np.arange(1600) < 1000
        told[mode] = [read_out(features, o, train)
                      for o in (made.truth.heart_rate, made.truth.arrival)]
    assert min(told["free"][0], told["tied"][0]) > 0.9
    assert abs(told["free"][1]) < 4 / np.sqrt(600) and told["tied"][1] > 0.6


def test_both_modes_show_the_same_shapes():
    free, tied = (pair_windows(200, how=Pairing(o)).truth for o in ("free", "tied"))
    np.testing.assert_array_equal(free.shape, tied.shape)


def test_a_window_begins_at_any_moment_of_a_beat():
    "Were the first beat at a time that is fixed, or follows from the rate, the phase would leak."
    made = pair_windows(1200, 1, 3.0, how=PLAIN, rhythm="sinus").truth
    phase = 2 * np.pi * made.beats[:, 0] / made.rr[:, 0]
    fixed = 2 * np.pi * LEAD * made.heart_rate / 60
    for other in (0, fixed, -fixed):
        assert np.abs(np.exp(1j * (phase - other)).mean()) < 4 / np.sqrt(1200)


# what is refused --------------------------------------------------------------------------------

@pytest.mark.parametrize("field,value", [
    ("mode", "loose"), ("tie", 1.5), ("tie", float("nan")), ("noise", -1.0), ("shape", -2.0),
    ("rate", 5.0), ("offset", float("inf")), ("offset_sd", -1.0)])
def test_a_pairing_that_makes_no_sense_is_refused(field, value):
    with pytest.raises(RequestError) as caught: Pairing(**{field: value})
    assert caught.value.field == field and caught.value.remedy


def test_requests_that_make_no_sense_are_refused():
    with pytest.raises(RequestError, match="shape"): Pairing("tied", shape=0.0)
    with pytest.raises(RequestError, match="people"): simulate_pairs([])
    with pytest.raises(RequestError, match="windows"): pair_windows(2, 0)
    with pytest.raises(RequestError, match="seconds"): pair_windows(2, seconds=float("nan"))
    with pytest.raises(RequestError, match="drift"): pair_windows(2, 1, 60., how=Pairing(drift=1e5))
    with pytest.raises(RequestError, match="clocks"): pair_windows(2, how=Pairing(offset=-3500.0))
    with pytest.raises(RequestError, match="number"): draw_wearer(0, -1)
    with pytest.raises(RequestError, match="polka"): draw_wearer(0, 1, "polka")


# the cohort -------------------------------------------------------------------------------------

def windows_of(**options):
    for recording in get_cohort("simulated_pairs", **options).recordings():
        yield recording, cut(recording, TEN).columns


def test_windows_get_the_truth_of_their_ten_seconds():
    "Against the long row's truth, counted beat by beat and sample by sample."
    cohort = get_cohort("simulated_pairs", subjects=8, seconds=120.0)
    for number, (recording, columns) in enumerate(windows_of(subjects=8, seconds=120.0)):
        truth = cohort.simulation(number).truth
        assert recording.labels["af_burden"] == pytest.approx(truth.af[0].mean())
        for k, start in enumerate(columns["start"]):
            own = (truth.beats[0] >= start) & (truth.beats[0] < start + 10)
            assert columns["arrival"][k] == pytest.approx(1e3 * truth.delays[0, own].mean(), abs=6)
            assert columns["shape"][k] == pytest.approx(1e3 * truth.reflection[0, own].mean(), abs=6)
            assert columns["heart_rate"][k] == pytest.approx(6 * own.sum(), abs=6.5)
            share = truth.af[0, int(100 * start):int(100 * start) + 1000].mean()
            assert columns["af_share"][k] == pytest.approx(share, abs=1e-6)
            assert columns["af"][k] == {0.0: 0, 1.0: 1}.get(share)


def test_ectopy_of_a_window_is_whether_it_holds_a_premature_beat():
    cohort, answers = get_cohort("simulated_pairs", subjects=12, seconds=100.0), []
    for number, (_, columns) in enumerate(windows_of(subjects=12, seconds=100.0)):
        truth = cohort.simulation(number).truth
        early = truth.beats[0][truth.kind[0] > 0]
        for start, told in zip(columns["start"], columns["ectopy"], strict=True):
            if told == 1: assert ((early > start) & (early < start + 10)).any()
            if told == 0: assert not ((early > start - 0.3) & (early < start + 10)).any()
            answers.append(told)
    assert answers.count(1) > 10 and answers.count(0) > 60


def test_windows_across_two_cells_are_told_only_what_both_say():
    made = {key: [] for key in ("on", "across")}
    for key, hop in (("on", 10.0), ("across", 5.0)):
        how = Windowing((("ppg", 100.0),), 10.0, hop, beats=())
        for o in get_cohort("simulated_pairs", subjects=4, seconds=100.0).recordings():
            made[key].append(cut(o, how).columns["ectopy"])
    for on, across in zip(made["on"], made["across"], strict=True):
        assert across[::2] == on
        assert across[1::2] == [a if a == b else None for a, b in zip(on, on[1:])]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_intervals_of_fibrillation_cover_the_recording_once(af):
    made = af_intervals(np.array(af), 12.0)
    for key in ("af", "af_share"):
        own = [o for o in made if o.key == key]
        assert own[0].start == 0 and own[-1].end == 12
        assert all(a.end == b.start and a.value != b.value for a, b in zip(own, own[1:]))
        time = sum((o.end - o.start) * o.value for o in own)
        assert time == pytest.approx(12 * np.mean(af))


def test_intervals_of_beats_and_cells():
    own = beat_intervals("arrival", np.array([2.0, 3.0]), np.array([7.0, 9.0]), 5.0)
    assert [(o.start, o.end, o.value) for o in own] == [(0, 3, 7), (3, 5, 9)]
    cells = ectopy_intervals(np.array([9.7]), np.array([10.6]), 25.0, 10.0)
    assert [(o.start, o.end, o.value) for o in cells] == [(0, 10, None), (10, 20, None), (20, 25, 0)]


def test_options_of_the_cohort_reach_the_pairs():
    options = dict(mode="tied", tie=0.5, offset=120.0, drift=20.0, noise=0.0, rate=64.0,
                   rhythm="sinus", seed=4, shape=25.0, arrival=30.0,
                   offset_sd=10.0)
    cohort = get_cohort("simulated_pairs", subjects=2, seconds=30.0, **options)
    options.pop("rhythm"), options.pop("seed")
    assert cohort.pairing == Pairing(**options)
    assert cohort.wearer(1) == draw_wearer(4, 1, "sinus")
    one, two = cohort.recordings()
    assert one.signal("ppg").rate == 64 and one.signal("ppg").samples.shape == (1, 1920)
    assert (one.labels["rhythm"], one.labels["source"]) == ("sinus", "simulated")
    assert one.labels["stratum"] == "simulated/sinus" and one.subject != two.subject
    assert one.labels["ppg_late"] != two.labels["ppg_late"] and two.cohort == "simulated_pairs"
    np.testing.assert_array_equal(two.signal("ecg").samples, cohort.simulation(1).ecg[0])


@pytest.mark.parametrize("field,value", [("subjects", 0), ("rhythm", "polka"), ("cell", 0.0)])
def test_options_that_make_no_sense_are_refused(field, value):
    with pytest.raises(CohortError) as caught: SimulatedPairs(**{field: value})
    assert caught.value.field == field


def test_every_task_has_its_label():
    for recording, columns in windows_of(subjects=4, seconds=60.0):
        for task in SimulatedPairs.tasks:
            known = [o for o in columns[task.key] if o is not None]
            assert known and all(o in (task.classes or [o]) for o in known), recording.name
