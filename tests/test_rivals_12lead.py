"""Rivals on twelve leads: losses against plain loops, and that each sees what it says it sees."""
import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_alignment import cosine, drawn
from test_methods import RIVALS, Stand, a_batch
from test_rivals import plain_context, plain_nt_xent, plain_temporal, weights
from torch.nn import functional as F

from biossl.data.errors import MethodError
from biossl.methods.astcl import adversarial_loss, denoised
from biossl.methods.backbones import TwoViews
from biossl.methods.barlow import barlow_loss
from biossl.methods.clocs import clocs_loss
from biossl.methods.contract import check_method, get_method, method_class
from biossl.methods.crt import alike, dropped, patches_of, three_ways
from biossl.methods.moco import moco_loss
from biossl.methods.simsiam import simsiam_loss, spread
from biossl.nn.losses import nt_xent
from biossl.nn.resnet import ResNet1d18
from biossl.nn.views import lead_noise, lead_scaling

few = settings(deadline=None, max_examples=30)
SIZE = dict(n=st.integers(2, 7), seed=st.integers(0, 99))
NAMES = ("cnn_random", *RIVALS)
HEADS = dict(hidden=16, out=8)


def built(name, **hyper):
    "The method, small, and told whose the windows of `batch()` are."
    headed = issubclass(method_class(name), TwoViews) or name in ("lead_tstcc", "clocs", "astcl")
    heads = HEADS if headed else {}
    method = get_method(name, **heads | hyper)
    if "row" in method.keys: method.prepare(Stand(batch()), np.arange(8))
    return method


def batch():
    "Eight windows of two people."
    return a_batch(8, 1000, 12)


def generator(seed=0): return torch.Generator().manual_seed(seed)


# -- losses against loops ----------------------------------------------------------------------
@few
@given(off=st.sampled_from([5e-3, 1.]), **SIZE)
def test_barlow_is_that_of_a_loop(off, n, seed):
    a, b = drawn(n, seed, 3)
    columns = [[[row[d] for row in o.tolist()] for d in range(3)] for o in (a, b)]

    def standard(values):
        mean = sum(values) / n
        var = sum((v - mean) ** 2 for v in values) / n
        return [(v - mean) / math.sqrt(var + 1e-5) for v in values]

    first, second = ([standard(o) for o in side] for side in columns)
    expected = 0.0
    for i in range(3):
        for j in range(3):
            c = sum(x * y for x, y in zip(first[i], second[j])) / n
            expected += (1 - c) ** 2 if i == j else off * c * c
    assert barlow_loss(a, b, off).item() == pytest.approx(expected, abs=1e-9)


@few
@given(tau=st.sampled_from([.2, 1.]), **SIZE)
def test_moco_is_that_of_a_loop(tau, n, seed):
    (q1, k2), (q2, k1) = drawn(n, seed), drawn(n, seed + 100)
    expected = 0.0
    for queries, keys in ((q1.tolist(), k2.tolist()), (q2.tolist(), k1.tolist())):
        for i in range(n):
            s = [cosine(queries[i], o) / tau for o in keys]
            expected += (math.log(sum(map(math.exp, s))) - s[i]) / n
    assert moco_loss(q1, k2, q2, k1, tau).item() == pytest.approx(2 * tau * expected, abs=1e-9)


@few
@given(**SIZE)
def test_simsiam_is_that_of_a_loop_and_pulls_no_target(n, seed):
    (p1, z2), (p2, z1) = ([o.requires_grad_() for o in drawn(n, s)] for s in (seed, seed + 100))
    loss = simsiam_loss(p1, z2, p2, z1)
    pairs = [*zip(p1.tolist(), z2.tolist()), *zip(p2.tolist(), z1.tolist())]
    expected = -sum(cosine(p, z) for p, z in pairs) / n / 2
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    assert z1.grad is None and z2.grad is None and (p1.grad != 0).any() and (p2.grad != 0).any()


