"""Every method keeps the contract; the clinician's numbers against a loop; losses as they were."""
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biossl.data.errors import MethodError
from biossl.methods.clinical import ALARM_FEATURES, alarm_features, beat_features, intervals
from biossl.methods.contract import (Loss, Method, as_tensor, check_method, get_method, load_method,
                                     method_names, save_method)
from biossl.nn.losses import nt_xent
from biossl.train.pretrain import pretrain
from biossl.train.profiles import Schedule

few = settings(deadline=None, max_examples=60)


def a_batch(n=6, samples=420):
    "All that a store may hold, made by NumPy alone."
    rng = np.random.default_rng(0)
    batch = dict(start=np.arange(n) * 30.0, alarm_type=np.arange(n) % 3 - 1, label=np.arange(n) % 2)
    for key in ("ecg", "ppg"):
        beats = np.full((n, 1, 60), np.nan, np.float32)
        for i in range(n):
            times = np.cumsum(rng.uniform(.5, 1.1, 12 if i else 3))
            beats[i, 0, :len(times)] = times
        batch |= {key: rng.normal(size=(n, 1, samples)).astype("float32"), f"{key}_beats": beats,
                  f"{key}_moments": rng.normal(size=(n, 1, 2)).astype("float32")}
    return batch


# -- the contract ------------------------------------------------------------------------------
HYPER = {"combined": dict(members=(("clinical", ()), ("context", (("levels", 4),))))}


@pytest.mark.parametrize("name", method_names())
def test_every_method_keeps_the_contract(name):
    check_method(get_method(name, **HYPER.get(name, {})), a_batch())


class Plain(Method):
    def __init__(self, config=None):
        super().__init__(config)
        self.layer = nn.Linear(8, 4)

    def embed(self, batch): return self.layer(as_tensor(batch["ecg"])[:, 0, :8])


class Neighbour(Plain):
    def embed(self, batch): return super().embed(batch) - super().embed(batch).mean(0)


class Restless(Plain):
    def embed(self, batch): return super().embed(batch) + torch.rand(1)


class Curious(Plain):
    def embed(self, batch): return as_tensor(batch["label"])[:, None].float()


class Boundless(Plain):
    def embed(self, batch): return super().embed(batch) / 0


class Flat(Plain):
    def embed(self, batch): return super().embed(batch)[:, 0]


@pytest.mark.parametrize("kind, says", [(Neighbour, "alone"), (Restless, "second time"),
                                        (Curious, "not among its keys"), (Boundless, "infinite"),
                                        (Flat, "not \\(N, D\\)")])
def test_a_broken_embedding_is_refused(kind, says):
    with pytest.raises(MethodError, match=says): check_method(kind(), a_batch())


class Learner(Plain):
    trains = True
    def loss(self, batch, generator):
        noise = torch.randn(6, 4, generator=generator)
        return Loss(((self.embed(batch) - noise) ** 2).mean())


class Unseeded(Learner):
    calls = 0
    def loss(self, batch, generator):
        self.calls += 1
        return Loss(super().loss(batch, generator).total + self.calls)


class Stuck(Learner):
    def loss(self, batch, generator): return Loss(super().loss(batch, generator).total * 0 + 1)


class Broken(Learner):
    def loss(self, batch, generator): return Loss(super().loss(batch, generator).total * math.nan)


class Idle(Learner):
    def __init__(self, config=None):
        super().__init__(config)
        self.unused = nn.Linear(2, 2)


@pytest.mark.parametrize("kind, says", [(Unseeded, "another loss"), (Stuck, "does not fall"),
                                        (Broken, "loss of nan"), (Idle, "never reaches: unused")])
def test_a_broken_loss_is_refused(kind, says, monkeypatch):
    import biossl.methods.contract as contract
    monkeypatch.setattr(contract, "_check_kept", lambda *_: None)   # these have no name
    check_method(Learner(), a_batch())
    with pytest.raises(MethodError, match=says): check_method(kind(), a_batch())


def test_a_batch_without_what_the_method_reads_is_refused():
    with pytest.raises(MethodError, match="reads \\['ppg'\\], which the batch lacks"):
        check_method(Plain(), {"ecg": np.zeros((2, 1, 9))})


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(MethodError, match="did you mean simclr"): get_method("simcrl")
    with pytest.raises(MethodError, match="did you mean width"): get_method("simclr", witdh=3)
    with pytest.raises(MethodError, match="has no loss"): get_method("chance").loss({}, None)
    with pytest.raises(MethodError, match="no ecg_beats"): get_method("clinical").embed({"ecg": 1})
    with pytest.raises(MethodError, match="must be trained"):
        get_method("combined", members=[["simclr", []]])


