"""ECG and report: losses against plain loops, the specification's values, two processes as one."""
import json
import math
import os
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_spread import in_processes

from biossl.data.errors import MethodError
from biossl.nn.alignment import (CONTRASTS, Heads, Parts, Scale, dcl, disentangled, info_nce,
                                 literal, orthogonality, same_texts, siglip, unit)

few = settings(deadline=None, max_examples=40)
A = [[.9, .1, -.2], [0, .8, .3], [-.1, .2, .7]]


def vectors(s):
    "ECGs and texts of cosines `s`, float64, of lengths that must not matter."
    s = torch.as_tensor(s, dtype=torch.float64)
    rest = torch.diag((1 - s.square().sum(1)).clamp(min=0).sqrt())
    return 3 * torch.cat([s, rest], 1), torch.eye(len(s), 2 * len(s), dtype=torch.float64) / 7


def drawn(n, seed, width=5):
    "Two sets of vectors."
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=g, dtype=torch.float64) for _ in range(2)]


# -- plain loops -------------------------------------------------------------------------------
def cosine(a, b):
    "Of two lists of numbers."
    size = [max(math.sqrt(sum(o * o for o in v)), 1e-8) for v in (a, b)]
    return sum(x * y for x, y in zip(a, b)) / size[0] / size[1]


def plain(name, ecg, text, tau, texts):
    "Equations 7 to 9, term by term; pairs of one text and two numbers leave all sums."
    n, total = len(ecg), 0.0
    for rows, columns in ((ecg, text), (text, ecg)):
        for i in range(n):
            s = [cosine(rows[i], o) / tau for o in columns]
            others = [k for k in range(n) if texts[k] != texts[i]]
            if name == "infonce":
                total += -s[i] + math.log(sum(math.exp(s[k]) for k in [i, *others]))
            elif others:
                below = math.log(sum(math.exp(s[k]) for k in others))
                total += sum(below - s[j] for j in ([i] if name == "dcl" else [i, *others]))
    return total / (2 * n)


def plain_siglip(ecg, text, scale, bias, reduction, normalise, texts):
    "Equation 6, pair by pair."
    n, total, kept = len(ecg), 0.0, 0
    for i in range(n):
        for j in range(n):
            if i != j and texts[i] == texts[j]: continue
            s = sum(a * b for a, b in zip(ecg[i], text[j]))
            if normalise: s = cosine(ecg[i], text[j])
            y = 1 if i == j else -1
            total += math.log(1 + math.exp(-y * (scale * s + bias)))
            kept += 1
    return total / (n if reduction == "sum_over_b" else kept)


PAIRS = dict(n=st.integers(2, 6), seed=st.integers(0, 99), few_texts=st.integers(1, 6))


def made(n, seed, few_texts):
    "Vectors, texts' numbers (some alike), and what is ignored."
    ids = torch.randint(few_texts, (n,), generator=torch.Generator().manual_seed(seed))
    return *drawn(n, seed), ids


@few
@given(name=st.sampled_from(sorted(CONTRASTS)), tau=st.sampled_from([.07, .5, 1.]), **PAIRS)
def test_contrasts_are_those_of_loops(name, tau, n, seed, few_texts):
    ecg, text, ids = made(n, seed, few_texts)
    loss, rows = CONTRASTS[name], (ecg.tolist(), text.tolist())
    assert loss(ecg, text, tau).item() == pytest.approx(plain(name, *rows, tau, range(n)), abs=1e-9)
    assert loss(ecg, text, tau, same_texts(ids)).item() == pytest.approx(
        plain(name, *rows, tau, ids.tolist()), abs=1e-9)


@few
@given(scale=st.sampled_from([1., 10.]), bias=st.sampled_from([0., -10.]), normalise=st.booleans(),
       reduction=st.sampled_from(["sum_over_b", "mean"]), **PAIRS)
def test_siglip_is_that_of_loops(scale, bias, normalise, reduction, n, seed, few_texts):
    ecg, text, ids = made(n, seed, few_texts)
    ask = partial(siglip, ecg, text, scale, bias, reduction=reduction, normalise=normalise)
    plainly = partial(plain_siglip, ecg.tolist(), text.tolist(), scale, bias, reduction, normalise)
    assert ask().item() == pytest.approx(plainly(range(n)), abs=1e-9)
    assert ask(ignore=same_texts(ids)).item() == pytest.approx(plainly(ids.tolist()), abs=1e-9)


# -- the specification's values ----------------------------------------------------------------
I2, NONE2, NONE4 = np.eye(2), np.zeros((2, 2)), np.zeros((4, 4))


@pytest.mark.parametrize("s, tau, expected", [
    (I2, 1, (.313262, -1, -1)), (I2, .07, (6.2e-7, -14.285714, -14.285714)),
    (NONE2, 1, (.693147, 0, 0)), (NONE2, .07, (.693147, 0, 0)),
    (NONE4, 1, (1.386294, 1.098612, 4.394449)), (NONE4, .07, (1.386294, 1.098612, 4.394449)),
    (A, 1, (.673198, -.045677, 1.362968)), (A, .07, (.000858, -8.730947, -4.764270))])
