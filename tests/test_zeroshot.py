"""Zero-shot: windows compared with what is written of each class, by whom, asked how, and kept apart from probes."""
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import biossl.methods.contract as contract
from biossl.cohorts.benchmarks import TASKS
from biossl.cohorts.prompts import prompt_texts
from biossl.cohorts.registry import Card, Cohort, Task
from biossl.data.errors import MethodError
from biossl.data.recordings import Recording, Signal
from biossl.data.store import Windowing
from biossl.evaluation.tables import Row, Table
from biossl.methods.contract import Loss, Method
from biossl.train.launch import Run, launch
from biossl.train.profiles import Schedule

SUPER = TASKS["ptbxl_super"]
TEXTS = prompt_texts("ptbxl_super")
WINDOWING = Windowing(signals=(("ecg", 20.0),), seconds=10.0, hop=10.0, beats=(), normalise="none")


@dataclass(frozen=True)
class Five(Cohort):
    "Thirty people of one recording; its first sample tells the class, which the labels say, too."
    card = Card("five", "", "", "", "", "", "", 30, 30, .1, {"ecg": 20.0}, 0)
    tasks = (SUPER, replace(SUPER, name="unwritten"), Task("age", "age", "regression"))

    def recordings(self, folder):
        for i in range(30):
            ecg = np.random.default_rng(i).normal(size=(1, 220))
            ecg[0, 0] = i % 5
            labels = {f"ptbxl_super_{o}": int(k == i % 5) for k, o in enumerate(SUPER.classes)}
            yield Recording(f"r{i}", f"p{i}", dict(ecg=Signal(ecg, 20.0, ("II",), "mV")),
                            labels | dict(source="five", age=float(i)))

    def fingerprint(self, folder): return dict(people=30)


class Reader(Method):
    "Knows the prompts by heart: a direction for each class."
    name, trains, stacks = "reader", True, False

    @dataclass(frozen=True)
    class Config(Method.Config):
        signals: tuple[str, ...] = ("ecg",)

    def __init__(self, config=None):
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(1))

    def views(self, batch, generator): return [dict(batch)]
    def forward(self, views): return Loss((self.scale * views[0]["ecg"]).square().mean())
    def embed(self, batch): return self.place(batch)

    def place(self, batch):
        "The class's direction, a little off."
        kind = contract.as_tensor(batch["ecg"])[:, 0, 0].round().long()
        return nn.functional.normalize(torch.eye(5)[kind] + .1, dim=1)

    def describe(self, texts):
        known = list(TEXTS.values())
        return torch.stack([torch.eye(5)[known.index(o)] if o in known else torch.full((5,), 5**-.5)
                            for o in texts])


class Mute(Reader):
    "The same, but that nobody can ask it."
    name = "mute"
    describe = property()


@pytest.fixture
def five(home, monkeypatch):
    rooms = contract._rooms() | dict(reader=Reader, mute=Mute)
    monkeypatch.setattr(contract, "_rooms", lambda: rooms)
    monkeypatch.setattr(Run, "source", lambda run: (Five(), run.windowing, None))
    return lambda method="reader", folds=2, **facts: [
        Run(method, method, cohort="five", windowing=WINDOWING, fold=k, folds=folds, **(dict(
            task="ptbxl_super", judge="zeroshot", schedule=Schedule(epochs=1, steps=1, batch=8)) | facts))
        for k in range(folds)]


def launched(runs): return launch(runs, workers=1, progress=False).whole()


def scores(out):
    "Scores of each person `(30, 5)`."
    frame = out.predictions.sort_values("window")
    return frame[[f"score_{o}" for o in SUPER.classes]].to_numpy()


def test_everybody_is_compared_with_every_class_and_nothing_is_fitted(five):
    out = launched(five())
    assert sorted(out.predictions.window) == list(range(30))
    own = np.tile(np.arange(5), 6)
    near = nn.functional.normalize(torch.eye(5) + .1, dim=1).numpy()[own]
    np.testing.assert_allclose(scores(out), (1 + near) / 2, atol=1e-6)
    for record in out.records:
        assert record["judge"] == "zeroshot" and list(record["asked"]) == ["both", "none"]
        assert "penalty" not in record and record["n_inner"] > 0 and record["final_loss"] > 0


def test_prompts_of_other_classes_find_others(five):
    own = np.tile(np.arange(5), 6)
    dealt = scores(launched(five(asked=("both", "permuted"))))
    assert (dealt.argmax(1) != own).all()
    again = scores(launched(five(asked=("both", "permuted"), seed=1)))
    assert (again.argmax(1) != dealt.argmax(1)).any()               # dealt out anew by each seed
    named = scores(launched(five(asked=("name", "none"))))          # in words it has not heard
    np.testing.assert_allclose(named, np.broadcast_to(named[:, :1], named.shape), atol=1e-6)


def test_what_is_asked_makes_another_run_of_zero_shot_and_of_nothing_else(five):
    here = [five(asked=o)[0].key for o in (("both", "none"), ("name", "none"), ("both", "negated"))]
    assert len(set(here)) == 3
    probes = [replace(five(asked=o)[0], judge="probe").key for o in (("both", "none"), ("name", "none"))]
    assert probes[0] == probes[1] not in here


@pytest.mark.parametrize("wrong, said", [
    (dict(asked=("both", "shouted")), "no control shouted"), (dict(asked=("poem", "none")), "no mode poem"),
    (dict(task="unwritten"), "unwritten"), (dict(task="age"), "age"), (dict(method="mute"), "reads no texts")],
    ids=str)
def test_what_cannot_be_asked_is_refused_before_anything_is_trained(five, home, wrong, said):
    with pytest.raises(MethodError, match=said): launched(five(**wrong))
    assert not list(home.glob("weights/*"))


def test_a_tables_rows_are_asked_as_they_say(five):
    table = Table("zero", "11_test", "Zero-shot", "ptbxl_super", metrics=("auroc",), cohort="five",
                  windowing=WINDOWING, rows=(
                      Row("As written", "reader", judge="zeroshot"),
                      Row("Permuted", "reader", judge="zeroshot", asked=("both", "permuted"))))
    frame, _ = table.run("five", "smoke", workers=1)
    value = frame.set_index("row")["mean"]
    assert value["As written"] == 100 and value["Permuted"] < 40
