"""Self-distillation against plain loops in float64, published numbers, and a toy that collapses."""
import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biossl.data.errors import MethodError
from biossl.nn import dino
from biossl.nn.dino import (DinoHead, collapse, decay_groups, dino_loss, follow, next_centre, pace)

few = settings(deadline=None, max_examples=25)
#: Two teacher's rows, four student's views, a centre, of three prototypes: the published example.
TEACHER = torch.tensor([[[.2, .5, -.1]], [[.3, .1, 0]]], dtype=torch.float64)
STUDENT = torch.tensor([[[.1, .4, 0]], [[.2, .2, -.1]], [[0, .3, .1]], [[.5, -.2, .1]]], dtype=torch.float64)
CENTRE = torch.tensor([.05, .10, 0], dtype=torch.float64)


def generator(seed=0): return torch.Generator().manual_seed(seed)


# -- loss --------------------------------------------------------------------------------------
def distribution(logits):
    e = [math.exp(o - max(logits)) for o in logits]
    return [o / sum(e) for o in e]


def plain_loss(teacher, student, centre, teacher_temperature=.04, student_temperature=.1):
    "Pair by pair, row by row, prototype by prototype."
    terms = []
    for a in range(len(teacher)):
        for b in range(len(student)):
            if a == b: continue
            rows = []
            for t, s in zip(teacher[a], student[b]):
                q = distribution([(o - c) / teacher_temperature for o, c in zip(t, centre)])
                p = distribution([o / student_temperature for o in s])
                rows.append(-sum(x * math.log(y) for x, y in zip(q, p)))
            terms.append(sum(rows) / len(rows))
    return sum(terms) / len(terms), len(terms)


@few
@given(globals_=st.integers(1, 3), locals_=st.integers(1, 8), n=st.integers(1, 4),
       k=st.integers(1, 7), seed=st.integers(0, 99))
def test_loss_in_plain_loops(globals_, locals_, n, k, seed):
    draws = torch.randn(2 * globals_ + locals_, n, k, generator=generator(seed)).double() / 3
    teacher, student = draws.split([globals_, globals_ + locals_])
    centre = teacher.mean((0, 1))
    plain, _ = plain_loss(teacher.tolist(), student.tolist(), centre.tolist())
    assert abs(dino_loss(teacher, student, centre) - plain) < 1e-9 * max(1, plain)
    warm, _ = plain_loss(teacher.tolist(), student.tolist(), centre.tolist(), .07, .2)
    assert abs(dino_loss(teacher, student, centre, .07, .2) - warm) < 1e-9 * max(1, warm)


def test_loss_of_the_published_example():
    assert float(dino_loss(TEACHER, STUDENT, CENTRE)) == pytest.approx(
        2.36055293, abs=5e-9)
    assert plain_loss(TEACHER.tolist(), STUDENT.tolist(), CENTRE.tolist())[1] == 2 * 4 - 2
    views = torch.zeros(10, 1, 5).tolist()
    assert plain_loss(views[:2], views, [0] * 5)[1] == 18


def test_only_the_student_learns_and_as_the_plain_sum_says():
    teacher = TEACHER.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    dino_loss(teacher, student, CENTRE).backward()
    ours, step = student.grad, 1e-6
    assert teacher.grad is None
    for place in np.ndindex(*student.shape):
        sides = []
        for sign in (1, -1):
            moved = STUDENT.clone()
            moved[place] += sign * step
            sides.append(plain_loss(TEACHER.tolist(), moved.tolist(), CENTRE.tolist())[0])
        assert abs((sides[0] - sides[1]) / (2 * step) - ours[place]) < 1e-6


def test_loss_of_large_outputs_is_finite_and_a_list_of_views_will_do():
    teacher, student = 1e3 * TEACHER, 1e3 * STUDENT
    loss = dino_loss(teacher, student, CENTRE)
    assert loss.isfinite() and loss.equal(dino_loss(teacher, list(student), CENTRE))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_single_precision_under_autocast(dtype):
    teacher, student = TEACHER.to(dtype), STUDENT.to(dtype)
    exact, _ = plain_loss(teacher.tolist(), student.tolist(), CENTRE.tolist())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dino_loss(teacher, student, CENTRE.float())
        centre = next_centre(CENTRE.float(), teacher)
    assert loss.dtype == centre.dtype == torch.float32 and abs(loss - exact) < 1e-5


def test_loss_keeps_little_for_its_gradient():
    "Per view its logits and its softmax's share at most; never a copy per pair of views."
    n, k, kept = 4, 512, {}
    student = torch.randn(10, n, k, generator=generator(), requires_grad=True)

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = dino_loss(student[:2].detach() + 1, student, torch.zeros(k))
    loss.backward()
    assert sum(kept.values()) <= 1.4 * student.numel() * 4


