"""Twelve leads as tokens: what is seen, what it costs, what may reach what; the loss a second time."""
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biossl.data.errors import MethodError
from biossl.evaluation.cost import macs
from biossl.nn.layers import parameters
from biossl.nn.leads import (DECODERS, MASKS, MINI, NORMS, PAPER, SIZES, SMALL, TIMES, TINY, TOKENIZERS,
                             FusedAttention, FusedBlock, LeadDecoder, LeadEncoder, LeadGrid, LeadSize,
                             LeadTokenizer, kept_patches, layers_macs, lead_mask, lead_patches,
                             masked_patch_loss, normalised)
from biossl.nn.masks import patch_mask
from biossl.nn.transformer import Attention
from biossl.nn.views import Share
from biossl.methods.patched import decaying

few = settings(deadline=None, max_examples=25)
FEW = LeadGrid(10)                                             # patches of a second
SMALLEST = LeadSize(16, 2, 2, 0.0, 12, 2, 1)


def generator(seed=0): return torch.Generator().manual_seed(seed)


def windows(n=2, grid=FEW, seed=0, dtype=torch.float32):
    return torch.randn(n, grid.leads, grid.samples, generator=generator(seed), dtype=dtype)


def a_mask(n=2, grid=FEW, kind="global", ratio=.75): return lead_mask(kind, n, ratio, generator(3), grid=grid)


def made(size=SMALLEST, grid=FEW, seed=0, **kw):
    torch.manual_seed(seed)
    return LeadEncoder(size, grid, **kw).eval()


# -- counts ------------------------------------------------------------------------------------
@pytest.mark.parametrize("patches, ratio, tokens, hidden", [
    (100, .75, 1200, 900), (25, .75, 300, 228), (50, .75, 600, 456), (200, .75, 2400, 1800),
    (100, .9, 1200, 1080), (100, .8, 1200, 960)])