def test_contrasts_of_the_specification(s, tau, expected):
    for loss, value in zip((info_nce, dcl, literal), expected):
        assert loss(*vectors(s), tau).item() == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize("s, sum_over_b, mean, learned", [
    (I2, 1.006409, .503204, .693193), (NONE2, 1.386294, .693147, 10.000091),
    (NONE4, 2.772589, .693147, 10.000182), (A, 1.816005, .605335, 2.163405)])
def test_siglip_of_the_specification(s, sum_over_b, mean, learned):
    assert siglip(*vectors(s)).item() == pytest.approx(sum_over_b, abs=6e-7)
    assert siglip(*vectors(s), *Scale("one")(), reduction="mean").item() == pytest.approx(
        mean, abs=6e-7)
    assert siglip(*vectors(s), *Scale()()).item() == pytest.approx(learned, abs=3e-6)
    assert siglip(*vectors(s), 10., -10.).item() == pytest.approx(learned, abs=6e-7)


def test_where_nothing_is_learned_at_the_papers_batch():
    nothing = vectors(np.zeros((512, 512)))
    assert info_nce(*nothing).item() == pytest.approx(6.238325, abs=1e-6)
    assert literal(*nothing).item() == pytest.approx(512 * math.log(511), abs=1e-6)
    assert siglip(*nothing).item() == pytest.approx(354.891356, abs=1e-5)


@few
@given(n=st.integers(2, 7), seed=st.integers(0, 99), tau=st.sampled_from([.07, 1.]))
def test_the_printed_loss_is_dcl_and_the_wish_that_negatives_be_alike(n, seed, tau):
    ecg, text = drawn(n, seed)
    s = np.array([[cosine(a, b) for b in text.tolist()] for a in ecg.tolist()]) / tau
    alike = 0.0
    for rows in (s, s.T):
        for i in range(n):
            negatives = np.delete(rows[i], i)
            alike -= (negatives - np.log(np.exp(negatives).sum())).sum()
    assert literal(ecg, text, tau).item() == pytest.approx(
        dcl(ecg, text, tau).item() + alike / (2 * n), abs=1e-8)


@pytest.mark.parametrize("loss", [dcl, literal])
def test_one_pair_has_no_negatives(loss):
    with pytest.raises(MethodError, match="without negatives"): loss(*drawn(1, 0))
    assert info_nce(*drawn(1, 0)) == 0


def test_orthogonality_of_the_specification():
    row = lambda *x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    parts = Parts(shared_ecg=row(1, 1), shared_text=row(1, 0), specific_ecg=row(1, 0),
                  specific_text=row(0, 2))
    assert orthogonality(parts).item() == pytest.approx(.5, abs=1e-12)


@few
@given(st.integers(1, 6), st.integers(0, 99))
def test_orthogonality_is_that_of_a_loop_and_moves_both_vectors(n, seed):
    made = [o.requires_grad_() for o in (*drawn(n, seed), *drawn(n, seed + 1000))]
    value = orthogonality(Parts(*made))
    shared_ecg, shared_text, own_ecg, own_text = (o.tolist() for o in made)
    expected = sum(cosine(own_text[i], shared_text[i]) ** 2 + cosine(own_ecg[i], shared_ecg[i]) ** 2
                   for i in range(n)) / n
    assert value.item() == pytest.approx(expected, abs=1e-12) and 0 <= value <= 2
    value.backward()
    assert all((o.grad != 0).any() for o in made)


