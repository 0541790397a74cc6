"""Chapters 10 and 11: what their tables declare, few labels, sets of recordings, embeddings kept beside weights."""
from dataclasses import replace

import layouts
import numpy as np
import pytest

import biossl.train.execution as executing
from biossl.cohorts.benchmarks import CLASSES, TASKS
from biossl.cohorts.registry import get_cohort
from biossl.data.errors import SplitError
from biossl.evaluation.knowledge import opened
from biossl.evaluation.tables import Row, published_table
from biossl.methods.contract import get_config, method_class
from biossl.papers.cgdmer import figure2, free, learners, shares, table1, table3, variants
from biossl.papers.cgdmer_zeroshot import controls, rhythms, table2, withheld
from biossl.train.launch import launch
from biossl.train.probe import boost_labels, probe_labels
from biossl.train.runs import split_rows, weights_key

TABLES = (*table1, *table3, *figure2)
DX = {o.name: o for o in TABLES if o.task == "dx"}


def run_of(table, row, profile="smoke", fold=0):
    return next(o for o in table.runs("", profile) if o.row == row and o.fold == fold)


# ---- declarations ------------------------------------------------------------------------------

@pytest.mark.parametrize("table", TABLES, ids=lambda o: o.name)
def test_every_table_has_chance_untrained_encoders_and_what_a_cardiologist_measures(table):
    assert {o.name for o in free} <= {o.name for o in table.rows}
    assert {o.method for o in free} == {"cnn_random", "lead_random", "clinical_12lead", "chance"}
    assert all(o.split == "cohort" for o in table.rows)


@pytest.mark.parametrize("table", table1, ids=lambda o: o.name)
def test_every_printed_row_stands_beside_one_of_ours(table):
    printed = published_table("cg_dmer_table1")
    assert {o.published for o in table.rows if o.published} == set(printed.index)
    if table.published: assert {column for _, column in table.published_map} <= set(printed.columns)


def test_every_printed_column_has_its_table():
    told = [column for o in table1 if o.published for _, column in o.published_map]
    assert sorted(told) == sorted(published_table("cg_dmer_table1").columns)


def test_a_row_is_pretrained_once_for_all_shares_of_the_labels(home):
    weights = {}
    for row, *_ in learners:
        runs = [run_of(DX[f"table1_dx_{share}"], row) for share in shares]
        assert len({o.key for o in runs}) == len(shares)
        windows, task = opened(runs[0])
        trains = [split_rows(o, windows, task)[0] for o in runs]
        found = {weights_key(o, "data", rows) for o, rows in zip(runs, trains)}
        assert len(found) == 1
        weights |= {found.pop(): row}
    assert len(weights) == len(learners)


@pytest.mark.parametrize("name, change, _", variants, ids=lambda o: o if isinstance(o, str) else "")
def test_a_variant_is_the_whole_but_for_the_losses_it_names(name, change, _):
    whole, row = (next(o for o in table3[0].rows if o.name == n) for n in ("CG-DMER", name))
    a, b = (vars(get_config("cgdmer", **dict(o.hyper))) for o in (whole, row))
    assert {k for k in a if a[k] != b[k]} == set(change)
    method_class("cgdmer")(get_config("cgdmer", **dict(row.hyper)))   # hides nothing that is rebuilt


# ---- few labels --------------------------------------------------------------------------------

def test_one_example_is_learned_from_where_few_are_told_and_none_is_as_likely_as_it_was():
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(6, 3)), np.c_[np.eye(6, 2), np.zeros(6)]
    x[:2, 0] = 4, -4
    with pytest.raises(SplitError): probe_labels(x, truth, np.arange(6), x, ("a", "b", "c"))
    said = probe_labels(x, truth, np.arange(6), x, ("a", "b", "c"), few=True).scores
    assert said[:, 0].argmax() == 0 and said[:, 1].argmax() == 1 and not said[:, 2].any()
    boosted = boost_labels(x, truth, np.arange(6), x, ("a", "b", "c"), few=True).scores
    assert not boosted[:, 2].any() and (boosted[:, :2] > 0).all()


def test_one_share_of_the_people_can_be_told_so_few_that_all_is_guessed(home):
    table = replace(DX["table1_dx_1"], rows=(replace(free[1], labelled=0.01), replace(free[-1], labelled=0.01)),
                    versus="Chance")
    _, launched = table.run(profile="smoke", workers=1, device="cpu")
    assert not launched.failures and {o["n_labelled"] for o in launched.records} == {1}
    told = launched.predictions[launched.predictions.row == free[1].name]
    for _, fold in told.groupby("fold"): assert (fold.filter(like="score_").nunique() == 1).all()


# ---- sets of recordings ------------------------------------------------------------------------

