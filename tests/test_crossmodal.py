"""The network that rebuilds one signal from another: counts, what may reach what, a second way."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from biossl.data.errors import MethodError
from biossl.nn.crossmodal import (AS_DESCRIBED, AS_RELEASED, LAGS, PILOT, RELEASED, SMALL, CrossBlock,
                                  CrossModal, Places, SignalAutoencoder, SignalEncoder, Size,
                                  TokenBlock, Wiring, joined, lag_seen, masked_mse, placed)
from biossl.nn.inception import GroupNorm, Inception, InceptionStem, as_row
from biossl.nn.layers import parameters
from biossl.nn.masks import visible

DEAD = dict(projections=2 * 66_304, mask_token=256)
DEAD_PPG = {"decoder.block": 527_104, "decoder.write": 10_241, "hidden": 6_400, "bridge": 790_272}


@pytest.fixture
def apart(monkeypatch):
    "Kernels of three lengths computed apart, as published: no product with a zero is counted."
    monkeypatch.setattr(Inception, "together", Inception.apart)


def windows(n=4, seed=0):
    "Noise in [-1, 1]: PPG and ECG `(n, 1, 1000)`."
    return torch.rand(2, n, 1, 1000, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def anchors(*starts, length=5):
    "A visible block of `length` patches from each of `starts`."
    return torch.tensor(starts)[:, None] + torch.arange(length)


def made(size=SMALL, wiring=AS_RELEASED, seed=0):
    "A network in evaluation mode, the same for the same seed."
    torch.manual_seed(seed)
    return CrossModal(size, wiring).eval()


@pytest.fixture(scope="module")
def released():
    return made(RELEASED)


def loss_of(net, ppg, ecg, keep):
    "The loss of what `net` rebuilds."
    out = net(ppg, ecg, keep)
    return masked_mse(out.rebuilt, ecg if net.wiring.rebuilds == "ecg" else ppg, out.mask)


# ---- counts and shapes

def test_counts_of_the_released_network(released):
    assert parameters(released) == 6_481_930 and len(list(released.parameters())) == 297
    assert len(released.state_dict()) == 477 and sum(o.numel() for o in released.buffers()) == 5_052


def test_shapes(released):
    ppg, ecg = windows(3)
    with torch.no_grad(): wide, flat = released(ppg, ecg, anchors(0, 7, 20)), released(ppg[:, 0], ecg[:, 0], anchors(0, 7, 20))
    assert wide.embedding.shape == (3, 256) and wide.rebuilt.shape == wide.mask.shape == (3, 1, 1000)
    assert wide.ppg_tokens.shape == (3, 25, 256) and wide.ecg_tokens.shape == (3, 5, 256)
    assert torch.equal(wide.rebuilt, flat.rebuilt) and wide.mask.sum((1, 2)).tolist() == [800] * 3


def test_exactly_the_dead_modules_get_no_gradient(released):
    net = CrossModal(RELEASED, AS_RELEASED)
    loss_of(net, *windows(2), anchors(3, 20)).backward()
    dead = {name: o.numel() for name, o in net.named_parameters() if o.grad is None}
    where = {**{part: DEAD[part] for part in DEAD},
             **{f"rebuilders.ppg.{part}": count for part, count in DEAD_PPG.items()}}
    found = {part: sum(n for name, n in dead.items() if name.startswith(part)) for part in where}
    assert found == where and sum(where.values()) == sum(dead.values()) == 1_466_881
    assert all(o.grad.abs().sum() > 0 for o in net.parameters() if o.grad is not None)


def test_pruned_network_is_the_live_part(released):
    pruned = made(RELEASED, replace(AS_RELEASED, prune_dead=True))
    assert parameters(pruned) == 5_015_049
    pruned.load_state_dict({k: v for k, v in released.state_dict().items() if k in pruned.state_dict()})
    ppg, ecg = windows(2)
    with torch.no_grad():
        whole, live = released(ppg, ecg, anchors(1, 2)), pruned(ppg, ecg, anchors(1, 2))
    assert torch.equal(whole.rebuilt, live.rebuilt)


@pytest.mark.parametrize("net, count", [
    (lambda: CrossModal(replace(RELEASED, bridge_depth=0), AS_RELEASED), 4_901_386),
    (lambda: SignalAutoencoder(RELEASED, "ppg", AS_RELEASED), 2_845_701),
    (lambda: SignalAutoencoder(RELEASED, "ecg", AS_RELEASED), 2_055_941),
    (lambda: CrossModal(SMALL, AS_RELEASED), 461_530), (lambda: CrossModal(SMALL), 365_145),
    (lambda: SignalEncoder(RELEASED), 2_235_396)])
def test_counts_of_other_builds(net, count):
    assert parameters(net()) == count


def test_ecg_alone_as_released_trains_what_it_did():
    net = SignalAutoencoder(RELEASED, "ecg", AS_RELEASED)
    ecg, keep = windows(2)[1], anchors(3, 20)
    out = net(ecg, keep)
    masked_mse(out.rebuilt, ecg, out.mask).backward()
    assert sum(o.numel() for o in net.parameters() if o.grad is not None) == 1_983_237
    assert out.ecg_tokens.shape == (2, 5, 256) and out.ppg_tokens is None


def test_without_a_bridge_nothing_of_the_ppg_is_trained():
    net = CrossModal(replace(SMALL, bridge_depth=0))
    loss_of(net, *windows(2), anchors(3, 20)).backward()
    assert all(o.grad is None for o in net.encoders["ppg"].parameters())


@pytest.mark.parametrize("seen, trained", [(5, 5_015_049), (0, 3_575_813)])
def test_with_nothing_visible_the_ecg_encoder_rests(seen, trained):
    net = CrossModal(RELEASED, AS_RELEASED)
    out = net(*windows(2), anchors(0, 0, length=seen))
    masked_mse(out.rebuilt, windows(2)[1], out.mask).backward()
    assert sum(o.numel() for o in net.parameters() if o.grad is not None) == trained
    assert out.mask.sum((1, 2)).tolist() == [1000 - 40 * seen] * 2


def test_nothing_hidden():
    net, (ppg, ecg) = made(), windows(2)
    for keep in None, anchors(0, 0, length=25):
        out = net(ppg, ecg, keep)
        assert out.mask.sum() == 0 and masked_mse(out.rebuilt, ecg, out.mask) == 0


@pytest.mark.parametrize("seen, million, with_gradient", [
    (5, 437.137792, 1_310.680832), (25, 657.119872, 1_970.313472), (0, 382.270272, 1_146.156672)])
def test_operations(released, seen, million, with_gradient, apart):
    released.zero_grad()
    with FlopCounterMode(display=False) as forward:
        loss = loss_of(released, *windows(1), anchors(0, length=seen))
    with FlopCounterMode(display=False) as backward: loss.backward()
    assert forward.get_total_flops() == round(million * 1e6)
    assert forward.get_total_flops() + backward.get_total_flops() == round(with_gradient * 1e6)


def test_operations_of_an_embedding(released, apart):
    "The reference leaves the products of attention out, two of 25 x 25 x 256 in either block."
    with FlopCounterMode(display=False) as counter: released.embed(windows(1)[0])
    assert counter.get_total_flops() == 313_662_272 + 2 * 2 * 2 * 25 * 25 * 256


# ---- what may reach what

@pytest.mark.parametrize("wiring", [AS_RELEASED, AS_DESCRIBED, replace(AS_DESCRIBED, masked_stem="zeroed")])
@pytest.mark.parametrize("mode", [True, False])
def test_hidden_samples_never_enter(wiring, mode):
    net = made(replace(SMALL, dropout=0.0), wiring).train(mode)
    ppg, ecg = (o.requires_grad_() for o in windows(3))
    keep = anchors(0, 9, 20)
    out = net(ppg, ecg, keep)
    gradients = torch.autograd.grad(masked_mse(out.rebuilt, ecg.detach(), out.mask), (ppg, ecg))
    assert (gradients[1][out.mask] == 0).all()
    assert (gradients[1][~out.mask] != 0).any() and (gradients[0] != 0).any()
    noise = torch.where(out.mask, windows(3, seed=1)[1], ecg)
    assert torch.equal(net(ppg, noise, keep).rebuilt, out.rebuilt)


def test_the_loss_asks_for_hidden_samples_alone():
    net, (ppg, ecg), keep = made(), windows(2), anchors(4, 11)
    out = net(ppg, ecg, keep)
    gradient, = torch.autograd.grad(masked_mse(out.rebuilt, ecg, out.mask), out.rebuilt)
    assert (gradient[~out.mask] == 0).all() and (gradient[out.mask] != 0).all()


def test_the_loss_is_the_mean_over_hidden_samples():
    rebuilt, ecg = windows(3).numpy()
    hidden = np.random.default_rng(0).random(ecg.shape) < .3
    plain = np.mean([(float(a) - float(b))**2 for a, b in zip(rebuilt[hidden], ecg[hidden])])
    assert float(masked_mse(*map(torch.from_numpy, (rebuilt, ecg, hidden)))) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("wiring", [AS_RELEASED, AS_DESCRIBED])
def test_the_embedding_knows_no_ecg(wiring):
    net, (ppg, ecg) = made(wiring=wiring), windows(3)
    out = net(ppg, ecg, anchors(0, 9, 20))
    assert torch.equal(out.embedding, net.embed(ppg)) and torch.equal(out.embedding, net(ppg, -ecg).embedding)
    if wiring.prune_dead: assert torch.equal(out.embedding, net.encoders["ppg"](ppg))


@pytest.mark.parametrize("wiring", [AS_RELEASED, AS_DESCRIBED])
def test_only_hidden_places_ask(wiring):
    net = made(wiring=wiring)
    loss_of(net, *windows(1), anchors(7)).backward()
    asks = net.rebuilders["ecg"].hidden.grad.abs().sum(1) > 0
    assert asks.tolist() == [not 7 <= i < 12 for i in range(25)]


def test_local_positions_do_not_know_where_the_block_lies():
    block = torch.randn(200, generator=torch.Generator().manual_seed(0))
    ecg, keep = torch.zeros(3, 1, 1000), anchors(0, 7, 20)
    for i, start in enumerate((0, 7, 20)): ecg[i, 0, 40 * start:40 * start + 200] = block
    with torch.no_grad():
        local, true = (made(wiring=o)(windows(3)[0], ecg, keep).ecg_tokens for o in (AS_RELEASED, AS_DESCRIBED))
    assert torch.equal(local[0], local[1]) and torch.equal(local[0], local[2])
    assert (true[0] - true[1]).abs().max() > .01 and (true[1] - true[2]).abs().max() > .01


@pytest.mark.parametrize("kind", sorted(set(LAGS) - {"full"}))
@pytest.mark.parametrize("asks", ["ecg", "ppg"])
def test_attention_stays_within_its_lags(kind, asks):
    "A place rebuilds the same, whatever the other signal's tokens are out of its sight."
    allowed = dict(causal=lambda d: d >= 0, anticausal=lambda d: d < 0, band=lambda d: 0 <= d <= 1,
                   near=lambda d: -1 <= d <= 1)[kind]
    torch.manual_seed(0)
    block, x, others = CrossBlock(8, 2, 16, 0.).eval(), torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    seen = lag_seen(kind, 6, asks)
    base = block(x, others, seen)
    for told in range(6):
        changed = others.clone()
        changed[:, told] *= -1   # not plus one: the norm would take it away
        moved = (block(x, changed, seen) != base).any(-1)[0].tolist()
        lags = [told - i if asks == "ecg" else i - told for i in range(6)]
        assert moved == [allowed(d) for d in lags]
    gradients = torch.autograd.grad(base.sum(), block.parameters())
    assert all(o.isfinite().all() for o in gradients)


def test_directions(seed=0):
    "Rebuilding the PPG, it is the PPG that is hidden, and no embedding of it is given."
    net, (ppg, ecg), keep = made(wiring=Wiring("ppg")), windows(2), anchors(2, 9)
    out = net(ppg, ecg, keep)
    assert out.ppg_tokens.shape == (2, 5, 64) and out.ecg_tokens.shape == (2, 25, 64) and out.embedding is None
    noise = torch.where(out.mask, ecg, ppg)
    assert torch.equal(net(noise, ecg, keep).rebuilt, out.rebuilt)
    assert not torch.equal(net(ppg, -ecg, keep).rebuilt, out.rebuilt)
    assert net.embed(ppg).shape == (2, 64)


# ---- a second way

def as_torch(block: TokenBlock, width, heads, hidden):
    "torch's own encoder layer with the weights of `block`."
    layer = nn.TransformerEncoderLayer(width, heads, hidden, 0., "gelu", batch_first=True, norm_first=True)
    source = dict(self_attn_in_proj=block.look.taken, self_attn_out_proj=block.look.given,
                  linear1=block.think[1], linear2=block.think[3], norm1=block.norm, norm2=block.think[0])
    state = {}
    for name, part in source.items():
        for leaf in ("weight", "bias"):
            key = (f"self_attn.in_proj_{leaf}" if "in_proj" in name else
                   f"{name.replace('self_attn_', 'self_attn.')}.{leaf}")
            state[key] = getattr(part, leaf)
    layer.load_state_dict(state)
    return layer


def test_token_block_is_torch_s_encoder_layer():
    torch.manual_seed(0)
    block, x = TokenBlock(16, 4, 32, 0.).eval(), torch.randn(3, 7, 16)
    assert torch.allclose(as_torch(block, 16, 4, 32)(x), block(x), atol=1e-6)


def test_cross_block_is_torch_s_attention():
    torch.manual_seed(0)
    block, x, others = CrossBlock(16, 4, 32, 0.).eval(), torch.randn(3, 7, 16), torch.randn(3, 5, 16)
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    look = block.look
    attention.load_state_dict(dict(in_proj_weight=look.taken.weight, in_proj_bias=look.taken.bias) | {
        f"out_proj.{leaf}": getattr(look.given, leaf) for leaf in ("weight", "bias")})
    asked = block.others_norm(others)
    seen = torch.rand(7, 5) < .5
    seen[:, 0] = True
    for these, hidden in ((None, None), (seen, ~seen)):
        y = x + attention(block.norm(x), asked, asked, attn_mask=hidden, need_weights=False)[0]
        assert torch.allclose(block(x, others, these), y + block.think(y), atol=1e-6)


def norm_of(y, norm):
    "BatchNorm of `y (N, C, T)` from its equation, and what its running statistics become."
    mean, var = y.mean((0, 2)), y.var((0, 2), unbiased=False)
    running = .1 * mean, .9 + .1 * y.var((0, 2))
    y = (y - mean[:, None]) / (var[:, None] + norm.eps).sqrt()
    return norm.weight[:, None] * y + norm.bias[:, None], running


def test_inception_from_its_equation():
    torch.manual_seed(0)
    net, x = Inception(4, 16).double(), torch.randn(3, 4, 30).double()
    for norm in net.norms: nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)

    def unit(conv, norm, x):
        kernel = conv.kernel_size[0]
        pieces = F.pad(x, (kernel // 2,) * 2).unfold(-1, kernel, 1)  # (N, C, T, kernel)
        y, running = norm_of(torch.einsum("nctk,dck->ndt", pieces, conv.weight), norm)
        return y * y.sigmoid(), running
    parts = [unit(conv, norm, x) for conv, norm in zip(net.kernels, net.norms)]
    seen = torch.cat([o for o, _ in parts], 1)
    assert [o.shape[1] for o, _ in parts] == [5, 5, 6]
    assert torch.allclose(unit(net.mix[0], net.mix[1], seen)[0], net(as_row(x))[:, :, 0])
    for norm, (_, (mean, var)) in zip(net.norms, parts):
        assert torch.allclose(norm.running_mean, mean) and torch.allclose(norm.running_var, var)
        assert norm.num_batches_tracked == 1


def test_three_kernels_together_learn_as_apart(monkeypatch):
    def gradients():
        torch.manual_seed(0)
        net, x = InceptionStem((8, 16, 32), 8).double(), windows(3)[0].double()
        (net(x) * torch.linspace(-1, 1, 1000)).sum().backward()
        return [o.grad for o in net.parameters()] + list(net.buffers())
    together = gradients()
    monkeypatch.setattr(Inception, "together", Inception.apart)
    assert all(torch.allclose(a, b) for a, b in zip(together, gradients(), strict=True))


def test_stem_with_torch_s_signals():
    "The stem again with convolutions, norms and interpolation of signals, none of images."
    torch.manual_seed(0)
    net, x = InceptionStem((6, 9, 12), 8).double().eval(), windows(2)[0].double()
    def conv(o, x): return F.conv1d(x, o.weight, None, o.stride, o.padding)
    def norm(o, y): return (y - o.running_mean[:, None]) / (o.running_var + o.eps).sqrt()[:, None] * \
        o.weight[:, None] + o.bias[:, None]
    def unit(o, x): return F.silu(norm(o[1], conv(o[0], x)))
    def look(o, x): return unit(o.mix, torch.cat([unit(p, x) for p in zip(o.kernels, o.norms)], 1))
    def looks(o, x): return look(o[1], look(o[0], x))
    def up(x): return F.interpolate(x, scale_factor=2, mode="linear")
    for o in net.modules():
        if isinstance(o, nn.BatchNorm2d): nn.init.uniform_(o.running_mean), nn.init.uniform_(o.running_var, .5, 2)
    fine = looks(net.fine, x)
    middle = looks(net.middle, unit(net.to_middle, fine))
    coarse = looks(net.coarse, unit(net.to_coarse, middle))
    middle = unit(net.smooth_middle, conv(net.keep_middle, middle) + up(conv(net.from_coarse, coarse)))
    fine = unit(net.smooth_fine, conv(net.keep_fine, fine) + up(conv(net.from_middle, middle)))
    plain = unit(net.head, fine) + norm(net.skip[1], conv(net.skip[0], x))
    assert torch.allclose(net(x), plain)


@pytest.mark.parametrize("wiring", [AS_RELEASED, AS_DESCRIBED, Wiring(query="one", positions="sinusoidal"),
                                    Wiring(attention_lag="near")])
def test_whole_network_window_by_window(wiring):
    "The forward pass told once more, a window and a place at a time."
    net, (ppg, ecg), starts = made(PILOT, wiring), windows(3), (0, 9, 20)
    pulse, heart, table = net.encoders["ppg"], net.encoders["ecg"], net.encoders["ecg"].places.table
    rebuild = net.rebuilders["ecg"]
    local = wiring.ecg_positions == "local"
    with torch.no_grad():
        out = net(ppg, ecg, anchors(*starts))
        for i, start in enumerate(starts):
            first = 0 if local else start
            visible_block = ecg[i:i + 1, :, 40 * start:40 * start + 200]
            tokens = heart.blocks(heart.cut(heart.stem(visible_block)) + table[first:first + 5])
            others = pulse.blocks(pulse.cut(pulse.stem(ppg[i:i + 1])) + pulse.places.table)
            query = torch.empty(1, 25, 64)
            for place in range(25):
                asked = rebuild.hidden[place if len(rebuild.hidden) > 1 else 0] + table[place]
                if start <= place < start + 5:
                    asked = tokens[0, place - start]
                    if local: asked = asked - table[place - start] + table[place]
                query[0, place] = asked
            seen = None
            if wiring.attention_lag == "near":
                seen = torch.tensor([[abs(a - b) <= 1 for b in range(25)] for a in range(25)])
            tokens = rebuild.decoder.block(rebuild.bridge[0](query, others, seen))
            write = rebuild.decoder.write
            plain = torch.cat([tokens[0, place] @ write.weight[:, 0] + write.bias for place in range(25)])
            assert torch.allclose(out.rebuilt[i, 0], plain, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["anchor", "block", "scatter", "trailing"]), st.floats(0, 1), st.integers(0, 99))
def test_patches_cut_out_come_back_to_their_places(kind, ratio, seed):
    keep = visible(kind, 3, ratio, torch.Generator().manual_seed(seed))
    x = windows(3)[0]
    pieces = joined(x, keep, 40)
    assert pieces.shape == (3, 1, 40 * keep.shape[1])
    back = placed(pieces.unflatten(-1, (-1, 40))[:, 0], keep, torch.full((25, 40), 9.))
    hidden = torch.ones(3, 25, dtype=torch.bool).scatter(1, keep, False)
    assert (back[hidden] == 9).all() and torch.equal(back[~hidden], x.view(3, 25, 40)[~hidden])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 400))
def test_group_norm_parts_any_width(channels):
    groups = GroupNorm(channels).num_groups
    assert channels % groups == 0 and 1 <= groups <= 8
    assert all(channels % more for more in range(groups + 1, 9))


# ---- other ways to be run

@pytest.mark.parametrize("size, wiring", [(SMALL, AS_DESCRIBED), (SMALL, replace(AS_RELEASED, stem_norm="group")),
                                          (PILOT, Wiring(attention_lag="anticausal", query="one"))])
def test_stacked_runs_have_their_own_gradients(size, wiring):
    from torch.func import functional_call, grad, stack_module_state, vmap
    nets = [made(replace(size, dropout=0.0), wiring, seed).train() for seed in (0, 1)]
    state, buffers = stack_module_state(nets)
    ppg, ecg = windows(4).view(2, 2, 2, 1, 1000)
    keep = anchors(0, 3, 9, 20).view(2, 2, 5)

    def loss(weights, held, *batch):
        out = functional_call(nets[0], (weights, held), batch)
        return masked_mse(out.rebuilt, batch[1], out.mask)
    found = vmap(grad(loss))(state, buffers, ppg, ecg, keep)
    for i, net in enumerate(made(replace(size, dropout=0.0), wiring, seed).train() for seed in (0, 1)):
        loss_of(net, ppg[i], ecg[i], keep[i]).backward()
        for name, o in net.named_parameters():
            own = torch.zeros_like(o) if o.grad is None else o.grad
            assert torch.allclose(found[name][i], own, atol=1e-5, rtol=1e-3), name


def test_same_seed_same_network_same_gradient():
    def gradients():
        net = made(wiring=AS_DESCRIBED).train()
        torch.manual_seed(1)
        loss_of(net, *windows(3), anchors(0, 9, 20)).backward()
        return [o.grad for o in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients()))


def test_bfloat16_stays_near():
    net, (ppg, ecg), keep = made(wiring=AS_DESCRIBED), windows(3), anchors(0, 9, 20)
    with torch.no_grad():
        exact = net(ppg, ecg, keep).rebuilt
        with torch.autocast("cpu", torch.bfloat16): near = net(ppg, ecg, keep).rebuilt.float()
    assert near.isfinite().all() and (near - exact).norm() / exact.norm() < .03


# ---- bad requests

@pytest.mark.parametrize("wrong", [
    lambda: CrossModal(replace(SMALL, stem="fourier")), lambda: Wiring(rebuilds="resp"),
    lambda: Wiring(attention_lag="far"), lambda: Wiring(ecg_positions="none"), lambda: Places(5, 8, "rotary"),
    lambda: InceptionStem(norm="layer"), lambda: TokenBlock(10, 4, 20),
    lambda: made()(torch.zeros(2, 1, 1000), torch.zeros(2, 1, 960)),
    lambda: made()(torch.zeros(2, 2, 1000), torch.zeros(2, 1, 1000)),
    lambda: made()(*windows(2), anchors(1, 2, 3)), lambda: made()(*windows(2), anchors(0, 0, length=26)),
    lambda: SignalEncoder(SMALL).tokens(torch.zeros(1, 1, 1040)),
    lambda: SignalEncoder(SMALL).tokens(torch.zeros(1, 1, 1001))])
def test_bad_requests_are_told(wrong):
    with pytest.raises(MethodError): wrong()


# ---- it can learn

def pairs(n, seed=0):
    "ECG and PPG `(n, 1, 1000)`, min-max: sums of Gaussians about beats whose pulse comes late."
    rng, time = np.random.default_rng(seed), np.arange(1000) / 100
    made = []
    for _ in range(n):
        rr, delay = 60 / rng.uniform(55, 100), np.clip(rng.normal(.25, .05), .12, .42)
        beats = np.cumsum(rr * (1 + .04 * rng.standard_normal(30))) - 1.5
        feet = beats + delay + .005 * rng.standard_normal(30)
        def waves(at, shapes): return sum(a * np.exp(-.5 * ((time[:, None] - at - c) / w)**2).sum(1)
                                          for a, c, w in shapes)
        ecg = waves(beats, ((1, 0, .014), (-.15, -.03, .012), (-.2, .03, .012), (.12, -.16, .025),
                            (.25, .28 * rr**.5, .045))) + .02 * rng.standard_normal(1000)
        ppg = waves(feet, ((1, .13, .06), (.45, .36, .1))) + .01 * rng.standard_normal(1000)
        made.append([2 * (o - o.min()) / np.ptp(o) - 1 for o in (ppg, ecg)])
    return torch.tensor(np.array(made), dtype=torch.float32).unbind(1)


def test_eight_windows_are_learned_by_heart():
    torch.manual_seed(0)
    ppg, ecg = (o[:, None] for o in pairs(8))
    net, keep = CrossModal(replace(SMALL, dropout=0.0), AS_RELEASED), anchors(*[10] * 8)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0)
    for _ in range(150):
        loss = loss_of(net, ppg, ecg, keep)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < .02 < .06 < ecg[:, :, :400].var()
