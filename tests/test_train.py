"""Profiles, the probe, pre-training that can be killed, and runs side by side."""
import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import ROOM

import biossl.methods.contract as contract
import biossl.train.profiles as profiles
from biossl.cohorts.registry import Card, Cohort, Task
from biossl.data.errors import MethodError, RequestError, SplitError, StoreError
from biossl.data.recordings import Recording, Signal
from biossl.data.store import Windowing, pack
from biossl.evaluation.tables import Row, Table
from biossl.methods.contract import Loss, Method, as_tensor, seeded
from biossl.train.launch import Run, launch, pretrained, run_key, split_rows
from biossl.train.loop import batch_rows
from biossl.train.finetune import finetune, measures
from biossl.train.pretrain import gated, pretrain, steps_of, thinned, unlabelled
from biossl.train.probe import ALPHAS, Scaler, probe, probe_classes, probe_quantity, ridge
from biossl.train.profiles import TWO_CORES, Schedule, get_profile
from biossl.train.runs import pretraining_rows, weights_key

TESTS = os.path.dirname(os.path.abspath(__file__))
few = settings(deadline=None, max_examples=25)
AF = Task("af", "af", "binary", (0, 1))


# -- the probe ---------------------------------------------------------------------------------
def people(n=12, each=6, d=4, seed=0):
    "Embeddings, truth and subjects; classes lie apart, some values are missing."
    rng = np.random.default_rng(seed)
    subjects = np.repeat([f"s{i:02}" for i in range(n)], each)
    truth = np.repeat(np.arange(n) % 2, each)
    x = rng.normal(size=(n * each, d)) + truth[:, None]
    x[rng.random(x.shape) < .1] = np.nan
    return x, truth, subjects


def test_the_scaler_is_scikit_learns_and_fitted_on_training_rows_alone():
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler
    x, _, _ = people()
    train, test = x[:40], x[40:]
    imputer = SimpleImputer(strategy="median").fit(train)
    scaler = StandardScaler().fit(imputer.transform(train))
    scale = Scaler(train)
    for rows in (train, test):
        np.testing.assert_allclose(scale(rows)[:, :4], scaler.transform(imputer.transform(rows)))
    marks = {tuple(o) for o in scale(train)[:, 4:].T}
    assert len(marks) == 4                       # each column has gaps of its own


def test_a_column_without_any_value_or_spread_stays_silent():
    x = np.c_[np.full(6, np.nan), np.full(6, 7.0), np.arange(6.0)]
    scale = Scaler(x)
    out = scale(np.array([[3.0, 1e9, 2.5], [np.nan, np.nan, np.nan]]))
    assert np.isfinite(out).all() and (out[:, :2] == 0).all() and np.allclose(out[:, 2], 0)
    with pytest.raises(MethodError, match="infinite"): Scaler(np.array([[1.0], [np.inf]]))
    with pytest.raises(MethodError, match="not \\(N, D\\)"): Scaler(np.zeros(3))


def test_the_logistic_probe_is_scikit_learns_pipeline():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    x, truth, subjects = people()
    x = np.nan_to_num(x)
    done = probe_classes(x[:48], truth[:48], subjects[:48], x[48:], (0, 1), penalties=(.1,))
    pipe = make_pipeline(StandardScaler(), LogisticRegression(C=.1, max_iter=1000))
    expected = pipe.fit(x[:48], truth[:48]).predict_proba(x[48:])
    np.testing.assert_allclose(done.scores, expected, atol=1e-6)
    assert done.penalty == .1


def test_the_penalty_is_chosen_by_people_not_by_windows():
    "A column that names the person helps within a person only: the strongest penalty must win."
    rng = np.random.default_rng(1)
    subjects = np.repeat([f"s{i:02}" for i in range(20)], 20)
    truth = np.repeat(rng.permutation(20) % 2, 20)
    x = np.repeat(rng.normal(size=(20, 40)), 20, axis=0)          # the person's fingerprint
    assert probe_classes(x, truth, subjects, x, (0, 1), penalties=(1e-4, 100.0)).penalty == 1e-4
    windows = np.array([f"w{i}" for i in range(400)])             # everyone a person of one window
    assert probe_classes(x, truth, windows, x, (0, 1), penalties=(1e-4, 100.0)).penalty == 100.0


def test_a_class_that_training_lacks_gets_no_probability_and_order_is_the_tasks():
    x, truth, subjects = people()
    done = probe(x, np.array(["b", "c"])[truth], subjects, x, Task("t", "t", "multiclass", "acb"))
    assert done.scores.shape == (72, 3) and (done.scores[:, 0] == 0).all()
    assert (done.scores[truth == 0, 2] > .5).mean() > .7 < (done.scores[truth == 1, 1] > .5).mean()


def test_test_windows_do_not_influence_each_other():
    x, truth, subjects = people()
    whole = probe(x[:48], truth[:48], subjects[:48], x[48:], AF).scores
    one = probe(x[:48], truth[:48], subjects[:48], x[50:51], AF).scores
    np.testing.assert_allclose(one[0], whole[2], rtol=1e-12)


def test_what_cannot_be_probed_is_refused():
    x, truth, subjects = people()
    with pytest.raises(SplitError, match="1 of 2 classes"): probe(x, truth * 0, subjects, x, AF)
    with pytest.raises(SplitError, match="0 test"): probe(x, truth, subjects, x[:0], AF)
    with pytest.raises(MethodError, match="not \\(N, K\\)"):
        probe(x, truth, subjects, x, replace(AF, kind="multilabel"))


@few
@given(n=st.integers(5, 30), d=st.integers(1, 8), seed=st.integers(0, 99))
def test_ridge_is_scikit_learns(n, d, seed):
    from sklearn.linear_model import Ridge
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=n)
    x, y = x - x.mean(0), y - y.mean()
    expected = [Ridge(alpha=a, fit_intercept=False).fit(x, y).coef_ for a in ALPHAS]
    np.testing.assert_allclose(ridge(x, y, ALPHAS), expected, atol=1e-8)