class Parted:
    "Six recordings, of which the first four are in a set."
    index = dict(ptbxl_super_part=None)

    def labels(self, key):
        if key == "subject": return np.array([f"p{k}" for k in range(6)])
        if key == "ptbxl_super_part": return np.array(["train", "test", "train", "val", "", ""])
        return np.array([1, 0, 0, 1, 0, 0])

    def __len__(self): return 6


def test_recordings_outside_a_set_are_neither_learned_from_nor_tested():
    row = Row("Chance", "chance", split="cohort")
    run = replace(table1[0], rows=(row,), versus="").one_run(
        row, cohort="simulated_12lead", options=(), fold=0, folds=2, seed=0, schedule=table1[0].profile("smoke").schedule)
    rows = np.concatenate(split_rows(run, Parted(), TASKS["ptbxl_super"]))
    assert sorted(rows) == [0, 1, 2, 3]


# ---- embeddings --------------------------------------------------------------------------------

def test_other_shares_of_the_labels_ask_the_same_embedding(home, monkeypatch):
    made = []
    true = executing.embed_windows
    monkeypatch.setattr(executing, "embed_windows", lambda *o: made.append(o[0].name) or true(*o))
    one, other = (replace(run_of(DX[f"table1_dx_{share}"], "SimCLR")) for share in (10, 100))
    first, = launch([one], workers=1, device="cpu").records
    again, = launch([other], workers=1, device="cpu").records
    assert made == ["lead_simclr"] and first["dimensions"] == again["dimensions"]
    alone = launch([replace(other, seed=1)], workers=1, device="cpu").records
    assert len(made) == 2 and alone[0]["dimensions"] == again["dimensions"]


def test_a_method_of_reports_is_diagnosed_on_windows_that_have_one(home):
    told = run_of(DX["table1_dx_100"], "CG-DMER, text from codes")
    run = replace(told, hyper=(*told.hyper, ("words", 10)))
    windows, task = opened(run)
    train = split_rows(run, windows, task)[0]
    enough = sum(len(o.split()) >= 10 for o in windows.labels("report_codes")[train])
    record, = launch([run], workers=1, device="cpu").records
    assert 8 < enough < len(train) and record["found"]["rows"] == enough


# ---- chapter 11 --------------------------------------------------------------------------------

def test_every_printed_set_and_row_is_asked_without_labels():
    printed = published_table("cg_dmer_table2")
    told = [column for o in table2 if o.published for _, column in o.published_map]
    assert sorted([*told, "Average"]) == sorted(printed.columns)
    assert all({o.published for o in table.rows if o.published} == set(printed.index) for table in table2)
    assert all(o.judge == "zeroshot" for table in table2 for o in table.rows if o.published)


def test_controls_and_the_row_they_control_share_their_weights(home):
    table = next(o for o in table2 if o.task == "dx")
    names = ["CG-DMER", *(o.name for o in controls)]
    runs = {o.row: o for o in table.runs("", "smoke") if o.row in names and o.fold == 0}
    assert len({o.key for o in runs.values()}) == len(names) and {o.asked for o in runs.values()} > {
        ("both", "none"), ("both", "permuted"), ("both", "negated"), ("name", "none")}
    rows = np.arange(8)
    assert len({weights_key(o, "data", rows) for o in runs.values()}) == 1


@pytest.mark.parametrize("table", withheld, ids=lambda o: o.name)
def test_withheld_reports_say_nothing_of_rhythm(table, home):
    assert set(CLASSES["ptbxl_rhythm"]) == set(rhythms.split(","))
    people = get_cohort("simulated_12lead", subjects=30, reports=True)
    silent = replace(people, withheld=rhythms)
    words = ("sinus", "fibrillat", "flutter", "tachycardia", "bradycardia")
    spoken = [any(w in o.labels["report_codes"].lower() for w in words) for o in people.recordings()]
    assert np.mean(spoken) > 0.8
    assert not [o.labels["report_codes"] for o in silent.recordings()
                if any(w in o.labels["report_codes"].lower() for w in words)]


# ---- the paper's own recordings, in their layout -----------------------------------------------

def test_tables_need_no_change_for_the_recordings_that_the_paper_learned_from(home, tmp_path, monkeypatch):
    layouts.write_mimic_iv_people(tmp_path / "data" / "mimic_iv_ecg", 48)
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path / "data"))
    asked = {DX["table1_dx_100"]: ("MERL (ResNet)", "Chance"),
             next(o for o in table2 if o.task == "dx"): ("CG-DMER", "CG-DMER, prompts permuted")}
    for table, names in asked.items():
        few = replace(table, rows=tuple(o for o in table.rows if o.name in names), versus=names[0])
        frame, launched = few.run("mimic_iv_ecg", profile="smoke", device="cpu", workers=1)
        assert [o["error"] for o in launched.failures] == [] and set(frame.row) == set(names)
        assert launched.predictions.groupby("row")["subject"].nunique().to_dict() == dict.fromkeys(names, 48)