def plain_clocs(a, b, person, tau):
    "Four means, two of them only where a person comes twice."
    n = len(a)
    s = [[cosine(x, y) / tau for y in b] for x in a]
    rows = [[math.log(sum(math.exp(o) for o in row)) - own for own in row] for row in s]
    columns = [[math.log(sum(math.exp(s[k][j]) for k in range(n))) - s[i][j] for j in range(n)]
               for i in range(n)]
    again = [(i, j) for i in range(n) for j in range(n) if i != j and person[i] == person[j]]
    terms = [sum(o[i][i] for i in range(n)) / n for o in (rows, columns)]
    if again: terms += [sum(o[i][j] for i, j in again) / len(again) for o in (rows, columns)]
    return sum(terms) / len(terms)


@few
@given(people=st.integers(1, 8), tau=st.sampled_from([.1, 1.]), **SIZE)
def test_clocs_is_that_of_a_loop(people, tau, n, seed):
    a, b = drawn(n, seed)
    for person in (torch.arange(n), torch.randint(people, (n,), generator=generator(seed))):
        expected = plain_clocs(a.tolist(), b.tolist(), person.tolist(), tau)
        assert clocs_loss(a, b, person, tau).item() == pytest.approx(expected, abs=1e-9)


@few
@given(**SIZE)
def test_the_game_is_that_of_a_loop(n, seed):
    noisy, clean = (o[:, :1] for o in drawn(n, seed))
    sure = lambda o: 1 / (1 + math.exp(-o))  # noqa: E731
    expected = -sum(math.log(sure(o)) for o in noisy[:, 0].tolist())
    expected -= sum(math.log(1 - sure(o)) for o in clean[:, 0].tolist())
    assert adversarial_loss(noisy, clean).item() == pytest.approx(expected / 2 / n, abs=1e-9)


@few
@given(**SIZE)
def test_how_alike_tokens_are_is_that_of_a_loop(n, seed):
    u, v = (o.view(n, 5, 1).expand(-1, -1, 2) + torch.tensor([0., 1]) for o in drawn(n, seed))
    expected = 0.0
    for x, y in zip(u.tolist(), v.tolist()):
        expected += math.log(sum(math.exp(cosine(x[i], y[j])) for i in range(5) for j in range(5)
                                 if i != j)) / n
    assert alike(u, v).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", [
    barlow_loss, lambda a, b: moco_loss(a, b, b, a), lambda a, b: simsiam_loss(a, b, b, a),
    lambda a, b: clocs_loss(a, b, torch.tensor([0, 1, 2, 0, 1, 3])),
    lambda a, b: adversarial_loss(a[:, :1], b[:, :1]), lambda a, b: alike(a[None], b[None])])
