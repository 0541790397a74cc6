"""Networks of the twelve leads: counts, shapes, worked values, and plain second implementations."""
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from biossl.data.errors import MethodError
from biossl.nn import seresnet, spectrogram as room
from biossl.nn.fusion import Concat, Constant, Gate, classifier
from biossl.nn.initialise import kaiming_, xavier_
from biossl.nn.layers import parameters
from biossl.nn.seresnet import Block, Excite, LiveConv, SEResNet34, dead_weights, live
from biossl.nn.spectrogram import columns, spectrogram
from biossl.nn.xresnet import Bottleneck, Conv, XResNet1d50, as_image

few = settings(deadline=None, max_examples=30)
WHOLE = (12, 13, 21)


def generator(seed=0): return torch.Generator().manual_seed(seed)


def scattered(module, seed=0):
    "`module` in float64 with every parameter and running statistic away from its first value."
    module.double()
    for name, value in module.state_dict().items():
        if not value.is_floating_point(): continue
        drawn = torch.randn(value.shape, generator=generator(seed), dtype=torch.float64)
        value.copy_(drawn.abs() + .5 if "var" in name else drawn * .3 + .1)
    return module


# -- spectrogram -------------------------------------------------------------------------------
def reference(x, nperseg=25, hop=13):
    kw = dict(fs=100, window="hann", nperseg=nperseg, noverlap=nperseg - hop)
    return np.abs(scipy.signal.stft(x, **kw)[2])


WAYS = pytest.mark.parametrize("way", [room._by_convolution, room._by_fourier])


@WAYS
@few
@given(length=st.integers(25, 400), seed=st.integers(0, 99),
       frame=st.sampled_from([(25, 13), (25, 5), (16, 8), (24, 24)]))