# -- in half precision, at the edges -----------------------------------------------------------
LOSSES = [info_nce, dcl, literal, siglip, lambda a, b: orthogonality(Parts(a, b, b, a))]


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_rounded_under_mixed_precision(loss):
    a, b = (o.float() for o in drawn(6, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16): half = loss(a, b)
    assert half.dtype == torch.float32 and torch.equal(half, loss(a, b))
    assert loss(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", LOSSES)
def test_a_vector_of_nothing_has_a_finite_gradient(loss):
    a, b = (o.float() for o in drawn(4, 0))
    a[1] = 0
    loss(a.requires_grad_(), b).backward()
    assert a.grad.isfinite().all()
    assert unit(torch.full((1, 4), 1e-9)).norm().item() == pytest.approx(.2)


def test_equal_numbers_are_the_same_text_and_nobody_is_his_own_twin():
    same = same_texts(torch.tensor([4, 1, 4, 0, 2]))
    assert same.sum() == 2 and same[0, 2] and same[2, 0]


@pytest.mark.parametrize("loss", LOSSES[:4])
def test_a_twin_says_nothing_to_an_ecg(loss):
    ecg, text = drawn(4, 3)
    ignore = same_texts(torch.tensor([0, 1, 0, 2]))

    def asked(text, ignore):
        moved = ecg.clone().requires_grad_()
        loss(moved, text, ignore=ignore).backward()
        return moved.grad[0]

    other = text.clone()
    other[2] = drawn(4, 5)[0][2]
    torch.testing.assert_close(asked(text, ignore), asked(other, ignore), rtol=0, atol=1e-12)
    assert not torch.allclose(asked(text, None), asked(other, None))


def test_unknown_switches_come_with_what_there_is():
    for wrong, says in ((lambda: siglip(*drawn(2, 0), reduction="sum"), "sum_over_b"),
                        (lambda: Scale("lerned"), "learned"),
                        (lambda: orthogonality(Parts(*drawn(2, 0))), "specific")):
        with pytest.raises(MethodError, match=says): wrong()


# -- heads and what they made ------------------------------------------------------------------
def test_each_head_learns_of_its_own_loss_only():
    heads = Heads(6, 7, 8, 5)
    parts = heads(torch.randn(4, 6), torch.randn(4, 7))
    info_nce(parts.shared_ecg, parts.shared_text).backward()
    reached = {k.split(".")[0] for k, p in heads.named_parameters() if p.grad is not None}
    assert reached == {"shared"}
    orthogonality(heads(torch.randn(4, 6), torch.randn(4, 7))).backward()
    assert all((p.grad != 0).any() for p in heads.parameters())
    assert sum(p.numel() for p in Heads(768, 256).parameters()) == 2 * (
        768 * 512 + 256 * 512 + 2 * 512 + 2 * (512 * 256 + 256))
    assert len(list(Heads(6, 7, specific=False).parameters())) == 8


def test_what_a_linear_map_foretells_is_what_least_squares_foretells():
    g = np.random.default_rng(0)
    x, noise = g.normal(size=(600, 6)), g.normal(size=(600, 4))
    y = x @ g.normal(size=(6, 4)) + noise
    found = disentangled(torch.tensor(y), torch.tensor(x)[:, :4])
    design = np.c_[np.ones(300), x[:300, :4]]
    weights = np.linalg.lstsq(design, y[:300], rcond=None)[0]
    left = y[300:] - np.c_[np.ones(300), x[300:, :4]] @ weights
    expected = 1 - (left ** 2).sum() / ((y[300:] - y[:300].mean(0)) ** 2).sum()
    assert found.predictable == pytest.approx(expected, abs=1e-3)
    assert found.rank == 4 and disentangled(torch.tensor(y), torch.ones(600, 4)).rank == 0
    flat = torch.tensor(x) @ torch.tensor(g.normal(size=(6, 2)) @ g.normal(size=(2, 4)))
    assert disentangled(torch.tensor(y), flat).rank == 2
    assert math.isnan(disentangled(*drawn(3, 0)).predictable)
    assert disentangled(torch.tensor(y), torch.tensor(y)).cos2 == pytest.approx(1)


# -- two processes -----------------------------------------------------------------------------
WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_alignment import *
import torch.distributed as dist
dist.init_process_group("gloo")
told = {}
for name, (network, loss) in both().items():
    value = loss(network, *pairs(dist.get_rank(), 2))
    value.backward()
    for p in network.parameters():
        dist.all_reduce(p.grad)
        p.grad /= 2
    told[name] = [value.item(), *gradients(network)]
with open(f"{sys.argv[2]}/{dist.get_rank()}.json", "w") as f: json.dump(told, f)
"""


class Pairing(torch.nn.Module):
    "Heads and a scale."
    def __init__(self):
        super().__init__()
        self.heads, self.scale = Heads(5, 5, 6, 4).double(), Scale().double()


def gradients(network):
    "Of all its parameters, one after another."
    return torch.cat([p.grad.flatten() for p in network.parameters()]).tolist()


def both():
    "Networks, equal in every process, and losses `(network, ecg, text, ids)`."
    def ask(loss, network, ecg, text, ids):
        o = network.heads(ecg, text)
        return loss(o.shared_ecg, o.shared_text, ignore=same_texts(ids)) + 0 * network.scale()[0] \
            + 0 * network.scale()[1] + orthogonality(o) * 0

    def sigmoid(network, ecg, text, ids):
        o = network.heads(ecg, text)
        return siglip(o.shared_ecg, o.shared_text, *network.scale(), ignore=same_texts(ids)) \
            + 0 * orthogonality(o)

    made = {}
    for name, loss in dict(CONTRASTS, siglip=None).items():
        torch.manual_seed(3)
        made[name] = Pairing(), partial(ask, loss) if loss else sigmoid
    return made


def pairs(rank=0, world=1):
    "One process's share of eight pairs, among them twins in different processes."
    ids = torch.tensor([0, 1, 2, 3, 4, 1, 5, 0])
    return [o.chunk(world)[rank] for o in (*drawn(8, 1), ids)]


def test_two_processes_give_the_loss_and_the_gradient_of_one(tmp_path):
    in_processes(2, ["-c", WORKER, os.path.dirname(__file__), str(tmp_path)], tmp_path)
    told = [json.loads((tmp_path / f"{o}.json").read_text()) for o in (0, 1)]
    for name, (network, loss) in both().items():
        value = loss(network, *pairs())
        value.backward()
        whole = [value.item(), *gradients(network)]
        assert np.abs(whole[1:]).max() > 1e-3
        for o in told: np.testing.assert_allclose(o[name], whole, atol=1e-10, err_msg=name)
