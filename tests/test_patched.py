"""xMAE's rivals on its own encoder: the same network, losses by hand, partners, views of a pulse wave."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError
from biossl.methods.contract import check_method, get_method, method_names
from biossl.methods.participant import People, found_person
from biossl.nn.crossmodal import SIZES, new_encoder
from biossl.nn.losses import koleo, matched, nt_xent
from biossl.nn.views import (LIGHT, PULSE, Several, Share, all_of, crop, noise, one_of, time_warp)
from biossl.nn.warp import read_at
from biossl.train.pretrain import pretrain
from biossl.train.profiles import Schedule
from biossl.train.stack import pretrain_stack

few = settings(deadline=None, max_examples=30)
PILOT = dict(size="pilot")
NAMES = [o for o in method_names() if o.startswith("patch_")]


def generator(seed=0): return torch.Generator().manual_seed(seed)


def a_batch(n=6, seed=0):
    g = generator(seed)
    return {key: torch.randn(n, 1, 1000, generator=g) for key in ("ppg", "ecg")}


class Stand:
    "A store in memory, three windows of each person; breaks down when `left` batches were made."
    def __init__(self, n=24, left=10**9):
        self.arrays = {k: v.numpy() for k, v in a_batch(n).items()} | dict(row=np.arange(n))
        self.left = left

    def batch(self, rows, keys):
        self.left -= 1
        if not self.left: raise KeyboardInterrupt
        return {k: self.arrays[k][rows] for k in keys}

    def labels(self, key): return self.arrays["row"] // 3 if key == "subject" else None


# -- the encoder -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["small", "pilot"])
def test_all_begin_with_the_pulse_waves_encoder_of_xmae(name, size):
    method = get_method(name, size=size)
    theirs = new_encoder(SIZES[size], "ppg").state_dict()
    assert {k: v.shape for k, v in method.encoder.state_dict().items()} == {
        k: v.shape for k, v in theirs.items()}
    assert all(torch.equal(v, get_method("patch_random", size=size).encoder.state_dict()[k])
               for k, v in method.encoder.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_embedding_is_the_mean_of_the_tokens_of_the_pulse_wave_alone(name):
    batch, method = a_batch(), get_method(name, **PILOT).eval()
    x = 2 * (batch["ppg"] - batch["ppg"].amin(-1, True))
    x = x / (x.amax(-1, True) / 2) / 1 - 1
    embedded = method.embed(dict(ppg=batch["ppg"]))
    torch.testing.assert_close(embedded, method.encoder.tokens(x).mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.embed(dict(ppg=5 * batch["ppg"] + 3)), embedded, rtol=1e-3,
                               atol=1e-4)
    assert method.embed_keys == ("ppg",) and embedded.shape == (6, 64)


def test_a_constant_window_is_embedded_like_zeros():
    method = get_method("patch_random", **PILOT).eval()
    made = method.embed(dict(ppg=torch.tensor([0.0, 7.0]).view(2, 1, 1).expand(2, 1, 1000)))
    assert made.isfinite().all() and torch.equal(made[0], made[1])


@pytest.mark.parametrize("hyper, says", [
    (dict(size="smal"), "no size smal"), (dict(decay="some"), "no decay some"),
    (dict(signals=("ppg", "ecg")), "takes 1"), (dict(signals=("abp",)), "takes 1"),
    (dict(positions="rotary"), "no positions rotary"), (dict(size="small", stem_norm="layer"), "no norm layer")])
def test_what_it_cannot_be(hyper, says):
    with pytest.raises(MethodError, match=says): get_method("patch_random", **(PILOT | hyper))


def test_places_norms_and_biases_do_not_decay_unless_all_do():
    method = get_method("patch_simclr", **PILOT)
    names = {id(p): name for name, p in method.named_parameters()}
    decaying, rest = ([names[id(p)] for p in o["params"]] for o in method.groups(1e-3))
    assert sorted(decaying + rest) == sorted(names.values())
    assert any("places" in o for o in rest)
    assert not any("places" in o or o.endswith("bias") for o in decaying)
    assert all(o.endswith("weight") for o in decaying)
    whole, = get_method("patch_simclr", decay="all", **PILOT).groups(1e-3)
    assert len(whole["params"]) == len(names)


# -- the losses --------------------------------------------------------------------------------
def test_simclr_is_nt_xent_of_the_projected_views():
    batch, method = a_batch(), get_method("patch_simclr", tau=.2, **PILOT).eval()
    a, b = (o["x"] for o in method.views(batch, generator(3)))
    assert not torch.equal(a, b) and a.shape == (6, 1, 1000)
    expected = nt_xent(*(method.projector(method.encoder(o)) for o in (a, b)), .2)
    torch.testing.assert_close(method.loss(batch, generator(3)).total, expected, rtol=1e-4, atol=1e-5)
    assert method.projector[-1].out_features == 32


def test_clip_pairs_signals_of_one_window():
    batch, method = a_batch(), get_method("patch_clip", **PILOT).eval()
    made = [method.projectors[k](method.encoders[k](method.read(batch, k))) for k in ("ppg", "ecg")]
    a, b = (o / o.norm(dim=1, keepdim=True) for o in made)
    logits = (a @ b.T / .07).double()
    rows, columns = (-o.log_softmax(1).diag().mean() for o in (logits, logits.T))
    torch.testing.assert_close(method.loss(batch, generator()).total.double(), (rows + columns) / 2,
                               rtol=1e-4, atol=1e-5)


def test_clips_temperature_learns_and_is_bounded():
    a, b = torch.randn(2, 5, 8, generator=generator())
    scale = torch.tensor(2.0, requires_grad=True)
    matched(a, b, scale)[0].backward()
    assert scale.grad != 0
    hot = [matched(a, b, torch.tensor(o)) for o in (4.7, 9.0)]
    assert hot[0][1] == hot[1][1] == 100 and torch.equal(hot[0][0], hot[1][0])


@few
@given(st.integers(0, 999), st.integers(2, 9), st.integers(2, 6))
def test_koleo_is_the_log_of_the_way_to_the_nearest(seed, n, width):
    z = torch.randn(n, width, generator=generator(seed), dtype=torch.float64)
    u = (z / z.norm(dim=1, keepdim=True)).numpy()
    nearest = [min(np.linalg.norm(u[i] - u[j]) for j in range(n) if j != i) for i in range(n)]
    assert koleo(z).item() == pytest.approx(-np.log(nearest).mean(), abs=1e-6)
    z.requires_grad_()
    koleo(z).backward()
    assert z.grad.isfinite().all()


def test_koleo_of_equal_vectors_is_finite_and_so_is_its_gradient():
    z = torch.ones(4, 3, requires_grad=True)
    koleo(z).backward()
    assert koleo(z).isfinite() and z.grad.isfinite().all()


# -- participant -------------------------------------------------------------------------------
@few
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.integers(0, 99))
def test_a_partner_is_another_window_of_the_same_person(subjects, seed):
    rows = np.random.default_rng(seed).permutation(50)[:len(subjects)]
    of = dict(zip(rows.tolist(), subjects))
    for row, partner in zip(rows, People(rows, subjects).partners(rows, generator(seed))):
        assert of[partner] == of[row]
        assert partner != row or subjects.count(of[row]) == 1


def test_all_windows_of_a_person_are_equally_likely_partners():
    people = People(np.arange(10), list("aaaabbbcca"))
    made = people.partners(np.repeat(np.arange(10), 4000), generator()).reshape(10, 4000)
    for row, others in enumerate(([1, 2, 3, 9], [0, 2, 3, 9])):
        found, count = np.unique(made[row], return_counts=True)
        assert found.tolist() == others and abs(count / 4000 - .25).max() < .03


def test_partners_are_among_the_rows_of_training_alone():
    method, store = get_method("participant", **PILOT), Stand()
    method.prepare(store, [0, 1, 3, 4])
    for seed in range(20):
        assert set(method.people.partners([0, 3], generator(seed)).tolist()) == {1, 4}
    with pytest.raises(MethodError, match="not among those"):
        method.views(store.batch([0, 2], method.keys), generator())
    with pytest.raises(MethodError, match="whose windows"):
        get_method("participant", **PILOT).loss(store.batch([0], method.keys), generator())


def test_the_same_persons_other_windows_are_no_negatives():
    a, b = torch.randn(2, 5, 8, generator=generator(), dtype=torch.float64)
    person, tau = torch.tensor([0, 1, 0, 2, 0]), .3
    cosine = torch.cosine_similarity(a[:, None], b[None], dim=2) / tau
    terms = [-cosine[i, i] + torch.logsumexp(torch.stack(
        [cosine[i, j] for j in range(5) if j == i or person[j] != person[i]]), 0) for i in range(5)]
    assert found_person(a, b, person, tau).item() == pytest.approx(sum(terms).item() / 5, abs=1e-9)


def test_online_vectors_find_slow_ones_both_ways():
    method, store = get_method("participant", **PILOT).eval(), Stand()
    method.prepare(store, np.arange(24))
    with torch.no_grad():
        for p in method.slow.parameters(): p.mul_(1.1)
    views = method.views(store.batch(np.arange(6), method.keys), generator())
    assert views[0]["person"].tolist() == [0, 0, 0, 1, 1, 1]
    x, y = (o["x"] for o in views)
    made = [[head(body(o)) for o in (x, y)] for body, head in (
        (method.encoder, method.projector), method.slow)]
    (a, b), (c, d) = made
    expected = sum(found_person(*o, views[0]["person"], .04) for o in ((a, d), (b, c))) / 2
    expected = expected + .1 * (koleo(a) + koleo(b)) / 2
    torch.testing.assert_close(method(views).total, expected, rtol=1e-4, atol=1e-5)


def test_both_windows_are_changed_and_belong_to_the_pair():
    "With nothing to change them they are the window and its partner, each on its own scale."
    method, store = get_method("participant", **PILOT), Stand(6)
    method.prepare(store, np.arange(6))
    batch = store.batch(np.arange(6), method.keys)
    x, y = (o["x"] for o in method.views(batch, generator(2)))
    whole = method.read(batch, "ppg")
    alike = torch.corrcoef(torch.cat([whole[:, 0], x[:, 0], y[:, 0]]))
    partner = alike[12:, :6].argmax(1)
    assert (x != whole).flatten(1).any(1).all()
    assert (partner != torch.arange(6)).all() and (partner // 3 == torch.arange(6) // 3).all()


def test_the_slow_copy_follows_a_hundredth_of_the_way():
    method = get_method("participant", **PILOT).train()
    before = [p.clone() for p in method.slow.parameters()]
    with torch.no_grad():
        for p in method.encoder.parameters(): p.add_(1)
        method.after_step(0, 10)
    moved = torch.cat([(p - q).flatten() for p, q in zip(method.slow.parameters(), before)])
    body = sum(p.numel() for p in method.encoder.parameters())
    torch.testing.assert_close(moved[:body], torch.full((body,), .01), rtol=0, atol=1e-5)
    assert moved[body:].abs().max() < 1e-6
    assert not any(o.training for o in method.slow[0].blocks.modules())
    assert not any(p.requires_grad for p in method.slow.parameters())


def test_an_interrupted_run_goes_on_with_the_same_partners(tmp_path):
    schedule = Schedule(epochs=3, batch=8, lr=1e-3)
    whole = get_method("participant", **PILOT)
    losses = pretrain(whole, Stand(), np.arange(24), schedule, seed=5)
    kept = dict(checkpoint=tmp_path / "half", every=2, seed=5)
    with pytest.raises(KeyboardInterrupt):
        pretrain(get_method("participant", **PILOT), Stand(left=12), np.arange(24), schedule, **kept)
    assert (tmp_path / "half").is_file()
    again = get_method("participant", seed=9, **PILOT)
    assert pretrain(again, Stand(), np.arange(24), schedule, **kept) == losses
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in again.state_dict().items())


def test_participant_keeps_the_contract():
    method, store = get_method("participant", **PILOT), Stand(9)
    method.prepare(store, np.arange(9))
    check_method(method, store.arrays)
    assert method.embed_keys == ("ppg",)


# -- views -------------------------------------------------------------------------------------
VIEWS = dict(crop=crop, noise=noise, time_warp=time_warp, all_of=all_of, one_of=one_of)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_shape_and_draws_each_window_from_its_generator_alone(name):
    x = torch.randn(1, 2, 300, generator=generator()).expand(9, 2, 300)
    kept, view = x.clone(), VIEWS[name]
    made = view(x, generator(1))
    assert made.shape == x.shape and made.dtype == x.dtype and torch.equal(x, kept)
    assert torch.equal(made, view(x, generator(1)))
    assert not torch.equal(made, view(x, generator(2)))
    assert len({tuple(o.flatten().tolist()) for o in made}) == 9


@pytest.mark.parametrize("name", VIEWS)
def test_processes_share_and_runs_part_what_is_drawn(name):
    x, view = torch.randn(8, 1, 200, generator=generator()), VIEWS[name]
    whole = view(x, generator(1))
    for rank, part in enumerate(whole.chunk(2)):
        assert torch.equal(part, view(x[4 * rank:4 * rank + 4], Share(generator(1), rank, 2)))
    together = view(x, Several((generator(1), generator(2))))
    apart = torch.cat([view(x[:4], generator(1)), view(x[4:], generator(2))])
    assert torch.equal(together, apart)


@few
@given(st.integers(0, 999), st.integers(20, 200))
def test_reading_between_samples_is_linear(seed, length):
    x = torch.randn(3, 2, length, generator=generator(seed), dtype=torch.float64)
    place = (1.4 * torch.rand(3, length, generator=generator(seed), dtype=torch.float64) - .2) * length
    made = read_at(x, place)
    for row, at, got in zip(x, place, made):
        for lead, values in zip(row, got):
            np.testing.assert_allclose(values, np.interp(at, np.arange(length), lead), atol=1e-9)


def test_a_crop_is_a_stretched_part():
    "Of a straight line it is a flatter straight line, which starts anywhere there is room."
    line = torch.linspace(0, 1, 1001, dtype=torch.float64).expand(3000, 1, 1001)
    made = crop(line, generator())[:, 0]
    width, start = made[:, -1] - made[:, 0], made[:, 0]
    expected = start[:, None] + width[:, None] * line[:, 0]
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    assert .8 <= width.min() < .801 and .999 < width.max() <= 1 + 1e-9
    place = (start / (1 - width))[width < .98]
    assert place.min() > -1e-6 and place.max() < 1 + 1e-6 and abs(place.mean() - .5) < .02
    assert abs(width.mean() - .9) < .005


def test_a_time_warp_bends_time_and_keeps_the_ends():
    line = torch.linspace(0, 1, 1001, dtype=torch.float64).expand(2000, 1, 1001)
    made = time_warp(line, generator())[:, 0]
    assert made[:, 0].abs().max() < 1e-9 and (made[:, -1] - 1).abs().max() < 1e-9
    pace = made.diff() * 1000
    assert pace.min() > .8 / 1.2 - .01 and pace.max() < 1.2 / .8 + .01
    bends = (pace.diff().sign().diff() != 0).sum(1)      # turning points of the pace
    assert bends.max() <= 4 and bends.double().mean() > 1
    assert (pace.amax(1) - pace.amin(1)).max() > .35
    still = time_warp(line, generator(), depth=0.0)
    torch.testing.assert_close(still, line, rtol=0, atol=1e-9)


def test_all_follow_each_other_and_one_is_chosen():
    x = torch.zeros(6000, 1, 3)
    steps = (lambda x, g: x + 1, lambda x, g: 10 * x, lambda x, g: x + 2)
    assert (all_of(x, generator(), steps) == 12).all()
    made = one_of(x, generator(), steps)[:, 0, 0]
    shares = [(made == o).float().mean() for o in (1, 0, 2)]
    np.testing.assert_allclose(shares, [1 / 3] * 3, atol=.03)
    assert crop in PULSE and time_warp in PULSE and len(PULSE) == 5 and crop not in LIGHT


# -- training ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["patch_simclr", "patch_clip"])
def test_runs_in_one_model_learn_what_they_learn_alone(name):
    schedule, folds = Schedule(epochs=1, batch=4, lr=1e-4), [np.arange(12), np.arange(12, 24)]
    together, alone = ([get_method(name, seed=seed, **PILOT) for seed in (3, 4)] for _ in range(2))
    losses = pretrain_stack(together, Stand(), folds, schedule, seeds=(3, 4))
    for i, method in enumerate(alone):
        each = pretrain(method, Stand(), folds[i], schedule, seed=3 + i)
        np.testing.assert_allclose(losses[i], each, atol=1e-4)
        gap = [(a - b).abs().max().item() for a, b in zip(together[i].state_dict().values(),
                                                          method.state_dict().values())]
        assert max(gap) < 2e-4
