"""Masks against enumeration, their bookkeeping against loops, and the ladder by hand."""
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError
from biossl.nn.masks import (MASKS, WIDE, Ladder, hidden_patches, patch_mask, sample_mask,
                             seen_first, visible)
from biossl.nn.views import Several, Share

few = settings(deadline=None, max_examples=40)
K = {0: 0, .1: 2, .2: 5, .3: 8, .4: 10, .5: 12, .6: 15, .7: 18, .75: 19, .8: 20, .85: 21, .9: 22,
     .95: 24, 1.0: 25}
N = 42_000


def generator(seed=0): return torch.Generator().manual_seed(seed)


def runs(row) -> list[int]:
    "Lengths of the runs of neighbours in an ascending list of places."
    lengths = []
    for i, place in enumerate(row):
        if i and place == row[i - 1] + 1: lengths[-1] += 1
        else: lengths.append(1)
    return lengths


@pytest.mark.parametrize("ratio, k", K.items())
def test_counts_of_the_published_table(ratio, k):
    assert hidden_patches(ratio) == k
    for kind in MASKS:
        seen = visible(kind, 3, ratio, generator())
        mask = sample_mask(patch_mask(seen))
        assert seen.shape == (3, 25 - k) and mask.sum((1, 2)).tolist() == [40 * k] * 3


@few
@given(st.integers(1, 60), st.integers(0, 16))
def test_counts_are_rounded_half_to_even(patches, sixteenths):
    "Sixteenths are exact in binary, so that a tie is a tie."
    exact = Fraction(sixteenths, 16) * patches
    below, rest = divmod(exact.numerator, exact.denominator)
    up = 2 * rest > exact.denominator or (2 * rest == exact.denominator and below % 2 == 1)
    assert hidden_patches(sixteenths / 16, patches) == below + up


def share_of(kind, ratio=.8, **more):
    seen = visible(kind, N, ratio, generator(1), **more)
    return torch.bincount(seen.flatten(), minlength=25) / N, seen


def enumerated(blocks):
    "How often each patch is seen, if all these sets of patches are equally likely."
    return torch.tensor([sum(i in o for o in blocks) / len(blocks) for i in range(25)])


@pytest.mark.parametrize("ratio", [.5, .8, .95])
def test_an_anchor_starts_anywhere_it_fits(ratio):
    k = hidden_patches(ratio)
    share, seen = share_of("anchor", ratio)
    assert (seen.diff(dim=1) == 1).all() and set(seen[:, 0].tolist()) == set(range(k + 1))
    expected = enumerated([range(s, s + 25 - k) for s in range(k + 1)])
    assert (share - expected).abs().max() < .012
    if ratio == .8: assert expected[:6].mul(21).round().tolist() == [1, 2, 3, 4, 5, 5]


def test_a_wrapped_anchor_sees_all_patches_equally_often():
    share, seen = share_of("anchor", wrap=True)
    assert (share - 1 / 5).abs().max() < .01
    rows = {tuple(o) for o in seen.tolist()}
    assert rows == {tuple(sorted((s + i) % 25 for i in range(5))) for s in range(25)}


def test_a_block_is_hidden_in_one_piece_anywhere():
    share, seen = share_of("block")
    blocks = [[i for i in range(25) if not s <= i < s + 20] for s in range(6)]
    assert (share - enumerated(blocks)).abs().max() < .012
    assert {tuple(o) for o in seen.tolist()} == {tuple(o) for o in blocks}


def test_scattered_patches_are_any():
    share, seen = share_of("scatter")
    assert (share - .2).abs().max() < .01 and (seen.diff(dim=1) > 0).all()
    pairs = torch.zeros(25, 25)
    for a in range(5):
        for b in range(a + 1, 5): pairs.index_put_((seen[:, a], seen[:, b]), torch.ones(()), True)
    expected = 10 / 300    # of all pairs ten are seen together
    assert (pairs.triu(1)[torch.ones(25, 25).triu(1) > 0] / N - expected).abs().max() < .006


def test_half_of_the_mixed_are_blocks():
    seen = visible("mixed", 2000, .8, generator(2)).tolist()
    block = sum(len(hidden) == 1 for hidden in
                (runs(sorted(set(range(25)) - set(row))) for row in seen))
    assert .45 < block / 2000 < .56
    assert visible("trailing", 2, .9, generator()).tolist() == [[0, 1, 2]] * 2