def test_how_many_are_hidden(patches, ratio, tokens, hidden):
    grid = LeadGrid(patches)
    for kind in ("per_lead", "same_time"):
        keep = lead_mask(kind, 2, ratio, generator(), grid=grid)
        assert grid.tokens == tokens and keep.shape == (2, tokens - hidden)
        assert (patch_mask(keep, tokens).view(2, 12, -1).sum(-1) == hidden // 12).all()


def test_seven_of_thirty_are_a_truncation_not_a_rounding():
    assert kept_patches(.75, 30) == 8 and int(30 * .25) == 7   # ST-MEM's seven are asked for as such
    assert kept_patches(1 - 7 / 30, 30) == 7
    assert (kept_patches(.9, 100), int(100 * (1 - .9)), int(100 * (1 - .8))) == (10, 9, 19)


@pytest.mark.parametrize("size, blocks", [(PAPER, 56_702_976), (SMALL, 14_195_712),
                                          (MINI, 3_558_912), (TINY, 399_872)])
def test_weights_of_eight_layers(size, blocks):
    with torch.device("meta"): encoder = LeadEncoder(size)
    assert parameters(encoder.blocks) == blocks and len(encoder.blocks) == 8
    rest = parameters(encoder) - blocks - parameters(encoder.cut)
    assert rest == (12 + 100 + 2) * size.width


@pytest.mark.parametrize("size, seen, whole", [(TINY, .42, 3.9), (MINI, 2.7, 17.3), (SMALL, 9.6, 51.7),
                                               (PAPER, 36.2, 171.3)])
def test_arithmetic_of_the_layers(size, seen, whole):
    with torch.device("meta"):
        blocks = nn.Sequential(*(FusedBlock(size.width, size.heads) for _ in range(size.depth))).eval()
    for tokens, billion in ((300, seen), (1200, whole)):
        ours = layers_macs(size.width, size.depth, tokens)
        assert 2 * ours / 1e9 == pytest.approx(billion, rel=.01, abs=.05)
        assert macs(partial(blocks, torch.zeros(1, tokens, size.width, device="meta"))) == ours


def test_arithmetic_of_the_decoders():
    x = torch.zeros(1, 300, 768, device="meta")
    keep = lead_mask("per_lead", 1, .75, generator()).to("meta")
    for kind, billion in (("joint", 13.4), ("per_lead", 8.0)):
        with torch.device("meta"): decoder = LeadDecoder(PAPER, LeadGrid(rate=500.), kind).eval()
        assert 2 * macs(partial(decoder, x, keep)) / 1e9 == pytest.approx(billion, rel=.03)


def test_a_grid_that_does_not_part_its_samples():
    assert LeadGrid(30, 250., 9.).tokens == 360 and LeadGrid(30, 250., 9.).patch == 75
    for wrong in (dict(patches=30), dict(patches=0), dict(rate=0.), dict(leads=0)):
        with pytest.raises(MethodError): LeadGrid(**wrong)


# -- masks -------------------------------------------------------------------------------------
@few
@given(st.sampled_from(MASKS), st.integers(1, 5), st.floats(0, .99), st.integers(0, 9),
       st.sampled_from([1, 4, 10, 25]))
def test_a_mask_names_tokens_once_in_order(kind, n, ratio, seed, patches):
    grid = LeadGrid(patches)
    keep = lead_mask(kind, n, ratio, generator(seed), grid=grid)
    assert keep.dtype == torch.int64 and len(keep) == n and keep.shape[1]
    assert (keep.diff() > 0).all() and keep.amin() >= 0 and keep.amax() < grid.tokens
    assert torch.equal(keep, lead_mask(kind, n, ratio, generator(seed), grid=grid))


def test_what_tells_the_masks_apart():
    shown = {kind: ~patch_mask(lead_mask(kind, 50, .75, generator()), 1200).view(50, 12, 100)
             for kind in MASKS}
    assert all((o.sum((1, 2)) == 300).all() for o in shown.values())
    assert (shown["per_lead"].sum(2) == 25).all() and not (shown["global"].sum(2) == 25).all()
    same = {kind: (o == o[:, :1]).all().item() for kind, o in shown.items()}
    assert same == dict(per_lead=False, same_time=True, **{"global": False})
    for o in shown.values():                                   # each window draws its own, evenly
        assert not torch.equal(o[0], o[1])
        assert (o.float().mean((0, 1)) - .25).abs().max() < .3


def test_two_processes_draw_what_one_draws():
    whole = lead_mask("per_lead", 6, .75, generator(5))
    parts = [lead_mask("per_lead", 3, .75, Share(generator(5), rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("wrong", [("per-lead", .5), ("global", 1.), ("global", -.1)])
def test_masks_that_there_are_not(wrong):
    with pytest.raises(MethodError): lead_mask(wrong[0], 1, wrong[1], generator())


# -- scales ------------------------------------------------------------------------------------
@few
@given(st.integers(0, 99), st.floats(-50, 50), st.floats(.01, 30))
def test_scales_are_those_of_numpy(seed, mean, sd):
    x = windows(3, seed=seed, dtype=torch.float64) * sd + mean
    x[1, 5] = mean
    a = x.numpy()
    lead = np.stack([[(o - o.mean()) / (o.std() if np.ptp(o) else 1) for o in w] for w in a])
    lead[1, 5] = 0
    record = np.stack([(w - w.mean()) / w.std() for w in a])
    unit = np.stack([(w - w.min()) / np.ptp(w) for w in a])
    for norm, expected in (("zscore_lead", lead), ("zscore_record", record), ("minmax_record", unit),
                           ("none", a)):
        np.testing.assert_allclose(normalised(x, norm).numpy(), expected, atol=1e-8, err_msg=norm)


def test_a_flat_lead_is_zeros_whatever_its_level():
    for level in (0., .1, 7.3, -1e4):
        x = torch.full((1, 12, 1000), level)
        for norm in NORMS.keys() - {"none"}: assert not normalised(x, norm).any(), (level, norm)
    with pytest.raises(MethodError): normalised(x, "z")


# -- tokens ------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [100., 500.])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_reading_the_seen_only_is_reading_all_and_choosing(kind, rate):
    grid = LeadGrid(rate=rate)
    encoder, x, keep = made(grid=grid, tokenizer=kind), windows(2, grid), a_mask(2, LeadGrid())
    with torch.no_grad(): few_, all_ = encoder.contents(x, keep), encoder.contents(x)
    chosen = torch.take_along_dim(all_, keep[..., None], 1)
    if kind == "conv": assert torch.equal(few_, chosen)
    torch.testing.assert_close(few_, chosen, rtol=0, atol=2e-6)


def test_tokens_stand_where_their_patches_do():
    "Token by token, as the equation has it."
    encoder, x = made(), windows()
    keep = a_mask()
    with torch.no_grad():
        ours = encoder.contents(x, keep)
        for row, token in ((0, 3), (1, 20)):
            lead, time = divmod(keep[row, token].item(), 10)
            patch = x[row, lead, 100 * time:100 * time + 100]
            expected = encoder.cut(patch[None, None])[0, 0] + encoder.places.leads[lead] + encoder.places.times[time]
            torch.testing.assert_close(ours[row, token], expected)


@pytest.mark.parametrize("hyper", [dict(), dict(tokenizer="linear", time="sincos", ends=True),
                                   dict(pool="cls"), dict(pool="cls", ends=True)], ids=str)
def test_nothing_hidden_reaches_the_output(hyper):
    encoder, x, keep = made(**hyper), windows().requires_grad_(), a_mask()
    o = encoder.encode(x, keep)
    (o.tokens.square().sum() + o.pooled.square().sum()).backward()
    reached = lead_patches(x.grad, 100).abs().sum(-1) > 0
    assert torch.equal(~reached, patch_mask(keep, 120))
    assert o.tokens.shape == (2, 30, 16) and o.pooled.shape == (2, 16)
    assert (o.ends is None) == ("ends" not in hyper) and (o.ends is None or o.ends.shape == (2, 24, 16))


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("ends", [False, True])
def test_leads_exchanged_with_their_vectors_exchange_their_tokens(time, ends):
    encoder = made(time=time, ends=ends, tokenizer="linear").double()
    x = windows(dtype=torch.float64)
    order = torch.randperm(12, generator=generator(2))
    with torch.no_grad():
        before, pooled = encoder.tokens(x).unflatten(1, (12, 10)), encoder(x)
        encoder.places.leads.copy_(encoder.places.leads[order].clone())
        after = encoder.tokens(x[:, order]).unflatten(1, (12, 10))
        torch.testing.assert_close(after, before[:, order])
        torch.testing.assert_close(encoder(x[:, order]), pooled)
        assert not torch.allclose(encoder(x), pooled)          # the vectors do mean something


def test_the_ends_of_a_lead_are_told_whose_they_are():
    encoder = made(ends=True, pool="cls")
    extras = encoder.extras()
    assert extras.shape == (25, 16) and torch.equal(extras[-1:], encoder.class_token)
    for lead, end in ((0, 1), (7, 0)):
        expected = encoder.places.leads[lead] + encoder.end_tokens[end]
        assert torch.equal(extras[2 * lead + end], expected)


def test_what_is_pooled():
    x = windows()
    with torch.no_grad():
        mean, cls = made(), made(pool="cls")
        torch.testing.assert_close(mean(x), mean.tokens(x).mean(1))
        assert not torch.allclose(cls(x), cls.tokens(x).mean(1), atol=1e-3)
        keep = a_mask()
        torch.testing.assert_close(mean.encode(x, keep).pooled, mean.tokens(x, keep).mean(1))


def test_the_fused_kernel_gives_what_plain_steps_give():
    layer, x = FusedAttention(16, 2, .5).eval(), torch.randn(3, 40, 16, requires_grad=True)
    results = []
    for way in (FusedAttention, Attention):
        out = way.forward(layer, x)
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, layer.taken.weight])))
    for ours, plain in zip(*results): torch.testing.assert_close(ours, plain)