def test_the_regression_probe_is_a_grid_search_over_people():
    from sklearn.linear_model import Ridge
    from biossl.data.splits import inner_folds
    x, truth, subjects = people()
    x = np.nan_to_num(x)
    y = 60 + 10 * x[:, 0] + np.random.default_rng(0).normal(size=72) * 20
    done = probe_quantity(x, y, subjects, x[:5], seed=3)
    z, fold = Scaler(x)(x), inner_folds(subjects, None, 3, 3)
    cost = [sum(((Ridge(alpha=a).fit(z[fold != k], y[fold != k]).predict(z[fold == k])
                  - y[fold == k]) ** 2).sum() for k in range(3)) for a in ALPHAS]
    best = ALPHAS[int(np.argmin(cost))]
    assert done.penalty == best
    np.testing.assert_allclose(done.scores[:, 0], Ridge(alpha=best).fit(z, y).predict(z[:5]))


# -- pre-training ------------------------------------------------------------------------------
class Stand:
    "A store in memory."
    def __init__(self, n=24, samples=32):
        made = np.random.default_rng(0).normal(size=(n, 1, samples))
        self.arrays, self.n = {"ecg": made.astype("float32")}, n
    def batch(self, rows, keys): return {k: self.arrays[k][rows] for k in keys}
    def labels(self, key): return np.array([f"{key}{i // 4}" for i in range(self.n)])


class Pupil(Method):
    "Follows its own teacher: draws a view, drops features, and counts how far its teacher went."
    name, trains, least_batch = "pupil", True, 2

    @dataclass(frozen=True)
    class Config(Method.Config):
        width: int = 4

    def __init__(self, config=None):
        super().__init__(config)
        self.net = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Dropout(.2),
                                 nn.Linear(8, self.config.width))
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("moved", torch.zeros(()))
        self.seen = set()

    def views(self, batch, generator):
        x = as_tensor(batch["ecg"])[:, 0, :32]
        return [dict(ecg=x), dict(ecg=x + torch.randn(x.shape, generator=generator))]

    def forward(self, views):
        x, view = (o["ecg"] for o in views)
        said = self.net(view)
        self.seen.add(said.dtype)
        return Loss((said.float() - self.teacher(x).float() - 1).square().mean())

    def after_step(self, step, steps):
        for mine, theirs in zip(self.teacher.parameters(), self.net.parameters()):
            assert not torch.is_grad_enabled()
            mine.lerp_(theirs, .1 * (step + 1) / steps)
        self.moved += step

    def embed(self, batch):
        out = self.net(as_tensor(batch["ecg"])[:, 0, :32])
        self.seen.add(out.dtype)
        return out

    def head(self, classes): return nn.Linear(self.config.width, classes)


def fresh(seed=0, **config):
    with seeded(seed): return Pupil(Pupil.Config(("ecg",), **config))


def same_weights(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@few
@given(n=st.integers(1, 50), batch=st.integers(1, 20), seed=st.integers(0, 99))
def test_an_epoch_shows_no_window_twice(n, batch, seed):
    rows, per = np.arange(7, 7 + n), n // min(batch, n)
    for epoch in range(2):
        seen = [batch_rows(rows, batch, seed, epoch * per + i) for i in range(per)]
        flat = np.concatenate(seen)
        assert {len(o) for o in seen} == {min(batch, n)}
        assert len(set(flat.tolist())) == len(flat) > n - min(batch, n) and set(flat) <= set(rows)
    assert steps_of(Schedule(epochs=3, batch=batch), n) == 3 * per
    assert steps_of(Schedule(epochs=3, batch=batch, steps=2), n) == min(2, 3 * per)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(made))             # what was drawn before does not matter
        method = fresh()
        losses = pretrain(method, Stand(), range(24), Schedule(epochs=2, batch=8), seed=seed)
        made.append((losses, method))
    assert made[0][0] == made[1][0] != made[2][0]
    assert same_weights(made[0][1], made[1][1])


def test_the_order_of_windows_comes_from_the_seed():
    asked = []
    for seed in (0, 0, 1):
        windows = Stand()
        gather, rows = windows.batch, []
        windows.batch = lambda r, keys, gather=gather, rows=rows: (
            rows.append(r.tolist()) or gather(r, keys))
        pretrain(fresh(), windows, range(24), Schedule(epochs=1, batch=8), seed=seed)
        asked.append(rows)
    assert asked[0] == asked[1] != asked[2]


def alone(train):
    "What `train()` gives on one thread."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try: return train()
    finally: torch.set_num_threads(threads)


def worker(what, *arguments):
    "A process of one thread that calls the function `what` of this folder's tests."
    room, name = what.split(".")
    line = (f"import sys, torch; torch.set_num_threads(1); sys.path.insert(0, {TESTS!r});"
            f"import {room}; {room}.{name}(*sys.argv[1:])")
    return subprocess.Popen([sys.executable, "-c", line, *map(str, arguments)])


def killed_and_resumed(what, tmp_path):
    "The weights and losses of a course killed by SIGKILL at a random step and taken up again."
    from safetensors.torch import load_file
    checkpoint = tmp_path / "checkpoint"
    process = worker(what, checkpoint, tmp_path / "killed", .1)
    while process.poll() is None and not checkpoint.is_file(): time.sleep(.01)
    time.sleep(np.random.default_rng().uniform(0, .5))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and checkpoint.is_file()
    assert not (tmp_path / "killed").exists()
    assert worker(what, checkpoint, tmp_path / "resumed", 0).wait() == 0
    assert not checkpoint.exists()
    return load_file(tmp_path / "resumed")


class Slow(Stand):
    "A store that can be killed between two batches."
    def __init__(self, pause):
        super().__init__()
        self.pause = float(pause)
    def batch(self, rows, keys):
        time.sleep(self.pause)
        return super().batch(rows, keys)


def kept_at(path, modules, losses):
    "Weights and losses as one file."
    from safetensors.torch import save_file
    kept = {k: v.contiguous() for k, v in nn.ModuleDict(modules).state_dict().items()}
    save_file(kept | dict(losses=torch.tensor(losses, dtype=torch.float64)), path)


