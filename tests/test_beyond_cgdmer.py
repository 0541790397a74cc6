"""What chapters ask of a trained CG-DMER beyond its tables: of the people whom each fold tests."""
import numpy as np
import pytest

from biossl.cohorts.prompts import prompt_texts
from biossl.data.simulate_12lead import sites
from biossl.data.store import Windowing
from biossl.evaluation.knowledge import opened, trained_methods, untrained_methods
from biossl.evaluation.looking import looking, nearness, row_looks
from biossl.evaluation.parts import PARTS, draw_parts, ecg_parts, parts
from biossl.evaluation.retrieval import draw_retrieval, galleries, retrieval
from biossl.train.launch import Run
from biossl.train.profiles import Schedule


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Two folds of a small CG-DMER on simulated patients with reports."
    windowing = Windowing(signals=(("ecg", 100.0),), seconds=10.0, hop=10.0, beats=(), normalise="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOSSL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("BIOSSL_DATA", raising=False)
        yield [Run("CG-DMER", "cgdmer", cohort="simulated_12lead", options=dict(
            subjects=24, reports=True).items(), windowing=windowing, task="dx", fold=k, folds=2,
            judge="zeroshot", hyper=dict(size="tiny", patches=10, words=2, hidden=16, out=8).items(),
            schedule=Schedule(epochs=1, steps=1, batch=8)) for k in range(2)]


@pytest.fixture(scope="module")
def trained(runs): return trained_methods(runs, "cpu")


@pytest.fixture(scope="module")
def untrained(runs): return untrained_methods(runs)


def test_galleries_are_of_those_whom_each_fold_tests(runs, trained, untrained):
    made, plain = (galleries(runs, o, "cpu") for o in (trained, untrained))
    people = [set(o.subjects) for o in made]
    assert not people[0] & people[1] and len(people[0] | people[1]) == 24
    for a, b in zip(made, plain):
        assert a.subjects.tolist() == b.subjects.tolist() and not np.allclose(a.ecg, b.ecg)
        for o in (a.ecg, a.text, b.ecg): np.testing.assert_allclose(np.linalg.norm(o, axis=1), 1, atol=1e-5)
    frame = retrieval(made, 50)
    assert frame["value"].notna().all() and (frame["low"] <= frame["value"]).all()
    assert len(draw_retrieval({"CG-DMER": frame}).axes) == 2


def test_looks_are_at_findings_of_those_whom_each_fold_tests(runs, trained):
    texts = prompt_texts("dx")
    both = dict(right=texts, wrong=prompt_texts("dx", "both", "permuted"))
    looks = row_looks(runs, trained, both, most=2, tiles=4, device="cpu", findings=("TInv", "TAb", "QAb"))
    assert list(looks) == list(both) and list(looks["wrong"]) == list(looks["right"])
    right, wrong = ([o.falls for o in looks[name].values()] for name in both)
    assert not any(np.allclose(a, b) for a, b in zip(right, wrong))
    looks = looks["right"]
    assert looks and set(looks) <= {"TInv", "TAb", "QAb"}
    cohort, windows = runs[0].source()[0], opened(runs[0])[0]
    people = windows.labels("subject").astype(str).tolist()
    for name, look in looks.items():
        assert len(look.falls) <= 4 and look.falls.shape[1:] == (12, 4) and np.abs(look.falls).max() > 0
        for k, o in enumerate(look.subjects):
            reading = cohort.simulation(int(o[4:])).readings[0]
            assert set(np.flatnonzero(look.truth[k].any(1))) == set(sites(reading)[name].leads)
            np.testing.assert_array_equal(look.ecg[k], windows.arrays["ecg"][people.index(o)])
    assert looking(looks, 20)["value"].between(0, 1).all()
    both = nearness(trained[0], [texts["TInv"], texts["QAb"]])(look.ecg)
    for near, name in zip(both.T, ("TInv", "QAb")):
        there = trained[0].place(dict(ecg=look.ecg)) @ trained[0].describe([texts[name]])[0]
        np.testing.assert_allclose(near, there, atol=1e-6)


def test_parts_are_those_of_the_model_and_asked_of_those_whom_each_fold_tests(runs, trained):
    windows = opened(runs[0])[0]
    rows, method = np.arange(5), trained[0]
    made = ecg_parts(method, windows, rows)
    batch = windows.batch(rows, ("ecg", "row"))
    np.testing.assert_allclose(made["embedding"], method.embed(batch).detach(), atol=1e-6)
    shared = made["shared"] / np.linalg.norm(made["shared"], axis=1, keepdims=True)
    np.testing.assert_allclose(shared, method.place(batch), atol=1e-6)
    heads = method.heads.specific["ecg"](method.embed(batch)).detach()
    np.testing.assert_allclose(made["specific"], heads, atol=1e-6)
    frame = parts(runs, trained, device="cpu", resamples=50).set_index(["part", "asked", "measure"])
    for part in PARTS:
        assert frame.loc[(part, "dx", "auroc"), "windows"] == 24
        assert frame.loc[(part, "age", "r"), "value"] == frame.loc[(part, "age", "r"), "value"]
        who = frame.loc[(part, "identity", "recall@1")]
        assert who["windows"] == 48 and who["people"] == 24 and 100 / 24 < who["chance"] < 100 / 20
        width = dict(embedding=method.size.width).get(part, 8)
        assert 0 < frame.loc[(part, "directions", "effective"), "value"] <= width
    assert len(draw_parts({"CG-DMER": frame.reset_index()}).axes) == 4
