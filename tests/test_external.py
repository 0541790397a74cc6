"""Others' models: shown what they are used to, tried before they are believed, not unpickled."""
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from biossl.data.errors import MethodError
from biossl.data.store import Windowing
from biossl.evaluation.tables import Row, Table
from biossl.methods.contract import check_method, get_config, get_method, load_method, save_method
from biossl.methods.external import (ABSENT, RECIPES, export_network, find_recipe, network_file,
                                     shown)
from biossl.train.launch import Run, launch, run_key
from biossl.train.profiles import Profile, Schedule

WIDTH = {name: recipe.width for name, recipe in RECIPES.items()}


class Echo(nn.Module):
    "Says the first samples that it is shown, zeros after the last, times a weight."
    def __init__(self, width, weight=1.0):
        super().__init__()
        self.width, self.weight = width, nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return self.weight * nn.functional.pad(x[:, 0], (0, self.width))[:, :self.width]


class Several(Echo):
    "As PaPaGei: the embedding is the first of three."
    def forward(self, x): return super().forward(x), x.mean(-1), x.amax(-1)


class Noisy(Echo):
    def forward(self, x): return nn.functional.dropout(super().forward(x), 0.5, True)


class Crowd(Echo):
    def forward(self, x): return super().forward(x) - super().forward(x).mean(0)


class Broken(Echo):
    def forward(self, x): return super().forward(x) * math.nan


@pytest.fixture
def place(home, monkeypatch):
    monkeypatch.delenv("BIOSSL_EXTERNAL", raising=False)
    return home / "external"


def traced(place, model, network):
    "Keep a network as TorchScript, which asks nothing of it."
    recipe = find_recipe(model)
    folder = place / model
    folder.mkdir(parents=True, exist_ok=True)
    example = torch.randn(3, 1, round(10 * recipe.rate))
    torch.jit.trace(network, example, check_trace=False).save(folder / "network.pt")
    return folder / "network.pt"


def pulses(n=4, samples=1000, rate=100.0, seed=0):
    "Sums of three sines below 6 Hz, so that every rate tells the same wave; and their formula."
    rng = np.random.default_rng(seed)
    pace, phase, height = (rng.uniform(*o, (n, 3, 1)) for o in ((.8, 6), (0, 6), (.2, 1)))
    def wave(at): return (height * np.sin(2 * np.pi * pace * at + phase)).sum(1) + 3.0
    return wave(np.arange(samples) / rate)[:, None].astype("float32"), wave


# -- what the network is shown -----------------------------------------------------------------
@pytest.mark.parametrize("model", RECIPES)
def test_windows_reach_the_network_at_its_rate_and_scale(place, model):
    traced(place, model, Echo(WIDTH[model]))
    x, wave = pulses()
    method = get_method("external", model=model)
    made = method.embed(dict(ppg=x)).numpy()
    recipe = find_recipe(model)
    truth = wave(np.arange(round(10 * recipe.rate)) / recipe.rate)
    if recipe.zscore:
        truth = (truth - truth.mean(1, keepdims=True)) / truth.std(1, keepdims=True)
    size = min(WIDTH[model], truth.shape[1]) - 40
    np.testing.assert_allclose(made[:, 40:size], truth[:, 40:size], atol=.05)
    assert made.shape == (4, WIDTH[model])


def test_published_rates_and_sizes():
    assert {k: (o.rate, o.width, o.millions) for k, o in RECIPES.items()} == {
        "papagei": (125, 512, 5.7), "pulse_ppg": (50, 512, 28.5), "anyppg": (125, 512, 5.8),
        "chronos_bolt": (100, 256, 9.0)}


@pytest.mark.parametrize("rate, samples", [(100.0, 1000), (25.0, 250), (125.0, 1250)])
def test_any_windowing_gives_the_length_that_the_model_is_used_to(rate, samples):
    x, _ = pulses(samples=samples, rate=rate)
    assert shown(x, rate, find_recipe("papagei")).shape == (4, 1, 1250)


def test_scaling_forgives_a_stretch_and_a_flat_window_is_zeros():
    recipe, (x, _) = find_recipe("anyppg"), pulses()
    np.testing.assert_allclose(shown(x, 100., recipe), shown(7 * x - 2, 100., recipe), atol=1e-4)
    assert not shown(np.full((2, 1, 1000), .3, "f4"), 100., recipe).any()


