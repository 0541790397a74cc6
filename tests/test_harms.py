"""What is done to recordings on purpose, and runs that are asked about the damaged ones."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import ROOM

from biossl.cohorts.harmed import Harmed
from biossl.cohorts.registry import get_cohort
from biossl.data.errors import MethodError, RequestError
from biossl.data.harms import KINDS, Harm, bursts, harmed, mains, usual_size
from biossl.data.recordings import Recording, Signal
from biossl.data.signals import beats, resample
from biossl.data.store import Windowing, pack
from biossl.evaluation.promises import at_levels
from biossl.evaluation.tables import Row, Table
from biossl.methods.clinical import beat_features
from biossl.train.finetune import without_signal
from biossl.train.launch import Run, launch, split_rows, truth_of
from biossl.train.pretrain import thinned
from biossl.train.profiles import Schedule
from biossl.train.runs import ENOUGH, labelled_rows, lessons, run_key, weights_key

few = settings(deadline=None, max_examples=20)
WINDOWS = Windowing(seconds=10, hop=10)
SMALL = (("seconds", 30.0), ("subjects", 6))
TINY = Schedule(epochs=1, steps=2, tune_epochs=1)


def record(seconds=60, rate=125.0, name="a", gap=None):
    rng = np.random.default_rng(0)
    x = np.sin(2 * np.pi * 1.3 * np.arange(int(seconds * rate)) / rate) + 0.1 * rng.normal(
        size=(1, int(seconds * rate)))
    if gap: x[:, slice(*gap)] = np.nan
    return Recording(name, name, dict(ecg=Signal(x, rate, ("II",), "mV"),
                                      ppg=Signal(3 * x + 1, rate, ("PPG",), "NU")))


def samples(recording, key): return np.asarray(recording.signals[key].samples, float)


# ---- harms -----------------------------------------------------------------------------------

@few
@given(kind=st.sampled_from(["white", "wander", "mains"]), level=st.floats(-20, 30))
def test_noise_has_the_power_that_its_decibels_say_in_the_signal_that_is_named(kind, level):
    clean = record()
    hurt = harmed(clean, Harm(kind, level, ("ppg",)))
    noise = samples(hurt, "ppg") - samples(clean, "ppg")
    size = usual_size(samples(clean, "ppg"), 125)[0, 0]
    assert abs(20 * np.log10(size / noise.std()) - level) < 0.3
    assert np.array_equal(samples(hurt, "ecg"), samples(clean, "ecg"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_harm_repeats_and_depends_on_the_recordings_name_where_it_is_drawn(kind):
    harm = Harm(kind, 2.0, share=0.5)
    one, again, other = (harmed(record(name=o), harm) for o in ("a", "a", "b"))
    for key in ("ecg", "ppg"):
        assert np.array_equal(samples(one, key), samples(again, key))
        same = np.array_equal(samples(one, key), samples(other, key))
        assert same == (kind in ("lowpass", "flat", "late", "drift"))


def test_gaps_stay_gaps_and_do_not_spread():
    clean = record(gap=(1000, 1100))
    for kind in ("white", "wander", "mains", "lowpass", "motion"):
        hurt = harmed(clean, Harm(kind, 2.0, share=0.3))
        for key in ("ecg", "ppg"):
            assert np.array_equal(np.isnan(samples(hurt, key)), np.isnan(samples(clean, key)))


def test_one_torn_electrode_does_not_make_the_whole_record_loud():
    x = samples(record(600), "ecg")
    torn = x.copy()
    torn[:, 1000:3000] += 500 * np.random.default_rng(1).normal(size=2000)
    assert np.allclose(usual_size(torn, 125), usual_size(x, 125), rtol=0.02)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_motion_comes_in_bursts_of_two_to_five_seconds_of_both_signals_at_once(share):
    clean, harm = record(1200), Harm("motion", 4.0, share=share)
    hurt = harmed(clean, harm)
    moved = {k: np.abs(samples(hurt, k) - samples(clean, k))[0] > 0 for k in ("ecg", "ppg")}
    assert (moved["ecg"] == moved["ppg"]).mean() > 0.999
    edges = np.flatnonzero(np.diff(moved["ecg"].astype(int)))
    lasts = np.diff(edges if not moved["ecg"][0] else edges[1:])[::2] / 125
    assert 1.9 < lasts.min() and (lasts < 5.3).mean() > 0.9    # two may touch
    assert abs(moved["ecg"].mean() - share) < 0.08
    on = np.abs(bursts(125 * 60, 125, share, np.random.default_rng(0)))
    assert on.max() <= 1 + 1e-9


@few
@given(late=st.floats(0.04, 3), key=st.sampled_from(["ecg", "ppg"]))
def test_a_late_signal_shows_what_was_true_before(late, key):
    clean = record(30)
    hurt = samples(harmed(clean, Harm("late", late, (key,))), key)[0]
    t = np.arange(len(hurt)) / 125
    assert np.allclose(hurt, np.interp(t - late, t, samples(clean, key)[0]), atol=1e-5)


def test_drift_grows_with_time_and_by_parts_in_a_million():
    x = np.arange(125 * 1000, dtype=float)[None] / 125   # a signal that tells its time
    clean = Recording("a", "a", dict(ppg=Signal(x, 125, ("PPG",), "NU")))
    told = samples(harmed(clean, Harm("drift", 500, ("ppg",))), "ppg")[0]
    behind = x[0] - told
    assert np.allclose(behind, 5e-4 * x[0], atol=1e-3)


@pytest.mark.parametrize("hz", [50.0, 60.0])
def test_mains_cannot_reach_windows_at_42_hz(hz):
    hum = mains((1, 125 * 60), 125.0, np.random.default_rng(0), hz)
    assert resample(hum, 125, 42)[:, 42:-42].std() < 0.002 * hum.std()


@pytest.mark.parametrize("wrong, field", [
    (dict(kind="whit"), "kind"), (dict(kind="white", level=np.inf), "level"),
    (dict(kind="white", signals=()), "signals"), (dict(kind="white", signals=("egg",)), "signals"),
    (dict(kind="motion", level=1, share=0), "share"), (dict(kind="lowpass", level=0), "level")])
def test_a_harm_that_makes_no_sense_is_refused_by_its_field(wrong, field):
    with pytest.raises(RequestError) as caught: Harm(**wrong)
    assert caught.value.field == field


# ---- windows of harmed recordings ------------------------------------------------------------

def test_the_clinician_sees_the_noise_too(home):
    "Beats are found again, on the damaged signal, at the published rate."
    cohort, harm = get_cohort("simulated", **dict(SMALL)), Harm("white", -10, ("ecg",))
    clean, noisy = pack(cohort, WINDOWS), pack(Harmed(cohort, harm), WINDOWS)
    hurt = harmed(next(iter(cohort.recordings(None))), harm)
    times = beats(hurt.signals["ecg"].samples[0], 125.0)
    mine = noisy.index["recording"] == hurt.name
    starts = noisy.index["start"][mine].to_numpy()
    found = np.sort(np.concatenate([b[np.isfinite(b)] + s for b, s in zip(
        noisy.arrays["ecg_beats"][mine.to_numpy(), 0], starts)]))
    assert np.allclose(found, times[times < 30], atol=1e-3)
    one, other = (beat_features(o.arrays["ecg_beats"][:, 0], 3) for o in (clean, noisy))
    assert np.nanmean(other[:, 2]) > 1.5 * np.nanmean(one[:, 2])
    ppg = [beat_features(o.arrays["ppg_beats"][:, 0], 3) for o in (clean, noisy)]
    assert np.array_equal(*ppg, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_harmed_windows_are_where_the_clean_ones_are_and_z_scored(home, kind):
    cohort = get_cohort("simulated", **dict(SMALL))
    made = pack(Harmed(cohort, Harm(kind, 1.0, share=0.3)), WINDOWS)
    where = ["recording", "subject", "start", "af"]
    assert made.index[where].equals(pack(cohort, WINDOWS).index[where])
    for key in ("ecg", "ppg"):
        x = made.arrays[key]
        assert np.allclose(x.mean(-1), 0, atol=1e-4)
        assert np.allclose(x.std(-1), 0 if kind == "flat" else 1, atol=1e-3)


# ---- runs ------------------------------------------------------------------------------------

def run(method="tsta", judge="probe", **more):
    return Run(**dict(row="r", method=method, judge=judge, options=SMALL, windowing=WINDOWS, folds=2,
                      schedule=TINY) | more)


def test_a_harm_is_part_of_the_key_only_where_there_is_one():
    plain, noisy = run(), run(harm=Harm("white", 5))
    assert run_key(plain, "d") != run_key(noisy, "d") != run_key(run(harm=Harm("white", 6)), "d")
    assert noisy.clean == plain and run_key(replace(plain, harmed="both"), "d") == run_key(plain, "d")
    assert weights_key(noisy, "d", [0]) == weights_key(plain, "d", [0])


@pytest.mark.parametrize("method, judge", [("tsta", "finetune"), ("tsta", "probe"),
                                           ("supervised", "finetune"), ("random_init", "probe"),
                                           ("clinical", "probe")])
def test_levels_train_once_and_answer_as_if_alone(home, monkeypatch, method, judge):
    counted = []
    for name in ("finetune", "pretrain", "probe"):
        real = getattr(ROOM[name], name)
        monkeypatch.setattr(ROOM[name], name, lambda *a, _r=real, _n=name, **k: (
            counted.append(_n), _r(*a, **k))[1])
    harms = [None, Harm("white", 0), Harm("flat", signals=("ppg",))]
    hyper = (("least", 3),) if method == "clinical" else ()
    runs = [run(method, judge, harm=o, hyper=hyper, row=f"{o}") for o in harms]
    together = launch(runs, workers=1, device="cpu", progress=False).whole()
    assert len(counted) == len(set(counted))      # nothing twice
    told = together.predictions.pivot(index="window", columns="row", values="score_1")
    assert len(told) and told.notna().all(axis=None)
    assert (told["None"] != told[str(harms[1])]).any()
    monkeypatch.setenv("BIOSSL_HOME", str(home) + "_alone")
    for one in runs:
        alone = launch([one], workers=1, device="cpu", progress=False).whole().predictions
        assert np.allclose(alone.set_index("window")["score_1"], told[one.row], atol=1e-6)


def test_stacked_folds_are_asked_at_all_levels(home, monkeypatch):
    runs = [run("supervised", "finetune", fold=k, harm=o, row=f"{o}") for k in (0, 1)
            for o in (None, Harm("off"))]
    def told(runs):
        done = launch(runs, workers=1, device="cpu", progress=False, stacked=True).whole()
        assert {o.get("stacked") for o in done.records} == {2}
        return done.predictions.pivot(index="window", columns="row", values="score_1")
    together = told(runs)
    monkeypatch.setenv("BIOSSL_HOME", f"{home}_alone")
    alone = told(runs[::2])
    assert np.allclose(together["None"], alone["None"], atol=1e-6)
    assert together.notna().all(axis=None) and (together["None"] != together[f"{runs[1].harm}"]).all()


def test_training_that_sees_the_harm_learns_something_else(home):
    runs = [run(harm=Harm("white", -5), harmed=o, row=o) for o in ("test", "both")]
    done = launch(runs, workers=1, device="cpu", progress=False).whole()
    data = {o["row"]: o["data"] for o in done.records}
    assert data["test"] != data["both"]
    told = done.predictions.pivot(index="window", columns="row", values="score_1")
    assert (told["test"] != told["both"]).any()


def test_a_family_that_fails_is_reported_run_by_run_and_stops_nobody(home, monkeypatch):
    def broken(*args, **kwargs): raise MethodError("cannot")
    monkeypatch.setattr(ROOM["finetune"], "finetune", broken)
    harms = (None, Harm("white", 0))
    runs = [run(judge="finetune", harm=o, row=f"tuned {o}") for o in harms] + [run("chance", row="c")]
    done = launch(runs, workers=1, device="cpu", progress=False)
    assert sorted(o["row"] for o in done.failures) == sorted(o.row for o in runs[:2])
    assert [o["row"] for o in done.records] == ["c"]


def test_windows_that_a_harm_takes_away_are_named(home):
    strict = replace(WINDOWS, flattest=0.5)
    done = launch([run("random_init", windowing=strict, harm=Harm("flat", signals=("ppg",)))],
                  workers=1, device="cpu", progress=False)
    assert len(done.failures) == 1 and not done.records


def test_an_epoch_chosen_on_clean_windows_is_not_asked_about_harmed_ones():
    with pytest.raises(RequestError, match="harmed"):
        run(harm=Harm("white", 0), schedule=replace(TINY, select="test"))
    with pytest.raises(RequestError): run(harmed="train")


# ---- tables ----------------------------------------------------------------------------------

def test_each_level_is_compared_with_the_first_row_of_that_level(home):
    rows = (Row("Eight", "clinical", (("least", 3),), penalties=(1.0,)),
            Row("Moments", "raw_moments", penalties=(1.0,)))
    levels = {"plain": {}, "noise": dict(harm=Harm("white", -5))}
    table = Table("demo", "99_demo", "A demonstration", "af", at_levels(rows, levels), ("f1_macro",),
                  windowing=WINDOWS)
    frame, launched = table.run("simulated", "smoke", workers=1, device="cpu")
    assert not launched.failures
    lines = frame.set_index("row")
    for level in levels:
        one, other = lines.loc[f"Eight | {level}"], lines.loc[f"Moments | {level}"]
        assert (one.versus, other.versus) == ("", f"Eight | {level}")
        assert np.isclose(other.difference, other["mean"] - one["mean"], atol=1e-3)
    assert isinstance(frame, pd.DataFrame) and frame["p"].notna().sum() == 2
    with pytest.raises(RequestError, match="compare"):
        replace(table, rows=(replace(rows[0], versus="Nine"), rows[1]))


# ---- few labels ------------------------------------------------------------------------------

def labels_of(run):
    "Rows of the training side, those with labels, truth and people."
    cohort, windowing, folder = run.source()
    windows, task = pack(cohort, windowing, folder), cohort.task(run.task)
    train, _ = split_rows(run, windows, task)
    told = labelled_rows(run, windows, task, train)
    return train, told, truth_of(windows, task), windows.labels("subject").astype(str)


MANY = (("seconds", 100.0), ("subjects", 12))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.5])
def test_a_share_of_the_windows_is_one_of_each_class_and_of_each_person(home, share):
    train, told, truth, people = labels_of(run(options=MANY, few=("windows", share), folds=4))
    assert set(told) <= set(train) and set(truth[told]) == {0, 1}
    for c in (0, 1):
        whole = (truth[train] == c).sum()
        assert (truth[told] == c).sum() == max(1, round(share * whole))
    counts = [(people[told] == o).sum() for o in np.unique(people[train])]
    assert max(counts) - min(counts) <= 1


def test_a_few_people_take_turns_by_class_and_fewer_are_part_of_more(home):
    found = {}
    for n in (2, 4, 8):
        train, told, truth, people = labels_of(run(options=MANY, few=("people", n), folds=4))
        found[n] = set(people[told])
        assert len(found[n]) == n and set(told) == set(train[np.isin(people[train], list(found[n]))])
        of_class = [len({o for o in found[n] if truth[people == o][0] == c}) for c in (0, 1)]
        assert abs(of_class[0] - of_class[1]) <= 1
    assert found[2] < found[4] < found[8]


def test_folds_and_seeds_draw_other_labels(home):
    drawn = {tuple(labels_of(run(options=MANY, few=("windows", 0.1), folds=4, **o))[1])
             for o in (dict(fold=0), dict(fold=1), dict(seed=1))}
    assert len(drawn) == 3


def test_a_few_labels_are_learned_in_as_many_steps_as_all_fifty_at_most(home):
    schedule = Schedule(epochs=0, tune_epochs=10, every=4)
    few = run(judge="finetune", options=MANY, folds=4, schedule=schedule, few=("windows", 0.1))
    train, told, *_ = labels_of(few)
    windows = pack(*few.source())
    rows, longer = lessons(few, windows, train, told)
    assert np.array_equal(rows, told)                            # none is thinned away
    steps = -(-len(rows) // 16) * longer.tune_epochs
    assert steps >= min(ENOUGH, 10 * -(-len(thinned(windows, train, 4)) // 16))
    assert lessons(replace(few, few=()), windows, train, train)[1] == schedule


def test_a_few_labels_reach_the_judge_and_the_record(home):
    done = launch([run(options=MANY, folds=4, few=("people", 2)), run("supervised", "finetune", few=(
        "windows", 0.2))], workers=1, device="cpu", progress=False).whole()
    assert [o["n_labelled"] for o in done.records][0] == 20
    assert all(o["n_labelled"] < o["n_train"] for o in done.records)
    with pytest.raises(RequestError): run(few=("hours", 2))


# ---- elsewhere -------------------------------------------------------------------------------

AWAY = ("simulated_activity", (("seconds", 60.0), ("subjects", 4)))


def test_pre_training_elsewhere_is_done_once_for_all_folds_and_is_another(home, monkeypatch):
    seen = []
    real = ROOM["pretrain"].pretrain
    monkeypatch.setattr(ROOM["pretrain"], "pretrain", lambda method, windows, rows, *a, **k: (
        seen.append((windows.cohort, len(rows), len(windows))), real(method, windows, rows, *a, **k))[1])
    runs = [run(fold=k, abroad=AWAY, row="away") for k in (0, 1)] + [run(row="own")]
    done = launch(runs, workers=1, device="cpu", progress=False).whole()
    assert [o[0] for o in seen].count("simulated_activity") == 1
    away = next(o for o in seen if o[0] == "simulated_activity")
    assert away[1] == away[2]                                   # everybody there
    keys = {o["key"] for o in done.records}
    assert len(keys) == 3
    own, other = (done.predictions.query("row == @o and fold == 0").set_index("window")["score_1"]
                  for o in ("own", "away"))
    assert (own != other).any()


def test_pre_training_elsewhere_is_refused_where_somebody_tested_is_there_too(home, monkeypatch):
    import biossl.train.runs as runs
    known = runs.get_cohort
    monkeypatch.setattr(runs, "get_cohort", lambda name, **options: known(
        "simulated" if name == "simulated_activity" else name, **options))   # the same under another name
    done = launch([run(abroad=("simulated_activity", run().options))], workers=1, device="cpu", progress=False)
    assert not done.records and "of another cohort" in done.failures[0]["error"]


def test_ones_own_cohort_is_not_elsewhere(home):
    with pytest.raises(RequestError, match="tested"): run(abroad=("simulated", ()))
    table = Table("demo", "99_demo", "A demonstration", "af", (
        Row("from simulated", "tsta", abroad="simulated"),
        Row("from afar", "tsta", abroad="simulated_activity")), ("f1_macro",), windowing=WINDOWS)
    own, away = table.runs("simulated", "smoke")[::2]
    assert own.abroad == () and away.abroad[0] == "simulated_activity"
    assert table.runs("simulated_activity", "smoke", options=dict(activities="three"))[0].abroad


# ---- signals dropped -------------------------------------------------------------------------

@few
@given(share=st.floats(0.05, 0.9), count=st.integers(2, 3))
def test_dropped_signals_are_as_many_as_said_never_two_of_a_window(share, count):
    keys = ("ecg", "ppg", "abp")[:count]
    batch = {o: torch.ones(3000, 2, 3) for o in keys}
    less = without_signal(batch, keys, share, torch.Generator().manual_seed(1))
    gone = torch.stack([(less[o] == 0).flatten(1).all(1) for o in keys])
    kept = torch.stack([(less[o] == 1).flatten(1).all(1) for o in keys])
    assert (gone | kept).all() and gone.sum(0).max() == 1
    assert abs(gone.any(0).float().mean() - share) < 0.05
    assert (gone.float().mean(1) - share / count).abs().max() < 0.04


def test_dropping_is_another_run_and_no_dropping_draws_nothing(home):
    with pytest.raises(RequestError): run(dropped=0.2)
    plain, dropped = (run("random_init", "finetune", dropped=o, row=f"{o}") for o in (0.0, 0.5))
    done = launch([plain, dropped], workers=1, device="cpu", progress=False).whole()
    told = done.predictions.pivot(index="window", columns="row", values="score_1")
    assert (told["0.0"] != told["0.5"]).any()