@pytest.mark.parametrize("teachers, students", [(1, 1), (3, 2), (0, 4)])
def test_views_that_make_no_pair_are_refused(teachers, students):
    with pytest.raises(MethodError, match="make no pair"):
        dino_loss(torch.zeros(teachers, 2, 3), torch.zeros(students, 2, 3), torch.zeros(3))


# -- centre ------------------------------------------------------------------------------------
def test_centre_of_the_published_example():
    right, twice = (next_centre(CENTRE, TEACHER, divisions=d) for d in (1, 2))
    assert right.allclose(torch.tensor([.07, .12, -.005]).double(), atol=1e-7)
    assert twice.allclose(torch.tensor([.0575, .105, -.0025]).double(), atol=1e-7)


def test_centre_in_plain_loops_and_of_two_processes(monkeypatch):
    one, two = (torch.randn(2, 5, 7, generator=generator(i)) for i in (0, 1))
    centre = torch.randn(7, generator=generator(2))
    for divisions in (1, 2):
        rows = [row for view in torch.cat([one, two], 1) for row in view.tolist()]
        plain = [.8 * c + .2 * sum(row[k] for row in rows) / len(rows) ** divisions
                 for k, c in enumerate(centre.tolist())]
        other = two.flatten(0, 1).mean(0, keepdim=True)
        with monkeypatch.context() as both:
            both.setattr(dino, "gathered", lambda x, other=other: torch.cat([x, other]))
            shared = next_centre(centre, one, .8, divisions)
        alone = next_centre(centre, torch.cat([one, two], 1), .8, divisions)
        for ours in (shared, alone): assert ours.allclose(torch.tensor(plain), atol=1e-6)


# -- head --------------------------------------------------------------------------------------
def test_head_is_a_weight_normalised_layer_on_unit_vectors():
    head = DinoHead(6, 8, 5, 9)
    layer = nn.Linear(5, 9, bias=False)
    layer.weight.data.copy_(head.prototypes.data)
    layer = nn.utils.parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.fill_(1)
    x = torch.randn(4, 6, generator=generator())
    z = x
    for linear in head.mlp[::2]:
        z = z @ linear.weight.T + linear.bias
        if linear is not head.mlp[-1]: z = z * (1 + torch.erf(z / math.sqrt(2))) / 2
    plain = layer(z / z.norm(dim=1, keepdim=True))
    weights = torch.randn(4, 9, generator=generator(1))
    assert head(x).allclose(plain, atol=1e-6)
    (head(x) * weights).sum().backward()
    (plain * weights).sum().backward()
    assert head.prototypes.grad.allclose(layer.parametrizations.weight.original1.grad, atol=1e-6)
    assert head.gain.grad is None and head(x).abs().max() <= 1 + 1e-6


def test_head_has_the_published_sizes_and_start():
    head = DinoHead()
    assert sum(p.numel() for p in head.mlp.parameters()) == 590_976
    assert head.prototypes.numel() == 8_388_608 and head.gain.numel() == 65_536
    assert not head.gain.requires_grad and (head.gain == 1).all()
    for layer in head.mlp[::2]:
        assert abs(layer.weight.std() - 0.02) < 1e-3 and not layer.bias.any()
    assert 0.045 < head.prototypes.std() < 0.06
    assert copy.deepcopy(head).state_dict().keys() == head.state_dict().keys()


# -- teacher, pace, groups ---------------------------------------------------------------------
def test_teacher_follows_in_plain_loops():
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    student(torch.randn(8, 3))
    for buffers in (False, True):
        before = copy.deepcopy(teacher.state_dict())
        follow(teacher, student, 0.9, buffers)
        for key, after in teacher.state_dict().items():
            new, old = student.state_dict()[key], before[key]
            counted = "running" in key or "tracked" in key
            if counted and not buffers: assert after.equal(old)
            elif "tracked" in key: assert after.equal(new)
            else: assert after.allclose(0.9 * old + 0.1 * new, atol=1e-7)
    assert all(p.grad_fn is None for p in teacher.parameters())
    with pytest.raises(ValueError): follow(teacher, student[0], 0.9)


@few
@given(steps=st.integers(20, 300), warmup=st.integers(0, 15), offset=st.integers(0, 5))
def test_pace_against_arrays(steps, warmup, offset):
    k = np.arange(steps - warmup)
    fall = 1e-6 + 0.5 * (5e-4 - 1e-6) * (1 + np.cos(np.pi * k / len(k)))
    plain = np.concatenate([np.linspace(0, 5e-4, warmup), fall])
    ours = [pace(i, steps, 5e-4, 1e-6, warmup, offset) for i in range(steps - offset)]
    assert np.allclose(ours, plain[offset:], atol=1e-12)
    assert pace(steps + 3, steps, 5e-4, 1e-6, warmup, offset) == pytest.approx(plain[-1])