def test_masks_that_do_not_exist_are_refused():
    with pytest.raises(MethodError, match="did you mean scatter"):
        visible("scater", 2, .8, generator())
    with pytest.raises(MethodError, match="does not wrap"):
        visible("block", 2, .8, generator(), wrap=True)


@pytest.mark.parametrize("kind", MASKS)
def test_draws_repeat_differ_and_are_shared(kind):
    first = visible(kind, 64, .8, generator(3))
    assert first.equal(visible(kind, 64, .8, generator(3)))
    if kind != "trailing":
        assert not first.equal(visible(kind, 64, .8, generator(4)))
        assert len(first.unique(dim=0)) > 5
    parts = [visible(kind, 32, .8, Share(generator(3), rank, 2)) for rank in range(2)]
    assert torch.cat(parts).equal(first)
    both = visible(kind, 128, .8, Several((generator(3), generator(4))))
    assert both[:64].equal(first) and both[64:].equal(visible(kind, 64, .8, generator(4)))


# -- bookkeeping -------------------------------------------------------------------------------
@few
@given(st.integers(1, 6), st.integers(0, 25), st.integers(0, 1000))
def test_there_and_back(n, k, seed):
    hidden = torch.rand(n, 25, generator=generator(seed)).argsort(1) < k
    seen, back = seen_first(hidden)
    for row, kept, places in zip(hidden.tolist(), seen.tolist(), back.tolist()):
        order = [i for i in range(25) if not row[i]] + [i for i in range(25) if row[i]]
        assert kept == order[:25 - k] and [order[p] for p in places] == list(range(25))
    assert patch_mask(seen).equal(hidden)
    flags = torch.cat([torch.zeros(n, 25 - k), torch.ones(n, k)], 1)
    assert flags.gather(1, back).bool().equal(hidden)
    tokens = torch.rand(n, 25, 3, generator=generator(seed))
    first = torch.cat([tokens[i][torch.cat([(~hidden[i]).nonzero(), hidden[i].nonzero()])[:, 0]][None]
                       for i in range(n)])
    assert first.gather(1, back[..., None].expand(-1, -1, 3)).equal(tokens)


def test_a_sample_is_hidden_where_its_patch_is():
    hidden = patch_mask(torch.tensor([[0, 3], [1, 2]]), patches=4)
    assert sample_mask(hidden, 3)[:, 0].int().tolist() == [
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]]


def test_unequal_windows_are_refused():
    with pytest.raises(MethodError, match="unequally many"):
        seen_first(torch.tensor([[True, True], [True, False]]))
    assert seen_first(torch.ones(3, 25, dtype=torch.bool))[0].shape == (3, 0)


# -- the ladder --------------------------------------------------------------------------------
def climbed(ladder, losses):
    for loss in losses: ladder = ladder.after(loss)
    return ladder


def test_three_epochs_at_the_least():
    "From 0.08 to 0.08 x 0.8 in one epoch, and no step up before the third."
    assert [climbed(Ladder(), [.08, 0, 0][:n]).ratio for n in (1, 2, 3)] == [.80, .80, .85]


def test_a_tenth_better_than_where_the_level_was_entered():
    flat = climbed(Ladder(), [.08] * 20)
    assert flat.level == 0 and flat.entry == .08 and flat.epochs == 20
    nearly, gained = (climbed(Ladder(beta=0), [.08, .08, o]) for o in (.0721, .0719))
    assert (nearly.level, gained.level) == (0, 1)
    assert gained.entry == gained.mean == .0719 and gained.epochs == 0
    again = climbed(gained, [.0719, .0719, .0648])
    assert again.level == 1 and climbed(again, [.0646]).level == 2


def test_not_before_it_was_once_lower():
    high = climbed(Ladder(beta=0), [.2, .15, .12, .1])
    assert high.level == 0 and not high.ready
    dipped = climbed(Ladder(beta=0), [.2, .08, .15])
    assert dipped.level == 1 and dipped.ready          # was below 0.09 once, is a quarter better


def test_the_running_mean_by_hand():
    assert climbed(Ladder(), [1, 0, 1]).mean == pytest.approx(.8 * .8 + .2)


def test_the_last_level_is_the_last():
    top = climbed(Ladder(beta=0), [.08 * .8 ** i for i in range(40)])
    assert top.ratio == .90 and top.level == 2
    assert climbed(WIDE, [.08 * .5 ** i for i in range(60)]).ratio == 1.0