# -- the contract ------------------------------------------------------------------------------
def test_an_exported_program_keeps_the_contract_for_any_number_of_windows(place):
    path = export_network(Several(512), "papagei")
    assert path == place / "papagei" / "network.pt2"
    method = get_method("external", rates=(("ppg", 100.0), ("ecg", 100.0)))
    x, _ = pulses(7)
    check_method(method, dict(ppg=x))
    expected = shown(x, 100.0, find_recipe("papagei"))[:, 0, :512]
    np.testing.assert_allclose(method.embed(dict(ppg=x)), expected, atol=1e-6)
    assert not list(method.parameters()) and not method.trains


def test_torchscript_keeps_the_contract(place):
    traced(place, "anyppg", Several(512))
    check_method(get_method("external", model="anyppg"), dict(ppg=pulses()[0]))


def test_a_window_with_a_gap_has_no_embedding_and_spoils_no_other(place):
    traced(place, "anyppg", Echo(512))
    method, (x, _) = get_method("external", model="anyppg"), pulses()
    whole = method.embed(dict(ppg=x))
    x[1, 0, 5] = np.nan
    made = method.embed(dict(ppg=torch.from_numpy(x)))
    assert made[1].isnan().all()
    torch.testing.assert_close(made[[0, 2, 3]], whole[[0, 2, 3]])


def test_a_folder_may_be_given_or_a_variable_set(place, tmp_path, monkeypatch):
    path = traced(tmp_path / "own", "anyppg", Echo(512))
    asked = get_config("external", model="anyppg", folder=str(path.parent))
    monkeypatch.setenv("BIOSSL_EXTERNAL", str(tmp_path / "own"))
    assert network_file("anyppg") == path
    assert asked.sha256 == get_config("external", model="anyppg").sha256 != ""


# -- the key -----------------------------------------------------------------------------------
def test_other_weights_are_another_run_and_the_same_are_the_same(place):
    pairs = Windowing(signals=(("ppg", 100.0),), seconds=10.0, hop=10.0)
    run = Run("Chronos", "external", (("model", "chronos_bolt"),), windowing=pairs)
    without = run_key(run, "data")
    path = traced(place, "chronos_bolt", Echo(256))
    one, kept = run_key(run, "data"), path.read_bytes()
    traced(place, "chronos_bolt", Echo(256, weight=2.0))
    two = run_key(run, "data")
    path.write_bytes(kept)
    assert len({without, one, two}) == 3 and run_key(run, "data") == one


def test_a_saved_method_wants_the_weights_that_it_had(place, tmp_path):
    path = traced(place, "anyppg", Echo(512))
    folder = save_method(get_method("external", model="anyppg"), tmp_path / "kept")
    assert load_method(folder).config == get_config("external", model="anyppg")
    traced(place, "anyppg", Echo(512, weight=2.0))
    with pytest.raises(MethodError, match="other weights"): load_method(folder)
    path.unlink()
    with pytest.raises(MethodError, match="no weights at hand"): load_method(folder)


# -- faults ------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", RECIPES)
def test_without_weights_the_error_says_where_they_are_and_where_they_go(place, model):
    with pytest.raises(MethodError) as e: get_method("external", model=model)
    said = str(e.value)
    assert "no weights at hand" in said and "export_network" in said
    assert find_recipe(model).weights in said and f"$BIOSSL_HOME/external/{model}" in said
    assert str(place) not in said, "errors are stored with tables: no folder of this machine"


def test_a_model_that_nobody_knows_is_refused_with_the_nearest(place):
    with pytest.raises(MethodError, match="did you mean papagei"):
        get_config("external", model="papagai")


def test_two_files_are_one_too_many(place):
    path = traced(place, "anyppg", Echo(512))
    path.with_name("network.pt2").write_bytes(b"")
    with pytest.raises(MethodError, match="keep one"): get_method("external", model="anyppg")


class Trap:
    "An object that, once unpickled, leaves a trace."
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["network.pt", "network.pt2"])
def test_a_pickle_is_not_opened(place, tmp_path, name):
    (place / "anyppg").mkdir(parents=True)
    torch.save(dict(net=Trap(tmp_path / "sprung")), place / "anyppg" / name)
    with pytest.raises(MethodError, match="pickle.*export_network"):
        get_method("external", model="anyppg")
    assert not (tmp_path / "sprung").exists()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    "A small exported program, made once."
    folder = tmp_path_factory.mktemp("program")
    return export_network(Echo(256), "chronos_bolt", folder=str(folder))