LONG = Schedule(epochs=4, batch=8, lr=1e-2)


def pretrain_slowly(checkpoint, target, pause):
    method = fresh()
    losses = pretrain(method, Slow(pause), range(24), LONG, checkpoint=checkpoint, every=1)
    kept_at(target, dict(method=method), losses)


def test_killed_at_any_step_and_resumed_it_ends_where_an_uninterrupted_run_ends(tmp_path):
    resumed = killed_and_resumed("test_train.pretrain_slowly", tmp_path)
    method = fresh()
    losses = alone(lambda: pretrain(method, Stand(), range(24), LONG))
    assert losses == resumed.pop("losses").tolist() and len(losses) == 12
    assert resumed["method.moved"] == sum(range(12))             # the teacher's, too
    expected = {f"method.{k}": v for k, v in method.state_dict().items()}
    assert set(expected) == set(resumed)
    assert all(torch.equal(v, resumed[k]) for k, v in expected.items())
    assert not same_weights(method, fresh())


def stopped(path, after=2):
    "A checkpoint that a run left behind when it was stopped."
    windows, calls = Stand(), []
    gather = windows.batch
    def batch(rows, keys):
        calls.append(1)
        if len(calls) > after: raise KeyboardInterrupt
        return gather(rows, keys)
    windows.batch = batch
    with pytest.raises(KeyboardInterrupt):
        pretrain(fresh(), windows, range(24), Schedule(epochs=2, batch=8), checkpoint=path, every=1)


def test_a_checkpoint_of_another_run_or_half_of_one_is_refused(tmp_path, monkeypatch):
    path, schedule = tmp_path / "checkpoint", Schedule(epochs=2, batch=8)
    stopped(path)
    def resume(method=None, **change):
        method = method or fresh()
        before = copy.deepcopy(method)
        try: pretrain(method, Stand(), range(24), replace(schedule, **change), checkpoint=path)
        finally: assert same_weights(before, method)
    for change in (dict(lr=.5), dict(epochs=9), dict(precision="bfloat16")):
        with pytest.raises(MethodError, match="another run: schedule"): resume(**change)
    with pytest.raises(MethodError, match="another run: config"): resume(fresh(width=5))
    with monkeypatch.context() as m:
        m.setattr(Pupil, "version", "7")
        with pytest.raises(MethodError, match="version 1, not 7"): resume()
    other = fresh()
    other.net[3] = nn.Linear(8, 5)                               # the same name, other layers
    with pytest.raises(MethodError, match="another architecture"): resume(other)
    whole = path.read_bytes()
    for damaged in (whole[:-50], whole[:20], b""):
        path.write_bytes(damaged)
        with pytest.raises(MethodError, match="no whole checkpoint"): resume()


def test_a_loss_that_is_no_number_names_step_and_recordings():
    windows = Stand()
    windows.arrays["ecg"][[5, 17], 0, 3] = np.nan
    with pytest.raises(MethodError, match=r"recording\d.*loss is nan at step 0"):
        pretrain(fresh(), windows, range(24), Schedule(epochs=1, batch=24))
    with pytest.raises(MethodError) as caught:
        pretrain(fresh(), windows, range(24), Schedule(epochs=1, batch=24))
    assert caught.value.where == "recording1, recording4"


def test_pre_training_sees_all_windows_of_its_subjects_and_no_others():
    windows = Stand()                                    # subjects of four windows each
    rows = unlabelled(windows, [0, 9], [16, 20])
    assert rows.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    with pytest.raises(SplitError, match="subject2"): unlabelled(windows, [0, 9], [10])