@pytest.mark.filterwarnings("error")
def test_a_stack_of_runs_needs_no_rule_of_the_kernel():
    layer, x = FusedAttention(16, 2, .5).eval(), torch.randn(3, 40, 16)
    single = torch.stack([layer(o[None])[0] for o in x])
    torch.testing.assert_close(torch.func.vmap(lambda o: layer(o[None])[0])(x), single)


@pytest.mark.parametrize("wrong", [dict(tokenizer="cnn"), dict(time="rope"), dict(pool="max")], ids=str)
def test_switches_that_there_are_not(wrong):
    with pytest.raises(MethodError): made(**wrong)


@pytest.mark.parametrize("shape, keep", [((2, 12, 999), None), ((2, 11, 1000), None), ((12, 1000), None),
                                         ((2, 12, 1000), (2, 0)), ((2, 12, 1000), (3, 4))])
def test_windows_and_masks_that_do_not_fit(shape, keep):
    with pytest.raises(MethodError):
        made().tokens(torch.zeros(shape), None if keep is None else torch.zeros(keep, dtype=torch.long))


@pytest.mark.parametrize("rate, first", [(500., (15, 5)), (250., (7, 2)), (100., (3, 1))])
def test_the_first_convolution_looks_at_thirty_milliseconds_each_ten(rate, first):
    tokenizer = LeadTokenizer(LeadGrid(rate=rate), 8)
    shapes = [(o.kernel_size[0], o.stride[0]) for o in tokenizer.net if isinstance(o, nn.Conv1d)]
    assert shapes == [first, (3, 1), (3, 1)]
    assert [(o.num_groups, o.num_channels) for o in tokenizer.net if isinstance(o, nn.GroupNorm)] == 3 * [(4, 64)]


