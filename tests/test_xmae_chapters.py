"""Chapters 06 and 07: what their tables declare, and models of folds asked about strangers."""
from dataclasses import replace

import numpy as np
import pytest
import torch

import biossl.evaluation.rebuilding as rebuilding
from biossl.data.errors import RequestError
from biossl.data.store import pack, worst_quality
from biossl.evaluation.controls import Trial
from biossl.evaluation.knowledge import opened, runs_of
from biossl.evaluation.rebuilding import columns, fold_of_people, row_trial, tested
from biossl.evaluation.tasks import foremost, leads, tally, together
from biossl.methods.contract import get_config, method_class
from biossl.methods.external import ABSENT
from biossl.papers.xmae import changes, learners, pairs, pilot, plateau, switches, variants
from biossl.papers.xmae_transfer import efficiency, known, outside, rows, told
from biossl.train.runs import pretraining_rows, split_rows, weights_key

TABLES = (plateau, switches, *told, *known, *efficiency)


def run_of(table, row, profile="smoke", fold=0):
    return next(o for o in table.runs("", profile) if o.row == row and o.fold == fold)


# ---- declarations ------------------------------------------------------------------------------

@pytest.mark.parametrize("table", TABLES, ids=lambda o: f"{o.chapter[:2]} {o.name}")
def test_every_table_has_chance_an_untrained_encoder_and_hand_made_features(table):
    assert {"Chance", "Random init", "35 features", "Heart rate only", "Window sd only"} <= {
        o.name for o in table.rows}
    assert all(o.split == "cohort" for o in table.rows)


def test_the_transfers_rows_are_the_rivals_that_were_promised():
    names = {o.name for o in rows}
    assert names > {o for o, *_ in learners} and "Supervised" in names and len(rows) == 19
    assert all(method_class(o.method).trains for o in rows[:len(learners)])
    assert not any(method_class(o.method).trains for o in rows[len(learners):])


def test_less_data_is_fewer_windows_of_all_the_people(home):
    table = efficiency[0]
    assert table.task == "af" and len(table.rows) == 14
    whole, third, few = (run_of(table, f"xMAE{o}") for o in ("", ", 30 %", ", 3 %"))
    windows, task = opened(whole)
    seen = [pretraining_rows(o, windows, *split_rows(o, windows, task)) for o in (whole, third, few)]
    people = [set(windows.labels("subject")[o]) for o in seen]
    assert people[0] == people[1] == people[2] and set(seen[2]) < set(seen[1]) < set(seen[0])
    assert [o.schedule.but(every=1) for o in (third, few)] == [whole.schedule] * 2


def test_a_published_encoder_without_weights_says_so_and_the_others_go_on(home, monkeypatch):
    monkeypatch.delenv("BIOSSL_EXTERNAL", raising=False)
    table = replace(told[0], rows=(*outside, told[0].row("Chance")), versus="Chance")
    frame, launched = table.run(profile="smoke", workers=1, device="cpu")
    assert {o["row"] for o in launched.failures} == {o.name for o in outside}
    assert all(ABSENT in o["error"] for o in launched.failures)
    lines = frame[frame.row.isin([o.name for o in outside])]
    assert lines["mean"].isna().all() and lines.schedule.str.contains(ABSENT).all()
    assert frame[frame.row == "Chance"]["mean"].notna().any()


@pytest.mark.parametrize("table", (plateau, switches, told[0]), ids=lambda o: o.name)
def test_rows_differ_in_what_is_run(home, table):
    keys = [run_of(table, o.name, "paper").key for o in table.rows if o.method != "external"]
    assert len(set(keys)) == len(keys)


def settings(run):
    return vars(get_config(run.method, **run._hyper))


@pytest.mark.parametrize("name, hyper, schedule", changes[1:], ids=lambda o: o if isinstance(o, str) else "")
def test_a_switch_is_one_change_of_xmae(home, name, hyper, schedule):
    mine, base = run_of(switches, name), run_of(switches, "xMAE")
    changed = {k for k, v in settings(mine).items() if v != settings(base)[k]}
    extra = {"Projection probed": {"prune_dead"}, "Augmented, shifts apart": {"augment_on"}}
    assert changed == {k for k, _ in hyper} and len(changed - extra.get(name, set())) <= 1
    assert len(changed) + len(schedule) >= 1


def test_one_pre_training_serves_both_chapters_and_all_tasks(home):
    same = [run_of(o, "xMAE") for o in (plateau, told[0], told[3], known[0])]
    assert len({weights_key(o, "data", [1, 2]) for o in same}) == 1
    windows = pack(*same[0].source())
    seen = [pretraining_rows(o, windows, *split_rows(o, windows, opened(o)[1])) for o in same]
    assert all(np.array_equal(seen[0], o) for o in seen[1:]) and 0 < len(seen[0]) < len(windows)


def test_every_variant_starts_from_the_same_size_and_windows():
    assert all(dict(o.hyper)["size"] == dict(pilot)["size"] for o in plateau.rows if o.method == "xmae")
    assert [o.name for o in plateau.rows[:len(variants)]] == [name for name, _ in variants]
    assert pairs.seconds * dict(pairs.signals)["ecg"] == 1000 and pairs.normalise == "minmax"


# ---- models of folds ---------------------------------------------------------------------------

@pytest.fixture
def two_folds(home):
    "Runs of xMAE on eight virtual people, one of each fold."
    return runs_of(plateau, "xMAE", profile="smoke", device="cpu")


