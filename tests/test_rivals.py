"""BYOL, TS-TCC and the LSTMs against second implementations in float64 NumPy."""
import importlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError
from biossl.methods.byol import momentum
from biossl.methods.contract import check_method, for_windows, get_method, load_method, save_method
from biossl.methods.recurrent import stretched
from biossl.methods.tstcc import horizon
from biossl.nn.layers import parameters
from biossl.nn.losses import byol_loss, temporal_contrast
from biossl.nn.views import permute
from biossl.train.pretrain import pretrain
from biossl.train.profiles import Schedule

few = settings(deadline=None, max_examples=25)


def generator(seed=0): return torch.Generator().manual_seed(seed)


def windows(n=8, samples=210, seed=0, **lengths):
    "A batch of noise; `lengths` are those of single signals."
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=(n, 1, lengths.get(key, samples))).astype("float32")
            for key in ("ecg", "ppg")}


def small(name, **hyper):
    "A method for the windows above; every piece of it as by default, but the size of some."
    sizes = dict(byol=dict(depth=1, hidden=64, projector_hidden=32),
                 tstcc=dict(seconds=5.0, depth=2), lstm=dict(width=16), bilstm=dict(width=16))
    return get_method(name, **{**sizes[name], **hyper})


def weights(module): return {k: v.detach().numpy().astype(float)
                             for k, v in module.state_dict().items()}


# -- losses ------------------------------------------------------------------------------------
def plain_byol(p, t):
    "Row by row."
    rows = [2 - 2 * (a @ b) / math.sqrt((a @ a) * (b @ b)) for a, b in zip(p, t)]
    return sum(rows) / len(rows)


def plain_temporal(z, c):
    "From the equation: the softmax of each token over the contexts."
    n, steps = z.shape[:2]
    total = 0.0
    for k in range(steps):
        for i in range(n):
            fits = [math.exp(z[i, k] @ c[j, k]) for j in range(n)]
            total -= math.log(fits[i] / sum(fits))
    return total / (n * steps)


def plain_nt_xent(z0, z1, tau):
    z = np.concatenate([z0, z1])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    fits = np.exp(z @ z.T / tau) * (1 - np.eye(len(z)))
    partner = np.roll(np.arange(len(z)), len(z0))
    return -np.log(fits[np.arange(len(z)), partner] / fits.sum(1)).mean()


@few
@given(n=st.integers(1, 9), d=st.integers(2, 6), seed=st.integers(0, 99))
def test_byols_loss_is_the_equation(n, d, seed):
    p, t = np.random.default_rng(seed).normal(size=(2, n, d))
    ours = byol_loss(torch.from_numpy(p), torch.from_numpy(t)).item()
    assert ours == pytest.approx(plain_byol(p, t), abs=1e-9)
    assert byol_loss(torch.from_numpy(7 * p), torch.from_numpy(t / 3)).item() == pytest.approx(ours)