def test_published_paces():
    rate = {0: 0, 1: 5.05051e-6, 50: 2.52525e-4, 99: 5e-4, 100: 5e-4, 1500: 2.64008e-4,
            2999: 1.00015e-6}
    for i, value in rate.items(): assert pace(i, 3000, 5e-4, 1e-6, 100) == pytest.approx(value, 1e-5)
    for i, value in {0: 0.996, 1500: 0.998, 2999: 1.0}.items():
        assert round(pace(i, 3000, 0.996, 1), 6) == value
    def decay(i): return pace(i, 301 * 219, 0.04, 0.4, offset=219)

    assert decay(0) == pytest.approx(0.0400098, abs=5e-8)
    assert decay(149 * 219) == pytest.approx(0.219061, abs=5e-7)
    assert decay(300 * 219 - 1) == pytest.approx(0.4, abs=1e-6)
    first = pace(0, 301 * 219, 3.828e-4, 1e-6, 10 * 219, offset=219)
    assert first == pytest.approx(3.83e-5, abs=5e-8)


def test_biases_norms_and_frozen_numbers_do_not_decay():
    module = nn.Sequential(nn.Conv1d(12, 8, 5), nn.BatchNorm1d(8), nn.Conv2d(1, 2, 3),
                           DinoHead(8, 8, 4, 16))
    name = {p: n for n, p in module.named_parameters()}
    weights, others = ([name[p] for p in group] for group in decay_groups(module))
    assert weights == ["0.weight", "2.weight", "3.prototypes", "3.mlp.0.weight", "3.mlp.2.weight",
                       "3.mlp.4.weight"]
    assert others == ["0.bias", "1.weight", "1.bias", "2.bias", "3.mlp.0.bias", "3.mlp.2.bias",
                      "3.mlp.4.bias"]


# -- collapse ----------------------------------------------------------------------------------
def test_signs_of_collapse_in_plain_loops():
    outputs = torch.randn(2, 6, 5, generator=generator()) / 10
    features = torch.randn(12, 3, generator=generator(1))
    centre = torch.randn(5, generator=generator(2)) / 10
    rows = [distribution([(o - c) / .04 for o, c in zip(row, centre.tolist())])
            for row in outputs.flatten(0, 1).tolist()]
    mean = [sum(column) / len(rows) for column in zip(*rows)]
    found = collapse(outputs, features, centre)
    assert found.entropy == pytest.approx(-sum(p * math.log(p) for p in mean), abs=1e-5)
    assert found.classes == len({row.index(max(row)) for row in rows})
    sd = [np.std(column, ddof=1) for column in features.numpy().T]
    assert found.feature_sd == pytest.approx(np.mean(sd), abs=1e-6)


@pytest.mark.parametrize("outputs, entropy, classes", [
    (torch.zeros(8, 16), math.log(16), 1), (torch.eye(16), math.log(16), 16),
    (torch.eye(16)[:1].expand(9, 16), 0, 1)])
def test_uniform_spread_and_constant_answers(outputs, entropy, classes):
    found = collapse(outputs, torch.ones(4, 2))
    assert found.entropy == pytest.approx(entropy, abs=1e-3) and found.classes == classes
    assert found.feature_sd == 0


def toy_network(k):
    "A small perceptron with batch normalisation, and a head."
    return nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64),
                         nn.BatchNorm1d(64), nn.ReLU(), DinoHead(64, 64, 32, k))


def toy(divisions, seed=0, steps=200, k=512, n=64):
    "Signs of a teacher taught on 32 clusters, and the last loss."
    torch.manual_seed(seed)
    g = generator(seed + 1)
    clusters = 2 * torch.randn(32, 32, generator=g)
    student, teacher = toy_network(k), toy_network(k)
    teacher.load_state_dict(student.state_dict())
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-3)
    centre = torch.zeros(k)
    for _ in range(steps):
        which = torch.randint(32, (n,), generator=g)
        seen = clusters[which] + torch.randn(6, n, 32, generator=g)
        seen[:2] = (seen[:2] + clusters[which]) / 2              # global views are less noisy
        with torch.no_grad(): told = teacher(seen[:2].flatten(0, 1)).view(2, n, k)
        loss = dino_loss(told, student(seen.flatten(0, 1)).view(6, n, k), centre)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        follow(teacher, student, .99)
        centre = next_centre(centre, told, divisions=divisions)
    with torch.no_grad():
        x = clusters.repeat(4, 1) + torch.randn(128, 32, generator=g) / 2
        return collapse(teacher(x), teacher[:6](x), centre), float(loss)


@pytest.mark.slow
def test_a_centre_divided_twice_lets_prototypes_die():
    "The loss does not show it, the number of prototypes in use does."
    (right, loss), (twice, other) = toy(1), toy(2)
    assert right.classes > 1.4 * twice.classes and right.entropy > twice.entropy + .2
    assert max(loss, other) < .5