class Stub:
    "A model that rebuilds its own number and embeds it with the window's mean."
    def __init__(self, number): self.number, self.done = float(number), torch.zeros(())
    def eval(self): return self
    def parameters(self): return iter(())
    embed_keys = ("ppg",)
    def seen(self, n, generator): return torch.arange(5).expand(n, 5)
    def rebuild(self, ppg, ecg, keep): return np.full(ppg.shape, self.number)
    def embed(self, batch):
        return torch.stack([batch["ppg"].mean((1, 2)), batch["ppg"].amax((1, 2)) + self.number], 1)


@pytest.fixture
def stubs(monkeypatch):
    monkeypatch.setattr(rebuilding, "row_models",
                        lambda runs, device="auto": {o.fold: Stub(o.fold + 1) for o in runs})


def test_everybody_is_asked_of_the_model_that_never_saw_them(two_folds):
    people, fold_of = tested(two_folds), fold_of_people(two_folds)
    windows, task = opened(two_folds[0])
    for run in two_folds:
        seen = pretraining_rows(run, windows, *split_rows(run, windows, task))
        taught = set(windows.labels("subject")[seen].astype(str))
        mine = set(people.pairs.subjects[people.fold == run.fold])
        assert mine and not mine & taught and all(fold_of[o] == run.fold for o in mine)
    assert len(people.pairs.subjects) == len(people.fold) == len(people.ppg_beats) > 20
    inside = people.ppg_beats[np.isfinite(people.ppg_beats)]
    assert (inside >= 0).all() and (inside < pairs.seconds).all()


def test_every_second_window_of_a_recording_can_be_asked_for(two_folds):
    all_, half = tested(two_folds), tested(two_folds, every=2)
    assert len(all_) / 2 <= len(half) < .7 * len(all_)


def test_windows_in_which_a_signal_is_poor_can_be_left_out(two_folds):
    all_, good = tested(two_folds), tested(two_folds, least=.9)
    assert 0 < len(good) < len(all_)
    longer = pack(two_folds[0].source()[0], rebuilding.longer(pairs), two_folds[0].source()[2])
    kept = np.flatnonzero(worst_quality(longer) >= .9)
    assert {o.tobytes() for o in good.pairs.ppg} <= {o.tobytes() for o in longer.arrays["ppg"][kept]}


def test_folds_that_hang_on_a_task_are_refused(two_folds):
    with pytest.raises(RequestError, match="folds by subject"):
        tested([replace(o, split="subject") for o in two_folds])


def test_the_trial_of_a_row_asks_each_folds_model(two_folds, stubs):
    people = tested(two_folds)
    trial = row_trial(two_folds, people, "cpu", resamples=50)
    said = trial.rebuilt[:, 0, -1]                       # the last patch is hidden
    assert np.array_equal(said, people.fold + 1.0)
    some = np.flatnonzero(people.fold == 1)[:3]
    assert (trial.take(some).rebuilt[:, 0, -1] == 2).all()
    bare = Trial(lambda ppg, ecg, keep: np.full(ppg.shape, 7.0), people.pairs, trial.keep)
    assert (bare.rebuilt[:, 0, -1] == 7).all()


def test_each_folds_encoder_has_columns_of_its_own(two_folds, stubs):
    people = tested(two_folds)
    x = columns(two_folds, people, "cpu")
    assert x.shape == (len(people), 4)
    for k in (0, 1):
        mine = people.fold == k
        assert (x[~mine, 2 * k:2 * k + 2] == 0).all() and (x[mine, 2 * k] != 0).any()
        np.testing.assert_allclose(x[mine, 2 * k:2 * k + 2].mean(0), 0, atol=1e-6)


def test_what_nobody_trains_has_one_set_of_columns(two_folds):
    people = tested(two_folds, every=3)
    runs = runs_of(plateau, "35 features", profile="smoke", device="cpu")
    x = columns(runs, people, "cpu")
    assert x.shape == (len(people), 35) and np.isfinite(x).mean() > .9
    rate = columns(runs_of(plateau, "Heart rate only", profile="smoke", device="cpu"), people, "cpu")
    beats = [np.diff(o[np.isfinite(o)]) for o in people.ppg_beats[:, 0]]
    np.testing.assert_allclose(rate[:, 0], [60 / np.median(o) for o in beats], rtol=1e-4)


# ---- who leads ---------------------------------------------------------------------------------

def test_a_lead_is_over_the_strongest_rival_and_the_strongest_floor():
    import pandas as pd
    line = dict(n=9, versus="ours")
    frame = pd.DataFrame([
        dict(row="ours", metric="auroc", mean=70., difference=np.nan, p=np.nan, n=9, versus=""),
        dict(row="a", metric="auroc", mean=72., difference=2., p=.04, **line),
        dict(row="b", metric="auroc", mean=60., difference=-10., p=.01, **line),
        dict(row="floor", metric="auroc", mean=65., difference=-5., p=.01, **line),
        dict(row="a", metric="f1", mean=99., difference=9., p=.01, **line)])
    both = together(dict(one=frame, two=frame.assign(mean=frame["mean"] / 2)))
    assert list(both.columns)[0] == "task" and set(foremost(both).metric) == {"auroc"}
    ahead = leads(foremost(both), "ours", ("floor",))
    assert ahead.rival.tolist() == ["a", "a"] and ahead.rival_gap.tolist() == [-2, -2]
    assert ahead.floor_gap.tolist() == [5, 5] and ahead.ours.tolist() == [70, 35]
    assert tally(ahead, "rival").endswith("clearly behind in 2")
    assert tally(ahead, "floor").startswith("ahead in 2 of 2 tasks, clearly (p < 0.05, one test a task) in 2")
    with pytest.raises(RequestError, match="no row us"): leads(foremost(both), "us", ())
    with pytest.raises(RequestError, match="not to b"): leads(foremost(both), "b", ())