def changed(program, path, change):
    "The archive `program` as `path`, each of its files as `change` gives it."
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist(): new.writestr(name, change(name, old.read(name)))


def test_a_pickle_within_a_program_is_not_opened(place, tmp_path, program):
    torch.save((Trap(tmp_path / "sprung"),), tmp_path / "trap")
    trap = (tmp_path / "trap").read_bytes()

    def inputs(name, held): return trap if name.endswith(".pt") else held

    def weights(name, held):
        if name.endswith("weights_config.json"):
            told = json.loads(held)
            for o in told["config"].values(): o["use_pickle"] = True
            return json.dumps(told)
        return trap if "weight_" in name else held

    def constant(name, held):
        if not name.endswith("constants_config.json"): return held
        one = dict(path_name="opaque_obj_0", is_param=False, use_pickle=False, tensor_meta=None)
        return json.dumps(dict(config=dict(thing=one)))

    path = place / "chronos_bolt" / "network.pt2"
    for change in (inputs, weights, constant):
        changed(program, path, change)
        with pytest.raises(MethodError, match="holds a pickle"):
            get_method("external", model="chronos_bolt")
        path.unlink()
    assert not (tmp_path / "sprung").exists()
    changed(program, path, lambda name, held: held)
    get_method("external", model="chronos_bolt")   # unchanged, it is opened


@pytest.mark.parametrize("network, says", [
    (Echo(300), r"\(3, 300\), not \(3, 512\)"), (Broken(512), "not finite"),
    (Noisy(512), "second time"), (Crowd(512), "alone")], ids=lambda o: type(o).__name__)
def test_a_network_that_is_not_what_it_should_be_is_refused(place, network, says):
    traced(place, "anyppg", network)
    with pytest.raises(MethodError, match=says): get_method("external", model="anyppg")


def test_what_would_be_refused_is_not_exported(place):
    with pytest.raises(MethodError, match="not finite"): export_network(Broken(512), "papagei")
    assert not (place / "papagei").exists() or not list((place / "papagei").iterdir())


def test_a_program_for_windows_of_another_length_is_refused(place, program):
    path = place / "chronos_bolt" / "network.pt2"
    changed(program, path, lambda name, held: held)
    with pytest.raises(MethodError, match="does not take windows.*500.*length"):
        get_method("external", model="chronos_bolt", seconds=5.0)


@pytest.mark.parametrize("hyper, says", [
    (dict(rates=()), "rate of ppg is not known"), (dict(rates=(("ppg", 0.0),)), "rate of ppg"),
    (dict(signals=("ecg", "ppg")), "one signal")])
def test_what_cannot_be_shown_is_refused(place, hyper, says):
    traced(place, "anyppg", Echo(512))
    with pytest.raises(MethodError, match=says): get_method("external", model="anyppg", **hyper)


def test_one_lead_alone(place):
    traced(place, "anyppg", Echo(512))
    with pytest.raises(MethodError, match="2 leads"):
        get_method("external", model="anyppg").embed(dict(ppg=np.zeros((3, 2, 1000), "f4")))


# -- in a table --------------------------------------------------------------------------------
def test_a_row_without_weights_is_told_so_and_fails_no_other(place):
    traced(place, "chronos_bolt", Echo(256))
    rows = tuple(Row(name, "external", (("model", model),), penalties=(1.0,))
                 for name, model in (("Chronos", "chronos_bolt"), ("PaPaGei", "papagei")))
    profile = Profile("smoke", schedule=Schedule(), folds=2, seeds=1, resamples=20)
    table = Table("af", "chapter", "AF", "af", rows, ("auroc",),
                  windowing=Windowing(signals=(("ppg", 100.0),), seconds=10.0, hop=10.0))
    frame, launched = table.run(profile=profile, workers=1, device="cpu",
                                options=dict(subjects=8, seconds=40.0))
    told = dict(zip(frame.row, frame.schedule))
    assert told["PaPaGei"].startswith("not run: ") and "no weights at hand" in told["PaPaGei"]
    assert "not run" not in told["Chronos"] and len(launched.records) == 2
    assert [(o["row"], ABSENT in o["error"]) for o in launched.failures] == [("PaPaGei", True)] * 2
    again = launch(table.runs(profile=profile, options=dict(subjects=8, seconds=40.0)), workers=1,
                   device="cpu", progress=False)
    assert len(again.failures) == 2