def test_every_so_many_th_window_of_each_recording():
    windows, rng = Stand(), np.random.default_rng(0)
    for every in (1, 2, 3, 5):
        rows = np.sort(rng.choice(24, 17, replace=False))
        expected = [o for name in range(6) for o in [r for r in rows if r // 4 == name][::every]]
        assert thinned(windows, rows, every).tolist() == expected


@pytest.mark.parametrize("batch,n", [(1, 24), (8, 1), (8, 0)])
def test_a_batch_that_the_loss_cannot_use_is_refused_before_any_work(batch, n):
    windows = Stand()
    windows.batch = lambda *_: pytest.fail("worked")
    with pytest.raises(MethodError, match="pupil.*needs 2 windows"):
        pretrain(fresh(), windows, range(n), Schedule(epochs=1, batch=batch))


def test_bfloat16_is_for_the_networks_alone():
    made = {}
    for precision in ("float32", "bfloat16"):
        method = made[precision] = fresh()
        pretrain(method, Stand(), range(24), Schedule(epochs=1, batch=8, precision=precision))
        assert method.seen == {getattr(torch, precision)}
        assert {v.dtype for v in method.state_dict().values()} == {torch.float32}
    assert not same_weights(*made.values())


class Line(Method):
    "One weight a sample, no noise: what an optimiser does with it can be written down."
    name, trains = "line", True
    def __init__(self):
        super().__init__(self.Config(("ecg",)))
        self.w = nn.Parameter(torch.full((32,), .5))
    def views(self, batch, generator): return [batch]
    def forward(self, views): return Loss((views[0]["ecg"][:, 0] @ self.w).square().mean())


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_the_optimiser_is_the_equations_and_adam_decays_in_the_gradient(kind):
    schedule = Schedule(epochs=4, batch=24, lr=.01, weight_decay=.35, clip=.3, optimiser=kind)
    method, windows = Line(), Stand()
    pretrain(method, windows, range(24), schedule)
    x, w = windows.arrays["ecg"][:, 0].astype(float), np.full(32, .5)
    m = v = 0
    for t in range(1, 5):
        g = 2 * x.T @ (x @ w) / 24
        g *= min(1, .3 / np.linalg.norm(g))
        if kind == "adam": g = g + .35 * w
        else: w = w * (1 - .01 * .35)
        m, v = .9 * m + .1 * g, .999 * v + .001 * g * g
        w = w - .01 * (m / (1 - .9**t)) / (np.sqrt(v / (1 - .999**t)) + 1e-8)
    np.testing.assert_allclose(method.w.detach().numpy(), w, atol=1e-6)


def test_a_profile_decides_the_precision_and_a_table_what_it_can_pay_for(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(profiles, "has_bfloat16", lambda device, there=there: there)
        decided = "bfloat16" if there else "float32"
        night = get_profile("paper").on("cpu", TWO_CORES, 1)
        assert night.schedule == replace(TWO_CORES, precision=decided) and night.seeds == 1
        assert get_profile("quick").on("cpu", TWO_CORES, 1).schedule.precision == decided
    paper = get_profile("paper")
    assert paper.on("cuda", TWO_CORES, 1) == paper and paper.on("cpu").schedule == paper.cut
    for wrong in (dict(precision="float8"), dict(optimiser="adma"), dict(every=0), dict(batch=0)):
        with pytest.raises(RequestError, match=next(iter(wrong))): Schedule(**wrong)


# -- runs --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Toy(Cohort):
    "Ten people of three windows each, one window of the last without a label."
    people: int = 10

    card = Card("toy", "", "", "", "", "", "", 10, 10, .1, {"ecg": 20.0, "ppg": 20.0}, 0)
    tasks = (AF, Task("rate", "rate", "regression"), Task("lost", "lost", "binary", (0, 1)))

    def recordings(self, folder):
        for i in range(self.people):
            rng = np.random.default_rng(i)
            made = {k: Signal((1 + i % 2) * rng.normal(size=(1, 620)), 20.0, ("II",), "mV")
                    for k in ("ecg", "ppg")}
            labels = dict(af=i % 2 if i else None, rate=60.0 + i, alarm_type="abc"[i % 3])
            yield Recording(f"r{i}", f"p{9 - i}", made, labels)

    def fingerprint(self, folder): return dict(people=self.people)


WINDOWING = Windowing(signals=(("ecg", 20.0), ("ppg", 20.0)), seconds=10.0, hop=10.0, beats=())
ONE_STEP = Schedule(epochs=1, steps=1, batch=8, penalties=(1.0,))


@pytest.fixture
def toy(home, monkeypatch):
    "A function that makes runs on the toy cohort."
    def source(run):
        if run.cohort != "toy": raise RequestError(f"no cohort {run.cohort}")
        return Toy(**dict(run.options)), run.windowing, None
    monkeypatch.setattr(Run, "source", source)
    pack(Toy(), WINDOWING)
    return lambda row, method, folds=2, **facts: [
        Run(row, method, cohort="toy", windowing=WINDOWING, fold=k, folds=folds,
            **{"schedule": ONE_STEP, **facts}) for k in range(folds)]


def test_every_labelled_window_is_tested_once_and_counted(toy):
    out = launch(toy("Moments", "raw_moments", folds=3), workers=1, progress=False).whole()
    frame = out.predictions
    assert sorted(frame.window) == list(range(3, 30)) and (frame.recording != "r0").all()
    assert (frame.subject == [f"p{9 - int(r[1:])}" for r in frame.recording]).all()
    assert (frame.truth == [int(r[1:]) % 2 for r in frame.recording]).all()
    assert list(frame)[-2:] == ["score_0", "score_1"]
    assert ((frame.score_1 > .5) == frame.truth).mean() > .9
    for record in out.records:
        assert record["n_train"] + record["n_test"] == 27 and record["n_missing"] == 3
        assert record["final_loss"] is None and record["split"] == "subject"
        json.dumps(record)
    by_fold = frame.groupby("fold").subject.agg(set)
    assert sum(map(len, by_fold)) == 9 == len(set.union(*by_fold))


def test_chance_is_the_classes_frequency_and_a_quantitys_mean(toy):
    runs = toy("Chance", "chance") + toy("Chance", "chance", task="rate")
    out = launch(runs, workers=1, progress=False).whole()
    for _, part in out.predictions.groupby("run"):
        rest = out.predictions[(out.predictions.run != part.run.iloc[0])
                               & (out.predictions.score.isna() == part.score.isna().iloc[0])]
        score = part.score_1 if part.score.isna().all() else part.score
        np.testing.assert_allclose(score, rest.truth.astype(float).mean(), atol=1e-3)


def test_finished_runs_are_found_under_any_name_and_not_repeated(toy, monkeypatch):
    first = launch(toy("A", "raw_moments"), workers=1, progress=False).whole()
    monkeypatch.setattr(ROOM["execute"], "execute", lambda job: pytest.fail("ran again"))
    again = launch(toy("B", "raw_moments"), workers=1, progress=False).whole()
    assert set(again.predictions.row) == {"B"} == {o["row"] for o in again.records}
    assert first.predictions.drop(columns="row").equals(again.predictions.drop(columns="row"))


def test_a_failed_run_takes_no_other_with_it(toy):
    runs = (toy("fine", "raw_moments") + toy("no truth", "raw_moments", task="lost")
            + toy("no method", "raw_moment")
            + toy("cheat", "context", hyper=(("signals", ("af",)),))
            + toy("too few", "context", hyper=(("levels", 2),))
            + [replace(o, row="nowhere", cohort="atlantis") for o in toy("x", "chance")])
    out = launch(runs, workers=2, progress=False)
    said = {o["row"]: o["error"] for o in out.failures}
    assert set(out.predictions.row) == {"fine"}
    assert len(out.records) == 2 and len(out.failures) == 10
    for row, words in {"no truth": "no label lost", "no method": "did you mean raw_moments",
                       "cheat": "which is the answer", "too few": "more than 2 values",
                       "nowhere": "no cohort atlantis"}.items(): assert words in said[row]
    with pytest.raises(MethodError, match="10 runs failed"): out.whole()


@dataclass(frozen=True)
class Deadly(Run):
    "A run whose worker dies, as one does that the system kills for its memory."
    def build(self, seed=None):
        if seed is None: os._exit(9)
        return super().build(seed)


def test_a_worker_that_dies_costs_its_own_run_only(toy):
    runs = toy("fine", "raw_moments", folds=3)
    dead = Deadly("dead", "chance", cohort="toy", windowing=WINDOWING, schedule=ONE_STEP)
    out = launch([dead, *runs], workers=2, progress=False)
    assert [o["row"] for o in out.failures] == ["dead"] and len(out.records) == 3


def test_side_by_side_or_one_after_the_other_gives_the_same_bits(toy, monkeypatch, tmp_path):
    runs = toy("conv", "random_conv") + toy("net", "simclr")
    one = launch(runs, workers=1, progress=False).whole()
    monkeypatch.setenv("BIOSSL_HOME", str(tmp_path / "elsewhere"))
    two = launch(runs, workers=2, progress=False).whole()
    assert one.predictions.equals(two.predictions)
    assert [o["final_loss"] for o in one.records] == [o["final_loss"] for o in two.records]


def test_weights_are_trained_once_for_all_probes_and_on_training_subjects_only(toy, monkeypatch):
    seen, train = [], ROOM["pretrain"].pretrain
    def spy(method, windows, rows, *rest, **more):
        seen.append(set(windows.labels("subject")[rows]))
        return train(method, windows, rows, *rest, **more)
    monkeypatch.setattr(ROOM["pretrain"], "pretrain", spy)
    out = launch(toy("net", "simclr"), workers=1, progress=False).whole()
    tested = out.predictions.groupby("fold").subject.agg(set)
    assert len(seen) == 2 and all(not a & b for a, b in zip(seen, tested))
    other = replace(ONE_STEP, penalties=(.01,))
    launch(toy("net", "simclr", schedule=other), workers=1, progress=False).whole()
    assert len(seen) == 2
    launch(toy("net", "simclr", schedule=replace(other, lr=.01)), workers=1, progress=False).whole()
    assert len(seen) == 4


def test_a_split_by_windows_is_said_to_be_one(toy):
    out = launch(toy("leak", "raw_moments", split="window"), workers=1, progress=False).whole()
    assert {o["split"] for o in out.records} == {"window"}
    sides = out.predictions.groupby("fold").subject.agg(set)
    assert sides[0] & sides[1]


def test_a_packed_store_needs_none_of_the_tools_that_made_it(toy, monkeypatch):
    for name in ("wfdb", "papermill", "nbdev", "neurokit2", "execnb", "fastcore"):
        monkeypatch.setitem(sys.modules, name, None)
    launch(toy("net", "simclr"), workers=1, progress=False).whole()


def test_folds_hang_on_the_order_of_people_and_not_on_their_names(home):
    windows, runs = pack(Toy(), WINDOWING), [Run("", "chance", fold=k, folds=2) for k in range(2)]
    class Renamed:
        def labels(self, key):
            made = windows.labels(key)
            return np.array([f"x{9 - int(o[1:])}" for o in made]) if key == "subject" else made
    for run in runs:
        for a, b in zip(split_rows(run, windows, AF), split_rows(run, Renamed(), AF)):
            assert np.array_equal(a, b)


def test_the_key_knows_what_determines_a_run(monkeypatch):
    run = Run("a", "simclr", (("tau", .1),))
    key = run_key(run, "data")
    same = (replace(run, row="b"), replace(run, hyper=()), replace(run, hyper=[["tau", .1]]))
    assert {run_key(o, "data") for o in same} == {key}
    other = [replace(run, **o) for o in (
        dict(hyper=(("tau", .2),)), dict(method="clip"), dict(cohort="bidmc"),
        dict(task="x"),
        dict(options=(("subjects", 4),)), dict(windowing=Windowing(seconds=10)), dict(fold=1),
        dict(folds=6), dict(seed=1), dict(split="window"), dict(schedule=Schedule(lr=1)))]
    keys = {run_key(o, "data") for o in other} | {run_key(run, "other data"), key}
    assert len(keys) == len(other) + 2
    monkeypatch.setattr("biossl.methods.simclr.SimCLR.version", "2")
    assert run_key(run, "data") not in keys
    assert run_key(run, "data", "cuda") != run_key(run, "data", "cpu") == run_key(run, "data")
    with pytest.raises(RequestError, match="cannot be part"):
        run_key(replace(run, options=(("x", object()),)), "data")


# -- weights, judges and labels ----------------------------------------------------------------
class Beginner(Pupil):
    "Knows nothing but labels."
    name, trains, scratch = "beginner", False, True


class Headless(Pupil):
    name, head = "headless", Method.head


@pytest.fixture
def pupil(toy, monkeypatch):
    "A function that makes runs of the pupil on the toy cohort."
    rooms = contract._rooms() | {o.name: o for o in (Pupil, Beginner, Headless)}
    monkeypatch.setattr(contract, "_rooms", lambda: rooms)
    return lambda method="pupil", **facts: toy(
        facts.pop("row", method), method, hyper=(("signals", facts.pop("signals", ("ecg",))),),
        **facts)


def launched(runs, workers=1, **more):
    return launch(runs, workers=workers, progress=False, **more).whole()


def spied(monkeypatch, name, before=lambda: None):
    "The rows that `name`, pretrain or finetune, was given, call by call."
    seen, train = [], getattr(ROOM[name], name)
    def spy(method, windows, rows, *rest, **more):
        seen.append(np.asarray(rows).tolist())
        before()
        return train(method, windows, rows, *rest, **more)
    monkeypatch.setattr(ROOM[name], name, spy)
    return seen


def test_runs_side_by_side_that_share_weights_train_them_once(pupil, monkeypatch):
    seen = spied(monkeypatch, "pretrain", lambda: time.sleep(.2))
    runs = [pupil(row=str(k), **facts)[0] for k, facts in enumerate(
        (dict(), dict(judge="finetune"), dict(labels="shuffled"), dict(seed=1)))]
    out = launched(runs, workers=2, backend="threading")
    assert len(out.records) == 4 == len({o["key"] for o in out.records})
    assert len(seen) == 2                                           # one for each seed
    assert len({o["final_loss"] for o in out.records if o["seed"] == 0}) == 1


def test_a_fine_tuned_run_says_so_and_leaves_the_pre_trained_weights_alone(pupil, home):
    launched(pupil())
    kept = {o: o.read_bytes() for o in home.glob("weights/*/method/weights.safetensors")}
    out = launched(pupil(judge="finetune"))
    assert kept == {o: o.read_bytes() for o in home.glob("weights/*/method/weights.safetensors")}
    assert len(kept) == 2 and sorted(out.predictions.window) == list(range(3, 30))
    scores = out.predictions[["score_0", "score_1"]].to_numpy()
    assert (scores > 0).all() and np.allclose(scores.sum(1), 1)
    for record in out.records:
        assert record["judge"] == "finetune" and record["tuned_loss"] > 0 < record["final_loss"]
    assert not list(home.glob("checkpoints/*"))


def test_every_second_window_trains_and_all_are_probed_and_tested(pupil, monkeypatch):
    pre, fine = spied(monkeypatch, "pretrain"), spied(monkeypatch, "finetune")
    half = replace(ONE_STEP, every=2)
    out = launched(pupil(schedule=half) + pupil(judge="finetune", schedule=half))
    assert sorted(out.predictions.window) == sorted([*range(3, 30)] * 2)
    for record in out.records: assert record["n_train"] + record["n_test"] == 27
    for rows in (*pre, *fine):                                      # three windows a recording
        assert all(o % 3 in (0, 2) for o in rows)
        assert {o // 3 for o in rows if o % 3 == 0} == {o // 3 for o in rows if o % 3 == 2}
    assert len(pre) == len(fine) == 2


def test_the_precision_is_decided_before_the_key_and_recorded(pupil, monkeypatch):
    there = profiles.has_bfloat16("cpu")
    out = launched(pupil(schedule=replace(ONE_STEP, precision="auto")))
    decided = "bfloat16" if there else "float32"
    assert {o["schedule"]["precision"] for o in out.records} == {decided}
    monkeypatch.setattr(ROOM["execute"], "execute", lambda job: pytest.fail("ran again"))
    again = launched(pupil(schedule=replace(ONE_STEP, precision=decided)))
    assert [o["key"] for o in again.records] == [o["key"] for o in out.records]


def test_what_cannot_be_judged_is_refused_before_any_work(pupil, monkeypatch, home):
    for name in ("pretrain", "finetune", "probe", "untrained_embedding"):
        monkeypatch.setattr(ROOM[name], name, lambda *_, **__: pytest.fail("worked"))
    cases = {"nothing is there to probe": pupil("beginner"),
             "no head": pupil("headless", judge="finetune"),
             "windows of toy lack": pupil(signals=("ecg", "resp")),
             "needs 2 windows at once": pupil(schedule=replace(ONE_STEP, batch=1))}
    for words, runs in cases.items():
        out = launch(runs, workers=1, progress=False)
        assert len(out.failures) == 2 and not out.records
        assert all(words in o["error"] for o in out.failures), out.failures[0]["error"]
    for folder in ("runs", "weights", "checkpoints"): assert not list(home.glob(f"{folder}/*"))
    for wrong in (dict(judge="tune"), dict(labels="wrong")):
        with pytest.raises(RequestError, match="did you mean|known"): pupil(**wrong)


def test_shuffled_labels_are_dealt_among_training_subjects_and_the_truth_stays(pupil, monkeypatch):
    taught, fit = [], ROOM["probe"].probe
    def spy(x, truth, subjects, test, task, **more):
        taught.append(dict(zip(subjects.tolist(), truth.tolist())))
        assert all(taught[-1][s] == t for s, t in zip(subjects.tolist(), truth.tolist()))
        return fit(x, truth, subjects, test, task, **more)
    monkeypatch.setattr(ROOM["probe"], "probe", spy)
    true = launched(pupil(folds=3))
    dealt = launched([o for seed in range(4)
                      for o in pupil(labels="shuffled", folds=3, seed=seed)])
    assert (dealt.predictions.truth == [int(r[1:]) % 2 for r in dealt.predictions.recording]).all()
    assert {o["labels"] for o in dealt.records} == {"shuffled"}
    assert all(o[f"p{9 - i}"] == i % 2 for o in taught[:3] for i in range(10) if f"p{9 - i}" in o)
    for mine, theirs in zip(taught[:3], taught[3:6]):               # the first seed, fold by fold
        assert sorted(mine.values()) == sorted(theirs.values()) and set(mine) == set(theirs)
    assert any(o[f"p{9 - i}"] != i % 2 for o in taught[3:] for i in range(10) if f"p{9 - i}" in o)
    assert {o["key"] for o in true.records}.isdisjoint(o["key"] for o in dealt.records)


def test_folds_of_a_cohort_let_one_pre_training_serve_all_its_tasks(pupil, monkeypatch):
    seen = spied(monkeypatch, "pretrain")
    runs = [o for task in ("af", "rate") for o in pupil(task=task, split="cohort", folds=3)]
    out = launched(runs, workers=2, backend="threading")
    assert len(seen) == 3
    people = {(o.fold, o.task): set() for o in runs}
    task_of = {o["key"]: o["task"] for o in out.records}
    for line in out.predictions.itertuples():
        people[line.fold, task_of[line.run]].add(line.subject)
    for k in range(3): assert people[k, "af"] == people[k, "rate"] - {"p9"}   # r0 has no rhythm
    for rows in seen:                                  # all windows of all others, r0's as well
        shown = {f"p{9 - o // 3}" for o in rows}
        assert len(rows) == 3 * len(shown)
        assert shown in [set().union(*people.values()) - people[k, "rate"] for k in range(3)]


def test_pre_training_may_see_the_same_people_in_windows_that_lie_closer(pupil, monkeypatch):
    shown, train = [], ROOM["pretrain"].pretrain
    def spy(method, windows, rows, *rest, **more):
        shown.append((windows.windowing.hop, windows.labels("subject")[rows].tolist()))
        return train(method, windows, rows, *rest, **more)
    monkeypatch.setattr(ROOM["pretrain"], "pretrain", spy)
    usual = pupil(split="cohort", folds=3)
    close = [replace(o, schedule=o.schedule.but(hop=5.0)) for o in usual]
    asked = [launched(o, workers=1).predictions for o in (usual, close)]
    assert [o for o, _ in shown] == [10.0] * 3 + [5.0] * 3
    for (_, few), (_, many) in zip(shown[:3], shown[3:]):
        assert set(few) == set(many) and 1.5 * len(few) < len(many) < 2 * len(few)
    assert len(asked[0]) and sorted(asked[0].window) == sorted(asked[1].window)
    for fold, part in asked[1].groupby("fold"):
        assert not set(part.subject) & set(shown[3 + fold][1])
    chance = replace(usual[0], method="chance", hyper=())
    assert chance.key == replace(chance, schedule=close[0].schedule).key
    with pytest.raises(MethodError, match="no other windows of the same people"):
        launched(pupil(schedule=close[0].schedule, split="window"))


def test_few_peoples_labels_are_told_and_all_their_signals_are_seen(pupil, monkeypatch):
    told, fit, seen = [], ROOM["probe"].probe, spied(monkeypatch, "pretrain")
    def spy(x, truth, subjects, *rest, **more):
        told.append(set(subjects.tolist()))
        return fit(x, truth, subjects, *rest, **more)
    monkeypatch.setattr(ROOM["probe"], "probe", spy)
    shares = (1.0, .75, .5)
    outs = [launched(pupil(folds=3, labelled=o, schedule=replace(ONE_STEP, inner=2))) for o in shares]
    assert len(seen) == 3                                        # one pre-training a fold serves all shares
    whole, most, half = (told[3 * i:3 * i + 3] for i in range(3))
    for a, b, c in zip(whole, most, half):
        assert c < b < a and len(b) == round(.75 * len(a)) and len(c) == round(.5 * len(a))
    for out in outs: assert sorted(out.predictions.window) == list(range(3, 30))
    assert "n_labelled" not in outs[0].records[0]
    for record, people in zip(outs[2].records, half): assert record["n_labelled"] == 3 * len(people)
    run = pupil()[0]
    assert replace(run, labelled=.5).key != run.key != replace(run, labelled=.25).key
    with pytest.raises(RequestError, match="0 of the labels"): replace(run, labelled=0.)


def test_fine_tuning_is_told_as_few_alone_and_stacked(pupil, monkeypatch):
    tuned = spied(monkeypatch, "finetune")
    launched(pupil(judge="finetune", folds=3, labelled=.5))
    together, train = [], ROOM["finetune_stack"].finetune_stack
    def spy(methods, windows, rows, *rest, **more):
        together.extend(np.asarray(o).tolist() for o in rows)
        return train(methods, windows, rows, *rest, **more)
    monkeypatch.setattr(ROOM["finetune_stack"], "finetune_stack", spy)
    launched(pupil(judge="finetune", folds=3, labelled=.5, seed=0, row="again",
                   schedule=replace(ONE_STEP, tune_epochs=2)), stacked=True)
    assert len(tuned) == 3 and all(len(o) == 9 for o in tuned)
    assert together and all(rows in tuned for rows in together)


@dataclass(frozen=True)
class Parted(Toy):
    "The toy with a published split: six people to learn from, one to choose on, two to be tested."
    tasks = (*Toy.tasks, Task("many", "many", "multilabel", ("a", "b")))
    twice: bool = False     # somebody is in two parts

    def recordings(self, folder):
        for i, o in enumerate(super().recordings(folder)):
            part = "" if i == 9 else "train" if i < 6 else "val" if i == 6 else "test"
            labels = o.labels | dict(part=part, af_part=part, many_part=part, many_a=i % 2, many_b=1 - i % 2,
                                     source="toy", rate_part="train" if i < 9 else "")
            yield replace(o, labels=labels, subject="p8" if self.twice and i == 8 else o.subject)

    def fingerprint(self, folder): return dict(people=self.people, parted=True, twice=self.twice)


def test_a_published_split_is_taken_as_it_is(pupil, monkeypatch):
    monkeypatch.setattr(Run, "source", lambda run: (Parted(**dict(run.options)), run.windowing, None))
    seen, split = spied(monkeypatch, "pretrain"), dict(split="published", folds=1)
    out = launched([o for task in ("af", "many") for o in pupil(task=task, **split)])
    for record in out.records:
        frame = out.predictions[out.predictions.run == record["key"]]
        assert set(frame.recording) == {"r7", "r8"} and record["folds"] == 1
    assert [o.get("n_inner") for o in out.records] == [None, 3]
    assert set(out.inner.recording) == {"r6"}                              # the validation part
    assert seen == [list(range(18))]       # r0, too, which has no rhythm; both tasks' at once
    for wrong, said in ((dict(task="rate"), "no window at hand is in the published test part"),
                        (dict(task="lost"), "lost_part"), (dict(options=(("twice", True),)), "published split")):
        with pytest.raises(MethodError, match=said): launched(pupil(**split | wrong))
    with pytest.raises(RequestError, match="one split is published"): pupil(split="published", folds=2)


def test_a_table_runs_a_published_split_once(pupil):
    table = Table("t", "03_t", "", "af", metrics=("auroc",), rows=(
        Row("Once", "raw_moments", split="published"), Row("Each", "raw_moments")))
    runs = table.runs("toy", "smoke")
    assert [o.folds for o in runs if o.row == "Once"] == [1]
    assert len([o for o in runs if o.row == "Each"]) == runs[-1].folds > 1


class Judged(Stand):
    "A store that tells how good its windows are, signal by signal."
    cohort = "judged"
    index = told = dict(ecg_quality=np.tile([.1, .5, .9, .6], 6), subject=None,
                        ppg_quality=np.tile([.9, .5, .2, .7], 6))
    def labels(self, key): return self.told[key] if "quality" in key else super().labels(key)


def test_a_gate_keeps_windows_with_a_bad_signal_from_pre_training(pupil):
    assert gated(Judged(), np.arange(12), .5).tolist() == [1, 3, 5, 7, 9, 11]
    assert gated(Judged(), np.arange(3), .0).tolist() == [0, 1, 2]
    train, test = np.arange(8), np.arange(8, 24)
    run = replace(pupil()[0], schedule=replace(ONE_STEP, gate=.6))
    assert pretraining_rows(run, Judged(), train, test).tolist() == [3, 7]
    with pytest.raises(MethodError, match="tell no quality"):
        launched(pupil(schedule=replace(ONE_STEP, gate=.5)))


def test_a_measure_is_learned_by_fine_tuning_in_its_own_unit():
    "Whatever its unit: in another one the answers are the same, converted."
    stand = Stand(n=24)
    truth = stand.arrays["ecg"][:, 0, :4].sum(1).astype(float)
    schedule = Schedule(epochs=0, batch=8, tune_epochs=60, tune_lr=.01, head_lr=.01)
    def answered(truth):
        method = fresh()
        tuned = finetune(method, stand, np.arange(24), truth, 1, schedule)
        return measures(method, tuned, stand, np.arange(24))[:, 0]
    said = answered(truth)
    assert np.corrcoef(said, truth)[0, 1] > .9 and abs(said.mean() - truth.mean()) < truth.std() / 2
    np.testing.assert_allclose(answered(1000 + 3 * truth), 1000 + 3 * said, rtol=1e-3)
    with pytest.raises(SplitError, match="all measure 5"): answered(np.full(24, 5.0))


def test_runs_that_fine_tune_a_measure_answer_in_its_unit(pupil):
    out = launched(pupil(judge="finetune", task="rate"))
    assert out.predictions.score.between(50, 80).all() and len(out.predictions) == 30


def test_pre_trained_weights_can_be_looked_into(pupil, monkeypatch):
    runs = pupil()
    out = launched(runs)
    monkeypatch.setattr(ROOM["pretrain"], "pretrain", lambda *_, **__: pytest.fail("trained again"))
    method, losses = pretrained(runs[1])
    assert losses[-1] == out.records[1]["final_loss"] and not same_weights(method, fresh())
    with pytest.raises(MethodError, match="no pre-training"):
        pretrained(replace(runs[0], method="raw_moments", hyper=()))


def test_the_keys_of_weights_know_what_determines_them_and_no_judge():
    run = Run("a", "simclr", schedule=Schedule(every=2))
    key = weights_key(run, "data", [1, 2])
    probed = replace(run.schedule, penalties=(1.0,), inner=2, tune_epochs=1, tune_lr=1, head_lr=1,
                     every=1)
    for same in (dict(row="b"), dict(task="x"), dict(judge="finetune"), dict(labels="shuffled"),
                 dict(fold=1), dict(folds=9), dict(split="window"), dict(schedule=probed)):
        assert weights_key(replace(run, **same), "data", [1, 2]) == key
    other = [dict(schedule=replace(run.schedule, **o)) for o in (
        dict(epochs=1), dict(batch=1), dict(lr=1), dict(weight_decay=1), dict(clip=2),
        dict(steps=1), dict(precision="bfloat16"), dict(optimiser="adam"))]
    other += [dict(seed=1), dict(method="clip"), dict(hyper=(("tau", .2),))]
    keys = {weights_key(replace(run, **o), "data", [1, 2]) for o in other}
    keys |= {key, weights_key(run, "d", [1, 2]), weights_key(run, "data", [1, 3]),
             weights_key(run, "data", [1, 2], "cuda")}
    assert len(keys) == len(other) + 4


def test_a_run_does_not_depend_on_what_it_does_not_do(monkeypatch):
    def key(method, judge, **schedule):
        return run_key(Run("a", method, judge=judge, schedule=Schedule(**schedule)), "data")
    for field, facts in dict(epochs=dict(epochs=1), tune=dict(tune_lr=1.), probe=dict(inner=2),
                             every=dict(every=2)).items():
        changed = {(m, j): key(m, j, **facts) != key(m, j) for m, j in (
            ("simclr", "probe"), ("simclr", "finetune"), ("chance", "probe"),
            ("random_init", "finetune"), ("supervised", "finetune"))}
        assert list(changed.values()) == dict(
            epochs=[True, True, False, False, True], tune=[False, True, False, True, True],
            probe=[True, False, True, False, False], every=[True, True, False, True, True])[field]
    before = key("simclr", "probe"), weights_key(Run("a", "simclr"), "data", [1])
    monkeypatch.setattr("biossl.train.runs.JUDGE", "next")
    assert key("simclr", "probe") != before[0]
    assert weights_key(Run("a", "simclr"), "data", [1]) == before[1]


@pytest.mark.parametrize("file", ["predictions.parquet", "run.json"])
def test_a_damaged_run_is_named(toy, home, file):
    runs = toy("Moments", "raw_moments")
    launched(runs)
    path = next(home.glob(f"runs/*/{file}"))
    for damaged in (path.read_bytes()[:-40], b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=path.parent.name): launched(runs)


@dataclass(frozen=True)
class Twice(Toy):
    "The first person comes again under another name, one sample changed."
    def recordings(self, folder):
        yield from super().recordings(folder)
        first = next(super().recordings(folder))
        signals = {k: replace(o, samples=o.samples.copy()) for k, o in first.signals.items()}
        for o in signals.values(): o.samples[0, -1] += 1
        yield Recording("again", "somebody else", signals, first.labels)


def test_a_person_under_two_names_is_found_before_anything_is_trained(toy, monkeypatch):
    monkeypatch.setattr(Run, "source", lambda run: (Twice(9), run.windowing, None))
    out = launch(toy("Moments", "raw_moments"), workers=1, progress=False)
    assert not out.records and all("somebody else" in o["error"] for o in out.failures)


def test_progress_in_a_log_is_lines_without_carriage_returns(toy, capfd):
    launch(toy("Moments", "raw_moments"), workers=1)
    told = capfd.readouterr().err
    assert "2/2" in told and "\r" not in told and "\n\n" not in told
