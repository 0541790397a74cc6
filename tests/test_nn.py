"""Layers, encoders, losses and views against plain second implementations."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError
from biossl.nn.encoders import Branches, ConvEncoder, Stem
from biossl.nn.losses import nt_xent
from biossl.nn.views import (augment, jitter, mask_frequency, mask_time, scaling, shift, sometimes,
                             wander)

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
