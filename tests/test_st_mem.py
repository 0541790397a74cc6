"""ST-MEM and the encoder that it shares: the loss by hand, who is told what, what a windowing says."""
import pytest
import torch

from biossl.data.errors import MethodError
from biossl.data.store import Windowing
from biossl.methods.contract import check_method, for_windows, get_method, load_method, save_method
from biossl.methods.st_mem import cut_off
from biossl.nn.leads import LeadEncoder, lead_patches, normalised
from biossl.nn.masks import patch_mask
from biossl.train.stack import check_stack, stack

FEW = dict(size="tiny", patches=10)
LEADS = ("lead_random", "lead_supervised", "st_mem")


def generator(seed=0): return torch.Generator().manual_seed(seed)


def a_batch(n=4, samples=1000, seed=0):
    return dict(ecg=torch.randn(n, 12, samples, generator=generator(seed)))


# -- the shared encoder ------------------------------------------------------------------------
@pytest.mark.parametrize("hyper", [dict(pool="cls"), dict(time="sincos", norm="minmax_record"),
                                   dict(dropout=.2, norm="none")], ids=str)
def test_the_contract_is_kept_however_it_is_configured(hyper):
    check_method(get_method("lead_supervised", **FEW, **hyper), a_batch())


@pytest.mark.parametrize("hyper", [
    dict(ends=False), dict(decoder="joint", mask="global"), dict(mask="same_time", pool="cls"),
    dict(tokenizer="conv", time="learned", norm_patch=False, ratio=.5, dropout=.1)], ids=str)
def test_st_mem_keeps_the_contract_however_it_is_configured(hyper):
    check_method(get_method("st_mem", **FEW, **hyper), a_batch())


@pytest.mark.parametrize("name", LEADS)
@pytest.mark.parametrize("rate, patch", [(100., 10), (500., 50)])
def test_rate_and_length_come_from_the_windowing(name, rate, patch):
    windowing = Windowing(signals=(("ecg", rate),), seconds=10, hop=10, normalise="none")
    method = get_method(name, size="tiny", **for_windows(name, {}, windowing))
    assert method.grid.patch == patch and method.grid.tokens == 1200
    other = 600 - rate
    with pytest.raises(MethodError): method.embed(a_batch(1, round(10 * other)))


@pytest.mark.parametrize("wrong", [
    dict(size="base"), dict(norm="l2"), dict(tokenizer="vit"), dict(time="rope"), dict(pool="max"),
    dict(signals=("ecg", "ppg")), dict(patches=7), dict(rates=(("ppg", 100.),)), dict(rates=(("ecg", 0.),))], ids=str)
@pytest.mark.parametrize("name", ["lead_random", "st_mem"])
def test_configurations_that_there_are_not(name, wrong):
    with pytest.raises(MethodError): get_method(name, **(FEW | wrong))


def test_its_own_switches_are_checked_too():
    for wrong in (dict(mask="anchor"), dict(decoder="lead"), dict(ratio=1.5), dict(ratio=.99)):
        with pytest.raises(MethodError): get_method("st_mem", **FEW, **wrong)


def test_dropout_is_the_sizes_unless_it_is_said():
    drops = [get_method(name, **o).size.dropout for name, o in (
        ("lead_random", dict(size="tiny")), ("lead_random", dict(size="tiny", dropout=.3)), ("st_mem", FEW))]
    assert drops == [0., .3, 0.]
    with torch.device("meta"):
        assert get_method("lead_random", size="paper").size.dropout == .1
        assert get_method("st_mem", size="paper").size.dropout == 0.


def test_the_scale_is_made_of_the_window():
    x = a_batch()
    for norm in ("zscore_lead", "minmax_record"):
        method = get_method("lead_random", **FEW, norm=norm)
        assert torch.equal(method.read(x), normalised(x["ecg"], norm))
        torch.testing.assert_close(method.embed(dict(ecg=3 * x["ecg"] + 1)), method.embed(x), rtol=1e-3, atol=1e-4)


def test_what_decays():
    method = get_method("st_mem", **FEW)
    matrices, rest = method.groups(.1)
    names = {id(p): name for name, p in method.named_parameters()}
    spared = {names[id(p)] for p in rest["params"]}
    assert "weight_decay" not in matrices and rest["weight_decay"] == 0 and matrices["betas"] == (.9, .95)
    assert {"encoder.places.leads", "encoder.end_tokens", "decoder.mask_token"} <= spared
    assert all(p.ndim == 2 and names[id(p)].endswith("weight") for p in matrices["params"])
    assert len(spared) + len(matrices["params"]) == len(names)


def test_only_untrained_and_supervised_ones_are_stacked():
    check_stack([get_method("lead_supervised", seed=o, **FEW) for o in (0, 1)])
    with pytest.raises(MethodError): check_stack([get_method("st_mem", seed=o, **FEW) for o in (0, 1)])