def test_spectrogram_is_scipys(way, length, seed, frame):
    x = np.random.default_rng(seed).normal(size=(2, 3, length))
    if columns(length, *frame) > columns(length, frame[0], 1): return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_by_convolution", way)
        theirs, ours = reference(x, *frame), spectrogram(torch.from_numpy(x), *frame)
        single = spectrogram(torch.from_numpy(x).float(), *frame)
    assert ours.shape == theirs.shape == (2, 3, frame[0] // 2 + 1, columns(length, *frame))
    assert np.abs(ours.numpy() - theirs).max() < 1e-12
    assert single.dtype == torch.float32 and np.abs(single.numpy() - theirs).max() < 1e-6


@WAYS
def test_spectrogram_gives_the_worked_values(way, monkeypatch):
    monkeypatch.setattr(room, "_by_convolution", way)
    n = torch.arange(250, dtype=torch.float64)
    x = torch.sin(2 * np.pi * 5 * n / 100) + .5 * torch.cos(2 * np.pi * 17 * n / 100)
    z, ones = spectrogram(torch.stack([x, torch.ones(250)])[None])[0]
    assert z.sum().item() == pytest.approx(30.96698915, abs=1e-8)
    assert z.max().item() == z[1, 3].item() == pytest.approx(.49332112, abs=1e-8)
    column = [.050689, .493039, .334597, .109079, .234141, .173832]
    assert z[:6, 10].tolist() == pytest.approx(column, abs=5e-7)
    assert z[:, 20].max().item() == pytest.approx(8.56e-5, abs=5e-8)
    assert z[:, 0].max().item() == pytest.approx(.3613, abs=5e-5)
    assert ones[:3, 10].tolist() == pytest.approx([1, .5, 0], abs=1e-12)
    assert ones[0, [0, 20]].tolist() == pytest.approx([.58, .00126], rel=5e-3)


@pytest.mark.parametrize("length, count", [(100, 9), (125, 11), (250, 21), (500, 40), (1000, 78)])
def test_columns(length, count):
    assert columns(length) == count == spectrogram(torch.zeros(1, 2, length)).shape[-1]


def test_spectrogram_keeps_its_precision_and_refuses_less_than_a_frame():
    x = torch.randn(4, 12, 250, generator=generator())
    with torch.autocast("cpu", torch.bfloat16): z = spectrogram(x)
    assert z.dtype == torch.float32 and torch.equal(z, spectrogram(x))
    assert torch.allclose(vmap(spectrogram)(x[None]), z[None], atol=1e-7)
    with pytest.raises(MethodError, match="24 samples.*remedy"): spectrogram(x[..., :24])


# -- the network along time --------------------------------------------------------------------
def test_xresnet_has_the_stated_sizes():
    net = XResNet1d50()
    assert [parameters(o) for o in net.stem] == [2_016, 5_184, 10_368]
    assert [parameters(o) for o in net.stages] == [166_656, 216_064, 324_096, 162_048]
    assert parameters(net) == 886_432 and len(net.state_dict()) == 313
    assert parameters(XResNet1d50(leads=2)) == 886_432 - 10 * 32 * 5
    x, shapes = as_image(torch.randn(2, 12, 250)), []
    for part in (*net.stem, net.pool, *net.stages): shapes.append(tuple((x := part(x)).shape[1:]))
    assert [o[2] for o in shapes] == [125, 125, 125, 63, 63, 32, 16, 8]
    assert [o[0] for o in shapes] == [32, 32, 64, 64, 256, 256, 256, 256]


def test_xresnet_is_born_with_kaiming_and_sixteen_silent_blocks():
    net = XResNet1d50()
    norms = [o for o in net.modules() if isinstance(o, nn.BatchNorm2d)]
    assert len(norms) == 52 and sum(not o.weight.any() for o in norms) == 16
    assert all(o.weight.eq(1).all() for o in norms if o.weight.any())
    wide = net.stages[2][3].path[1][0].weight
    assert wide.std().item() == pytest.approx((2 / (64 * 5)) ** .5, rel=.03)
    assert not net.stem[0][0].bias.any()
    assert net.eval()(torch.randn(1, 12, 250)).shape == (1, 512)


@few
@given(length=st.integers(1, 40), kernel=st.sampled_from([1, 5]), stride=st.integers(1, 2))
def test_convolution_on_images_is_the_one_along_time(length, kernel, stride):
    conv = Conv(3, 4, kernel, stride, bias=True).double()
    x = torch.randn(2, 3, length, generator=generator(), dtype=torch.float64)
    plain = F.conv1d(x, conv.weight, conv.bias, stride, kernel // 2)
    assert torch.allclose(conv(as_image(x))[:, :, 0], plain, atol=1e-12, rtol=0)


def plain_norm(x, state, name):
    "Evaluation-mode BatchNorm of `(C, ...)`, channel by channel."
    keys = "weight", "bias", "running_mean", "running_var"
    gain, offset, mean, var = (state[f"{name}.{o}"].numpy() for o in keys)
    return np.stack([(x[c] - mean[c]) / np.sqrt(var[c] + 1e-5) * gain[c] + offset[c]
                     for c in range(len(x))])


def plain_conv(x, weight, stride):
    "`(C, H, W) -> (D, H', W')`, padded by half the kernel: loops over outputs."
    d, _, k, m = weight.shape
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (m // 2, m // 2)))
    steps = range(0, x.shape[1] - k + 1, stride if k > 1 or x.shape[1] > 1 else 1)
    return np.stack([np.stack([(weight * x[:, i:i + k, j:j + m]).sum((1, 2, 3))
                               for j in range(0, x.shape[2] - m + 1, stride)], 1)
                     for i in steps], 1)


@pytest.mark.parametrize("channels, stride, length", [(64, 1, 9), (256, 1, 8), (256, 2, 9)])
def test_bottleneck_is_what_it_says(channels, stride, length):
    block = scattered(Bottleneck(channels, stride)).eval()
    state = block.state_dict()
    x = np.random.default_rng(0).normal(size=(channels, 1, length))

    def layer(x, name, stride=1):
        weight = state[f"{name}.0.weight"].numpy()[:, :, None]
        return plain_norm(plain_conv(x, weight, stride), state, f"{name}.1")

    y = np.maximum(layer(x, "path.0"), 0)
    y = np.maximum(layer(y, "path.1", stride), 0)
    y = layer(y, "path.2")
    shortcut = x if channels == 256 else layer(x, "shortcut.1")
    if stride == 2:
        pairs = [x[:, 0, i:i + 2].mean(1) for i in range(0, length, 2)]  # the last one may be alone
        shortcut = np.stack(pairs, 1)[:, None]
    ours = block(torch.from_numpy(x)[None])[0].detach().numpy()
    assert np.abs(ours - np.maximum(y + shortcut, 0)).max() < 1e-10


def test_xresnet_says_the_maximum_first():
    net = XResNet1d50().eval()
    out = net(torch.randn(2, 12, 250, generator=generator()))
    assert (out[:, :256] >= out[:, 256:]).all() and (out[:, :256] > out[:, 256:]).any()


# -- the network on spectrograms ---------------------------------------------------------------
def test_seresnet_has_the_stated_sizes():
    net = SEResNet34()
    assert parameters(net.stem) == 37_696 + 128
    assert [parameters(o) for o in net.stages] == [223_488, 1_124_608, 6_871_552, 13_212_672]
    assert [parameters(o) for o in net.stages[1]] == [232_192] + 3 * [297_472]
    assert parameters(net) == 21_470_144 and len(net.state_dict()) == 249
    x, shapes = torch.randn(2, *WHOLE), []
    for part in (net.stem, net.pool, *net.stages): shapes.append(tuple((x := part(x)).shape[1:]))
    assert shapes == [(64, 7, 11), (64, 4, 6), (64, 4, 6), (128, 2, 3), (256, 1, 2), (512, 1, 1)]


def test_seresnet_is_born_with_kaiming_by_fan_out():
    net = SEResNet34()
    assert all(o.weight.eq(1).all() for o in net.modules() if isinstance(o, nn.BatchNorm2d))
    first = net.stages[1][0].path[0][0].weight  # 64 -> 128: the two fans differ
    assert first.std().item() == pytest.approx((2 / (128 * 9)) ** .5, rel=.03)
    assert not net.stem[0].bias.any()
    assert net.eval()(torch.randn(1, *WHOLE)).shape == (1, 512)


@pytest.mark.parametrize("choice, last", [(dict(stem_stride=1), (1, 2)), (dict(pool=False), (1, 2)),
                                          (dict(stem_stride=1, pool=False), (2, 3))])
def test_seresnet_may_keep_more_of_the_map(choice, last):
    net, seen = SEResNet34(**choice).eval(), []
    net.stages.register_forward_hook(lambda *o: seen.append(tuple(o[2].shape[2:])))
    assert net(torch.randn(1, *WHOLE)).shape == (1, 512) and seen == [last]
    assert parameters(net) == 21_470_144 and dead_weights(net, WHOLE) < 15_826_944


@pytest.mark.parametrize("channels, width, stride, shape",
                         [(16, 16, 1, (4, 6)), (16, 32, 2, (4, 6)), (16, 32, 2, (1, 2)),
                          (32, 32, 1, (1, 1))])
def test_block_is_what_it_says(channels, width, stride, shape):
    block = scattered(Block(channels, width, stride)).eval()
    state = block.state_dict()
    x = np.random.default_rng(0).normal(size=(channels, *shape))

    def layer(x, name, stride=1):
        y = plain_conv(x, state[f"{name}.0.weight"].numpy(), stride)
        return plain_norm(y, state, f"{name}.1")

    y = layer(np.maximum(layer(x, "path.0", stride), 0), "path.2")
    squeeze, excite = (state[f"path.3.{o}.weight"].numpy() for o in (0, 2))
    means = np.array([o.mean() for o in y])
    loud = 1 / (1 + np.exp(-excite @ np.maximum(squeeze @ means, 0)))
    y = np.stack([y[c] * loud[c] for c in range(width)])
    y = y + (x if channels == width else layer(x, "shortcut", stride))
    ours = block(torch.from_numpy(x)[None])[0].detach().numpy()
    assert np.abs(ours - np.maximum(y, 0)).max() < 1e-10


@few
@given(size=st.integers(1, 30), kernel=st.sampled_from([1, 3, 5, 7]), stride=st.integers(1, 3))
def test_live_is_found_by_trying(size, kernel, stride):
    padding = kernel // 2
    outputs = (size + 2 * padding - kernel) // stride + 1
    met = {t for t in range(kernel) for o in range(outputs)
           if 0 <= o * stride - padding + t < size}
    assert met == set(range(kernel)[live(size, kernel, stride, padding)])


@settings(deadline=None, max_examples=80)
@given(h=st.integers(1, 6), w=st.integers(1, 6), kernel=st.sampled_from([1, 3, 7]),
       stride=st.integers(1, 2), bias=st.booleans(), seed=st.integers(0, 9))
def test_live_convolution_is_the_padded_one(h, w, kernel, stride, bias, seed):
    conv = LiveConv(3, 4, kernel, stride, bias=bias).double()
    x = torch.randn(2, 3, h, w, generator=generator(seed), dtype=torch.float64, requires_grad=True)
    wanted = [o for o in (x, conv.weight, conv.bias) if o is not None]
    y, plain = conv(x), F.conv2d(x, conv.weight, conv.bias, stride, kernel // 2)
    assert y.shape == plain.shape and torch.allclose(y, plain, atol=1e-12, rtol=0)
    up = torch.randn(y.shape, generator=generator(seed + 1), dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad(o, wanted, up) for o in (y, plain))):
        assert torch.allclose(a, b, atol=1e-12, rtol=0)


def padded(self, x): return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


@pytest.mark.parametrize("shape", [WHOLE, (12, 13, 11), (12, 13, 40)])
def test_seresnet_computes_what_padding_would(shape, monkeypatch):
    torch.manual_seed(0)
    net, x = SEResNet34(), torch.randn(8, *shape)
    ours = net(x)
    monkeypatch.setattr(LiveConv, "forward", padded)
    assert torch.allclose(ours, net(x), rtol=1e-4, atol=1e-4)


def test_dead_weights_are_those_without_a_gradient(monkeypatch):
    torch.manual_seed(0)
    net = SEResNet34()
    assert dead_weights(net, WHOLE) == 15_826_944
    assert [dead_weights(net.stages[i], (n, *s)) for i, n, s in
            ((2, 128, (2, 3)), (3, 256, (1, 2)))] == [4_423_680, 11_403_264]
    monkeypatch.setattr(LiveConv, "forward", padded)
    net(torch.randn(96, *WHOLE)).square().sum().backward()
    convs = [o.weight.grad for o in net.modules() if isinstance(o, nn.Conv2d)]
    assert sum(o.eq(0).sum().item() for o in convs) == 15_826_944


def test_counting_the_dead_leaves_the_network_alone():
    net = SEResNet34()
    net.stem.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    dead_weights(net, WHOLE)
    assert net.training and not net.stem.training and not net.stem[0]._forward_pre_hooks
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


# -- fusion ------------------------------------------------------------------------------------
def test_gate_gives_the_worked_values():
    gate = Gate(2)
    with torch.no_grad():
        gate.score.weight.copy_(torch.tensor([[.1, 0, .2, 0], [0, .3, 0, -.1]]))
        gate.score.bias.copy_(torch.tensor([0, .1]))
    fused, weights = gate(torch.tensor([[1., 2.]]), torch.tensor([[3., -1.]]))
    assert weights[0].tolist() == pytest.approx([.475021, .524979], abs=5e-7)
    assert fused[0].tolist() == pytest.approx([.475021, .950042, 1.574938, -.524979], abs=5e-7)


def test_fused_networks_have_the_stated_sizes():
    branches = parameters(XResNet1d50()) + parameters(SEResNet34())
    head = parameters(classifier(1024, 512, 24))
    assert parameters(Gate()) == 2_050 and head == 537_112
    assert branches + head == 22_893_688 and branches + head + 2_050 == 22_895_738
    assert parameters(classifier(512, 256, 24)) == 137_496
    assert parameters(XResNet1d50()) + 137_496 == 1_023_928


def test_constant_halves_and_concat_leaves_alone():
    f1, f2 = torch.randn(2, 5, 8, generator=generator())
    side, ones = Concat()(f1, f2)
    halved, halves = Constant()(f1, f2)
    assert torch.equal(side, torch.cat([f1, f2], 1)) and torch.equal(halved, side / 2)
    assert ones.eq(1).all() and halves.eq(.5).all() and ones.shape == halves.shape == (5, 2)
    gate = Gate(8)
    nn.init.zeros_(gate.score.weight), nn.init.zeros_(gate.score.bias)
    assert torch.allclose(gate(f1, f2)[0], halved)


@few
@given(seed=st.integers(0, 99), scale=st.sampled_from([.1, 1., 100.]))
def test_gate_weighs_each_sample_for_itself(seed, scale):
    gate, (f1, f2) = Gate(6), scale * torch.randn(2, 4, 6, generator=generator(seed))
    fused, weights = gate(f1, f2)
    assert torch.allclose(weights.sum(1), torch.ones(4)) and (weights >= 0).all()
    alone, own = gate(f1[2:3], f2[2:3])  # a batch of one keeps its axis
    assert alone.shape == (1, 12) and own.shape == (1, 2)
    assert torch.allclose(alone, fused[2:3], rtol=1e-4, atol=1e-5)
    assert torch.allclose(fused, torch.cat([weights[:, :1] * f1, weights[:, 1:] * f2], 1))


def test_classifier_without_activation_is_one_affine_map():
    a, b = torch.randn(2, 6, 16, dtype=torch.float64, generator=generator())

    def bend(head):
        head = head.double()
        return (head(a) + head(b) - head(a + b) - head(torch.zeros_like(a))).abs().max()

    assert bend(classifier(16, 8, 3, act=None)) < 1e-12 < 1e-3 < bend(classifier(16, 8, 3))
    assert list(classifier(4, 2, 1).state_dict()) == list(classifier(4, 2, 1, None).state_dict())
    assert classifier(16, 8, 3)(a[:1].float()).shape == (1, 3)
    with pytest.raises(MethodError, match="gelu"): classifier(4, 2, 1, "gelu")


# -- first weights -----------------------------------------------------------------------------
def test_xavier_draws_what_it_says():
    net = xavier_(XResNet1d50(), generator())
    norms = [o for o in net.modules() if isinstance(o, nn.BatchNorm2d)]
    gains = torch.cat([o.weight for o in norms])
    assert all(o.weight.all() and not o.bias.any() for o in norms)
    assert gains.mean().item() == pytest.approx(1, abs=.002)
    assert gains.std().item() == pytest.approx(.02, rel=.05)
    narrow = net.stages[0][0].path[2][0].weight  # 64 -> 256
    assert narrow.std().item() == pytest.approx((2 / (64 + 256)) ** .5, rel=.03)
    assert narrow.abs().max() > 3 * narrow.std()  # normal, not uniform
    assert .6 < net.stem[0][0].bias.std() < 1.4


def test_xavier_repeats_and_leaves_alone_what_is_computed():
    a, b = (xavier_(nn.Sequential(nn.Linear(8, 6), nn.Conv2d(3, 4, 3)), generator(7)) for _ in "ab")
    assert torch.equal(a[0].weight, b[0].weight) and torch.equal(a[1].bias, b[1].bias)
    assert not torch.equal(a[0].bias, b[0].bias)  # a linear layer's bias is not drawn
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 6, bias=False))
    draws, before = generator(), {k: v.clone() for k, v in normed.state_dict().items()}
    xavier_(normed, draws)
    assert all(torch.equal(v, before[k]) for k, v in normed.state_dict().items())
    assert torch.equal(draws.get_state(), generator().get_state())  # nothing is drawn in vain


def test_kaiming_makes_every_norm_the_identity_and_leaves_linear_layers():
    net = kaiming_(scattered(nn.Sequential(nn.Conv1d(4, 500, 5), nn.BatchNorm1d(500),
                                           Excite(32))), "fan_out", generator())
    conv, norm, se = net
    assert conv.weight.std().item() == pytest.approx((2 / 2500) ** .5, rel=.03)
    assert not conv.bias.any() and norm.weight.eq(1).all() and norm.running_var.eq(1).all()
    assert torch.equal(se[0].weight, scattered(Excite(32))[0].weight)


# -- all of them -------------------------------------------------------------------------------
class Whole(nn.Module):
    "Both branches, gate and classifier."
    def __init__(self):
        super().__init__()
        self.time, self.freq, self.gate = XResNet1d50(), SEResNet34(), Gate()
        self.head = classifier(1024, 512, 24)

    def forward(self, x): return self.head(self.gate(self.time(x), self.freq(spectrogram(x)))[0])


def test_bfloat16_has_finite_gradients():
    torch.manual_seed(0)
    net, x = xavier_(Whole()), torch.randn(16, 12, 250)
    with torch.autocast("cpu", torch.bfloat16): logits = net(x)
    assert logits.shape == (16, 24)
    F.binary_cross_entropy_with_logits(logits.float(), torch.rand(16, 24).round()).backward()
    assert all(o.grad is not None and o.grad.isfinite().all() for o in net.parameters())


@pytest.mark.parametrize("net, shape", [(XResNet1d50, (12, 250)), (SEResNet34, WHOLE)])
def test_bfloat16_says_nearly_the_same(net, shape):
    torch.manual_seed(0)
    net, x = net(), torch.randn(32, *shape)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16): ours = net(x).float()
    exact = net(x).detach()
    assert ((ours - exact).square().mean().sqrt() / exact.std()).item() < .2


@pytest.mark.parametrize("net, shape", [(XResNet1d50, (12, 250)),
                                        (lambda: Block(16, 32, 2), (16, 4, 6)),
                                        (lambda: Block(16, 16, 1), (16, 1, 2))])
def test_stacked_networks_learn_what_each_does_alone(net, shape):
    torch.manual_seed(0)
    nets = [xavier_(net()).double() for _ in range(2)]
    x = torch.randn(2, 4, *shape, dtype=torch.float64)
    params, buffers = stack_module_state(nets)

    def loss(p, b, x): return functional_call(nets[0], (p, b), (x,)).square().mean()

    grads = vmap(grad(loss))(params, buffers, x)
    for i, one in enumerate(nets):
        one(x[i]).square().mean().backward()
        for name, value in one.named_buffers():
            assert torch.allclose(buffers[name][i], value, rtol=1e-9)
        size = max(o.grad.abs().max() for o in one.parameters())
        for name, value in one.named_parameters():
            assert (grads[name][i] - value.grad).abs().max() < 1e-8 * size, name