@few
@given(n=st.integers(1, 7), steps=st.integers(1, 5), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_temporal_contrast_is_the_equation(n, steps, d, seed):
    z, c = np.random.default_rng(seed).normal(size=(2, n, steps, d))
    ours = temporal_contrast(torch.from_numpy(z), torch.from_numpy(c)).item()
    assert ours == pytest.approx(plain_temporal(z, c), abs=1e-9)


def test_the_worked_values():
    p, t = torch.tensor([[1., 2], [3, -1]]).double(), torch.tensor([[2., 1], [1, 1]]).double()
    for rows, value in ((slice(1), .4), (slice(1, 2), 1.105573), (slice(2), .752786)):
        assert byol_loss(p[rows], t[rows]).item() == pytest.approx(value, abs=1e-6)
    assert byol_loss(p, p).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss(p, -p).item() == pytest.approx(4, abs=1e-12)
    z, c = torch.eye(2).double()[:, None], torch.tensor([[2., 0], [1, 1]]).double()[:, None]
    assert temporal_contrast(z, c).item() == pytest.approx(.313262, abs=1e-6)
    assert temporal_contrast(c, z).item() == pytest.approx(.410038, abs=1e-6)


@pytest.mark.parametrize("n, chance", [(16, 7.948968), (128, 13.582945)])
def test_chance_of_the_whole_of_tstcc(n, chance):
    from biossl.nn.losses import nt_xent
    same = torch.ones(n, 4, 3).double()
    total = 2 * temporal_contrast(same, same) + .7 * nt_xent(same[:, 0], same[:, 0], .2)
    assert total.item() == pytest.approx(chance, abs=1e-6)


@pytest.mark.parametrize("loss", [byol_loss, temporal_contrast])
def test_losses_stay_in_float32_under_autocast(loss):
    a, b = torch.randn(2, 8, 3, 16, generator=generator())
    if loss is byol_loss: a, b = a[:, 0], b[:, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16): mixed = loss(a, b)
    assert mixed.dtype == torch.float32 and mixed == loss(a, b)
    assert loss(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_byols_target_is_no_variable():
    p, t = (torch.randn(4, 3, generator=generator(), requires_grad=True) for _ in range(2))
    byol_loss(p, t).backward()
    assert t.grad is None and p.grad.abs().sum() > 0


# -- permutation -------------------------------------------------------------------------------
@few
@given(n=st.integers(1, 6), samples=st.integers(2, 60), most=st.integers(1, 8),
       seed=st.integers(0, 999))
def test_a_permutation_keeps_every_sample_and_cuts_few_times(n, samples, most, seed):
    x = torch.arange(float(samples)).expand(n, 2, samples) + 100 * torch.arange(2.)[:, None]
    made = permute(x, generator(seed), most)
    assert torch.equal(made.sort(-1).values, x) and torch.equal(made[:, 0] + 100, made[:, 1])
    assert ((made[:, 0].diff() != 1).sum(1) <= most - 1).all()


def test_all_orders_of_all_numbers_of_segments_come_up():
    made = permute(torch.arange(40.).expand(6000, 1, 40), generator(), 3)[:, 0]
    seams = (made.diff() != 1).sum(1)
    cuts = 39                                 # where a window can be cut
    twice = 1 / cuts                          # two cuts at one place: two segments
    two, three = (1 + twice) / 3, (1 - twice) / 3
    uncut = 1 / 3 + two / 2 + three / 6       # segments that fell back into order
    assert (seams == 0).float().mean() == pytest.approx(uncut, abs=.02)
    firsts = made[:, 0].unique()              # any sample may come first
    assert len(firsts) == 40


# -- BYOL --------------------------------------------------------------------------------------
def test_the_momentum_of_the_teacher():
    for k, value in ((0, .996), (2100, .998), (4200, 1.)):
        assert momentum(k, 4200) == pytest.approx(value, abs=1e-12)
    assert [momentum(0, o) for o in (20, 999, 1000)] == pytest.approx([.99, .99, .996])
    assert momentum(0, 20, base=.5) == .5 and momentum(500, 1000, base=.5) == pytest.approx(.75)
    kept = [momentum(k, 300) for k in range(301)]
    assert kept == sorted(kept) and kept[-1] == 1


def plain_perceptron(w, h):
    "Linear, BatchNorm with the batch's own moments, ReLU, linear."
    h = h @ w["0.weight"].T + w["0.bias"]
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * w["1.weight"] + w["1.bias"]
    return np.maximum(h, 0) @ w["3.weight"].T + w["3.bias"]


def projected(network, key, view):
    with torch.no_grad(): h = network.encoders[key](view).numpy().astype(float)
    return plain_perceptron(weights(network.projectors[key]), h)


def test_byols_loss_of_a_batch(monkeypatch):
    "Views are given; student and teacher have been moved apart; two norms, both directions."
    room = importlib.import_module("biossl.methods.byol")
    method = small("byol", dropout=0.0).train()
    for encoder in method.encoders.values(): encoder.stem[-1].p = 0.0
    batch = windows()
    drawn = {o: torch.from_numpy(windows(seed=o)["ecg"]) for o in range(1, 5)}
    queue = list(drawn.values())
    monkeypatch.setattr(room, "augment", lambda x, g, rate: queue.pop(0))
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.add_(.02 * torch.randn(p.shape, generator=generator()))
    loss = method.loss(batch, None)
    expected = {}
    for key, (first, second) in zip(("ecg", "ppg"), ((1, 2), (3, 4))):
        student, taught = ([projected(network, key, drawn[o]) for o in (first, second)]
                           for network in (method, method.teacher))
        a, b = (plain_perceptron(weights(method.predictors[key]), o) for o in student)
        expected[key] = plain_byol(a, taught[1]) + plain_byol(b, taught[0])
    assert {k: v.item() for k, v in loss.parts.items()} == pytest.approx(expected, abs=1e-4)
    assert loss.total.item() == pytest.approx(sum(expected.values()) / 2, abs=1e-4)


def test_the_teacher_follows_as_the_equation_says_and_keeps_the_students_norms():
    method = small("byol").train()
    student = {k: v for k, v in weights(method).items()
               if k.startswith(("encoders.", "projectors."))}
    learns = [p for p in method.parameters() if p.requires_grad]
    optimiser, expected = torch.optim.Adam(learns, 1e-2), dict(student)
    for step in range(3):
        optimiser.zero_grad()
        method.loss(windows(seed=step), generator(step)).total.backward()
        optimiser.step()
        before = weights(method.teacher)
        with torch.no_grad(): method.after_step(step, 3)
        tau = 1 - .01 * (math.cos(math.pi * step / 3) + 1) / 2
        now = weights(method)
        for k, v in expected.items():
            running = "running" in k or "tracked" in k
            expected[k] = now[k] if running else tau * v + (1 - tau) * now[k]
        moved = weights(method.teacher)
        assert set(moved) == set(expected)
        for k, v in moved.items(): np.testing.assert_allclose(v, expected[k], atol=1e-5, err_msg=k)
        assert any(not np.array_equal(moved[k], before[k]) for k in moved)
        assert any(np.abs(moved[k] - now[k]).max() > 1e-3 for k in moved)
    assert all(p.grad is None for p in method.teacher.parameters())


def test_a_pre_training_moves_the_teacher(monkeypatch):
    method = small("byol")
    start = weights(method.teacher)
    pretrain(method, Stand(windows(16)), np.arange(16), Schedule(epochs=1, batch=8), seed=0)
    moved = weights(method.teacher)
    assert all(not np.array_equal(moved[k], start[k]) for k in start
               if k.endswith("weight") and "encoders" in k)


def test_the_teacher_drops_nothing_out_and_the_student_does():
    method, x = small("byol").train(), torch.from_numpy(windows()["ecg"])
    teacher, student = method.teacher.encoders["ecg"], method.encoders["ecg"]
    assert torch.equal(teacher(x), teacher(x)) and not torch.equal(student(x), student(x))
    assert all(o.training for o in method.teacher.projectors.modules())
    assert not any(o.training for o in method.eval().modules())


def test_byol_starts_as_the_untrained_network_of_its_seed():
    x = windows()
    a, b = (get_method(o, seed=3).eval().embed(x) for o in ("byol", "random_init"))
    assert torch.equal(a, b)


# -- TS-TCC ------------------------------------------------------------------------------------
def plain_norm(x, w, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def plain_context(w, tokens, depth, heads):
    "The class token of `tokens (L, 128)` after the blocks, head by head."
    x = np.concatenate([w["first"][None], tokens @ w["into.weight"].T + w["into.bias"]])
    width = x.shape[1]
    for i in range(depth):
        b = f"blocks.{i}."
        taken = plain_norm(x, w, b + "norms.0") @ w[b + "taken.weight"].T
        q, k, v = np.split(taken, 3, axis=1)
        gathered = []
        for head in np.split(np.arange(width), heads):
            fits = np.exp(q[:, head] @ k[:, head].T / math.sqrt(width))
            gathered.append(fits / fits.sum(1, keepdims=True) @ v[:, head])
        x = x + np.concatenate(gathered, 1) @ w[b + "given.weight"].T + w[b + "given.bias"]
        y = plain_norm(x, w, b + "norms.1") @ w[b + "each.0.weight"].T + w[b + "each.0.bias"]
        x = x + np.maximum(y, 0) @ w[b + "each.3.weight"].T + w[b + "each.3.bias"]
    return x[0]


@pytest.mark.parametrize("seed", range(3))
def test_tstccs_loss_of_a_batch(monkeypatch, seed):
    "The views are given, the instant is that of the generator."
    room = importlib.import_module("biossl.methods.tstcc")
    method = small("tstcc", signals=("ppg",), dropout=0.0, seed=seed).train()
    branch = method.encoders["ppg"]
    branch.stem[-1].p = 0.0
    weak, strong = (windows(seed=o)["ppg"] for o in (1, 2))
    monkeypatch.setattr(room, "scaling", lambda x, g: torch.from_numpy(weak))
    monkeypatch.setattr(room, "permute", lambda x, g, most: torch.from_numpy(strong))
    monkeypatch.setattr(room, "jitter", lambda x, g, low, high: x)
    loss = method.loss(windows(), generator(seed)).total.item()

    steps, length = 9, 27                     # of 210 samples: 50 of 158, in proportion
    t = torch.randint(length - steps, (), generator=generator(seed)).item()
    with torch.no_grad():
        tokens = [branch.stem(torch.from_numpy(o)).numpy() for o in (weak, strong)]
    z = [o.transpose(0, 2, 1) / np.linalg.norm(o, axis=1)[..., None] for o in tokens]
    assert z[0].shape == (8, length, 128)
    w, maps = weights(branch), weights(method.maps["ppg"])
    context = [np.stack([plain_context(w, o[:t + 1], 2, 4) for o in view]) for view in z]
    foretold = [np.stack([c @ maps["weight"][128 * k:128 * (k + 1)].T
                          + maps["bias"][128 * k:128 * (k + 1)] for k in range(steps)], 1)
                for c in context]
    coming = [o[:, t + 1:t + 1 + steps].astype(float) for o in z]
    heads = [plain_perceptron(weights(method.projectors["ppg"]), c) for c in context]
    expected = (plain_temporal(coming[1], foretold[0]) + plain_temporal(coming[0], foretold[1])
                + .7 * plain_nt_xent(*heads, .2))
    assert loss == pytest.approx(expected, abs=2e-4)


def test_tstccs_embedding_is_the_context_of_the_full_window():
    method, x = small("tstcc").eval(), windows(3)
    expected = []
    for key, branch in method.encoders.items():
        with torch.no_grad(): tokens = branch.stem(torch.from_numpy(x[key])).numpy()
        z = tokens.transpose(0, 2, 1) / np.linalg.norm(tokens, axis=1)[..., None]
        expected.append(np.stack([plain_context(weights(branch), o, 2, 4) for o in z]))
    ours = method.embed(x).detach().numpy()
    np.testing.assert_allclose(ours, np.concatenate(expected, 1), atol=1e-4)


def test_tstcc_draws_every_instant_that_leaves_room(monkeypatch):
    method = small("tstcc", signals=("ecg",)).train()
    seen = []
    branch = method.encoders["ecg"]
    context = branch.context
    monkeypatch.setattr(branch, "context",
                        lambda o, past: seen.append((len(o), int(past))) or context(o, past))
    for seed in range(150): method.loss(windows(2, 210), generator(seed))
    assert {o[0] for o in seen} == {4}                       # both views in one pass
    assert {o[1] for o in seen} == set(range(1, 27 - 9 + 1))


def test_tstccs_horizon_follows_the_windowing():
    assert [horizon(o) for o in (158, 64, 53, 32)] == [50, 20, 17, 10]
    facts = SimpleNamespace(signals=(("ecg", 32.0), ("ppg", 64.0)), seconds=8.0)
    method = get_method("tstcc", **for_windows("tstcc", {}, facts)).train()
    assert method.lengths == dict(ecg=32, ppg=64) and method.steps == dict(ecg=10, ppg=20)
    batch = windows(8, ecg=256, ppg=512)
    assert method.loss(batch, generator()).total.isfinite()
    assert method.embed(batch).shape == (8, 128)
    assert get_method("tstcc", steps=7).steps == dict(ecg=7, ppg=7)


def test_tstcc_refuses_what_it_cannot_foretell():
    method = small("tstcc", steps=27)
    with pytest.raises(MethodError, match="cannot foretell 27 of 27") as e:
        method.loss(windows(), generator())
    assert e.value.field == "ecg"
    assert small("tstcc", steps=26).train().loss(windows(), generator()).total.isfinite()
    with pytest.raises(MethodError, match="no embed flatt"): small("tstcc", embed="flatt")


def test_all_tokens_can_be_the_embedding():
    method, x = small("tstcc", embed="flat").eval(), windows(3)
    made = method.embed(x)
    assert made.shape == (3, 2 * 27 * 128) and method.head(2)(made).shape == (3, 2)
    with torch.no_grad(): tokens = method.encoders["ppg"].stem(torch.from_numpy(x["ppg"]))
    assert torch.equal(made[:, 27 * 128:], tokens.flatten(1))


def test_tstcc_starts_at_chance_for_sixteen_windows():
    loss = get_method("tstcc").train().loss(windows(16, 1260), generator()).total
    assert abs(loss.item() - 7.948968) < .3


# -- LSTM, BiLSTM ------------------------------------------------------------------------------
@few
@given(samples=st.integers(2, 40), factor=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_slow_signal_is_interpolated_at_the_fast_ones_instants(samples, factor, seed):
    x = np.random.default_rng(seed).normal(size=(2, 3, samples))
    made = stretched(torch.from_numpy(x), factor * samples)
    at = np.arange(factor * samples) / factor
    expected = [[np.interp(at, np.arange(samples), lead) for lead in window] for window in x]
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-5)


def plain_lstm(w, x, suffix):
    "One direction of one layer over `x (T, D)`: all outputs `(T, H)`."
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    wi, wh, bi, bh = (w[f"{o}_{suffix}"] for o in names)
    h, c, out = np.zeros(wh.shape[1]), np.zeros(wh.shape[1]), []
    sigmoid = lambda o: 1 / (1 + np.exp(-o))  # noqa: E731
    for row in x:
        i, f, g, o = np.split(wi @ row + bi + wh @ h + bh, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def plain_reader(w, x, both):
    "Two layers, in one direction or in both: outputs `(T, H)` or `(T, 2 H)`."
    for layer in range(2):
        ways = [plain_lstm(w, x, f"l{layer}")]
        if both: ways.append(plain_lstm(w, x[::-1], f"l{layer}_reverse")[::-1])
        x = np.concatenate(ways, 1)
    return x


@pytest.mark.parametrize("name", ["lstm", "bilstm"])
@pytest.mark.parametrize("form", ["raw", "stem"])
def test_the_recurrent_rivals_are_the_equations(name, form):
    batch = windows(2, ecg=48, ppg=96)
    method = small(name, form=form).eval()
    last = small(name, form=form, read="last").eval()
    last.load_state_dict(method.state_dict())
    with torch.no_grad():
        seen = [method.encoders[k](torch.from_numpy(batch[k])).numpy() for k in ("ecg", "ppg")]
        mean, end = method.embed(batch).numpy(), last.embed(batch).numpy()
    samples, w = seen[1].shape[-1], weights(method.reader)
    for row in range(2):
        at = np.arange(samples) / 2
        slow = [np.interp(at, np.arange(samples // 2), o) for o in seen[0][row]]
        shown = plain_reader(w, np.concatenate([slow, seen[1][row]]).T, name == "bilstm")
        np.testing.assert_allclose(mean[row], shown.mean(0), atol=1e-5)
        ends = shown[-1, :16] if name == "lstm" else np.r_[shown[-1, :16], shown[0, 16:]]
        np.testing.assert_allclose(end[row], ends, atol=1e-5)


@pytest.mark.parametrize("name, form, count", [
    ("lstm", "raw", 199_938), ("bilstm", "raw", 530_946), ("lstm", "stem", 329_986),
    ("bilstm", "stem", 791_042)])
def test_the_recurrent_rivals_have_as_many_parameters_as_stated(name, form, count):
    method = get_method(name, form=form)
    assert parameters(method.reader) + parameters(method.head(2)) == count
    assert parameters(method) - parameters(method.reader) == (form == "stem") * 2 * 60_320
    assert method.scratch and not method.trains
    with pytest.raises(MethodError, match="has no loss"): method.loss({}, None)
    for field in ("form", "read"):
        with pytest.raises(MethodError, match=f"no {field} rav"): get_method(name, **{field: "rav"})


def test_the_other_counts():
    byol, tstcc = get_method("byol"), get_method("tstcc")
    for part in (byol.projectors, byol.predictors):
        assert [parameters(o) for o in part.values()] == [66_432] * 2
    assert parameters(byol.teacher) == 0
    for key in ("ecg", "ppg"):
        assert parameters(tstcc.maps[key]) == 416_000
        whole = sum(parameters(o[key]) for o in (tstcc.encoders, tstcc.maps, tstcc.projectors))
        assert whole - parameters(tstcc.encoders[key].stem) == 530_784


# -- all of them -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["byol", "tstcc"])
def test_the_published_variants_keep_the_contract(name):
    published = dict(importlib.import_module(f"biossl.methods.{name}").PUBLISHED)
    assert published
    batch = windows()
    check_method(small(name, **published), batch)


@pytest.mark.parametrize("name", ["byol", "tstcc"])
def test_bfloat16_comes_near_float32(name):
    method = small(name, dropout=0.0).train()
    for encoder in method.encoders.values(): encoder.stem[-1].p = 0.0
    plain = method.loss(windows(), generator()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method.loss(windows(), generator()).total
    assert mixed.dtype == torch.float32 and mixed.item() == pytest.approx(plain.item(), rel=.05)
    mixed.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["lstm", "bilstm"])
def test_recurrent_rivals_learn_under_bfloat16(name):
    method, x = small(name).train(), windows()
    head, truth = method.head(2), torch.arange(8) % 2
    with torch.autocast("cpu", dtype=torch.bfloat16): logits = head(method.embed(x))
    torch.nn.functional.cross_entropy(logits.float(), truth).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


class Stand:
    "A store in memory that may fail once."
    def __init__(self, arrays, fails=None): self.arrays, self.fails = arrays, fails
    def batch(self, rows, keys):
        if self.fails == 0: raise KeyboardInterrupt
        if self.fails: self.fails -= 1
        return {k: self.arrays[k][rows] for k in keys}
    def labels(self, key): return np.array([f"{key}{i // 4}" for i in range(16)])


@pytest.mark.parametrize("name", ["byol", "tstcc"])
def test_an_interrupted_run_is_the_uninterrupted_one(name, tmp_path):
    "Weights, teacher and running values of the norms, bit for bit."
    threads, arrays = torch.get_num_threads(), windows(16)
    torch.set_num_threads(1)
    schedule, rows, kept = Schedule(epochs=3, batch=8, lr=1e-3), np.arange(16), tmp_path / "kept"
    try:
        whole, again = small(name), small(name)
        losses = pretrain(whole, Stand(arrays), rows, schedule)
        with pytest.raises(KeyboardInterrupt):
            pretrain(again, Stand(arrays, fails=3), rows, schedule, checkpoint=kept, every=2)
        again = small(name, seed=9)
        resumed = pretrain(again, Stand(arrays), rows, schedule, checkpoint=kept, every=2)
    finally: torch.set_num_threads(threads)
    assert resumed == losses and len(losses) == 6
    a, b = whole.state_dict(), again.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["byol", "tstcc"])
def test_a_saved_method_goes_on_as_it_was(name, tmp_path):
    method = small(name).train()
    method.loss(windows(), generator())                      # running values have moved
    with torch.no_grad(): method.after_step(3, 5)
    again = load_method(save_method(method, tmp_path / "kept")).train()
    losses = []
    for one in (method, again):
        torch.manual_seed(0)
        losses.append(one.loss(windows(), generator()).total.item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["byol", "tstcc"])
def test_training_brings_windows_no_nearer_to_one_point(name):
    "A collapse would leave the directions of all embeddings equal."
    method = small(name)
    rng = np.random.default_rng(0)
    t = np.arange(210) / 42
    arrays = {key: np.stack([np.sin(2 * np.pi * (rate * t + rng.random()))[None] for rate in
                             np.linspace(.8, 3, 16)]).astype("float32") for key in ("ecg", "ppg")}
    pretrain(method, Stand(arrays), np.arange(16), Schedule(epochs=20, batch=16, lr=1e-3))
    with torch.no_grad(): made = torch.nn.functional.normalize(method.embed(arrays))
    apart = 1 - (made @ made.T).fill_diagonal_(1)
    assert apart.sum() / (16 * 15) > .02 and torch.linalg.matrix_rank(made, rtol=1e-3) > 8
