"""Crops and views of twelve leads: what they are made of, found out from the outside, in plain loops."""
import math
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError
from biossl.nn import crops
from biossl.nn.crops import (RELEASED, Crops, add_noise, cut_out, multi_crop, random_resize,
                             random_windows, spectrogram_view, time_view)
from biossl.nn.views import Several, Share

few = settings(deadline=None, max_examples=25)
DOMAINS = dict(time=(12, 250), spectrogram=(12, 13, 21))


def generator(seed=0): return torch.Generator().manual_seed(seed)
def ramp(n, leads=12, length=250): return torch.arange(float(length)).expand(n, leads, length)
def noise(*shape, seed=1): return torch.randn(*shape, generator=generator(seed))


def runs(zero):
    "The first place and the length of every run of True in a row."
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(zero, int), [0]])))
    return [(a, b - a) for a, b in edges.reshape(-1, 2)]


# -- windows -----------------------------------------------------------------------------------
@pytest.mark.parametrize("inclusive", [True, False])
def test_starts_are_uniform_and_the_last_one_is_drawn_unless_switched_off(inclusive):
    x = torch.arange(2 * 12.).view(2, 1, 12)
    n = 20_000
    some = random_windows(x, 8, generator(), each=n, inclusive=inclusive)
    assert some.shape == (2 * n, 1, 8) and (some.diff(dim=-1) == 1).all()
    for first, part in zip((0, 12), some.split(n)):
        starts = Counter((part[:, 0, 0] - first).tolist())
        assert sorted(starts) == list(range(4 + inclusive))
        assert max(abs(c / n * len(starts) - 1) for c in starts.values()) < 0.1


def test_a_record_as_long_as_the_window_gives_itself():
    x = noise(3, 2, 250)
    for inclusive in (True, False):
        assert random_windows(x, 250, generator(), 2, inclusive).equal(x.repeat_interleave(2, 0))


@pytest.mark.parametrize("n, count", [(250, 1), (374, 1), (375, 2), (500, 3), (600, 3), (1000, 7),
                                      (3000, 23), (12000, 95), (180000, 1439)])
def test_windows_of_a_test_recording(n, count):
    x = torch.arange(2. * n).view(2, 1, n)
    cut = crops.test_windows(x)
    plain = [x[r, :, s:s + 250] for r in range(2) for s in range(0, n - 250 + 1, 125)]
    assert len(cut) == 2 * count and cut.equal(torch.stack(plain))


@pytest.mark.parametrize("cut", [lambda x: crops.test_windows(x),
                                 lambda x: random_windows(x, 250, generator())])
@pytest.mark.parametrize("shape", [(3, 12, 249), (12, 250)])
def test_records_too_short_are_refused(cut, shape):
    with pytest.raises(MethodError, match="no window of 250"): cut(torch.zeros(shape))


