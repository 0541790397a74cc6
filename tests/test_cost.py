"""Costs counted a second way, and a deployed method's forms against the method itself."""
import numpy as np
import pytest
import torch
from torch import nn

from biossl.data.errors import MethodError
from biossl.evaluation.cost import cost_table, embedding_parameters, macs, registered, stages
from biossl.methods.deploy import Deployed, agreement, export, forms
from biossl.methods.contract import get_method, method_class
from biossl.nn.encoders import Stem
from biossl.nn.layers import parameters
from biossl.nn.transformer import Attention, Transformer


def windows(n, length=1260, keys=("ecg", "ppg")):
    draw = np.random.default_rng(length)
    return {key: draw.normal(size=(n, 1, length)).astype(np.float32) for key in keys}


# -- multiply-adds -----------------------------------------------------------------------------
def counted_from_shapes(module, batch):
    "From what each layer takes and gives, without PyTorch's counter."
    found = []

    def note(layer, given, got):
        n, x = len(given[0]), given[0]
        if isinstance(layer, nn.Conv1d):
            found.append(got.numel() * layer.in_channels * layer.kernel_size[0])
        if isinstance(layer, nn.Linear): found.append(got.numel() * layer.in_features)
        if isinstance(layer, Attention): found.append(2 * n * x.shape[1] ** 2 * x.shape[2])

    hooks = [o.register_forward_hook(note) for o in module.modules()]
    with torch.no_grad(): module.embed(batch)
    for o in hooks: o.remove()
    return sum(found)


@pytest.mark.parametrize("name", ["tsta", "clip", "random_init"])
@pytest.mark.parametrize("length", [1260, 420])
def test_embedding_is_counted_as_from_shapes(name, length):
    batch, method = windows(3, length), get_method(name).eval()
    counted = macs(stages(method, batch)["embed"])
    assert counted == counted_from_shapes(method, batch) > 0


@pytest.mark.parametrize("length, stem, blocks", [
    (1260, 25.2, 108.4), (512, 10.2, 37.7), (256, 5.1, 17.8), (1000, 19.9, 81.5),
    (4000, 79.7, 518.1)])
def test_branch_costs_what_the_specification_says(length, stem, blocks):
    x = torch.zeros(1, 1, length)
    first, second = Stem().eval(), Transformer().eval()
    tokens = first(x)
    assert 2e-6 * macs(lambda: first(x)) == pytest.approx(stem, abs=0.05)
    assert 2e-6 * macs(lambda: second(tokens)) == pytest.approx(blocks, abs=0.05)


def test_tsta_net_costs_what_the_specification_says():
    row = cost_table(dict(full=get_method("tsta")), windows(2)).loc["full"]
    attention = 2 * 2 * 2 * 158**2 * 128      # signals, blocks, products
    assert 2e-6 * attention == pytest.approx(51.1, abs=0.05)
    assert 2e-6 * (row.embed_macs - attention) == pytest.approx(226.2, rel=0.01)
    assert 2e-9 * row.pretrain_macs == pytest.approx(1.662, rel=0.01)
    assert (row.parameters, row.head_parameters) == (806_218, 16_578)
    assert row.embedding_parameters + row.head_parameters == 789_772


@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_are_counted_forward_and_backward(both):
    layer, x = nn.LSTM(5, 7, batch_first=True, bidirectional=both), torch.zeros(2, 11, 5)
    forward = (1 + both) * 2 * 11 * 4 * 7 * (5 + 7)
    assert macs(lambda: layer(x)) == forward
    # backward: as much for the weights, and for what came in at each step (here not for x itself)
    trained = macs(lambda: layer(x)[0].sum().backward())
    assert 2.2 * forward < trained <= 3 * forward


def test_counting_leaves_the_settings_as_they_were():
    before = torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled()
    macs(lambda: None)
    assert (torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled()) == before


# -- the table ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def offered():
    "All methods that take windows of 420 samples."
    return registered(windows(4, 420))


def test_every_method_has_a_row_of_its_own(offered):
    batch, methods = windows(4, 420), offered
    table = cost_table(methods, batch)
    assert list(table.index) == list(methods) and (table.parameters >= 0).all()
    for name, row in table.iterrows():
        assert np.isfinite(row.pretrain_macs) == method_class(name).trains, name
        assert row.embedding_parameters <= row.parameters, name
        if method_class(name).trains: assert row.pretrain_macs > 2 * row.embed_macs, name
        if row.head_parameters: assert row.finetune_macs > 2 * row.embed_macs, name
        else: assert np.isnan(row.finetune_macs), name