def test_weights_come_from_the_seed_and_leave_no_trace():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (get_method("random_init", seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a[k], b[k]) for k in a) and any(not torch.equal(a[k], c[k]) for k in a)


# -- at rest -----------------------------------------------------------------------------------
def test_a_saved_method_is_refused_when_it_is_not_whole_or_not_ours(tmp_path):
    method = get_method("simclr", signals=("ppg",), rates=(("ppg", 64.0),), seed=3)
    folder = save_method(method, tmp_path / "m")
    again = load_method(folder)
    assert again.config == method.config and sorted(o.name for o in folder.iterdir()) == [
        "method.json", "weights.safetensors"]
    card, weights = folder / "method.json", folder / "weights.safetensors"
    whole, text = weights.read_bytes(), card.read_text()
    for damaged in (whole[:-100], whole[:4], b""):
        weights.write_bytes(damaged)
        with pytest.raises(MethodError, match="no whole method"): load_method(folder)
    weights.write_bytes(whole)
    for change, says in ((dict(version="0"), "version 0"),
                         (dict(name="random_conv", config={}), "other"),
                         (dict(config=None), "."), (dict(name="nobody"), "no method nobody")):
        card.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(MethodError, match=says): load_method(folder)
    card.unlink()
    with pytest.raises(MethodError, match="no whole method"): load_method(folder)


