"""Chapters 04 and 05: what their tables declare, and what the paper's own numbers allow."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from layouts_activity import dalia, ptt_samples, write_af, write_dalia, write_ptt, write_stay

import biossl.papers.tsta as tsta
from biossl.cohorts.registry import get_cohort
from biossl.evaluation.ledger import harmonic, impossible_f1, margins, one_table
from biossl.evaluation.tables import published_table
from biossl.methods.contract import get_method
from biossl.nn.layers import parameters
from biossl.papers.tsta import table1, table3, table4
from biossl.papers.tsta_ablation import (table2, table2_clock, table2_controls,
                                         table2_readings)
from biossl.train.profiles import get_profile

TABLES = (table1, table2, table2_controls, table2_readings, table2_clock)
ACTIVE = (table3, table4)
CHAPTER = Path(__file__).parents[1] / "nbs" / "04_tsta.ipynb"


def run_of(table, row, profile="quick", **options):
    return next(o for o in table.runs("simulated", profile, options=options) if o.row == row)


# ---- declarations ----------------------------------------------------------------------------

@pytest.mark.parametrize("table", [table1, table2, *ACTIVE], ids=lambda o: o.name)
def test_every_printed_row_stands_once_beside_a_fine_tuned_one(table):
    printed = [o for o in table.rows if o.published]
    assert sorted(o.published for o in printed) == sorted(published_table(table.published).index)
    assert {o.judge for o in printed} == {"finetune"}
    assert set(dict(table.published_map).values()) <= set(published_table(table.published).columns)


@pytest.mark.parametrize("table", [*TABLES, *ACTIVE], ids=lambda o: o.name)
def test_every_table_holds_chance_the_untrained_network_and_a_clinician(table):
    methods = {o.method for o in table.rows}
    assert {"chance", "random_init", "clinical"} <= methods


@pytest.mark.parametrize("one, other", [
    (("TSTA-Net, fine-tuned", table1), ("Full", table2)),
    (("TSTA-Net, probe", table1), ("Full, probe", table2)),
    (("Random init, fine-tuned", table1), ("Remove Contrast Loss", table2)),
    (("Random init, probe", table1), ("Random init, probe", table2)),
    (("TSTA-Net, probe", table1), ("Full, probe", table2_controls)),
    (("Supervised, same network", table1), ("Remove Contrast Loss, all epochs", table2))],
    ids=lambda o: o[0])
def test_what_two_tables_share_is_computed_once(home, one, other):
    assert run_of(one[1], one[0]).key == run_of(other[1], other[0]).key


@pytest.mark.parametrize("table", TABLES, ids=lambda o: o.name)
def test_no_two_rows_of_a_table_are_the_same_run(home, table):
    keys = {o.name: run_of(table, o.name).key for o in table.rows}
    assert len(set(keys.values())) == len(keys)


def test_clocks_that_err_make_other_data(home):
    plain, late = (run_of(o, "Full") for o in (table2, table2_clock))
    assert plain.key != late.key and dict(late.options)["offset"] == 0.5


@pytest.mark.parametrize("table", ACTIVE, ids=lambda o: o.name)
def test_activity_is_asked_of_all_rows_of_table_1_and_of_one_more_clinician(home, table):
    names = [o.name for o in table1.rows]
    assert [o.name for o in table.rows][:len(names)] == names
    assert {o.method for o in table.rows[len(names):]} == {"clinical_activity"}
    runs = {o.row: o for o in table.runs("", "smoke") if o.fold == 0}
    assert len({o.key for o in runs.values()}) == len(table.rows)
    assert {o.cohort for o in runs.values()} == {"simulated_activity"}


@pytest.mark.parametrize("table, cohort, classes", [
    (table3, "simulated_activity", 9), (table4, "simulated_activity", 3), (table3, "ppg_dalia", 9),
    (table4, "ptt_ppg", 3)], ids=lambda o: getattr(o, "name", o))
def test_a_cohort_of_activities_has_the_task_and_as_many_classes(table, cohort, classes):
    options = dict(table.options) if cohort == table.cohort else {}
    assert len(get_cohort(cohort, **options).task(table.task).classes) == classes


@pytest.mark.parametrize("table, samples", [(table3, (256, 512)), (table4, (1000, 1000))],
                         ids=lambda o: getattr(o, "name", ""))
@pytest.mark.parametrize("name", ["tsta", "tstcc", "lstm", "bilstm"])
def test_networks_take_windows_as_the_paper_has_them(table, samples, name):
    row = next(o for o in table.rows if o.method == name)
    run = table.one_run(row, cohort=table.cohort, options=table.options, fold=0, folds=2, seed=0,
                        schedule=get_profile("smoke").schedule)
    rates = dict(run.windowing.signals)
    assert tuple(int(8 * rates[o]) for o in ("ecg", "ppg")) == samples
    method = run.build().eval()
    batch = {k: torch.randn(2, 1, n) for k, n in zip(("ecg", "ppg"), samples)}
    embedded = method.embed(batch)
    assert len(embedded) == 2 and torch.isfinite(embedded).all()


def cheap(table):
    "The table with its rows' names, and nothing to train."
    rows = [replace(o, method="raw_moments", hyper=(), judge="probe", labels="true") for o in table.rows]
    return replace(table, rows=tuple(rows))


def test_the_chapter_computes_activity_when_asked(home, tmp_path, monkeypatch):
    "Its cells one after the other, rows by their names only."
    import matplotlib
    matplotlib.use("Agg")
    for o in (table1, *ACTIVE): monkeypatch.setattr(tsta, o.name, cheap(o))
    monkeypatch.chdir(tmp_path)   # out of the book: nothing is stored there
    cells = [o for o in json.loads(CHAPTER.read_text())["cells"] if o["cell_type"] == "code"]
    space = dict(display=lambda *shown: None)
    for cell in cells:
        code = "".join(cell["source"])
        if code.startswith("#| export"): continue
        exec(compile(code, CHAPTER.name, "exec"), space)
        if "parameters" in cell["metadata"].get("tags", []):
            space |= dict(profile="smoke", also="activity", workers=1, device="cpu", out=tmp_path)
    for table in ACTIVE:
        frame = pd.read_csv(tmp_path / "04_tsta" / f"{table.name}.csv")
        assert set(frame.row) == {o.name for o in table.rows}
        assert set(frame.metric) == set(table.metrics) and frame["mean"].notna().all()
        assert set(frame.cohort) == {"simulated_activity"}
        for metric, column in table.published_map:
            line = frame[(frame.row == "CLIP, fine-tuned") & (frame.metric == metric)].iloc[0]
            assert line.published == published_table(table.published).loc["CLIP", column]


def write_lives(folder):
    for k in range(4): write_dalia(folder, dalia(f"S{k + 1}", ((1, 24), (3, 24), (7, 32)), number=k))


def write_walks(folder):
    for k in range(4):
        for i, name in enumerate(("sit", "walk", "run")):
            write_ptt(folder, f"s{k + 1}_{name}", values=ptt_samples(3 * k + i, seconds=24),
                      told=f"<activity>: {name} <age>: 28 <gender>: female")


def write_stays(folder):
    names = [f"p00002{k}-2183-04-28-17-47" for k in range(4)]
    for k, name in enumerate(names):
        write_stay(folder, name, f"354474{k}", segments=((("II", "PLETH"), 120),), person=k)
    write_af(folder, [(name, 60 * part, 60 * part + 60, (k + part) % 2)
                      for k, name in enumerate(names) for part in range(2)])


@pytest.mark.parametrize("table, cohort, write", [
    (table3, "ppg_dalia", write_lives), (table4, "ptt_ppg", write_walks), (table1, "mimic_iii_wdb", write_stays)],
    ids=lambda o: o if isinstance(o, str) else "")
def test_tables_need_no_change_for_recordings_in_their_published_layout(home, tmp_path, monkeypatch, table, cohort, write):
    write(tmp_path / "data" / cohort)
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path / "data"))
    names = ("TSTA-Net, fine-tuned", "SimCLR, probe", "Chance", "Beat intervals, both")
    few = replace(table, rows=tuple(o for o in table.rows if o.name in names))
    frame, launched = few.run(cohort, profile="smoke", workers=1, device="cpu")
    assert [o["error"] for o in launched.failures] == [] and set(frame.row) == set(names)
    assert launched.predictions.groupby("row")["subject"].nunique().to_dict() == dict.fromkeys(names, 4)
    assert set(frame.cohort) == {cohort} and set(frame.metric) == set(table.metrics)


def test_brief_profiles_look_at_ten_seconds_of_the_simulator_and_nowhere_else():
    seconds = {(cohort, profile): table1.windows_of(table1.rows[0], cohort, profile).seconds
               for cohort in ("simulated", "mimic_perform_af") for profile in ("quick", "paper")}
    assert seconds == {("simulated", "quick"): 10, ("simulated", "paper"): 30,
                       ("mimic_perform_af", "quick"): 30, ("mimic_perform_af", "paper"): 30}


def test_what_a_cpu_cannot_pay_for_is_cut_and_said():
    cut = get_profile("paper").on("cpu", table1.cut, table1.cut_seeds)
    assert cut.folds == 5 and cut.seeds == 1 and cut.schedule.epochs >= 15
    assert get_profile("paper").on("cuda", table1.cut, table1.cut_seeds).schedule.epochs == 60


#: Trained weights with the classifier of two classes, as the specification counts them.
COUNTS = {"Full": 822_796, "Remove STN": 774_722, "Single ECG": 428_007, "Single PPG": 428_007,
          "Remove Transformer Encoder": 292_364, "STN at the input": 794_348,
          "Mean read-out": 748_748, "Intra only": 822_796, "Cross, shuffled pairs": 822_796,
          "STN, random warp": 774_722, "STN, identity": 774_722}


@pytest.mark.parametrize("row", COUNTS)
def test_rows_are_built_with_as_many_weights_as_specified(row):
    row = next(o for table in TABLES[1:4] for o in table.rows if o.name == row)
    method = get_method(row.method, **dict(row.hyper))
    assert parameters(method) + parameters(method.head(2)) == COUNTS[row.name]


def test_convolutions_give_the_transformers_weights_back():
    counts = [parameters(get_method("tsta", **dict(table2_readings.row(o).hyper)))
              for o in ("Full", "Convolutions for the transformer")]
    assert abs(counts[0] - counts[1]) < 0.01 * counts[0]


# ---- the paper's own numbers -----------------------------------------------------------------

PAPER = published_table("tsta_table1")


def test_two_rows_of_table_1_are_impossible():
    p, _, r, f1 = (PAPER[o] for o in PAPER.columns[1:])
    beyond = impossible_f1(p, r, f1)
    assert PAPER.index[beyond > 0].tolist() == ["LSTM", "BYOL"]
    expected = [64.897, 66.863, 82.254, 89.716, 82.144, 74.202, 90.757]
    assert np.allclose(harmonic(p, r), expected, atol=6e-4)


@pytest.mark.parametrize("row, share, miss", [
    ("SimCLR", 0.403, 0.04), ("CLIP", 0.393, 0.12), ("BiLSTM", 0.424, 0.12), ("TSTA-Net", None, 0.61),
    ("TS-TCC", None, 0.49), ("BYOL", None, 0.72), ("LSTM", None, 0.53)])
def test_how_far_a_row_is_from_one_table_of_answers(row, share, miss):
    p, a, r, f1 = PAPER.loc[row].iloc[1:].astype(float)
    found = one_table(a, p, r, f1)
    assert abs(found[1] - miss) < 0.01
    if share: assert abs(found[0] - share) < 0.001


@pytest.mark.parametrize("tp, fn, fp, tn", [(35, 5, 4, 56), (10, 20, 5, 65), (2, 3, 1, 94)])
def test_a_real_table_of_answers_fits_itself(tp, fn, fp, tn):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support
    truth, said = np.repeat([1, 1, 0, 0], [tp, fn, fp, tn]), np.repeat([1, 0, 1, 0], [tp, fn, fp, tn])
    p, r, f1, _ = precision_recall_fscore_support(truth, said, average="macro")
    share, miss = one_table(*(100 * o for o in (accuracy_score(truth, said), p, r, f1)))
    assert abs(share - truth.mean()) < 0.001 and miss < 0.2


def test_no_pair_of_f1_gives_the_nine_percent_claimed():
    lead = margins(PAPER["F1 Score (%)"], "TSTA-Net").round(2)
    assert lead.index[0] == "TS-TCC" and lead.points.iloc[0] == 2.01 and lead.percent.iloc[0] == 2.29
    assert not (lead.round(1) == 9.3).any(axis=None)