@pytest.mark.parametrize("p, lengths", [(LeadGrid(100, 500.), 10), (LeadGrid(200, 500.), 5), (LeadGrid(25, 500.), 40),
                                        (LeadGrid(200), 5), (LeadGrid(100), 10), (LeadGrid(30, 250., 9.), 38)])
def test_the_convolutions_leave_a_place_each_ten_milliseconds(p, lengths):
    tokenizer = LeadTokenizer(p, 8)
    assert tokenizer.net[-1].in_features == 64 * lengths
    assert tokenizer(torch.zeros(1, 2, p.patch)).shape == (1, 2, 8)


def test_places_and_single_tokens_do_not_decay_and_matrices_do():
    whole = nn.ModuleDict(dict(encoder=made(pool="cls", ends=True), decoder=LeadDecoder(SMALLEST, FEW)))
    names = {id(p): name for name, p in whole.named_parameters()}
    matrices, rest = ([names[id(p)] for p in o] for o in decaying(whole))
    assert all(o.endswith("weight") for o in matrices) and "encoder.cut.net.10.weight" in matrices
    assert {"encoder.places.leads", "decoder.places.times", "encoder.class_token", "encoder.end_tokens",
            "decoder.mask_token"} < set(rest)


# -- the decoder -------------------------------------------------------------------------------
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("kind", DECODERS)
def test_a_lead_is_told_of_others_by_the_joint_decoder_only(kind, ends):
    torch.manual_seed(0)
    decoder, keep = LeadDecoder(SMALLEST, FEW, kind).eval(), a_mask(kind="per_lead")
    tokens = torch.randn(2, keep.shape[1], 16, requires_grad=True)
    told = torch.randn(2, 24, 16, requires_grad=True) if ends else None
    out = decoder(tokens, keep, told)
    assert out.shape == (2, 120, 100)
    out[:, 30:40].square().sum().backward()                    # the fourth lead
    asked = tokens.grad.abs().sum(-1) > 0
    own = keep // 10 == 3
    assert torch.equal(asked, own if kind == "per_lead" else torch.ones_like(own))
    if ends:
        asked = told.grad.abs().sum(-1) > 0
        assert asked[:, 6:8].all() and asked.all().item() == (kind == "joint")


