"""Layers, encoders, losses and views against plain second implementations."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch import nn
from torch.nn import functional as F

from biossl.data.errors import MethodError
from biossl.nn.encoders import (SITES, Branch, Branches, ConvEncoder, MeanReadout, SegmentReadout,
                                Stem, deep_body)
from biossl.nn.layers import Dropout, Projector, dropout, parameters
from biossl.nn.losses import cosine_logits, info_nce, nt_xent
from biossl.nn.transformer import Attention, Block, Transformer, positions
from biossl.nn.views import (RECIPES, augment, jitter, mask_frequency, mask_time, scaling, shift,
                             sometimes, wander)
from biossl.nn.warp import KINDS, Localiser, ResidualWarp, Warping, warp

few = settings(deadline=None, max_examples=25)


def generator(seed=0): return torch.Generator().manual_seed(seed)


# -- losses ------------------------------------------------------------------------------------
def plain_nt_xent(z0, z1, tau):
    "From the equation, row by row, in float64."
    z = np.concatenate([z0, z1]).astype(np.float64)
    z = z / np.sqrt((z ** 2).sum(1, keepdims=True))
    n, total = len(z0), 0.0
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        others = [math.exp(z[i] @ z[j] / tau) for j in range(2 * n) if j != i]
        total -= math.log(math.exp(z[i] @ z[partner] / tau) / sum(others))
    return total / (2 * n)


@few
@given(n=st.integers(2, 9), d=st.integers(1, 6), tau=st.sampled_from([.1, .2, 1.]),
       seed=st.integers(0, 99))
def test_nt_xent_is_the_equation(n, d, tau, seed):
    rng = np.random.default_rng(seed)
    z0, z1 = rng.normal(size=(2, n, d)) + 0.05
    ours = nt_xent(torch.from_numpy(z0), torch.from_numpy(z1), tau).item()
    assert ours == pytest.approx(plain_nt_xent(z0, z1, tau), abs=1e-9)
    single = nt_xent(torch.from_numpy(z0).float(), torch.from_numpy(z1).float(), tau).item()
    assert single == pytest.approx(ours, rel=1e-4, abs=1e-4)


E0, E1 = [[1, 0], [0, 1]], [[.8, .6], [-.6, .8]]
P0, P1 = [[.6, .8], [-.8, .6]], [[1, 1], [-1, 1]]


@pytest.mark.parametrize("tau, ecg, ppg", [(.1, .063780, .000160), (.5, .430190, .247731),
                                           (1., .673577, .557395)])
def test_nt_xent_gives_the_worked_values(tau, ecg, ppg):
    for (a, b), value in (((E0, E1), ecg), ((P0, P1), ppg)):
        a, b = (torch.tensor(o, dtype=torch.float64) for o in (a, b))
        assert nt_xent(a, b, tau).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("n, value", [(2, 1.098612), (16, 3.433987), (64, 4.844187)])
def test_collapse_is_chance(n, value):
    same = torch.ones(n, 8, dtype=torch.float64)
    assert nt_xent(same, same).item() == pytest.approx(value, abs=1e-6)


def test_nt_xent_stays_in_float32_under_autocast():
    z0, z1 = torch.randn(2, 8, 16, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16): mixed = nt_xent(z0, z1)
    assert mixed.dtype == torch.float32 and mixed == nt_xent(z0, z1)
    assert nt_xent(z0.bfloat16(), z1.bfloat16()).dtype == torch.float32


def test_nt_xent_leaves_its_input_alone():
    z0, z1 = torch.randn(2, 4, 8, generator=generator())
    kept = z0.clone()
    nt_xent(z0, z1)
    assert torch.equal(z0, kept)


def plain_cross(a, b, tau, symmetric=True):
    "InfoNCE from the equation, entry by entry, in float64."
    a, b = ([o / np.sqrt(o @ o) for o in np.asarray(side, np.float64)] for side in (a, b))
    n = len(a)
    def one_way(x, y):
        return -sum(math.log(math.exp(x[i] @ y[i] / tau) / sum(math.exp(x[i] @ y[j] / tau)
                                                                for j in range(n)))
                    for i in range(n)) / n
    return (one_way(a, b) + one_way(b, a)) / 2 if symmetric else one_way(a, b)


@few
@given(n=st.integers(1, 9), d=st.integers(1, 6), tau=st.sampled_from([.07, .1, 1.]),
       symmetric=st.booleans(), seed=st.integers(0, 99))
def test_info_nce_is_the_equation_in_both_directions(n, d, tau, symmetric, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n, d)) + 0.05
    ours = info_nce(torch.from_numpy(a), torch.from_numpy(b), tau, symmetric).item()
    assert ours == pytest.approx(plain_cross(a, b, tau, symmetric), abs=1e-9)
    single = info_nce(*(torch.from_numpy(o).float() for o in (a, b)), tau, symmetric).item()
    assert single == pytest.approx(ours, rel=1e-4, abs=1e-4)


@few
@given(n=st.integers(2, 9), seed=st.integers(0, 99), tau=st.sampled_from([.1, .5]))
def test_what_leaves_the_losses_alone(n, seed, tau):
    "The order of windows, of the two sides, and the length of a vector; a swap of rows does not."
    a, b = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, n, 4)) + 0.05)
    order, length = torch.randperm(n, generator=generator(seed)), torch.arange(1., n + 1)[:, None]
    for loss in (nt_xent, info_nce):
        value = loss(a, b, tau).item()
        for same in (loss(a[order], b[order], tau), loss(b, a, tau), loss(a * length, b / 7, tau)):
            assert same.item() == pytest.approx(value, abs=1e-9)
        assert loss(a, b.roll(1, 0), tau).item() != pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("tau, value", [(.1, 1.063464), (.5, .486024), (1., .509278)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_info_nce_gives_the_worked_values(tau, value, symmetric):
    e, p = (torch.tensor(o, dtype=torch.float64) for o in (E0, P0))
    for pair in ((e, p), (p, e)):
        assert info_nce(*pair, tau, symmetric).item() == pytest.approx(value, abs=1e-6)


def test_info_nce_of_unequal_directions():
    "Three windows of which one direction alone would say something else for other numbers."
    a, b = np.eye(3), np.array([[1., 1, 0], [0, 1, 1], [1, 0, 1]])
    ours = [info_nce(torch.from_numpy(a), torch.from_numpy(b), tau).item() for tau in (.1, 1.)]
    assert ours == pytest.approx([.693572, math.log(2 + math.exp(-1 / math.sqrt(2)))], abs=1e-6)
    b[0] = (-2, 1, 0)
    rows, columns = (info_nce(*map(torch.from_numpy, o), 1., False).item()
                     for o in ((a, b), (b, a)))
    both = info_nce(torch.from_numpy(a), torch.from_numpy(b), 1.).item()
    assert abs(rows - columns) > .01 and both == pytest.approx((rows + columns) / 2)


@pytest.mark.parametrize("n", [2, 16, 64])
def test_collapse_and_perfection(n):
    same = torch.ones(n, 8, dtype=torch.float64)
    assert info_nce(same, same).item() == pytest.approx(math.log(n), abs=1e-9)
    each = torch.eye(n, dtype=torch.float64)
    expected = [math.log(1 + (2 * n - 2) * math.exp(-10)), math.log(1 + (n - 1) * math.exp(-10))]
    assert [nt_xent(each, each).item(), info_nce(each, each).item()] == pytest.approx(expected)


def test_info_nce_stays_in_float32_under_autocast():
    a, b = torch.randn(2, 8, 16, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16): mixed = info_nce(a, b)
    assert mixed.dtype == torch.float32 and mixed == info_nce(a, b)
    assert info_nce(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_logits_are_cosines_over_tau():
    a, b = torch.tensor([[3., 4]]), torch.tensor([[1., 0], [0, -2], [6, 8]])
    torch.testing.assert_close(cosine_logits(a, b, .5), torch.tensor([[1.2, -1.6, 2.]]))


# -- layers ------------------------------------------------------------------------------------
@pytest.mark.parametrize("p", [.1, .35, .5, .9])
def test_dropout_drops_its_share_everywhere_and_scales_the_rest(p):
    "In each of four lanes: the words that decide are cut from longer ones, whose ends may be odd."
    torch.manual_seed(0)
    made = dropout(torch.ones(400_000), p)
    kept = made[made != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)))
    sd = math.sqrt(p * (1 - p) / 100_000)
    for lane in range(4): assert abs((made[lane::4] == 0).double().mean() - p) < 5 * sd
    assert abs(made.mean() - 1) < 5 * sd / (1 - p)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(1)
    gone = (dropout(torch.ones(400_000), .35) == 0).double() - .35
    for lag in (1, 2, 3, 4, 8): assert abs((gone[lag:] * gone[:-lag]).mean()) < 5 * .35 * .65 / 630


@few
@given(shape=st.lists(st.integers(1, 7), min_size=0, max_size=3), seed=st.integers(0, 99))
def test_dropout_repeats_under_a_seed_and_is_nothing_at_rest(shape, seed):
    x = torch.randn(shape, generator=generator(seed))
    torch.manual_seed(seed)
    first = dropout(x, .5)
    torch.manual_seed(seed)
    assert torch.equal(first, dropout(x, .5)) and first.shape == x.shape
    assert dropout(x, .5, training=False) is x and dropout(x, 0.0) is x
    assert Dropout(.5).eval()(x) is x


def test_dropout_passes_the_gradient_of_what_it_keeps():
    x = torch.ones(1000, requires_grad=True)
    made = Dropout(.5).train()(x)
    made.sum().backward()
    assert torch.equal(x.grad, made.detach()) and 0 < (x.grad == 0).sum() < 1000


# -- transformer -------------------------------------------------------------------------------
def test_the_table_of_positions():
    rows = [[0, 1, 0, 1], [.841471, .540302, .01, .99995], [.909297, -.416147, .019999, .9998]]
    np.testing.assert_allclose(positions(3, 4), rows, atol=1e-6)
    table = positions(500, 128).double().numpy()
    for p, i in ((0, 0), (7, 3), (158, 40), (499, 63)):
        angle = p / 10_000 ** (2 * i / 128)
        np.testing.assert_allclose(table[p, 2 * i:2 * i + 2], [math.sin(angle), math.cos(angle)],
                                   atol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_is_the_encoder_layer_of_torch(norm):
    ours = Block(32, 4, 48, .35, norm).eval().double()
    theirs = nn.TransformerEncoderLayer(32, 4, 48, .35, "gelu", batch_first=True,
                                        norm_first=norm == "pre").eval().double()
    attention, network = ours.parts
    for mine, other in ((attention.taken.weight, theirs.self_attn.in_proj_weight),
                        (attention.taken.bias, theirs.self_attn.in_proj_bias),
                        (attention.given.weight, theirs.self_attn.out_proj.weight),
                        (attention.given.bias, theirs.self_attn.out_proj.bias),
                        (network[0].weight, theirs.linear1.weight),
                        (network[0].bias, theirs.linear1.bias),
                        (network[2].weight, theirs.linear2.weight),
                        (network[2].bias, theirs.linear2.bias)):
        with torch.no_grad(): other.copy_(mine.normal_(std=.3))
    x = torch.randn(3, 11, 32, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)


def test_attention_stays_within_its_window_and_reaches_all_of_it():
    x = torch.randn(3, 16, 40, generator=generator(), requires_grad=True)
    network = Transformer(16, 2, 2, 32, 0.0).train()
    network(x)[0, 3, 5].backward()
    reached = x.grad.abs().sum(1) > 0
    assert reached[0].all() and not reached[1:].any()


def test_the_transformer_knows_places():
    "Without them, tokens in another order would come out in that order, unchanged."
    x = torch.randn(1, 16, 30, generator=generator())
    network, order = Transformer(16, 1, 2, 32).eval(), torch.arange(29, -1, -1)
    assert (network(x[..., order])[..., order] - network(x)).abs().max() > 1e-2
    tokens = x.transpose(1, 2)
    torch.testing.assert_close(network.blocks(tokens[:, order])[:, order], network.blocks(tokens),
                               rtol=1e-4, atol=1e-5)


def test_impossible_transformers_are_refused():
    with pytest.raises(MethodError, match="128 channels do not part into 3"): Attention(128, 3)
    with pytest.raises(MethodError, match="no norm middle"): Block(norm="middle")


# -- warp --------------------------------------------------------------------------------------
def plain_warp(x, a, b):
    "One window, sample by sample: where to read, and the two neighbours there."
    length, middle = len(x), (len(x) - 1) / 2
    made = []
    for t in range(length):
        place = min(max(a * (t - middle) + middle + b * middle, 0), length - 1)
        low = min(int(math.floor(place)), length - 2) if length > 1 else 0
        made.append(x[low] if length == 1 else
                    x[low] * (1 - (place - low)) + x[low + 1] * (place - low))
    return made


@pytest.mark.parametrize("a, b, expected", [
    (1, 0, [0, 1, 4, 9, 16]), (1, .25, [.5, 2.5, 6.5, 12.5, 16]), (1, .5, [1, 4, 9, 16, 16]),
    (1, -.5, [0, 0, 1, 4, 9]), (.5, 0, [1, 2.5, 4, 6.5, 9]), (1.1, 0, [0, .9, 4, 9.7, 16]),
    (.9, .1, [.4, 1.9, 5, 9.7, 16])])
def test_the_worked_warps(a, b, expected):
    x = torch.tensor([[[0., 1, 4, 9, 16]]], dtype=torch.float64)
    a, b = torch.tensor([[a], [b]], dtype=torch.float64)
    np.testing.assert_allclose(warp(x, a, b)[0, 0], expected, atol=1e-9)


def test_the_worked_residual_warp():
    stn, x = ResidualWarp(1).double(), torch.tensor([[[0., 1, 4, 9, 16]]], dtype=torch.float64)
    aims = torch.tensor([0, 1, .4, -.6, 0], dtype=torch.float64)   # b = 0.1, the largest shift
    stn.localiser.out.bias.data = torch.atanh(aims)
    plain, shifted = (np.array(plain_warp([0, 1, 4, 9, 16], 1, b)) for b in (0, .1))
    np.testing.assert_allclose(stn(x)[0, 0].detach(),
                               plain + .5 * (1.2 * shifted - .3 - plain), atol=1e-9)


class Told(nn.Module):
    "A localiser that says what it was told."
    def __init__(self, **said):
        super().__init__()
        self.said = Warping(**{k: torch.tensor([v], dtype=torch.float64) for k, v in said.items()})

    def forward(self, x): return self.said


def test_the_worked_residual_warp_beyond_a_localisers_bounds():
    stn, x = ResidualWarp(1), torch.tensor([[[0., 1, 4, 9, 16]]], dtype=torch.float64)
    stn.localiser = Told(a=1, b=.25, g=1.2, o=-.3, q=.5)
    np.testing.assert_allclose(stn(x)[0, 0], [.15, 1.85, 5.75, 11.85, 17.45], atol=1e-9)


@few
@given(length=st.integers(2, 200), seed=st.integers(0, 999))
def test_the_warp_is_that_of_a_loop_and_of_torch_with_corners_aligned(length, seed):
    rng = np.random.default_rng(seed)
    x, a, b = rng.normal(size=(3, 2, length)), rng.uniform(.5, 1.5, 3), rng.uniform(-.6, .6, 3)
    ours = warp(*map(torch.from_numpy, (x, a, b))).numpy()
    for window, i in ((o, i) for i in range(3) for o in range(2)):
        np.testing.assert_allclose(ours[i, window], plain_warp(x[i, window], a[i], b[i]), atol=1e-9)
    np.testing.assert_allclose(ours, sampled(x, a, b, True), atol=2e-7)


def sampled(x, a, b, align_corners):
    "The warp by torch's grid_sample, in coordinates from -1 to 1."
    x, a, b = map(torch.from_numpy, (x, a, b))
    u = a[:, None] * torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype) + b[:, None]
    grid = torch.stack([u, torch.zeros_like(u)], -1)[:, None]
    return F.grid_sample(x[:, :, None], grid, align_corners=align_corners,
                         padding_mode="border")[:, :, 0].numpy()


def test_the_other_convention_is_another_warp():
    x, a, b = np.random.default_rng(0).normal(size=(4, 3, 158)), np.full(4, 1.05), np.full(4, .03)
    ours = warp(*map(torch.from_numpy, (x, a, b))).numpy()
    assert np.abs(ours - sampled(x, a, b, False)).max() > .1


@few
@given(length=st.integers(2, 1300), seed=st.integers(0, 99))
def test_the_identity_is_exact(length, seed):
    x = torch.randn(2, 3, length, generator=generator(seed))
    assert torch.equal(warp(x, torch.ones(2), torch.zeros(2)), x)
    assert torch.equal(ResidualWarp(3)(x), x)


def gradients(module, x):
    "The norm of each parameter's gradient for a loss that asks for `x` a little later."
    module.zero_grad()
    ((module(x) - x.roll(3, -1)) ** 2).sum().backward()
    return {k: float(p.grad.norm()) for k, p in module.named_parameters()}


def slow(n=4, channels=2, length=160):
    "Slow waves, each window another."
    t = torch.linspace(0, 6 * math.pi, length)
    return torch.sin(t + torch.arange(float(n * channels)).view(n, channels, 1))


def test_at_the_start_the_last_layer_learns_and_first_of_all_the_shift():
    stn = ResidualWarp(2)
    norms = gradients(stn, slow())
    assert {k for k, v in norms.items() if v} == {"localiser.out.weight", "localiser.out.bias"}
    rows = stn.localiser.out.bias.grad.abs()
    assert rows.argmax() == 1 and rows[4] == 0
    with torch.no_grad(): stn.localiser.out.bias[1] = -.2
    gradients(stn, slow())
    assert stn.localiser.out.bias.grad[4] != 0, "the gate learns as soon as the warp has moved"


class Shut(ResidualWarp):
    "The tempting form: a learned gate that starts at zero, before a warp that does too."
    def __init__(self, channels):
        super().__init__(channels)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x, seen=None):
        said = self.localiser(x)
        return x + self.gate * (warp(x, said.a, said.b) - x)


def test_a_gate_and_a_warp_that_both_start_at_zero_never_move():
    shut = Shut(2)
    optimiser = torch.optim.SGD(shut.parameters(), .1)
    for _ in range(3):
        assert sum(gradients(shut, slow()).values()) == 0
        optimiser.step()
    assert sum(gradients(ResidualWarp(2), slow()).values()) > 1


def test_a_warp_finds_a_delay():
    "What is asked for is the window one sample later: the shift that says so is negative."
    torch.manual_seed(0)
    stn, x = ResidualWarp(2), slow()
    wanted = warp(x, torch.ones(4), torch.full((4,), -.03))
    optimiser = torch.optim.Adam(stn.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        optimiser.zero_grad()
        losses.append(((stn(x) - wanted) ** 2).mean())
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] / 10 and (stn.localiser(x).b < 0).all()


def test_the_kinds_of_warp():
    torch.manual_seed(0)
    x = slow()
    learned, joint, identity, random = (ResidualWarp(2, o, seen=4 * (o == "joint")) for o in KINDS)
    for stn in (learned, identity): assert torch.equal(stn.train()(x), x)
    assert torch.equal(joint.train()(x, torch.cat([x, x], 1)), x)
    assert parameters(identity) == 0 == parameters(random) < parameters(learned)
    assert sum(o.numel() for o in identity.parameters()) == parameters(learned)
    assert torch.equal(random.eval()(x), x) and not torch.equal(random.train()(x), x)
    for stn in (learned, identity):
        with torch.no_grad(): stn.localiser.out.bias[1] = 1.
    assert not torch.equal(learned(x), x) and torch.equal(identity(x), x)
    with pytest.raises(MethodError, match="no warp rnadom"): ResidualWarp(2, "rnadom")


def test_a_localiser_sees_where_something_is():
    "Sixteen bins, not one: two places of one bump are told apart."
    torch.manual_seed(0)
    localiser, x = Localiser(1), torch.zeros(2, 1, 320)
    x[0, 0, 20:40], x[1, 0, 280:300] = 9, 9
    nn.init.normal_(localiser.out.weight)
    said = localiser(x)
    assert abs(said.a[0] - said.a[1]) > 1e-3
    bounds = torch.stack([said.a - 1, said.b, said.g - 1, said.o, said.q - .5]).abs().amax(1)
    assert (bounds < torch.tensor([.1, .1, .5, .5, .5])).all()


# -- encoders ----------------------------------------------------------------------------------
@few
@given(samples=st.integers(16, 700), channels=st.integers(1, 3))
def test_the_stem_halves_three_times(samples, channels):
    tokens = samples
    for _ in range(3): tokens = (tokens - 1) // 2 + 1
    assert Stem(channels)(torch.zeros(2, channels, samples)).shape == (2, 128, tokens)


def test_a_vector_does_not_depend_on_the_batch_even_while_training():
    encoder, x = ConvEncoder(dropout=0.0).train(), torch.randn(6, 1, 300, generator=generator())
    torch.testing.assert_close(encoder(x)[2:3], encoder(x[2:3]), rtol=1e-4, atol=1e-5)


def test_the_order_of_time_matters_no_more_than_it_should():
    "Mean and maximum over time: a window delayed by whole tokens keeps its vector but for the rim."
    encoder, x = ConvEncoder().eval(), torch.zeros(1, 1, 640)
    x[..., 300:320] = 1
    a, b = encoder(x), encoder(x.roll(80, -1))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_branches_share_no_weight():
    both = Branches(("ecg", "ppg"), ConvEncoder)
    ids = [{id(p) for p in both[k].parameters()} for k in ("ecg", "ppg")]
    assert not ids[0] & ids[1]
    with pytest.raises(MethodError, match="not \\(N, C, T\\)"): both["ecg"](torch.zeros(3, 100))


@pytest.mark.parametrize("samples, tokens", [(1260, 158), (1000, 125), (512, 64), (256, 32),
                                             (4000, 500)])
def test_tokens_of_the_published_windows(samples, tokens):
    assert Stem()(torch.zeros(1, 1, samples)).shape == (1, 128, tokens)


def test_parameters_part_by_part():
    counts = {60_320: Stem(), 132_480: Block(), 66_048: Attention(), 265_216: Transformer(),
              325_536: nn.Sequential(Stem(), Transformer()), 24_037: ResidualWarp(128),
              9_813: ResidualWarp(1), 37_024: SegmentReadout(), 0: MeanReadout(),
              33_024: Projector()}
    assert {parameters(o) for o in counts.values()} == set(counts)
    assert [parameters(o) for o in counts.values()] == list(counts)
    assert abs(parameters(deep_body()) / parameters(Transformer()) - 1) < .01


@few
@given(length=st.integers(8, 60), seed=st.integers(0, 99))
def test_the_segment_readout_is_eight_means_one_layer_each_and_one_over_all(length, seed):
    readout = SegmentReadout(6, 5, hidden=3).double()
    x = torch.randn(2, 6, length, generator=generator(seed), dtype=torch.float64)
    edges = [(math.floor(i * length / 8), math.ceil((i + 1) * length / 8)) for i in range(8)]
    linear, last = readout.each[0], readout.all
    for window, made in zip(x, readout(x)):
        means = [linear(window[:, low:high].mean(1)) for low, high in edges]
        gelu = [o * .5 * (1 + torch.erf(o / math.sqrt(2))) for o in means]
        torch.testing.assert_close(made, last.weight @ torch.cat(gelu) + last.bias)


def test_a_mean_is_blind_to_order_and_segments_are_not():
    x = torch.randn(2, 128, 40, generator=generator())
    turned = x.flip(-1)
    torch.testing.assert_close(MeanReadout()(x), MeanReadout()(turned))
    segments = SegmentReadout()
    assert (segments(x) - segments(turned)).abs().max() > 1e-2
    torch.testing.assert_close(MeanReadout()(x), x.mean(2))


def a_branch(site="none", readout=MeanReadout, **more):
    torch.manual_seed(0)
    return Branch(Transformer(drop=0.0), readout(), site, drop=0.0, **more)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("readout", [MeanReadout, SegmentReadout])
def test_a_branch_starts_as_if_it_had_no_warp(site, readout):
    "Bit for bit, at every site: the same weights are drawn, and the warp is the identity."
    x = torch.randn(3, 1, 420, generator=generator())
    assert torch.equal(a_branch(site, readout)(x), a_branch("none", readout)(x))


@pytest.mark.parametrize("site", SITES[1:])
def test_a_warp_works_where_its_site_says(site):
    x = torch.randn(2, 1, 420, generator=generator())
    branch = a_branch(site)
    with torch.no_grad(): branch.warp.localiser.out.bias[1] = .5
    plain, by = a_branch(), branch.warp
    by_hand = dict(input=lambda: plain.body(plain.stem(by(x))),
                   stem=lambda: plain.body(by(plain.stem(x))),
                   output=lambda: by(plain.body(plain.stem(x))))[site]().mean(-1)
    torch.testing.assert_close(branch(x), by_hand)
    assert (by_hand - plain(x)).abs().max() > 1e-3
    said = branch.warping(x)
    torch.testing.assert_close(said.b, torch.full((2,), .1 * math.tanh(.5)))


def test_what_a_branch_cannot_be():
    with pytest.raises(MethodError, match="no site middle"): a_branch("middle")
    with pytest.raises(MethodError, match="joint localiser at stem"): a_branch("stem", kind="joint")
    with pytest.raises(MethodError, match="reads no warp"): a_branch().warping(torch.zeros(1, 1, 80))
    with pytest.raises(MethodError, match="not \\(N, C, T\\)"): a_branch()(torch.zeros(3, 100))


# -- views -------------------------------------------------------------------------------------
RATE = 42.0
VIEWS = {
    "scaling": scaling, "jitter": jitter, "wander": lambda x, g: wander(x, g, RATE),
    "shift": lambda x, g: shift(x, g, RATE), "mask_time": mask_time,
    "mask_frequency": lambda x, g: mask_frequency(x, g, RATE),
    "augment": lambda x, g: augment(x, g, RATE),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_shape_and_input_and_draws_from_its_generator_alone(name):
    x = torch.randn(7, 2, 301, generator=generator())
    kept = x.clone()
    torch.manual_seed(0)
    a = VIEWS[name](x, generator(1))
    torch.manual_seed(1)
    b = VIEWS[name](x, generator(1))
    assert a.shape == x.shape and a.dtype == x.dtype and a.isfinite().all()
    assert torch.equal(a, b) and torch.equal(x, kept)
    assert not torch.equal(a, VIEWS[name](x, generator(2)))


@pytest.mark.parametrize("name", VIEWS)
def test_windows_of_a_batch_are_drawn_apart(name):
    x = torch.randn(1, 1, 420, generator=generator()).expand(12, 1, 420)
    made = VIEWS[name](x, generator(3))
    assert len({tuple(o.flatten().tolist()) for o in made}) > 6


@few
@given(seed=st.integers(0, 999), samples=st.integers(90, 200))
def test_shift_rolls_all_leads_together_by_at_most_a_second(seed, samples):
    x = torch.randn(3, 2, samples, generator=generator(seed))
    made = shift(x, generator(seed + 1), RATE).numpy()
    for before, after in zip(x.numpy(), made):
        rolls = [d for d in range(-42, 43) if np.array_equal(np.roll(before, d, -1), after)]
        assert rolls, "no roll of at most 42 samples gives this window"


@few
@given(seed=st.integers(0, 999), samples=st.integers(100, 301))
def test_a_frequency_mask_takes_two_hertz_and_leaves_the_rest(seed, samples):
    x = torch.randn(3, 1, samples, generator=generator(seed), dtype=torch.float64)
    before = np.fft.rfft(x.numpy())
    after = np.fft.rfft(mask_frequency(x, generator(seed), RATE).numpy())
    hertz = np.fft.rfftfreq(samples, 1 / RATE)
    for was, now in zip(before[:, 0], after[:, 0]):
        gone = np.abs(now - was) > 1e-9 * np.abs(was).max()
        assert np.abs(now[gone]).max(initial=0) < 1e-9 * np.abs(was).max()
        assert gone.any() and np.ptp(hertz[gone]) < 2.0


def test_a_time_mask_is_one_span_anywhere():
    x = torch.ones(2000, 1, 100)
    made = mask_time(x, generator())[:, 0].numpy()
    starts = (made == 0).argmax(1)
    assert set(starts.tolist()) == set(range(91))
    for row, start in zip(made, starts):
        assert (row[start:start + 10] == 0).all() and row.sum() == 90


def test_sometimes_is_half_of_the_windows():
    made = sometimes(lambda x, g: x + 1, torch.zeros(4000, 1, 1), generator())
    share = (made == 1).float().mean()
    assert abs(share - .5) < .03


def test_recipes_keep_the_rhythm():
    "Nothing in them reorders or stretches time; each names views that exist."
    x = torch.randn(2, 1, 420, generator=generator())
    for recipe in RECIPES.values():
        assert not {o.rstrip("?") for o in recipe} & {"permute", "stretch", "warp"}
        assert augment(x, generator(), RATE, recipe).shape == x.shape
    assert RECIPES["literal"] == ("scaling", "shift", "jitter")
    with pytest.raises(KeyError): augment(x, generator(), RATE, ("no such view",))


def test_the_literal_recipe_is_a_louder_later_noisier_window():
    x = torch.zeros(200, 1, 420, dtype=torch.float64)
    x[..., 200] = 30.0
    made = augment(x, generator(), RATE, RECIPES["literal"])[:, 0]
    places, sizes = made.argmax(1), made.amax(1) / 30
    assert (places - 200).abs().max() <= 42 and places.unique().numel() > 30
    assert .69 < sizes.min() and sizes.max() < 1.31 and sizes.std() > .05
    rest = made.scatter(1, places[:, None], 0.)
    assert ((rest != 0).sum(1) == 419).all() and .04 < rest.std() < .08


def test_the_default_recipe_masks_a_quarter_of_the_windows_and_half_of_the_bands():
    "A time mask (half of the windows) stays at zero where no frequency mask (half) follows."
    x = torch.randn(3000, 1, 420, generator=generator())
    made = augment(x, generator(1), RATE)[:, 0]
    assert abs(((made == 0).sum(1) == 42).float().mean() - .25) < .04
    assert abs((augment(x, generator(1), RATE, ("mask_frequency?",)) != x).any(2).float().mean()
               - .5) < .04