def test_a_stack_of_encoders_gives_what_each_gives():
    models = [get_method("lead_supervised", seed=o, **FEW).eval() for o in (0, 1)]
    x, whole = a_batch(), stack(models)
    named = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    call = lambda state: torch.func.functional_call(models[0].encoder, state, (models[0].read(x),))  # noqa: E731
    inner = {k.removeprefix("encoder."): v for k, v in named.items() if k.startswith("encoder.")}
    both = torch.func.vmap(call)(inner)
    for ours, model in zip(both, models): torch.testing.assert_close(ours, model.embed(x), rtol=1e-4, atol=1e-5)


# -- ST-MEM ------------------------------------------------------------------------------------
def test_seven_of_thirty():
    method = get_method("st_mem", size="tiny", patches=30, rates=(("ecg", 250.),), seconds=9.)
    keep = method.seen(3, generator())
    assert keep.shape == (3, 84) and method.encoder.extras().shape == (24, 64)
    assert (torch.stack([(keep // 30 == lead).sum(1) for lead in range(12)]) == 7).all()
    assert [round(n * (1 - cut_off(r, n))) for n, r in ((100, .75), (100, .9), (100, .8))] == [25, 10, 20]


@pytest.mark.parametrize("norm_patch", [False, True])
def test_the_loss_by_hand(norm_patch):
    method, x = get_method("st_mem", **FEW, norm_patch=norm_patch).eval(), a_batch(2)
    views = method.views(x, generator(4))
    loss, keep = method(views), views[0]["keep"]
    with torch.no_grad(): made = method.decoded(views[0]["x"], keep)
    truth = lead_patches(normalised(x["ecg"]), 100).double()
    if norm_patch: truth = (truth - truth.mean(-1, keepdim=True)) / (truth.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = patch_mask(keep, 120)
    errors = (made.double() - truth)[hidden].square()
    assert loss.total.item() == pytest.approx(errors.mean().item(), rel=1e-5)
    explained = 1 - errors.mean() / truth[hidden].square().mean()
    assert loss.parts["explained"].item() == pytest.approx(explained.item(), rel=1e-3, abs=1e-5)


def test_one_seed_draws_one_mask_and_each_window_its_own():
    method, x = get_method("st_mem", **FEW), a_batch()
    draws = [method.views(x, generator(o))[0]["keep"] for o in (0, 0, 1)]
    assert torch.equal(*draws[:2]) and not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0][0], draws[0][1])


def test_what_one_lead_knows_of_another_passes_through_the_encoder():
    method, x = get_method("st_mem", **FEW).eval(), a_batch(1)
    keep = method.seen(1, generator())
    changed = dict(ecg=x["ecg"].clone())
    first = keep[0, 0].item()
    changed["ecg"][0, 0, 100 * first:100 * first + 100] = 0                    # seen, in lead I
    before, after = (method.rebuild(o["ecg"], keep) for o in (x, changed))
    assert not torch.allclose(before[0, 7], after[0, 7])
    method.encoder.blocks = torch.nn.Identity()
    before, after = (method.rebuild(o["ecg"], keep) for o in (x, changed))
    assert torch.equal(before[0, 7], after[0, 7]) and not torch.allclose(before[0, 0], after[0, 0])


def test_the_decoder_is_told_what_stands_at_the_ends():
    method = get_method("st_mem", **FEW)
    method.encoder.blocks = torch.nn.Identity()                # else tokens would have heard of them
    method.loss(a_batch(), generator()).total.backward()
    assert method.encoder.end_tokens.grad.abs().sum() > 0


def test_what_is_embedded_is_the_encoder_s_and_is_kept(tmp_path):
    method, x = get_method("st_mem", **FEW).eval(), a_batch()
    c = method.config
    encoder = LeadEncoder(method.size, method.grid, c.tokenizer, c.time, c.pool, c.ends).eval()
    encoder.load_state_dict(method.encoder.state_dict())
    again = load_method(save_method(method, tmp_path / "method")).eval()
    assert torch.equal(encoder(normalised(x["ecg"])), method.embed(x)) and torch.equal(again.embed(x), method.embed(x))


def test_what_is_rebuilt_leaves_the_method_as_it_was():
    method, x = get_method("st_mem", **FEW, dropout=.5).train(), a_batch(2)
    keep = method.seen(2, generator())
    one, other = (method.rebuild(x["ecg"].numpy(), keep) for _ in range(2))
    assert torch.equal(one, other) and one.shape == (2, 12, 1000) and method.training
    with pytest.raises(MethodError): method.rebuild(x["ecg"][:, :3], keep)
    assert method.training


def test_its_pace_is_a_short_rise_and_half_a_cosine():
    method = get_method("st_mem", **FEW)
    assert [round(method.pace(o, 100)[0], 6) for o in (0, 5)] == [0, 1] and method.pace(100, 100)[0] == pytest.approx(0)
    assert get_method("lead_random", **FEW).pace(0, 100)[0] == 1