# -- the clinician's numbers -------------------------------------------------------------------
def plain_eight(beats):
    "One window, as a cardiologist would, with Python's own lists."
    r = [round(float(b - a), 4) for a, b in zip(beats, beats[1:])]
    r = [o for o in r if .25 < o < 2.5]
    if len(r) < 8: return [math.nan] * 8
    m, d = sum(r) / len(r), [b - a for a, b in zip(r, r[1:])]
    median = lambda o: (sorted(o)[len(o) // 2] + sorted(o)[(len(o) - 1) // 2]) / 2  # noqa: E731
    turns = sum((b > a and b > c) or (b < a and b < c) for a, b, c in zip(r, r[1:], r[2:]))
    counts = np.histogram(r, bins=8)[0] / len(r)
    return [m, math.sqrt(sum((o - m) ** 2 for o in r) / (len(r) - 1)) / m,
            math.sqrt(sum(o * o for o in d) / len(d)) / m,
            median([abs(o - median(r)) for o in r]) / m, sum(abs(o) > .05 for o in d) / len(d),
            turns / (len(r) - 2), -sum(p * math.log(p) for p in counts if p) / math.log(8),
            median([abs(o) for o in d]) / m]


@few
@given(st.lists(st.lists(st.integers(60, 3000), min_size=0, max_size=40), min_size=1, max_size=4))
def test_the_eight_numbers_are_those_of_a_loop(windows):
    "Intervals in milliseconds, implausible ones among them."
    beats = np.full((len(windows), 42), np.nan)
    for row, r in zip(beats, windows): row[:len(r) + 1] = np.cumsum([0.0137, *r]) / 1000
    ours = beat_features(beats)
    for row, got in zip(beats, ours):
        expected = plain_eight(row[np.isfinite(row)])
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_the_reference_list():
    r = [.62, .91, .55, .78, 1.04, .60, .71, .95, .58, .83]
    beats = np.cumsum([0, *r])[None]
    reference = [.757, .227278, .393083, .204756, 1.0, .75, .948813, .343461]
    np.testing.assert_allclose(beat_features(beats)[0], reference, atol=1e-6)
    np.testing.assert_allclose(beat_features(beats + 17), beat_features(beats), atol=1e-9)


def test_a_beat_grid_in_float32_keeps_its_ties():
    "At 125 Hz many intervals are of equal length; rounding must not make turning points of them."
    beats = (np.arange(36) * 100 / 125 + 0.016)[None]
    for values in (beats, beats.astype("float32")):
        np.testing.assert_allclose(beat_features(values)[0], [.8] + [0] * 7, atol=1e-6)


def test_too_few_intervals_are_not_judged():
    beats = np.full((3, 20), np.nan)
    beats[0, :9], beats[1, :8] = np.arange(9), np.arange(8)
    assert np.isfinite(beat_features(beats)).all(1).tolist() == [True, False, False]
    assert np.isfinite(beat_features(beats, least=7)).all(1).tolist() == [True, True, False]
    assert intervals(np.full((2, 1), 3.0)).shape == (2, 1)


def plain_alarm(beats, seconds):
    "Ten numbers of one window, one by one."
    r = np.diff(beats)
    gaps = np.diff([0.0, *beats, seconds])
    fours = [np.mean(r[i:i + 4]) for i in range(len(r) - 3)]
    some = lambda f, o: f(o) if len(o) else math.nan  # noqa: E731
    return [len(beats), gaps.max(), some(np.min, r), some(np.max, r), some(np.mean, r),
            some(np.median, r), some(np.std, r), some(np.min, fours), some(np.max, fours),
            some(lambda o: math.sqrt(np.mean(o ** 2)), np.diff(r))]


@few
@given(st.lists(st.lists(st.integers(0, 15_999), max_size=30, unique=True), min_size=1, max_size=4),
       st.integers(0, 30))
def test_the_alarm_numbers_are_those_of_a_loop(windows, room):
    beats = np.full((len(windows), max(max(map(len, windows)), room)), np.nan)
    for row, times in zip(beats, windows): row[:len(times)] = np.sort(times) / 1000
    for row, got in zip(beats, alarm_features(beats, 16.0)):
        expected = plain_alarm(row[np.isfinite(row)], 16.0)
        np.testing.assert_allclose(got, expected, atol=1e-9, err_msg=str(ALARM_FEATURES))


# -- simclr ------------------------------------------------------------------------------------
def test_simclr_is_the_mean_of_its_branches():
    batch, method = a_batch(), get_method("simclr", encoder="conv", stem_dropout=0.0).train()
    loss = method.loss(batch, torch.Generator().manual_seed(0))
    assert set(loss.parts) == {"ecg", "ppg"}
    assert loss.total.item() == pytest.approx(sum(o.item() for o in loss.parts.values()) / 2)


def test_simclr_at_the_start_is_near_chance_and_far_from_it_for_equal_views(monkeypatch):
    import biossl.methods.simclr as room
    batch, method = a_batch(16), get_method("simclr", encoder="conv", stem_dropout=0.0).train()
    monkeypatch.setattr(room, "augment", lambda x, g, rate, *recipe: x)
    z = [method.projectors[k](h) for k, h in method.encoders(method.windows(batch)).items()]
    expected = sum(nt_xent(o, o).item() for o in z) / 2
    assert method.loss(batch, None).total.item() == pytest.approx(expected, rel=1e-5)


class Stand:
    "A store in memory."
    def __init__(self, arrays): self.arrays = arrays
    def batch(self, rows, keys): return {k: self.arrays[k][rows] for k in keys}
    def labels(self, key): return np.array([f"{key}{i // 4}" for i in range(40)])


def golden(name, **hyper):
    """Losses of twenty steps on windows that NumPy made; one thread.

    The rate is small on purpose: at 3e-4 a change of the weights by 1e-7, as another processor
    makes, already moves a loss by 3e-3 (Adam amplifies signs of tiny gradients); at 3e-5 by 3e-7.
    """
    arrays = a_batch(40, 420)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try: return pretrain(get_method(name, seed=0, **hyper), Stand(arrays), np.arange(40),
                         Schedule(epochs=10, batch=16, lr=3e-5, steps=20), seed=0)
    finally: torch.set_num_threads(threads)


#: What version 1 gave when it was written: `golden("simclr")`, torch 2.13.0, one CPU thread.
#: Another value means another behaviour: raise the method's version, then put down what the new
#: one gives.
GOLDEN = {"simclr": ("1", [
    3.359342, 3.345846, 3.323189, 3.349508, 3.374655, 3.329178, 3.364215,
    3.325301, 3.246952, 3.299776, 3.403139, 3.367295, 3.336717, 3.330195,
    3.344135, 3.353424, 3.320575, 3.337627, 3.245431, 3.331911])}


@pytest.mark.parametrize("name", GOLDEN)
def test_twenty_steps_are_as_they_were(name):
    version, losses = GOLDEN[name]
    assert get_method(name).version == version, "a new version needs new golden losses"
    np.testing.assert_allclose(golden(name, encoder="conv"), losses, rtol=1e-4)


def test_every_method_that_trains_has_golden_losses():
    assert {o for o in method_names() if get_method(o, **HYPER.get(o, {})).trains} == set(GOLDEN)