def test_nothing_is_rounded_under_mixed_precision(loss):
    a, b = (o.float() for o in drawn(6, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16): half = loss(a, b)
    assert half.dtype == torch.float32 and torch.equal(half, loss(a, b))
    assert loss(a.bfloat16(), b.bfloat16()).dtype == torch.float32


# -- the encoder -------------------------------------------------------------------------------
def plain_resnet(net, x):
    "The network in evaluation, by one-dimensional convolutions and its stored numbers alone."
    state = net.state_dict()

    def layer(name, x, stride, kernel):
        x = F.conv1d(x, state[f"{name}.0.weight"], stride=stride, padding=kernel // 2)
        mean, var, gain, offset = (state[f"{name}.1.{o}"][:, None] for o in (
            "running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * gain + offset

    x = layer("stem.0", x, 2, 7).relu()
    for i in range(4):
        for j in range(2):
            name, stride = f"stages.{i}.{j}", 2 if i and not j else 1
            y = layer(f"{name}.path.2", layer(f"{name}.path.0", x, stride, 3).relu(), 1, 3)
            x = (y + (layer(f"{name}.shortcut", x, stride, 1) if stride == 2 else x)).relu()
    return x


def test_the_residual_network_is_that_of_plain_convolutions():
    torch.manual_seed(0)
    net = ResNet1d18(width=8).double()
    x = torch.randn(3, 12, 333, dtype=torch.float64)
    net(x)                                                    # running values of its own
    expected = plain_resnet(net.eval(), x)
    torch.testing.assert_close(net.tokens(x), expected)
    torch.testing.assert_close(net(x), expected.mean(-1))


@pytest.mark.parametrize("width, count", [(64, 3_848_832), (8, 61_776)])
def test_the_residual_network_is_merls(width, count):
    with torch.device("meta"): net = ResNet1d18(width=width)
    assert sum(o.numel() for o in net.parameters()) == count
    assert net.tokens(torch.empty(1, 12, 5000, device="meta")).shape == (1, 8 * width, 313)


@pytest.mark.parametrize("encoder", ["cnn", "trans"])
def test_a_share_of_time_is_all_that_is_seen(encoder):
    method = built("cnn_random", encoder=encoder, patches=10, tokenizer="linear").eval()
    x = method.read(batch())
    for start, stop in ((0., .5), (.5, 1.), (.9, 1.)):
        a, b = round(start * 1000), round(stop * 1000)
        other = torch.randn_like(x)
        other[..., a:b] = x[..., a:b]
        torch.testing.assert_close(method.encode(x, start, stop), method.encode(other, start, stop))
        other[..., a:b] += torch.randn_like(other[..., a:b])
        assert not torch.allclose(method.encode(x, start, stop), method.encode(other, start, stop))


@pytest.mark.parametrize("name", ["barlow", "clocs", "astcl"])
def test_rivals_keep_the_contract_on_the_transformer(name):
    check_method(built(name, encoder="trans", patches=10, tokenizer="linear"), batch())


def test_all_rivals_embed_with_one_encoder():
    "Before training they are the same network, whatever stands on it."
    first = built("cnn_random").eval().embed(batch())
    for name in NAMES: torch.testing.assert_close(built(name).eval().embed(batch()), first)


def test_leads_are_not_averaged():
    for name in ("lead_simclr", "lead_byol"):
        method, x = built(name).eval(), batch()["ecg"]
        turned = dict(ecg=x[:, ::-1].copy())
        assert not torch.allclose(method.embed(dict(ecg=x)), method.embed(turned))


# -- views -------------------------------------------------------------------------------------
@few
@given(seed=st.integers(0, 999))
def test_noise_and_gain_are_each_leads_own(seed):
    x = torch.randn(40, 12, 500, generator=generator(seed)) * torch.logspace(-2, 2, 12)[:, None]
    level = ((lead_noise(x, generator(seed)) - x).std(-1) / x.std(-1))
    assert level.min() > .004 and level.max() < .12
    assert ((level / level.mean(1, keepdim=True) - 1).abs() < .25).all()     # one level a window
    x = x.abs() + 1e-3
    gain = lead_scaling(x, generator(seed)) / x
    torch.testing.assert_close(gain, gain[..., :1].expand_as(gain))
    assert .5 <= gain.min() + 1e-5 and gain.max() <= 2.0001 and gain[..., 0].std(1).min() > .1


@pytest.mark.parametrize("view", [lead_noise, lead_scaling])
def test_new_views_draw_from_their_generator_alone(view):
    x = torch.randn(7, 12, 300)
    torch.manual_seed(0)
    a = view(x, generator(1))
    torch.manual_seed(1)
    assert torch.equal(a, view(x, generator(1))) and not torch.equal(a, view(x, generator(2)))


# -- two views ---------------------------------------------------------------------------------
def test_simclr_of_leads_is_nt_xent_of_its_views():
    method = built("lead_simclr", tau=.3).train()
    views = method.views(batch(), generator())
    first, second = method.projector(method.encoder(torch.cat([o["x"] for o in views]))).chunk(2)
    torch.testing.assert_close(method(views).total, nt_xent(first, second, .3))
    assert not torch.equal(views[0]["x"], views[1]["x"])
    unchanged = built("lead_simclr", views=()).views(batch(), generator())
    torch.testing.assert_close(unchanged[0]["x"], method.read(batch()))


@pytest.mark.parametrize("name, base", [("lead_byol", .996), ("moco", .99)])
def test_the_slow_copy_follows_and_never_learns(name, base):
    method = built(name).train()
    method.loss(batch(), generator()).total.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    with torch.no_grad():
        for p in method.parameters(): p.add_(1)
        for p in method.teacher.parameters(): p.sub_(1)
        before = [p.clone() for p in method.teacher.parameters()]
        method.after_step(0, 5000)
    for was, now, new in zip(before, method.teacher.parameters(), method._student().parameters()):
        torch.testing.assert_close(now, base * was + (1 - base) * new)


def test_simsiam_tells_collapse():
    method = built("simsiam").eval()
    alive = method.diagnose(batch())["spread"]
    with torch.no_grad():
        for p in method.encoder.parameters(): p.zero_()
    assert alive > .1 and method.diagnose(batch())["spread"] < 1e-3
    assert spread(torch.ones(5, 3)) < 1e-6


# -- TS-TCC ------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_tstcc_of_leads_is_that_of_numpy(monkeypatch, seed):
    "The views are given, the instant is the generator's; tokens are those of plain convolutions."
    room = importlib.import_module("biossl.methods.tstcc")
    method = built("lead_tstcc", drop=0., depth=2, steps=4, seed=seed).double().eval()
    weak, strong = torch.randn(2, 8, 12, 1000, dtype=torch.float64, generator=generator(seed))
    monkeypatch.setattr(room, "scaling", lambda x, g: weak)
    monkeypatch.setattr(room, "permute", lambda x, g, most: strong)
    monkeypatch.setattr(room, "lead_noise", lambda x, g, low, high: x)
    loss = method.loss(batch(), generator(seed))

    t = torch.randint(63 - 4, (), generator=generator(seed)).item()      # 63 tokens in ten seconds
    z = [plain_resnet(method.encoder, o).transpose(1, 2).numpy() for o in (weak, strong)]
    z = [o / np.linalg.norm(o, axis=2, keepdims=True) for o in z]
    assert z[0].shape == (8, 63, 64)
    context = [np.stack([plain_context(weights(method.foreteller), o[:t + 1], 2, 4) for o in view])
               for view in z]
    maps, head = weights(method.maps), weights(method.projector)
    foretold = [(c @ maps["weight"].T + maps["bias"]).reshape(8, 4, 64) for c in context]
    coming = [o[:, t + 1:t + 5] for o in z]
    temporal = sum(plain_temporal(o, c) for o, c in zip(coming[::-1], foretold))
    seen = [np.maximum(c @ head["0.weight"].T + head["0.bias"], 0) @ head["2.weight"].T
            + head["2.bias"] for c in context]
    contextual = plain_nt_xent(*seen, .2)
    assert loss.parts["temporal"].item() == pytest.approx(temporal, abs=1e-5)
    assert loss.parts["contextual"].item() == pytest.approx(contextual, abs=1e-5)
    assert loss.total.item() == pytest.approx(temporal + .7 * contextual, abs=1e-5)


def test_tstcc_cuts_all_leads_alike_and_scales_around_what_it_is_told():
    method = built("lead_tstcc", noise=0., segments=4)
    x = batch()
    x["ecg"] = np.repeat(x["ecg"][:, :1], 12, 1) * np.linspace(1, 2, 12, dtype="f4")[:, None]
    view, read = method.views(x, generator())[0], method.read(x)
    torch.testing.assert_close(view["strong"], view["strong"][:, :1].expand(-1, 12, -1))
    assert not torch.equal(view["strong"], read)
    torch.testing.assert_close(view["strong"].sort(-1).values, read.sort(-1).values)
    factors = (view["weak"] / read).mean((1, 2))
    assert factors.std() > .02 and abs(factors.mean() - 1) < .15
    released = built("lead_tstcc", scale=2.).views(x, generator())[0]["weak"]
    torch.testing.assert_close((released / read).mean((1, 2)), factors + 1)


def test_tstcc_of_leads_draws_every_instant_that_leaves_room():
    x, method = torch.zeros(2, 12, 1000), built("lead_tstcc", steps=60)
    seen = {method.views(dict(ecg=x), generator(seed))[0]["past"].unique().item()
            for seed in range(40)}
    assert seen == {1, 2, 3}
    with pytest.raises(MethodError, match="cannot foretell 63 of 63") as e:
        built("lead_tstcc", steps=63).views(dict(ecg=x), generator())
    assert (e.value.where, e.value.field) == ("lead_tstcc", "ecg")


# -- people ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["clocs", "astcl"])
def test_whose_windows_must_be_told_first(name):
    with pytest.raises(MethodError, match="prepare"): get_method(name).views(batch(), generator())
    with pytest.raises(MethodError, match="not among"):
        built(name).views(batch() | dict(row=np.arange(8) + 4), generator())


def test_partners_are_of_the_same_person_and_people_are_told_apart():
    method, windows = built("astcl"), batch()
    assert method.persons(windows).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    x = method.read(windows)
    found = method.partners(windows, generator())
    for i in range(8):
        row = next(j for j in range(8) if torch.equal(found[i], x[j]))
        assert row // 4 == i // 4 and row != i


@pytest.mark.parametrize("over, views", [("segments", 2), ("leads", 2), ("both", 4)])
def test_clocs_compares_halves_and_leads(over, views):
    method = built("clocs", over=over).eval()
    x = method.read(batch())
    z = method.parts(x)
    assert len(z) == views
    late, chest = x.clone(), x.clone()
    late[..., 500:] = 1
    chest[:, 6:] = 1

    def unmoved(other): return [torch.allclose(a, b) for a, b in zip(z, method.parts(other))]

    assert unmoved(late) == dict(segments=[True, False], leads=[False, False],
                                 both=[True, True, False, False])[over]
    assert unmoved(chest) == dict(segments=[False, False], leads=[True, False],
                                  both=[True, False, True, False])[over]
    person = method.persons(batch())
    pairs = [(a, b) for i, a in enumerate(z) for b in z[:i]]
    expected = np.mean([clocs_loss(a, b, person, .1).item() for a, b in pairs])
    total = method(method.views(batch(), None)).total.item()
    assert total == pytest.approx(expected, rel=1e-4)


# -- our definition of astcl -------------------------------------------------------------------
def test_astcl_is_the_sum_of_its_parts_and_the_encoder_plays_against():
    method = built("astcl", game=.5).train()
    view = method.views(batch(), generator())
    loss = method(view)
    said = {k: v.item() for k, v in loss.parts.items()}
    assert set(said) == {"noise", "person", "game", "ahead"} and -1 <= said["ahead"] <= 1
    assert loss.total.item() == pytest.approx(
        said["noise"] + said["person"] + said["ahead"] + .5 * said["game"], abs=1e-5)
    loss.total.backward()
    with_game = [p.grad.clone() for p in method.encoder.parameters()]
    opponent = method.opponent[0].weight.grad.clone()
    h = method.encode(torch.cat([view[0][o] for o in ("noisy", "clean", "other")])).chunk(3)
    plain = adversarial_loss(*(method.opponent(o) for o in h[:2]))
    straight = torch.autograd.grad(plain, [*method.encoder.parameters(), method.opponent[0].weight])
    still = built("astcl", game=0.).train()
    still(view).total.backward()
    without = [p.grad for p in still.encoder.parameters()]
    for a, b, g in zip(with_game, without, straight):
        torch.testing.assert_close(a - b, -.5 * g, atol=1e-4, rtol=1e-2)
    torch.testing.assert_close(opponent, .5 * straight[-1], atol=1e-5, rtol=1e-3)


@few
@given(seed=st.integers(0, 99), rate=st.sampled_from([100., 500.]))
def test_what_is_taken_away_is_what_lies_outside_the_band(seed, rate):
    x = np.random.default_rng(seed).normal(size=(2, 3, 1000))
    made = np.fft.rfft(denoised(torch.tensor(x), rate).numpy())
    before, hertz = np.fft.rfft(x), np.fft.rfftfreq(1000, 1 / rate)
    inside = (hertz >= .67) & (hertz <= 40)
    np.testing.assert_allclose(made[..., inside], before[..., inside], atol=1e-8)
    np.testing.assert_allclose(made[..., ~inside], 0, atol=1e-8)


# -- crt ---------------------------------------------------------------------------------------
CRT = dict(width=16, depth=1, heads=2, decoder_depth=1, patch=.2)


@few
@given(seed=st.integers(0, 99))
def test_three_ways_are_those_of_fourier(seed):
    x = np.random.default_rng(seed).normal(size=(2, 3, 40))
    t, (_, size, phase) = np.arange(40), three_ways(torch.tensor(x))
    for k in (1, 7, 20):
        c = (x * np.exp(-2j * np.pi * k * t / 40)).sum(-1)
        np.testing.assert_allclose(size[..., k - 1], np.log(1 + abs(c) / np.sqrt(40)), atol=1e-9)
        turn = (phase[..., k - 1].numpy() - np.angle(c) / np.pi + 1) % 2 - 1
        np.testing.assert_allclose(np.minimum(abs(turn), 2 - abs(turn)), 0, atol=1e-6)
    cut = patches_of(torch.tensor(x), 4).numpy()
    for i in range(10):
        np.testing.assert_array_equal(cut[1, i].reshape(3, 4), x[1, :, 4 * i:4 * i + 4])


def test_crt_rebuilds_all_patches_from_those_that_are_left():
    method = get_method("crt", **CRT).eval()
    view = method.views(batch(), generator())[0]
    x, keep = view["x"], view["keep"]
    assert keep.shape == (8, 70) and (keep.diff() > 0).all() and keep.max() < 100
    patches = [patches_of(o, method.patch) for o in three_ways(x)]
    tokens = method.tokens(patches)
    seen = torch.stack([t[k] for t, k in zip(tokens, keep)])
    found = method.blocks(seen)
    error = (method.rebuilt(found, keep) - torch.cat(patches, 1)).square().mean()
    expected = error + 1e-4 * alike(seen, found)
    torch.testing.assert_close(method([view]).total, expected)
    hidden = torch.ones(8, 100, dtype=torch.bool).scatter(1, keep, False)
    changed = [o + 5 * hidden.split(method.counts, 1)[i][..., None] for i, o in enumerate(patches)]
    again = torch.stack([t[k] for t, k in zip(method.tokens(changed), keep)])
    torch.testing.assert_close(again, seen)                       # what was dropped was not there


def test_crt_hides_more_and_more():
    assert [dropped(o, 1000, 100) for o in (0, 299, 300, 450, 799, 800, 999)] == [
        .3, .3, .3, .4, .7, .8, .8]
    method = get_method("crt", **CRT)
    method.begin(10, 1)
    shown = []
    for step in range(10):
        shown.append(method.views(batch(), generator())[0]["keep"].shape[1])
        method.after_step(step, 10)
    assert shown == [70, 70, 70, 70, 60, 50, 40, 30, 20, 20]
    again = get_method("crt", **CRT)
    again.load_state_dict(method.state_dict())
    assert again.done == 10


# -- what is refused ---------------------------------------------------------------------------
@pytest.mark.parametrize("name, hyper, says", [
    ("cnn_random", dict(encoder="cmm"), "cnn"), ("lead_simclr", dict(views=("crpo",)), "crop"),
    ("clocs", dict(over="segment"), "segments"), ("lead_tstcc", dict(encoder="trans"), "cnn"), ("crt", dict(patch=.3), "even"),
    ("barlow", dict(size="huge"), "tiny")])
def test_unknown_switches_come_with_what_there_is(name, hyper, says):
    with pytest.raises(MethodError, match=says): get_method(name, **hyper)


@pytest.mark.parametrize("name", ["cnn_random", "crt"])
def test_other_than_twelve_leads_are_refused(name):
    for x in (a_batch(4, 1000, 3)["ecg"], np.zeros((4, 1000), np.float32)):
        with pytest.raises(MethodError, match="shape"): get_method(name).embed(dict(ecg=x))
