"""Fine-tuning: all weights and a new head, for as long as was said before, killed or not."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import (Beginner, Headless, Pupil, Slow, Stand, alone, fresh, kept_at,
                        killed_and_resumed, same_weights)
from torch import nn

from biossl.data.errors import MethodError, SplitError
from biossl.methods.contract import Method, as_tensor
from biossl.train.finetune import finetune, new_head, scores, shuffled
from biossl.train.loop import batch_rows, derived
from biossl.train.profiles import Schedule

ROWS = np.arange(2, 23)                         # 21 windows: two batches of eight, and a rest
CODES = ROWS // 4 % 2
LONG = Schedule(epochs=3, batch=8, lr=.5, tune_epochs=4, tune_lr=1e-2, head_lr=1e-1)


def tuned(method, schedule=LONG, windows=None, **more):
    return finetune(method, windows or Stand(), ROWS, CODES, 2, schedule, **more)


def tune_slowly(checkpoint, target, pause):
    method = fresh()
    done = tuned(method, windows=Slow(pause), seed=5, checkpoint=checkpoint, every=1)
    kept_at(target, dict(method=method, head=done.head), done.losses)


def test_killed_at_any_step_and_resumed_it_ends_where_an_uninterrupted_one_ends(tmp_path):
    resumed = killed_and_resumed("test_finetune.tune_slowly", tmp_path)
    method = fresh()
    done = alone(lambda: tuned(method, seed=5))
    assert done.losses == resumed.pop("losses").tolist() and len(done.losses) == 12
    expected = nn.ModuleDict(dict(method=method, head=done.head)).state_dict()
    assert set(expected) == set(resumed)
    assert all(torch.equal(v, resumed[k]) for k, v in expected.items())


class Plain(Method):
    "Two numbers of a window through two weights each: gradients can be written down."
    name = "plain"
    def __init__(self):
        super().__init__(self.Config(("ecg",)))
        self.w = nn.Parameter(torch.tensor([[.5, -.3], [.2, .7]]))
    def embed(self, batch): return as_tensor(batch["ecg"])[:, 0, :2] @ self.w
    def head(self, classes): return nn.Linear(2, classes)


def test_it_is_cross_entropy_on_windows_as_they_are_with_two_rates():
    "Three AdamW steps in float64, gradients from the equations."
    schedule = Schedule(batch=8, tune_epochs=1, tune_lr=.01, head_lr=.1, clip=1e9)
    method, windows, seed = Plain(), Stand(), 3
    first = new_head(method, 2, seed)
    now = [o.detach().double().numpy().copy() for o in (method.w, first.weight, first.bias)]
    done = tuned(method, schedule, windows, seed=seed)
    m, v, losses = [0, 0, 0], [0, 0, 0], []
    for t in range(1, 4):
        rows = batch_rows(ROWS, 8, derived(seed, 4), t - 1, 3)
        x, y = windows.arrays["ecg"][rows, 0, :2].astype(float), np.eye(2)[rows // 4 % 2]
        h = x @ now[0]
        p = np.exp(h @ now[1].T + now[2])
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log((p * y).sum(1)).mean())
        d = (p - y) / len(rows)
        for i, (g, lr) in enumerate(((x.T @ (d @ now[1]), .01), (d.T @ h, .1), (d.sum(0), .1))):
            m[i], v[i] = .9 * m[i] + .1 * g, .999 * v[i] + .001 * g * g
            now[i] = (now[i] * (1 - lr * .01)
                      - lr * (m[i] / (1 - .9**t)) / (np.sqrt(v[i] / (1 - .999**t)) + 1e-8))
    np.testing.assert_allclose(done.losses, losses, rtol=1e-5)
    for a, b in zip((method.w, done.head.weight, done.head.bias), now):
        np.testing.assert_allclose(a.detach().numpy(), b, atol=2e-5)


def test_every_window_is_shown_in_every_epoch_and_steps_bound_it():
    windows, asked = Stand(), []
    gather = windows.batch
    windows.batch = lambda rows, keys: asked.append(rows.tolist()) or gather(rows, keys)
    assert len(tuned(fresh(), windows=windows).losses) == 12 == len(asked)
    for epoch in range(4):
        shown = asked[3 * epoch:3 * epoch + 3]
        assert sorted(sum(shown, [])) == ROWS.tolist() and [len(o) for o in shown] == [8, 8, 5]
    assert len({tuple(sum(asked[3 * e:3 * e + 3], [])) for e in range(4)}) == 4
    assert len(tuned(fresh(), replace(LONG, steps=2)).losses) == 2


def test_who_knows_no_pre_training_gets_the_epochs_of_both_at_one_rate():
    pupil, beginner = fresh(), Beginner(fresh().config)
    beginner.load_state_dict(pupil.state_dict())
    slow = replace(LONG, lr=.01)
    assert len(tuned(pupil, slow).losses) == 4 * 3
    done = tuned(beginner, slow)
    assert len(done.losses) == (3 + 4) * 3
    for rates in (dict(tune_lr=9., head_lr=9.), dict(tune_lr=0., head_lr=0.)):
        other = Beginner(fresh().config)
        other.load_state_dict(fresh().state_dict())
        assert tuned(other, replace(slow, **rates)).losses == done.losses


@pytest.mark.parametrize("still,moves", [("tune_lr", "head"), ("head_lr", "method")])
def test_each_part_has_its_rate_and_all_weights_follow(still, moves):
    method, before = fresh(), fresh()
    head = new_head(method, 2, 0)
    done = tuned(method, replace(LONG, **{still: 0.0}))
    moved = dict(method=not same_weights(method, before), head=not same_weights(done.head, head))
    assert moved == {o: o == moves for o in ("method", "head")}
    if moves == "method":
        assert all(not torch.equal(a, b) for a, b in zip(method.net.parameters(),
                                                         before.net.parameters()))
        assert same_weights(method.teacher, before.teacher)   # who is not asked does not move


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before():
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(made))
        method = fresh()
        state = torch.get_rng_state()
        made.append((tuned(method, seed=seed), method))
        assert torch.equal(state, torch.get_rng_state())
    (a, m), (b, n), (c, _) = made
    assert a.losses == b.losses != c.losses and same_weights(m, n) and same_weights(a.head, b.head)


def test_bfloat16_is_for_the_networks_alone():
    method = fresh()
    done = tuned(method, replace(LONG, precision="bfloat16"))
    assert method.seen == {torch.bfloat16} and done.losses != tuned(fresh()).losses
    assert {v.dtype for v in done.head.state_dict().values()} == {torch.float32}
    scores(method, done.head, Stand(), ROWS)
    assert torch.float32 in method.seen                        # tests are answered in full


def test_scores_are_the_softmax_of_the_heads_logits_without_dropout():
    method, head = fresh().train(), new_head(fresh(), 2)
    said = scores(method, head, Stand(), ROWS, batch=4)
    x = Stand().arrays["ecg"][ROWS, 0].astype(float)
    w = {k: v.double().numpy() for k, v in nn.ModuleDict(dict(m=method, h=head)).state_dict().items()}
    h = np.tanh(x @ w["m.net.0.weight"].T + w["m.net.0.bias"])
    z = (h @ w["m.net.3.weight"].T + w["m.net.3.bias"]) @ w["h.weight"].T + w["h.bias"]
    np.testing.assert_allclose(said, np.exp(z) / np.exp(z).sum(1, keepdims=True), atol=1e-6)


def test_a_loss_that_is_no_number_names_step_and_recordings():
    windows = Stand()
    windows.arrays["ecg"][[5, 17], 0, 3] = np.nan
    with pytest.raises(MethodError, match="loss is nan at step 0") as caught:
        tuned(fresh(), replace(LONG, batch=64), windows)
    assert caught.value.where == "recording1, recording4"


def test_one_class_or_no_head_is_refused_and_the_weights_stay():
    method = fresh()
    with pytest.raises(SplitError, match="1 of 2 classes"):
        finetune(method, Stand(), ROWS, CODES * 0, 2, LONG)
    with pytest.raises(SplitError, match="0 of 2 classes"):
        finetune(method, Stand(), ROWS[:0], CODES[:0], 2, LONG)
    assert same_weights(method, fresh())
    with pytest.raises(MethodError, match="headless.*no head"): tuned(Headless(fresh().config))


def test_a_checkpoint_of_other_labels_or_of_pre_training_is_refused(tmp_path):
    path, windows, gather = tmp_path / "checkpoint", Stand(), Stand().batch
    left = [4]
    def dying(rows, keys):
        left[0] -= 1
        if left[0] < 0: raise KeyboardInterrupt
        return gather(rows, keys)
    windows.batch = dying
    with pytest.raises(KeyboardInterrupt): tuned(fresh(), windows=windows, checkpoint=path, every=1)
    with pytest.raises(MethodError, match="another run: truth"):
        finetune(fresh(), Stand(), ROWS, 1 - CODES, 2, LONG, checkpoint=path)
    with pytest.raises(MethodError, match="another run.*schedule"):
        tuned(fresh(), replace(LONG, head_lr=1), checkpoint=path)
    assert len(tuned(fresh(), checkpoint=path).losses) == 12 and not path.exists()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), min_size=1, max_size=40),
       st.integers(0, 99))
def test_shuffled_labels_are_whole_subjects_labels_of_others(pairs, seed):
    who, truth = np.array([o for o, _ in pairs]), np.array([o for _, o in pairs])
    dealt, usual = shuffled(truth, who, seed), {}
    for name in set(who):
        values, n = np.unique(truth[who == name], return_counts=True)
        usual[name] = values[n.argmax()]
    if len(set(usual.values())) == 1: assert sorted(dealt) == sorted(truth)   # of windows
    else:
        assert sorted(usual.values()) == sorted(dealt[who == o][0] for o in usual)
        assert all(len(set(dealt[who == o])) == 1 for o in usual)
    assert np.array_equal(dealt, shuffled(truth, who, seed)) and dealt.dtype == truth.dtype
    renamed = np.array([chr(219 - ord(o)) for o in who])
    assert np.array_equal(dealt, shuffled(truth, renamed, seed))      # names do not matter


def test_all_deals_are_as_likely():
    who, truth = np.repeat(list("abcd"), 2), np.repeat([0, 0, 1, 1], 2)
    dealt = [tuple(shuffled(truth, who, seed)[::2]) for seed in range(600)]
    counts = [dealt.count(o) for o in set(dealt)]
    assert len(counts) == 6 and min(counts) > 60                      # a hundred each expected


def test_measures_are_dealt_by_their_subjects_median():
    dealt = shuffled(np.array([1., 2., 9., 50.]), np.array(list("aaab")), 0)
    assert sorted(set(dealt)) == [2., 50.]
