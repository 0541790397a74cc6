"""The protocol's numbers: what is published is what its runs say, and real baselines are met."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biossl.cohorts.registry import get_cohort, locate
from biossl.command import declared_tables
from biossl.data.store import Windowing, pack
from biossl.evaluation.arms import metrics
from biossl.evaluation.claims import stored_results
from biossl.evaluation.metrics import measure
from biossl.evaluation.statistics import read_answers
from biossl.evaluation.tables import rebuild, stale_rows, stored_records
from biossl.evaluation.timing import ENOUGH, MOST_FALSE, UNTRAINED
from biossl.methods.clinical import alarm_features, beat_features
from biossl.methods.external import ABSENT
from biossl.papers import cgdmer
from biossl.papers import cgdmer_zeroshot as zeroshot
from biossl.papers.protocol import table1, table3
from biossl.papers.ssltsg_fusion import pairs as defects
from biossl.papers.xmae_transfer import efficiency, known, outside, told
from biossl.train.launch import Run, launch
from biossl.train.profiles import Schedule

FIGURES = Path(__file__).parents[1] / "figures"
STORED = sorted(o.parent for o in FIGURES.glob("*/runs.jsonl"))


# ---- what is published -----------------------------------------------------------------------

#: Tables that a chapter computes on demand only.
UNPUBLISHED = {
    "05_tsta_ablation": {"table2_controls", "table2_readings"},
    "06_xmae": {"switches"}, "07_xmae_transfer": {o.name for o in efficiency}}

#: And tables of label sets whose recordings are not at hand.
OF_TEXT = {o.name for o in get_cohort("ptb_xl_text").tasks} & {o.task for o in cgdmer.table3}
UNPUBLISHED |= {
    "10_cgdmer": {o.name for o in (*cgdmer.table1, *cgdmer.table3) if o.task not in OF_TEXT} | {o.name for o in cgdmer.figure2},
    "11_cgdmer_zeroshot": {o.name for o in (*zeroshot.table2, *zeroshot.table3, *zeroshot.withheld) if o.task not in OF_TEXT}}

#: Rows of networks whose weights are their authors'.
ABSENT_ROWS = {"07_xmae_transfer": {o.name for o in outside}}

#: What a clinician would compute, of whichever signals there are.
CLINICIANS = {"clinical", "clinical_alarm", "clinical_12lead", "beat_rate", "ppg_features"}

#: Of chapter 09's claims: which row is compared with which.
CLAIMS = {f"C1: SSL on {o}": (f"SSL-{o}", o) for o in ("T", "S", "TSC", "TSG")} | {
    "C2: gate over concat": ("TSG", "TSC"), "C2: gate over concat, SSL": ("SSL-TSG", "SSL-TSC"),
    "C3: TSG over T": ("TSG", "T"), "C3: SSL-TSG over SSL-T": ("SSL-TSG", "SSL-T"),
    "C3: T over S": ("T", "S"), "C3: SSL-T over SSL-S": ("SSL-T", "SSL-S")}


def published(folder):
    "The declared tables of a folder that have a file in it."
    return [o for o in declared_tables(folder.name) if (folder / f"{o.name}.csv").is_file()]


@pytest.mark.parametrize("folder", STORED, ids=lambda o: o.name)
def test_published_tables_are_what_their_runs_say(folder):
    tables = declared_tables(folder.name)
    same = rebuild(folder, tables, write=False)
    assert same and all(same.values()), [str(k) for k, ok in same.items() if not ok]
    assert {o.stem for o in same} | UNPUBLISHED.get(folder.name, set()) == {o.name for o in tables}


@pytest.mark.parametrize("folder", STORED, ids=lambda o: o.name)
def test_published_rows_are_as_declared_now_and_whole(folder):
    records = stored_records(folder)
    failed = {o["row"] for o in records if "error" in o}
    assert failed == ABSENT_ROWS.get(folder.name, set())
    assert all(ABSENT in o["error"] for o in records if "error" in o)
    for table in published(folder):
        assert stale_rows(table, records) == {}
        mine = [o for o in records if o["table"] == table.name]
        seeds, folds = {o["seed"] for o in mine}, range(mine[0]["folds"])
        assert ({(o["row"], o["seed"], o["fold"]) for o in mine}
                == {(row.name, seed, fold) for row in table.rows for seed in seeds for fold in folds})


@pytest.mark.parametrize("folder", STORED, ids=lambda o: o.name)
def test_every_published_table_has_chance_an_untrained_and_a_clinicians_row(folder):
    for table in declared_tables(folder.name):
        methods = {o.method for o in table.rows}
        untrained = any(o.name.startswith("Random init") for o in table.rows)
        assert "chance" in methods and ("random_init" in methods or untrained)
        assert CLINICIANS & methods


@pytest.mark.parametrize("folder, table, rows", [("04_tsta", "table1", 20),
                                                  ("05_tsta_ablation", "table2", 12)])
def test_the_papers_tables_are_published_on_all_35_people_with_intervals(folder, table, rows):
    frame = pd.read_csv(FIGURES / folder / f"{table}.csv")
    assert set(frame.cohort) == {"mimic_perform_af"} and set(frame.n) == {35}
    assert frame.row.nunique() >= rows and (frame.low <= frame.high).all()
    assert frame.published.notna().any() and not frame.schedule.str.contains("incomplete|not run").any()
    epochs = frame.schedule.str.extract(r"(?:; |supervised )(\d+) epochs, batch")[0].dropna().astype(int)
    assert epochs.min() >= 15


def test_the_eight_arms_are_published_on_everybody_with_intervals_and_enough_epochs():
    folder = FIGURES / "09_ssltsg_fusion"
    if folder not in STORED: pytest.skip("no published result of 09_ssltsg_fusion")
    frame = pd.read_csv(folder / "table2.csv")
    assert set(frame.cohort) == {"open_12lead"} and frame.n.nunique() == 1 and frame.n.min() > 2000
    assert set(frame.metric) >= set(metrics[:7]) and frame.row.nunique() >= 16
    assert (frame.low <= frame.high).all() and frame.published.notna().sum() == 56
    assert not frame.schedule.str.contains("incomplete|not run").any()
    pretrained = frame[frame.row.str.startswith("SSL")].schedule
    assert pretrained.str.extract(r"^.*?(\d+) epochs, batch")[0].astype(int).min() >= 20


def test_what_the_timing_of_strangers_says_is_interpretable_where_their_beats_are_found():
    folder = FIGURES / "06_xmae"
    if folder not in STORED: pytest.skip("no published result of 06_xmae")
    timing, sources, controls = (pd.read_csv(folder / f"{o}.csv") for o in ("timing", "sources", "controls"))
    assert set(pd.read_csv(folder / "plateau.csv").cohort) == {"open_pairs"}
    for frame in (timing, sources, controls):
        assert ((frame.verdict == UNTRAINED) == ~((frame.recall >= ENOUGH) & (frame["false"] <= MOST_FALSE))).all()
    recall = sources[(sources.measure == "recall") & sources.tested.str.startswith("quality")].set_index("source")
    assert {"bidmc", "challenge_2015", "mimic_perform_af", "other folds"} < set(recall.index)
    whole = timing[(timing.row == "xMAE") & (timing.measure == "recall")].iloc[0]
    assert recall.estimate["all"] == pytest.approx(whole.estimate, abs=1e-5)
    assert {"C1", "C2", "C3", "C4", "C5"} < set(controls.control)


def test_every_task_is_published_with_every_row_real_ones_on_real_people():
    folder = FIGURES / "07_xmae_transfer"
    if folder not in STORED: pytest.skip("no published result of 07_xmae_transfer")
    tasks = pd.read_csv(folder / "tasks.csv")
    cohorts = tasks.dropna(subset="cohort").groupby("task").cohort.unique().map(list).to_dict()
    assert cohorts == ({o.name: ["open_pairs"] for o in told} | {o.name: ["simulated_pairs"] for o in known})
    assert all(set(part.row) == {o.name for o in told[0].rows} for _, part in tasks.groupby("task"))
    there = tasks[tasks["mean"].notna()]
    assert set(tasks.row) - set(there.row) == ABSENT_ROWS[folder.name]
    assert (there.n >= 35).all() and (there.low <= there.high).all()


@pytest.mark.parametrize("chapter, tables", [
    ("10_cgdmer", cgdmer.table1), ("10_cgdmer", cgdmer.table3),
    ("11_cgdmer_zeroshot", zeroshot.table2), ("11_cgdmer_zeroshot", zeroshot.table3)])
def test_tables_of_ecg_and_report_are_published_whole_with_intervals_beside_what_is_printed(chapter, tables):
    if FIGURES / chapter not in STORED: pytest.skip(f"no published result of {chapter}")
    for table in (o for o in tables if o.task in OF_TEXT):
        frame = pd.read_csv(FIGURES / chapter / f"{table.name}.csv")
        assert set(frame.row) == {o.name for o in table.rows} and set(frame.cohort) == {"ptb_xl_text"}
        assert set(frame.metric) == set(table.metrics) and (frame.low <= frame.high).all()
        assert not frame.schedule.str.contains("incomplete|not run").any() and frame.n.min() > 100
        if table.published: assert set(frame[frame.published.notna()].row) == {o.name for o in table.rows if o.published}


def test_the_claims_are_what_the_stored_runs_say():
    folder = FIGURES / "09_ssltsg_fusion"
    if folder not in STORED: pytest.skip("no published result of 09_ssltsg_fusion")
    results, kept = stored_results(folder, "table2"), pd.read_csv(folder / "claims.csv")
    assert len(kept) == 10 * 7
    for line in kept.sample(12, random_state=0).itertuples():
        one, other = CLAIMS[line.row]
        gap = results.difference(one, other, line.metric)
        assert 100 * gap.value == pytest.approx(line.difference, abs=1e-3)
        assert 100 * gap.low == pytest.approx(line.low, abs=1e-3)


def test_the_ledger_is_what_the_stored_runs_say():
    folder = FIGURES / "09_ssltsg_fusion"
    if folder not in STORED: pytest.skip("no published result of 09_ssltsg_fusion")
    results, kept = stored_results(folder, "switches"), pd.read_csv(folder / "ledger.csv")
    assert set(kept.row) == set(defects) and len(defects) >= 8
    assert (kept.groupby("row").metric.nunique() == 4).all() and (kept.low <= kept.high).all()
    for line in kept.sample(12, random_state=0).itertuples():
        assert defects[line.row] == (line.row, line.versus)
        gap = results.difference(line.row, line.versus, line.metric)
        assert 100 * gap.value == pytest.approx(line.difference, abs=1e-3)
        assert [100 * gap.low, 100 * gap.high] == pytest.approx([line.low, line.high], abs=1e-3)


def test_a_changed_prediction_changes_the_published_table(tmp_path):
    folder = FIGURES / "02_protocol"
    if folder not in STORED: pytest.skip("no published result of 02_protocol")
    frame = pd.read_parquet(folder / "predictions.parquet")
    told = [o for o in stored_records(folder) if o["table"] == "table3"]
    mine = frame["run"].isin([o["key"] for o in told])
    stored = table3.compute(frame[mine], told)
    scores = [o for o in frame.columns if o.startswith("score_")]
    frame.loc[mine, scores] = frame.loc[mine, scores[::-1]].to_numpy()
    assert not table3.compute(frame[mine], told).equals(stored)


# ---- real baselines --------------------------------------------------------------------------

#: Five seeds of five folds, 8 beat-interval numbers, C = 1: macro-F1 and AUROC, in percent, as
#: measured once by independent code on the same 35 recordings.
REFERENCE = {"Beat intervals, ECG": (98.2, 98.6), "Beat intervals, PPG": (91.4, 93.6),
             "Beat intervals, both": (97.5, 98.5), "Mean beat interval, ECG": (57.3, 63.6),
             "Raw mean and sd": (62.8, 60.7)}


@pytest.mark.real
@pytest.mark.slow
def test_the_clinicians_rows_agree_with_an_independent_measurement(real_data):
    rows = [table1.row(name) for name in REFERENCE]
    runs = [Run(row.name, row.method, row.hyper, cohort="mimic_perform_af", fold=fold, seed=seed,
                schedule=Schedule(penalties=row.penalties))
            for row in rows for seed in range(5) for fold in range(5)]
    made = launch(runs, workers=1, progress=False).whole().predictions
    for row, expected in REFERENCE.items():
        seeds = read_answers(made[made.row == row])
        found = [100 * np.mean([measure(name, o.truth, o.scores) for o in seeds.values()])   # ranked together, as there
                 for name in ("f1_macro", "auroc")]
        assert np.abs(np.subtract(found, expected)).max() < 1, (row, found)


def packed(name, **more):
    cohort = get_cohort(name)
    return pack(cohort, Windowing(**more), locate(cohort))


def out_of_fold(make, x, y, groups, seed):
    "Scores of a classifier under five grouped, stratified folds, from scikit-learn alone."
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(make(seed), x, y, groups=groups, cv=folds,
                             method="predict_proba")[:, 1]


@pytest.mark.real
@pytest.mark.parametrize("key, expected, within", [("ecg_beats", 0.985, 0.01),
                                                   ("ppg_beats", 0.885, 0.06)])
def test_four_interval_numbers_tell_fibrillation(real_data, key, expected, within):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    windows = packed("mimic_perform_af")
    x, y = beat_features(windows.arrays[key][:, 0])[:, [0, 1, 2, 7]], windows.labels("af")
    make = lambda seed: make_pipeline(StandardScaler(), LogisticRegression())  # noqa: E731
    scores = out_of_fold(make, np.nan_to_num(x), y, windows.labels("subject"), 0)
    assert abs(roc_auc_score(y, scores) - expected) < within


@pytest.mark.real
def test_pace_and_silence_tell_true_alarms_and_the_type_alone_does_not(real_data):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    windows = packed("challenge_2015", seconds=16, hop=16, take="last")
    assert len(windows) == 144
    y, kind = windows.labels("true_alarm"), windows.codes("alarm_type")[0]
    both = [alarm_features(windows.arrays[f"{key}_beats"][:, 0], 16.0) for key in ("ecg", "ppg")]
    x = np.nan_to_num(np.hstack([*both, np.eye(5)[kind]]), nan=-1)
    make = lambda seed: RandomForestClassifier(300, random_state=seed)  # noqa: E731
    groups = windows.labels("subject")
    everything, type_alone = (roc_auc_score(y, out_of_fold(make, o, y, groups, 0))
                              for o in (x, np.eye(5)[kind]))
    assert abs(everything - 0.887) < 0.06 and type_alone < 0.65


@pytest.mark.real
def test_beats_counted_agree_with_the_monitors_heart_rate(real_data):
    windows = packed("bidmc")
    index = windows.index.assign(ecg=np.nan, ppg=np.nan)
    for key in ("ecg", "ppg"):
        r = np.diff(windows.arrays[f"{key}_beats"][:, 0].astype(float), axis=1)
        index[key] = 60 / np.nanmedian(r, axis=1)
    people = index.groupby("recording")[["heart_rate", "ecg", "ppg"]].median()
    error = people[["ecg", "ppg"]].sub(people.heart_rate, axis=0).abs()
    assert len(people) == 53 and error.ecg.mean() < 1.5 and error.median().max() < 1