def test_the_decoder_puts_tokens_back_and_one_vector_at_all_other_places():
    torch.manual_seed(0)
    decoder = LeadDecoder(SMALLEST, FEW, "per_lead")
    decoder.blocks = nn.Identity()
    tokens, keep, context = torch.randn(2, 30, 16), a_mask(), torch.randn(2, 12)
    ours = decoder(tokens, keep, context=context)
    for row in range(2):
        seen = {token: i for i, token in enumerate(keep[row].tolist())}
        for place in (0, 17, 119, *list(seen)[:3]):
            lead, time = divmod(place, 10)
            at = decoder.read(tokens[row, seen[place]]) if place in seen else decoder.mask_token
            at = at + decoder.places.leads[lead] + decoder.places.times[time] + context[row]
            torch.testing.assert_close(ours[row, place], decoder.write(decoder.last(at)))


# -- the loss ----------------------------------------------------------------------------------
def plain_loss(made, x, keep, reduction, norm_patch):
    "Equation 2, one sample after another, float64."
    total, (n, tokens, p) = 0.0, made.shape
    for j in range(n):
        hidden = [i for i in range(tokens) if i not in keep[j].tolist()]
        error = 0.0
        for i in hidden:
            lead, time = divmod(i, tokens // x.shape[1])
            truth = [x[j, lead, p * time + k].item() for k in range(p)]
            if norm_patch:
                mean = sum(truth) / p
                sd = (sum((o - mean)**2 for o in truth) / (p - 1) + 1e-6) ** .5
                truth = [(o - mean) / sd for o in truth]
            square = sum((made[j, i, k].item() - truth[k])**2 for k in range(p))
            error += square / (p if reduction == "mean" else 1)
        total += error / max(len(hidden), 1) / n
    return total


@few
@given(st.integers(1, 3), st.sampled_from(["mean", "sum"]), st.booleans(), st.floats(0, .9), st.integers(0, 99))
def test_the_loss_is_that_of_a_loop(n, reduction, norm_patch, ratio, seed):
    grid = LeadGrid(4, 4., 5., 3)
    x, out = windows(n, grid, seed, torch.float64), torch.randn(n, 12, 5, generator=generator(seed), dtype=torch.float64)
    keep = lead_mask("global", n, ratio, generator(seed), grid=grid)
    ours = masked_patch_loss(out, x, keep, reduction, norm_patch)
    assert ours.item() == pytest.approx(plain_loss(out, x, keep, reduction, norm_patch), rel=1e-10)


def test_printed_values_and_what_does_not_count():
    x = torch.tensor([[[1., 2, 3, 4, 9, 9]]])
    out, seen = torch.tensor([[[0., 0], [3, 4], [0, 0]]], requires_grad=True), torch.tensor([[2]])
    loss = masked_patch_loss(out, x, seen, "sum")
    assert loss == 2.5 and masked_patch_loss(out, x, seen) == 1.25
    loss.backward()
    assert out.grad[0, 2].eq(0).all() and out.grad[0, 0].ne(0).all()
    with torch.no_grad(): out[0, 2] = 99
    assert masked_patch_loss(out, x, seen, "sum") == 2.5
    assert masked_patch_loss(out.bfloat16(), x.bfloat16(), seen).dtype == torch.float32
    with pytest.raises(MethodError): masked_patch_loss(out, x, seen, "max")


@pytest.mark.parametrize("p", [10, 50])
def test_sum_is_the_patch_s_length_times_mean(p):
    x, out, keep = windows(2, LeadGrid(rate=10. * p)), torch.randn(2, 1200, p), a_mask(2, LeadGrid())
    sum_, mean = (masked_patch_loss(out, x, keep, o) for o in ("sum", "mean"))
    assert (sum_ / mean).item() == pytest.approx(p, rel=1e-5)


def test_every_size_is_found_by_its_name():
    assert SIZES == dict(paper=PAPER, small=SMALL, mini=MINI, tiny=TINY)
    assert [(o.width, o.heads, o.depth) for o in SIZES.values()] == [(768, 12, 8), (384, 6, 8), (192, 3, 8), (64, 2, 8)]