def test_registry_offers_only_what_the_windows_allow(offered):
    assert {"tsta", "simclr", "random_init"} <= set(offered)
    assert not {"combined", "context", "clinical"} & set(offered)
    assert registered({}) == {}


def test_registry_offers_only_what_takes_such_windows(offered):
    assert "xmae" in registered(windows(2, 1000)) and "xmae" not in offered


@pytest.mark.parametrize("name", ["simclr", "tsta", "supervised"])
def test_stages_take_steps_on_copies(name):
    method, batch = get_method(name), windows(4, 420)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    ways = stages(method, batch)
    assert set(ways) == {"embed", "finetune"} | ({"pretrain"} if method.trains else set())
    first = ways["embed"]()
    for way in ways.values(): way()
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())
    assert method.training and torch.equal(first, ways["embed"]())


def test_training_stages_take_the_optimiser_s_step(monkeypatch):
    taken, real = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda o: (taken.append(1), real(o)))
    ways = stages(get_method("simclr"), windows(4, 420))
    for way in ways.values(): way()
    assert len(taken) == len(ways) - 1 == 2


def test_projectors_are_no_part_of_the_embedding():
    method = get_method("simclr")
    assert embedding_parameters(method, windows(2, 420)) == parameters(method.encoders)
    assert parameters(method) > parameters(method.encoders)


# -- deployed ----------------------------------------------------------------------------------
def shaken(name):
    "A method away from its start, where warps are the identity."
    method, generator = get_method(name), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in method.parameters(): p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return method


@pytest.fixture(scope="module")
def deployed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = shaken("tsta")
        return Deployed(method, method.head(2))


@pytest.fixture(scope="module")
def made(deployed, tmp_path_factory):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: no ONNX form to compare")
    folder = tmp_path_factory.mktemp("forms")
    return folder, forms(deployed, windows(2, 420), folder)


def test_forms_agree_with_eager(made):
    _, found = made
    table = agreement(found, windows(7, 420))
    assert list(table.index) == ["eager", "exported", "onnx", "int8"]
    assert (table.loc[["exported", "onnx"], "difference"] < 1e-5).all()
    assert (table.loc[["exported", "onnx"], "cosine"] > 1 - 1e-9).all()
    assert table.cosine["int8"] > 0.99 and table.difference["int8"] < 0.1


def test_forms_are_the_classifier_on_the_embedding(made, deployed):
    batch = windows(3, 420)
    with torch.no_grad(): logits = deployed.head(deployed.method.embed(batch)).numpy()
    for form in made[1][:3]: np.testing.assert_allclose(form.run(batch), logits, atol=1e-5)


def test_forms_take_a_window_alone(made):
    batch = windows(5, 420)
    for form in made[1][:3]:
        alone = form.run({key: x[2:3] for key, x in batch.items()})
        np.testing.assert_allclose(alone, form.run(batch)[2:3], atol=1e-5)


def test_int8_is_a_third_of_float_and_names_no_folder(made):
    folder, found = made
    size = {o.name: o.bytes for o in found}
    assert size["int8"] < size["onnx"] / 3
    assert size == {**size, **{name: (folder / file).stat().st_size for name, file in (
        ("exported", "method.pt2"), ("onnx", "method.onnx"), ("int8", "method.int8.onnx"))}}
    for file in ("method.onnx", "method.int8.onnx"):
        assert b"site-packages" not in (folder / file).read_bytes()


def test_equal_weights_do_not_confuse_the_quantiser(tmp_path):
    "An untrained warp ends in zeros, the same for both signals: one array in the ONNX file."
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    method = get_method("tsta", encoder="stem", readout="mean")
    found = forms(Deployed(method), windows(2, 420), tmp_path)
    assert agreement(found, windows(3, 420)).cosine["int8"] > 0.99


def test_agreement_sees_a_form_that_answers_otherwise(made):
    from dataclasses import replace
    eager = made[1][0]
    wrong = replace(eager, name="wrong", run=lambda batch: eager.run(batch)[::-1])
    table = agreement([eager, wrong], windows(4, 420))
    assert table.difference["wrong"] > 1e-3 > table.difference["eager"] == 0


def test_one_window_does_not_make_a_graph(deployed):
    with pytest.raises(MethodError, match="single window"): export(deployed, windows(1, 420))


def test_program_refuses_another_length(made):
    with pytest.raises(Exception, match="420"): made[1][1].run(windows(2, 500))