# -- resize ------------------------------------------------------------------------------------
@few
@given(count=st.integers(2, 250), length=st.sampled_from([100, 250]), seed=st.integers(0, 99))
def test_resize_draws_lines_between_samples_at_random_places(count, length, seed):
    "The ramp tells where each sample went; `np.interp` then tells what lies between."
    start = torch.tensor([[0], [250 - count], [(250 - count) // 2]])
    args = start, torch.full_like(start, count), length
    where = random_resize(ramp(3), *args, generator(seed)).double()
    x = noise(3, 12, 250)
    ours = random_resize(x, *args, generator(seed)).double()
    assert where.equal(where[:, :1].expand_as(where))            # all leads alike
    for i, first in enumerate(start[:, 0].tolist()):
        line, source = where[i, 0].numpy(), np.arange(first, first + count)
        assert line[0] == source[0] and line[-1] == source[-1] and (np.diff(line) > 0).all()
        t = np.flatnonzero(line == np.rint(line))
        if count <= length: assert (line[t] == source).all()     # every sample has its place
        else: assert len(t) == length                            # some samples stay
        for lead in range(12):
            plain = np.interp(np.arange(length), t, x[i, lead].double().numpy()[line[t].astype(int)])
            assert np.allclose(ours[i, lead], plain, atol=1e-5)


@pytest.mark.parametrize("count, length", [(4, 6), (6, 4)])
def test_every_choice_of_inner_places_is_as_likely(count, length):
    n = 30_000
    start = torch.zeros(n, 1, dtype=torch.long)
    where = random_resize(ramp(n, 1, max(count, length)), start, start + count, length, generator())
    choices = Counter(map(tuple, where[:, 0].tolist()))
    assert len(choices) == math.comb(4, 2)
    assert max(abs(c / n * 6 - 1) for c in choices.values()) < 0.06


def test_crop_ratios_and_places_are_uniform():
    n = 8_000
    view = time_view(ramp(n, 1), generator(), (0.1, 0.5), 100, ())
    first, last = view[:, 0, 0], view[:, 0, -1]
    count = last - first + 1
    assert (count.min(), count.max()) == (25, 124) and abs(count.mean() - 74.5) < 1
    place = first / (250 - count)                    # 0 to 1, uniform whatever the length
    assert place.min() == 0 and place.max() == 1 and abs(place.mean() - 0.5) < 0.015
    assert abs(np.corrcoef(place, count)[0, 1]) < 0.05
    released = time_view(ramp(n, 1), generator(), (0.1, 0.5), 100, (), inclusive=False)
    assert released[:, 0, -1].max() == 248           # the window's last sample is never seen


# -- TC, GN ------------------------------------------------------------------------------------
@pytest.mark.parametrize("per_lead", [True, False])
@pytest.mark.parametrize("inclusive", [True, False])
def test_time_cut_out_is_one_span_a_lead(per_lead, inclusive):
    x = noise(2000, 3, 50).abs() + 1
    cut = cut_out(x, generator(), (0.2, 0.4), per_lead, inclusive)
    zero = (cut == 0).numpy()
    spans = [runs(lead) for row in zero for lead in row]
    assert all(len(s) == 1 for s in spans)
    starts, widths = np.array(spans)[:, 0].T
    assert set(widths) == set(range(10, 20))
    assert starts.min() == 0 and (starts + widths).max() == (50 if inclusive else 49)
    for width in (10, 19):
        last = 50 - width - (not inclusive)
        assert abs(starts[widths == width].mean() - last / 2) < 1.5
    assert (zero[:, 0] == zero[:, 1]).all() != per_lead
    assert cut.equal(x.masked_fill(torch.as_tensor(zero), 0))    # the rest is untouched


def test_noise_has_one_level_a_view_and_is_white():
    made = add_noise(torch.zeros(2000, 12, 250), generator(), (0.005, 0.025))
    level = made.flatten(1).std(1)
    assert 0.0047 < level.min() < 0.0056 and 0.0244 < level.max() < 0.0263
    assert abs(level.mean() - 0.015) < 4e-4 and abs(level.median() - 0.015) < 8e-4
    white = made / level[:, None, None]
    assert (white.std((0, 2)) - 1).abs().max() < 0.01
    assert (white[..., 1:] * white[..., :-1]).mean().abs() < 0.002
    assert (white[:, 1:] * white[:, :-1]).mean().abs() < 0.002
    assert abs((white ** 4).mean() - 3) < 0.02


def test_noise_is_added_after_the_cut_out():
    view = time_view(noise(50, 12, 250) + 9, generator(), tc_range=(0.2, 0.4))
    cut = view.abs() < 0.2
    assert 0.15 < cut.float().mean() < 0.45 and (view[cut] != 0).all()


def test_view_is_resized_first_and_cut_then():
    "A cut-out made before a stretch would have slopes at its ends."
    view = time_view(torch.ones(50, 12, 250), generator(), (0.1, 0.5), 250, ("tc",))
    assert ((view == 0) | (view == 1)).all()


# -- spectrogram -------------------------------------------------------------------------------
def told_apart(n, leads=12):
    "Magnitudes that say where they came from: `100 row + column`, none of them zero."
    z = 100 * torch.arange(1., 14)[:, None] + torch.arange(1., 22)
    return z.expand(n, leads, 13, 21)


@pytest.mark.parametrize("ratio, least, most, mean", [((0.6, 1), 12, 20, 16.3),
                                                      ((0.3, 0.6), 6, 12, 8.95)])
def test_spectrogram_crop_widths_are_the_published_ones(ratio, least, most, mean):
    view = spectrogram_view(told_apart(20_000, 1), generator(), ratio, ())
    width = (view[:, 0, 0] != 0).sum(-1)
    assert (width.min(), width.max()) == (least, most) and abs(width.float().mean() - mean) < 0.05
    first = view[:, 0, 0].masked_fill(view[:, 0, 0] == 0, 999).amin(-1) - 101
    assert ((first >= 0) & (first <= 21 - width)).all() and (first == 21 - width).any()


@pytest.mark.parametrize("transforms", [(), ("fc",), ("tc",), ("tc", "fc")])
@pytest.mark.parametrize("ratio", [(0.6, 1.0), (0.3, 0.6)])
def test_spectrogram_view_in_plain_loops(transforms, ratio):
    "Whatever is not cut stands where the crop says; what is cut has the shape it should have."
    views = spectrogram_view(told_apart(60), generator(), ratio, transforms, (0.1, 0.35)).numpy()
    for view in views:
        columns = np.flatnonzero((view != 0).any((0, 1)))
        anchor = int((view.max((0, 1)) % 100)[columns[0]]) - 1 - columns[0]
        width = next(w for w in range(6, 21) if (21 - w) // 2 <= columns[0]
                     and columns[-1] < (21 - w) // 2 + w)
        left = (21 - width) // 2
        for lead in view:
            zero_rows = np.flatnonzero((lead == 0).all(1))
            assert len(zero_rows) == ("fc" in transforms)
            body = np.delete(lead, zero_rows, 0)
            zero = (body == 0).all(0)
            assert ((body == 0) == zero).all()                       # a span takes all rows
            inner = runs(zero[left:left + width])
            if "tc" not in transforms: assert not inner
            for r in range(13):
                for c in range(21):
                    if lead[r, c]: assert lead[r, c] == 100 * (r + 1) + c + anchor + 1
            assert not lead[:, :left].any() and not lead[:, left + width + 1:].any()


def test_spectrogram_time_cut_out_scales_with_the_crop():
    view = spectrogram_view(told_apart(1000), generator(), (0.99, 1), ("tc",), (0.1, 0.35))
    zero = (view == 0).all(2).numpy()[..., :20]                       # 20 columns, left aligned
    spans = [runs(lead) for row in zero for lead in row]
    widths, ends = zip(*((s[0][1], sum(s[0])) for s in spans))
    assert {len(s) for s in spans} == {1}
    assert set(widths) == set(range(2, 7)) and max(ends) == 20
    assert (zero[:, 0] != zero[:, 1]).any()
    alike = spectrogram_view(told_apart(50), generator(), tc_per_lead=False, transforms=("tc",))
    assert alike.equal(alike[:, :1].expand_as(alike))


def test_rows_are_cut_each_as_often_in_every_lead_alone():
    view = spectrogram_view(told_apart(4000), generator(), transforms=("fc",))
    zero = (view == 0).all(-1)
    assert (zero.sum(-1) == 1).all()
    assert (zero.float().mean((0, 1)) * 13 - 1).abs().max() < 0.05
    assert (zero[:, 0] == zero[:, 1]).all(-1).float().mean() < 0.12   # by chance 1 in 13


@pytest.mark.parametrize("rows, counts", [(3, {3}), ((1, 4), {1, 2, 3, 4}), (0, {0})])
def test_bands_of_rows(rows, counts):
    view = spectrogram_view(told_apart(500), generator(), transforms=("fc",), fc_rows=rows)
    zero = (view == 0).all(-1).flatten(0, 1)
    assert {sum(w for _, w in runs(lead)) for lead in zero} == counts
    assert all(len(runs(lead)) == bool(max(counts)) for lead in zero)


def test_overwritten_frequency_cut_out_leaves_no_zero_row():
    lost = spectrogram_view(told_apart(200), generator(), fc_overwritten=True)
    kept = spectrogram_view(told_apart(200), generator())
    assert not (lost == 0).all(-1).any()
    assert ((kept == 0).all(-1).sum(-1) == 1).all()
    tc = spectrogram_view(told_apart(200), generator(), fc_overwritten=True, transforms=("fc",))
    assert ((tc == 0).all(-1).sum(-1) == 1).all()                     # nothing follows that loses it


# -- all views ---------------------------------------------------------------------------------
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("settings_", [Crops(), RELEASED], ids=["intended", "released"])
def test_ten_views_repeat_with_the_generator_and_leave_the_window_alone(domain, settings_):
    window = noise(6, *DOMAINS[domain])
    before = window.clone()
    one, two = (multi_crop(domain, window, generator(), settings_) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(one, two, strict=True)) and window.equal(before)
    local = settings_.local_len if domain == "time" else 21
    assert [v.shape[-1] for v in one] == [window.shape[-1]] * 2 + [local] * 8
    assert len({round(float(v.sum()), 4) for v in one}) == 10         # no two alike
    other = multi_crop(domain, window, generator(1), settings_)
    assert not any(a.equal(b) for a, b in zip(one, other))


@pytest.mark.parametrize("domain", DOMAINS)
def test_several_runs_and_shares_of_a_batch_draw_as_if_alone(domain):
    window = noise(8, *DOMAINS[domain])
    alone = [multi_crop(domain, part, generator(i)) for i, part in enumerate(window.split(4))]
    both = multi_crop(domain, window, Several((generator(0), generator(1))))
    for views, first, second in zip(both, *alone): assert views.equal(torch.cat([first, second]))
    whole = multi_crop(domain, window, generator())
    parts = [multi_crop(domain, part, Share(generator(), rank, 2))
             for rank, part in enumerate(window.split(4))]
    for views, *shares in zip(whole, *parts): assert views.equal(torch.cat(shares))


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_view_is_made_of_its_own_window_only(domain):
    window = noise(4, *DOMAINS[domain])
    changed = window.clone()
    changed[2] += 5
    for a, b in zip(*(multi_crop(domain, w, generator()) for w in (window, changed))):
        same = [x.equal(y) for x, y in zip(a, b)]
        assert same == [True, True, False, True]


def test_precision_of_the_windows_is_kept():
    for domain, shape in DOMAINS.items():
        for dtype in (torch.float64, torch.bfloat16):
            views = multi_crop(domain, noise(2, *shape).to(dtype), generator())
            assert {v.dtype for v in views} == {dtype}


def test_released_differs_in_what_the_ledger_says_and_nothing_else():
    differs = {k for k, v in asdict(RELEASED).items() if v != asdict(Crops())[k]}
    assert differs == {"local_len", "tc_range", "tc_spec_range", "fc_overwritten", "inclusive"}


def test_settings_reach_the_views():
    window, z = noise(4, 12, 250), noise(4, 12, 13, 21)
    bare = replace(Crops(), transforms_t=(), transforms_s=(), n_global=1, n_local=2, local_len=80)
    views = multi_crop("time", window, generator(), bare)
    assert [v.shape[-1] for v in views] == [250, 80, 80] and all((v != 0).all() for v in views)
    for view in multi_crop("spectrogram", z, generator(), bare):
        shown = (view != 0).any((1, 2))
        assert ((view != 0) == shown[:, None, None]).all()           # nothing is cut but the sides
    cut = replace(bare, transforms_s=("tc", "fc"), fc_rows=3, tc_spec_range=(0.5, 0.5),
                  tc_per_lead=False, n_local=0)
    view, = multi_crop("spectrogram", z, generator(), cut)
    assert ((view == 0).all(-1).sum(-1) == 3).all()
    shown = (view != 0).any(2)
    assert (shown == shown[:, :1]).all() and (shown.sum(-1) <= 10).all() and shown.any()
    loud = replace(bare, transforms_t=("gn",), gn_scale=(50, 50))
    assert all(v.std() > 40 for v in multi_crop("time", window, generator(), loud))


@pytest.mark.parametrize("wrong, field", [
    (dict(transforms_t=("tc", "fc")), "transforms"), (dict(global_t=(0.9, 0.5)), "ratio"),
    (dict(local_t=(0.001, 0.5)), "ratio"), (dict(global_t=(0.5, 1.1)), "ratio")])
def test_impossible_settings_are_refused(wrong, field):
    with pytest.raises(MethodError) as fault:
        multi_crop("time", noise(2, 12, 250), generator(), replace(Crops(), **wrong))
    assert fault.value.field == field
    with pytest.raises(MethodError, match="no domain 'wavelet'"):
        multi_crop("wavelet", noise(2, 12, 250), generator())
