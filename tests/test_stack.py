"""Runs stacked in one model end as they end alone."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from rooms import ROOM

from biossl.data.errors import MethodError
from biossl.data.store import Windowing
from biossl.methods.contract import get_method
from biossl.nn.layers import dropout
from biossl.train.finetune import finetune
from biossl.train.launch import launch
from biossl.train.pretrain import pretrain
from biossl.train.profiles import Schedule
from biossl.train.runs import Run
from biossl.train.stack import (check_stack, clip_each, finetune_stack, pretrain_stack, stack,
                                unstack)

SAMPLES, SEEDS = 96, (3, 4)
FOLDS = [np.arange(24), np.arange(16, 40)]
STILL = dict(dropout=0.0, stem_dropout=0.0)
BRIEF = Schedule(epochs=1, batch=8, lr=1e-4)


class Stand:
    "A store in memory, two signals."
    def __init__(self, n=40):
        rng = np.random.default_rng(0)
        self.arrays = {o: rng.normal(size=(n, 1, SAMPLES)).astype("float32") for o in ("ecg", "ppg")}
    def batch(self, rows, keys): return {k: self.arrays[k][rows] for k in keys}
    def labels(self, key): return np.array([f"{key}{i // 4}" for i in range(40)])


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def still(name, seed=0, **hyper):
    "A method that drops nothing out."
    if name != "tstcc": return get_method(name, seed=seed, **STILL, **hyper)
    method = get_method(name, seed=seed, seconds=SAMPLES / 42, dropout=0.0, **hyper)
    for layer in method.modules():
        if isinstance(layer, nn.Dropout): layer.p = 0.0     # the stem's
    return method


def flat(model): return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def assert_alike(a, b, before, lr=1e-4, steps=3):
    """Weights that ended alike, and went somewhere.

    Where a gradient is nothing but rounding (a bias before a BatchNorm) Adam makes whole steps of
    it, in any direction: there two runs may part as far as they can walk.
    """
    gap = (flat(a) - flat(b)).abs()
    assert gap.max() <= 2.1 * lr * steps and (gap > 1e-5).double().mean() < .01
    assert ((flat(a) - before).abs() > 1e-4).double().mean() > .1


CASES = [("tsta", {}), ("tsta", dict(warp="joint", pairs="shuffled", reading="B")), ("simclr", {}),
         ("clip", {}), ("byol", {}), ("tstcc", {})]


@pytest.mark.parametrize("name, hyper", CASES, ids=[f"{o}{len(h) or ''}" for o, h in CASES])
def test_runs_in_one_model_learn_what_they_learn_alone(name, hyper):
    together, alone = ([still(name, seed, **hyper) for seed in SEEDS] for _ in range(2))
    losses = pretrain_stack(together, Stand(), FOLDS, BRIEF, seeds=SEEDS)
    for i, (a, b) in enumerate(zip(together, alone)):
        before = flat(b)
        each = pretrain(b, Stand(), FOLDS[i], BRIEF, seed=SEEDS[i])
        assert len(each) == 3
        np.testing.assert_allclose(losses[i], each, atol=1e-4)
        assert_alike(a, b, before)
        assert not a.training and all(p.shape == q.shape for p, q in zip(a.parameters(),
                                                                         b.parameters()))
    assert abs(losses[0][0] - losses[1][0]) > 1e-3          # the runs are not one another's


def test_in_bfloat16_too():
    schedule = replace(BRIEF, precision="bfloat16")
    together, alone = ([still("tsta", seed) for seed in SEEDS] for _ in range(2))
    losses = pretrain_stack(together, Stand(), FOLDS, schedule, seeds=SEEDS)
    for i, method in enumerate(alone):
        each = pretrain(method, Stand(), FOLDS[i], schedule, seed=SEEDS[i])
        np.testing.assert_allclose(losses[i], each, rtol=.01)
    assert all(p.dtype == torch.float32 for p in together[0].parameters())


def test_tuned_in_one_model_they_answer_as_alone_and_leave_alone_what_they_do_not_use():
    schedule = Schedule(batch=10, tune_epochs=1, tune_lr=1e-4, head_lr=1e-3, weight_decay=.5)
    codes = [FOLDS[0] % 2, FOLDS[1] % 3 % 2]
    together, alone = ([still("simclr", seed, encoder="conv") for seed in SEEDS] for _ in range(2))
    tuned = finetune_stack(together, Stand(), FOLDS, codes, 2, schedule, seeds=SEEDS)
    for i, (a, b, made) in enumerate(zip(together, alone, tuned)):
        before = flat(b)
        each = finetune(b, Stand(), FOLDS[i], codes[i], 2, schedule, seed=SEEDS[i])
        np.testing.assert_allclose(made.losses, each.losses, atol=1e-4)
        assert_alike(a, b, before)
        for p, q in zip(made.head.parameters(), each.head.parameters()):
            torch.testing.assert_close(p, q, atol=1e-4, rtol=0)
        fresh = still("simclr", SEEDS[i], encoder="conv")   # no label reaches the projectors
        assert all(torch.equal(p, q) for p, q in zip(a.projectors.parameters(),
                                                     fresh.projectors.parameters()))


class Stopped(Exception): pass


def test_a_stopped_stack_ends_where_an_uninterrupted_one_ends(tmp_path):
    class Dying(Stand):
        calls = 0
        def batch(self, rows, keys):
            self.calls += 1
            if self.calls > 2: raise Stopped
            return super().batch(rows, keys)
    def methods(): return [still("byol", seed, encoder="conv") for seed in SEEDS]
    whole, resumed, path = methods(), methods(), tmp_path / "checkpoint"
    facts = dict(seeds=SEEDS, checkpoint=path, every=1)
    losses = pretrain_stack(whole, Stand(), FOLDS, BRIEF, seeds=SEEDS)
    with pytest.raises(Stopped): pretrain_stack(methods(), Dying(), FOLDS, BRIEF, **facts)
    with pytest.raises(MethodError, match="another run: seed"):
        pretrain_stack(methods(), Stand(), FOLDS, BRIEF, **facts | dict(seeds=(3, 9)))
    assert pretrain_stack(resumed, Stand(), FOLDS, BRIEF, **facts) == losses
    assert all(torch.equal(flat(a), flat(b)) for a, b in zip(whole, resumed)) and not path.exists()


def test_dropout_in_a_stack_thins_every_run_by_itself():
    x = torch.ones(3, 50, 40, requires_grad=True)
    grads, out = torch.func.vmap(torch.func.grad_and_value(lambda o: dropout(o, .25).sum()),
                                 randomness="different")(x)
    kept = grads > 0
    assert torch.allclose(grads[kept], torch.tensor(4 / 3))
    assert ((kept.float().mean((1, 2)) - .75).abs() < .04).all()
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[1], kept[2])


def test_each_run_is_clipped_as_if_alone():
    made = [[torch.randn(4, 3) * s, torch.randn(()) * s, torch.zeros(2)] for s in (5., .01, .5)]
    stacked = {str(k): torch.stack([o[k] for o in made]) for k in range(3)}
    clip_each(stacked, 1.0)
    for i, own in enumerate(made):
        weights = [nn.Parameter(torch.zeros_like(o)) for o in own]
        for p, g in zip(weights, own): p.grad = g.clone()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for k, p in enumerate(weights): torch.testing.assert_close(stacked[str(k)][i], p.grad)


def test_a_stack_gives_back_what_it_took():
    methods = [still("byol", seed) for seed in SEEDS]
    before = [flat(o) for o in methods]
    whole = stack(methods)
    assert {k: v.shape[0] for k, v in whole.state_dict().items()} == dict.fromkeys(
        methods[0].state_dict(), 2)
    assert [p.requires_grad for p in whole.parameters()] == [
        p.requires_grad for p in methods[0].parameters()]
    unstack(whole, methods[::-1])
    assert torch.equal(flat(methods[1]), before[0]) and torch.equal(flat(methods[0]), before[1])


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(MethodError, match="LSTM cannot be stacked"):
        check_stack([get_method("lstm")] * 2)
    with pytest.raises(MethodError, match="one method and configuration"):
        check_stack([still("clip"), still("clip", tau=.2)])
    with pytest.raises(MethodError, match="equally many steps"):
        pretrain_stack([still("clip") for _ in SEEDS], Stand(), [np.arange(24), np.arange(32)],
                       BRIEF, seeds=SEEDS)


def test_a_hole_in_one_run_is_named():
    windows = Stand()
    windows.arrays["ecg"][37, 0, 5] = np.nan                # in the second run's fold alone
    with pytest.raises(MethodError, match="loss is nan") as caught:
        pretrain_stack([still("clip", encoder="conv") for _ in SEEDS], windows, FOLDS,
                       replace(BRIEF, batch=24), seeds=SEEDS)
    assert caught.value.where == "recording9"


@pytest.mark.gpu
def test_on_a_gpu_a_stack_is_what_its_runs_are():
    if not torch.cuda.is_available(): pytest.skip("no GPU at hand")
    together, alone = ([still("tsta", seed) for seed in SEEDS] for _ in range(2))
    losses = pretrain_stack(together, Stand(), FOLDS, BRIEF, seeds=SEEDS, device="cuda")
    for i, method in enumerate(alone):
        each = pretrain(method, Stand(), FOLDS[i], BRIEF, seed=SEEDS[i], device="cuda")
        np.testing.assert_allclose(losses[i], each, rtol=1e-3)


TOY = dict(options=(("seconds", 60.0), ("subjects", 8)), windowing=Windowing(seconds=10.0), folds=2)


def asked(row, method, **facts):
    schedule = Schedule(epochs=1, batch=8, steps=3, tune_epochs=1)
    return [Run(row, method, fold=fold, seed=seed, schedule=schedule, **TOY, **facts)
            for fold in (0, 1) for seed in (0, 1)]


def test_a_launch_that_stacks_says_what_one_that_does_not_says(home, monkeypatch):
    hyper = (("dropout", 0.0), ("encoder", "conv"), ("stem_dropout", 0.0))
    runs = [*asked("probed", "simclr", hyper=hyper),
            *asked("tuned", "simclr", hyper=hyper, judge="finetune"),
            *asked("scratch", "supervised", hyper=hyper, judge="finetune")]
    plain = launch(runs, workers=1, progress=False).whole()
    monkeypatch.setenv("BIOSSL_HOME", str(home / "other"))
    for name in ("pretrain", "finetune"):                    # no run trains by itself
        monkeypatch.setattr(ROOM[name], name, lambda *_, **__: pytest.fail("trained alone"))
    both = launch(runs, workers=1, progress=False, stacked=True).whole()
    for a, b in zip(plain.records, both.records):
        assert a["key"] == b["key"] and a["final_loss"] == pytest.approx(b["final_loss"], abs=1e-4)
        assert ("stacked" in b) == (b["row"] != "probed")
    scores = ["score_0", "score_1"]
    assert plain.predictions.drop(columns=scores).equals(both.predictions.drop(columns=scores))
    np.testing.assert_allclose(plain.predictions[scores], both.predictions[scores], atol=1e-3)
    monkeypatch.setattr(ROOM["pretrain_stack"], "pretrain_stack", lambda *_, **__: pytest.fail("done before"))
    launch(runs, workers=1, progress=False, stacked=True).whole()


def test_what_cannot_be_stacked_is_said_and_trained_alone(home):
    runs = asked("reads", "lstm", hyper=(("width", 8),), judge="finetune")[:2]
    with pytest.warns(UserWarning, match="reads is not stacked.*LSTM"):
        done = launch(runs, workers=1, progress=False, stacked=True).whole()
    assert len(done.records) == 2 and "stacked" not in done.records[0]
