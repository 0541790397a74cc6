"""TSTA-Net against its specification: counts, totals, warps that start as nothing, and its traps."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from biossl.data.errors import MethodError
from biossl.data.simulate import simulate_windows
from biossl.methods.byol import BYOL
from biossl.methods.clip import SHARED_TAU
from biossl.methods.contract import check_method, get_method
from biossl.methods.tsta import LITERAL, LITERAL_IMPL, READINGS
from biossl.nn.encoders import SITES, MeanReadout, SegmentReadout
from biossl.nn.layers import parameters
from biossl.nn.warp import warp

CALM = dict(dropout=0.0, stem_dropout=0.0)
SMALL = dict(depth=1, hidden=32)


def noise(n=8, samples=420, seed=0, keys=("ecg", "ppg")):
    "Unrelated signals."
    draw = torch.Generator().manual_seed(seed)
    return {key: torch.randn(n, 1, samples, generator=draw) for key in keys}


def generator(seed=0): return torch.Generator().manual_seed(seed)


# -- counts ------------------------------------------------------------------------------------
@pytest.mark.parametrize("total, classes, hyper", [
    (822_796, 2, {}), (822_861, 3, {}), (823_251, 9, {}), (822_796, 2, dict(site="stem")),
    (794_348, 2, dict(site="input")), (774_722, 2, dict(site="none")),
    (748_748, 2, dict(readout="mean")), (748_748, 2, dict(readout="mean", site="stem")),
    (720_300, 2, dict(readout="mean", site="input")),
    (700_674, 2, dict(readout="mean", site="none")), (292_364, 2, dict(encoder="stem")),
    (428_007, 2, dict(signals=("ecg",))), (428_007, 2, dict(signals=("ppg",))),
    (954_380, 2, dict(hidden=384)), (1_020_172, 2, dict(hidden=448)),
    (1_085_964, 2, dict(hidden=512)), (2_664_972, 2, dict(hidden=2048)),
    (822_796, 2, dict(norm="post")), (822_796, 2, dict(LITERAL)), (822_796, 2, dict(LITERAL_IMPL))])
def test_parameters_to_the_digit(total, classes, hyper):
    method = get_method("tsta", **hyper)
    assert parameters(method) + parameters(method.head(classes)) == total


def test_what_is_pre_trained_and_what_is_deployed():
    method = get_method("tsta")
    head = parameters(method.head(2))
    assert parameters(method) == 806_218 and head == 16_578
    assert parameters(method) - parameters(method.projector) + head == 789_772
    given_back = parameters(get_method("tsta", encoder="deep_stem"))
    assert abs(given_back / parameters(method) - 1) < .01


# -- the loss ----------------------------------------------------------------------------------
E0, E1 = [[1., 0], [0, 1]], [[.8, .6], [-.6, .8]]
P0, P1 = [[.6, .8], [-.8, .6]], [[1., 1], [-1, 1]]
TOTALS = {.1: (.063780, .000160, 1.063464, .882741, .914711, 1.127372),
          .5: (.430190, .247731, .486024, .727780, 1.066741, 1.114399),
          1.: (.673577, .557395, .509278, 1.022908, 1.638394, 1.628771)}


class Given(nn.Module):
    "Stands for the encoders: gives the vectors it was made with."
    def __init__(self, **vectors):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.vectors = {k: torch.tensor(v, dtype=torch.float64) for k, v in vectors.items()}

    def forward(self, windows): return self.vectors


def answering(ecg, ppg, **hyper):
    "TSTA-Net whose encoders answer `ecg` and `ppg`, two views each, whatever they see."
    method = get_method("tsta", **hyper)
    method.encoders = Given(ecg=ecg[0] + ecg[1], ppg=ppg[0] + ppg[1])
    method.projector = nn.Identity()
    return method.loss(noise(2, 90, keys=method.signals), generator())


@pytest.mark.parametrize("tau", TOTALS)
@pytest.mark.parametrize("reading, place", [*zip(READINGS, (3, 4, 5))])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_worked_totals(tau, reading, place, symmetric):
    loss = answering((E0, E1), (P0, P1), tau=tau, reading=reading, symmetric=symmetric)
    assert [float(loss.parts[k]) for k in ("ecg", "ppg", "cross")] == pytest.approx(
        TOTALS[tau][:3], abs=1e-6)
    assert float(loss.total) == pytest.approx(TOTALS[tau][place], abs=1e-6)


def plain_total(z, tau, reading, intra, cross, symmetric, views):
    "All of equations 1 to 3 in float64, by loops; `z[signal][view]` are rows."
    z = {k: [[np.asarray(r) / np.linalg.norm(r) for r in rows] for rows in o] for k, o in z.items()}
    def softmax_loss(anchor, others, right):
        fits = [math.exp(anchor @ o / tau) for o in others]
        return -math.log(fits[right] / sum(fits))
    def within(first, second):
        rows, n = first + second, len(first)
        losses = []
        for i, row in enumerate(rows):
            others = [o for j, o in enumerate(rows) if j != i]
            right = (i + n) % (2 * n)
            losses.append(softmax_loss(row, others, right - (right > i)))
        return np.mean(losses)
    def across(a, b):
        rows = np.mean([softmax_loss(o, b, i) for i, o in enumerate(a)])
        return np.mean([rows, np.mean([softmax_loss(o, a, i) for i, o in enumerate(b)])]
                       ) if symmetric else rows
    e, p = within(*z["ecg"]), within(*z["ppg"])
    pairs = [(0, 0)] if views == "first" else [(i, j) for i in (0, 1) for j in (0, 1)]
    x = np.mean([across(z["ecg"][i], z["ppg"][j]) for i, j in pairs])
    return {"A": intra * (e + p) / 2 + cross * x, "A_sum": intra * (e + p) + cross * x,
            "B": intra * e + cross * p + x}[reading]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("views", ["first", "all"])
def test_the_total_is_the_equations(reading, symmetric, views):
    rng = np.random.default_rng(3)
    z = {k: rng.normal(size=(2, 5, 4)).tolist() for k in ("ecg", "ppg")}
    for tau, intra, cross in ((.1, 1., .8), (.3, .5, 2.)):
        loss = answering(z["ecg"], z["ppg"], tau=tau, reading=reading, intra=intra, cross=cross,
                         symmetric=symmetric, cross_views=views)
        expected = plain_total(z, tau, reading, intra, cross, symmetric, views)
        assert float(loss.total) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n, total", [(2, 1.653130), (16, 5.652058), (64, 8.171294)])
def test_collapse_is_chance(n, total):
    same = ([[1., 1]] * n,) * 2
    assert float(answering(same, same).total) == pytest.approx(total, abs=1e-6)
    parts = answering(same, same, reading="B").parts
    assert [float(parts[k]) for k in ("ecg", "cross")] == pytest.approx(
        [math.log(2 * n - 1), math.log(n)])


def test_reading_b_at_chance():
    same = ([[1., 1]] * 16,) * 2
    assert float(answering(same, same, reading="B").total) == pytest.approx(8.953766, abs=1e-6)


def test_a_single_signal_has_no_cross_loss():
    for reading in READINGS:
        method = get_method("tsta", signals=("ppg",), reading=reading, **SMALL).train()
        loss = method.loss(noise(keys=("ppg",)), generator())
        assert set(loss.parts) == {"ppg"} and loss.total == loss.parts["ppg"]


def test_shuffled_pairs_are_other_pairs_and_the_same_within():
    batch = noise(12)
    own, mixed = (get_method("tsta", pairs=o, **SMALL, **CALM).train().loss(batch, generator())
                  for o in ("own", "shuffled"))
    assert own.parts["ecg"] == mixed.parts["ecg"] and own.parts["cross"] != mixed.parts["cross"]
    method = get_method("tsta", pairs="shuffled", **SMALL, **CALM).train()
    many = {method.loss(batch, generator(i)).parts["cross"].item() for i in range(3)}
    assert len(many) == 3, "paired anew at each step"


def test_what_it_cannot_be_told():
    for wrong, says in ((dict(reading="C"), "no reading C"), (dict(views="litteral"), "did you mean"),
                        (dict(pairs="other"), "no pairs"), (dict(site="inptu"), "no site"),
                        (dict(encoder="resnet"), "no encoder"), (dict(readout="max"), "no readout"),
                        (dict(cross_views="both"), "no cross_views"), (dict(lamda=1), "lamda")):
        with pytest.raises(MethodError, match=says): get_method("tsta", **wrong)


# -- the rivals are its parts ------------------------------------------------------------------
def shared(rival, tsta):
    "`rival` on the encoders and the projector of `tsta`."
    rival.encoders = tsta.encoders
    rival.projectors = nn.ModuleDict({key: tsta.projector for key in tsta.signals})
    return rival.train()


@pytest.mark.parametrize("seed", [0, 1])
def test_without_cross_and_warp_it_is_simclr(seed):
    tsta = get_method("tsta", cross=0.0, site="none", original=False, seed=seed, **CALM).train()
    simclr = shared(get_method("simclr", **CALM), tsta)
    ours, theirs = (o.loss(noise(seed=seed), generator(seed)) for o in (tsta, simclr))
    torch.testing.assert_close(ours.total, theirs.total, rtol=1e-5, atol=1e-6)
    for key in ("ecg", "ppg"): torch.testing.assert_close(ours.parts[key], theirs.parts[key],
                                                          rtol=1e-5, atol=1e-6)
    as_it_is = get_method("tsta", cross=0.0, site="none", seed=seed, **CALM).train()
    assert abs(as_it_is.loss(noise(seed=seed), generator(seed)).total - theirs.total) > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_without_intra_and_warp_it_is_clip(seed):
    tsta = get_method("tsta", intra=0.0, cross=1.0, site="none", seed=seed, **CALM).train()
    clip = shared(get_method("clip", **dict(SHARED_TAU), **CALM), tsta)
    ours, theirs = (o.loss(noise(seed=seed), generator(seed)).total for o in (tsta, clip))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    learned = shared(get_method("clip", **CALM), tsta).loss(noise(seed=seed), generator()).total
    assert abs(learned - theirs) > 1e-3


@pytest.mark.parametrize("site", SITES)
def test_untrained_it_is_the_untrained_network_at_every_site(site):
    "Bit for bit: so that no row of the ablation starts elsewhere."
    batch = noise(5)
    plain = get_method("random_init", seed=4).eval().embed(batch)
    for kind in ("learned", "identity", "random", *["joint"] * (site == "output")):
        assert torch.equal(get_method("tsta", seed=4, site=site, warp=kind).eval().embed(batch),
                           plain)
    for rival in ("simclr", "clip", "byol", "supervised"):
        assert torch.equal(get_method(rival, seed=4).eval().embed(batch), plain)


def test_two_windows_are_the_least_and_chance_there_is_known(monkeypatch):
    "Batch 2 has one negative: the loss of equal windows is ln 3 within, ln 2 across."
    monkeypatch.setattr("biossl.methods.tsta.augment", lambda x, *_: x)
    method = get_method("tsta", **CALM).train()
    same = {k: x[:1].expand(2, 1, -1) for k, x in noise().items()}
    parts = {k: o.item() for k, o in method.loss(same, generator()).parts.items()}
    assert parts == pytest.approx(dict(ecg=math.log(3), ppg=math.log(3), cross=math.log(2)),
                                  abs=1e-5)


def test_batch_norm_on_two_windows_says_nothing_and_is_not_asked():
    norm = nn.BatchNorm1d(5).train()
    made = norm(torch.randn(2, 5, generator=generator()))
    assert torch.allclose(made.abs(), torch.ones(2, 5), atol=.02)
    assert BYOL.least_batch == get_method("tstcc").least_batch == 8
    assert not any(isinstance(o, nn.modules.batchnorm._BatchNorm)
                   for o in get_method("tsta").modules())


# -- the warp ----------------------------------------------------------------------------------
@pytest.mark.parametrize("site", SITES[1:])
def test_the_first_step_moves_the_localisers_last_layer_alone(site):
    method = get_method("tsta", site=site, **SMALL, **CALM).train()
    method.loss(noise(), generator()).total.backward()
    grads = {k: p.grad for k, p in method.named_parameters() if ".warp." in k}
    assert len(grads) == 2 * 8
    for key, grad in grads.items(): assert (grad.abs().sum() > 0) == (".out." in key)
    for key in ("ecg", "ppg"):
        bias = grads[f"encoders.{key}.warp.localiser.out.bias"]
        assert bias[4] == 0 and bias.abs().max() == max(abs(bias[:4]))


@pytest.mark.parametrize("kind", ["learned", "joint"])
def test_who_a_localiser_looks_at(kind):
    "Its own signal only; or both, where they are joint."
    method, batch = get_method("tsta", warp=kind, encoder="stem", **CALM).train(), noise(3, 90)
    for branch in method.encoders.values(): nn.init.normal_(branch.warp.localiser.out.weight)
    for x in batch.values(): x.requires_grad_()
    for mine, other in (("ecg", "ppg"), ("ppg", "ecg")):
        h = method.encode(method.windows(batch))[mine]
        grads = torch.autograd.grad(h.sum(), [batch[mine], batch[other]], allow_unused=True)
        assert grads[0].abs().sum() > 0
        assert (grads[1] is not None and bool(grads[1].abs().sum() > 0)) == (kind == "joint")


def last_losses(kind, steps=120, keep=30, n=16):
    "The cross loss on noise that is new at every step, at the end of a training on nothing else."
    method = get_method("tsta", encoder="stem", intra=0.0, cross=1.0, warp=kind, **CALM).train()
    optimiser = torch.optim.Adam(method.parameters(), 1e-3)
    losses = []
    for step in range(steps):
        optimiser.zero_grad()
        loss = method.loss(noise(n, 128, step), generator(step)).parts["cross"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return np.mean(losses[-keep:])


def test_a_joint_localiser_cheats_on_noise_and_own_ones_cannot():
    "Nothing relates the signals; who sees both writes a code of its own into both embeddings."
    assert abs(last_losses("learned") - math.log(16)) < .02
    assert last_losses("joint") < math.log(16) - .4


def moved(f, x, b):
    "How far a shift by `b` half windows moves `f`, beside the spread between windows."
    shifted = f(warp(x, torch.ones(len(x)), torch.full((len(x),), b)))
    still = f(x)
    spread = (still - still.mean(0)).flatten(1).norm(dim=1).mean()
    return float((shifted - still).flatten(1).norm(dim=1).mean() / spread)


def test_a_mean_hardly_feels_a_warp_that_segments_feel():
    x = torch.as_tensor(simulate_windows(16, 1).ecg).float()
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    branch = get_method("random_init").eval().encoders["ecg"]
    with torch.no_grad():
        tokens = branch.tokens(x)
        means = nn.AdaptiveAvgPool1d(8)
        for b in (.01, .02, .05):
            mean, segments, all_ = (moved(f, tokens, b) for f in (MeanReadout(), means, lambda x: x))
            assert mean < segments / 1.5 and segments < all_ and mean < .6
            read = moved(SegmentReadout().eval(), tokens, b)
            assert mean < read


# -- the contract ------------------------------------------------------------------------------
@pytest.mark.parametrize("hyper", [
    dict(site="none"), dict(site="stem"), dict(site="input"), dict(readout="mean"),
    dict(warp="joint"), dict(warp="random"), dict(warp="identity"), dict(encoder="stem"),
    dict(encoder="deep_stem"), dict(encoder="conv", site="none"), dict(norm="post"),
    dict(reading="B"), dict(reading="A_sum", cross_views="all"), dict(intra=0.0), dict(cross=0.0),
    dict(pairs="shuffled"), dict(original=False), dict(signals=("ecg",)), dict(LITERAL),
    dict(LITERAL_IMPL)], ids=str)
def test_every_variant_keeps_the_contract(hyper):
    check_method(get_method("tsta", **SMALL | hyper), noise(samples=210))


def test_signals_of_unequal_rates_meet_in_vectors_only():
    batch = dict(ecg=torch.randn(8, 1, 256), ppg=torch.randn(8, 1, 512))
    rates = (("ecg", 32.0), ("ppg", 64.0))
    check_method(get_method("tsta", rates=rates, **SMALL), batch)
    with pytest.raises(MethodError, match="one length"):
        get_method("tsta", rates=rates, warp="joint", **SMALL).embed(batch)


@pytest.mark.parametrize("site", SITES[1:])
def test_a_window_embeds_alike_in_any_company(site):
    "Once the warp is not the identity any more."
    method, batch = get_method("tsta", site=site, **SMALL).eval(), noise(6, 1260)
    with torch.no_grad():
        for p in method.parameters(): p.add_(.05 * torch.randn(p.shape, generator=generator()))
        assert method.encoders["ecg"].warping(batch["ecg"]).a.sub(1).abs().min() > 1e-3
        whole = method.embed(batch)
        for i in (0, 3, 5):
            alone = method.embed({k: x[i:i + 1] for k, x in batch.items()})
            torch.testing.assert_close(alone[0], whole[i], rtol=1e-4, atol=1e-4)


def test_no_window_reaches_another_while_training():
    method, batch = get_method("tsta", **CALM).train(), noise(4)
    for x in batch.values(): x.requires_grad_()
    method.embed(batch)[1].square().sum().backward()
    for x in batch.values(): assert (x.grad.abs().sum((1, 2)) > 0).tolist() == [False, True] + [
        False] * 2
