"""Tables as a pure function of what is stored; what is missing is said; nothing is lost at rest."""
import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import cohort_names
from biossl.cohorts.statements import CLASSES
from biossl.data.errors import RequestError, StoreError
from biossl.evaluation.challenge import (challenge_metrics, challenge_score, class_auprc, class_auroc,
                                         macro)
from biossl.evaluation.claims import Results, paired, stored_results
from biossl.evaluation.tables import (COLUMNS, Row, Table, published_folder, published_table,
                                      published_value, rebuild, save, side_by_side,
                                      stale_rows, storable, stored_records)

TABLE = Table("table1", "99_test", "A test", "af",
              metrics=("f1_macro", "auroc", "subject_accuracy"),
              rows=(Row("One", "chance"), Row("Two", "clinical", (("signals", ("ecg",)),))),
              versus="One")
RATE = Table("table2", "99_test", "Another", "rate", rows=(Row("Slow", "chance"),),
             metrics=("mae", "bias", "r"))


@dataclass
class Kept:
    predictions: object
    records: list
    failures: list


def predictions(row, gain=1.0, seeds=(0,), folds=2, classes=("0", "1"), subjects=12):
    "Answers of subjects with six windows each, of two classes."
    frames = []
    for seed in seeds:
        generator = np.random.default_rng([seed, int(10 * gain)])
        who = np.repeat(np.arange(subjects), 6)
        truth = who % 2
        p = 1 / (1 + np.exp(-(gain * (2 * truth - 1) + generator.normal(size=len(who)))))
        frames.append(pd.DataFrame({
            "run": [f"{row}-{seed}-{k}" for k in who // 2 % folds], "row": row,
            "fold": who // 2 % folds, "seed": seed, "window": np.arange(len(who)),
            "recording": [f"r{k}" for k in who], "subject": [f"s{k}" for k in who], "truth": truth,
            f"score_{classes[0]}": 1 - p, f"score_{classes[1]}": p}))
    return pd.concat(frames, ignore_index=True)


def record(row, fold=0, seed=0, table="table1", **more):
    return dict(key=f"{row}-{seed}-{fold}", row=row, fold=fold, folds=2, seed=seed, split="subject",
                cohort="simulated", profile="smoke", resamples=100, table=table,
                classes=["0", "1"], final_loss=None) | more


def kept(seeds=(0,), **changes):
    frame = pd.concat([predictions("One", .3, seeds), predictions("Two", 1.0, seeds)])
    records = [record(row, fold, seed) for row in ("One", "Two") for seed in seeds
               for fold in (0, 1)]
    return replace(Kept(frame.reset_index(drop=True), records, []), **changes)


def quantities():
    one = predictions("Slow").drop(columns=["score_0", "score_1"])
    truth = 60 + np.arange(len(one)) / 7
    frame = one.assign(truth=truth, score=truth + np.random.default_rng(0).normal(2, 3, len(one)))
    return Kept(frame, [record("Slow", k, table="table2", classes=[]) for k in (0, 1)], [])


LABELLED = Table("table4", "99_test", "Many labels", "dx", rows=(Row("Weak", "chance"),
                 Row("Strong", "chance", published="TSG")), versus="Weak",
                 metrics=("challenge", "challenge_accuracy", "challenge_f1", "challenge_f2",
                          "challenge_g2", "challenge_auroc", "challenge_auprc",
                          "challenge_f2_common"),
                 published="ssltsg_table2",
                 published_map=(("challenge_auroc", "AUROC"), ("challenge_auprc", "AUPRC"),
                                ("challenge_accuracy", "Acc"), ("challenge_f1", "F1"),
                                ("challenge_f2", "F2"), ("challenge_g2", "G2"),
                                ("challenge", "ChM")))
LEVELS = {fold: np.linspace(.1, .3 + .2 * fold, 24).round(1).tolist() for fold in (0, 1)}


def labelled(text=True, levels=LEVELS):
    "Two rows on forty recordings of twenty people with the challenge's 24 classes."
    who, rows = np.repeat(np.arange(20), 2), []
    truth = (np.random.default_rng(5).random((40, 24)) < .3).astype(int)
    for row, gain in (("Weak", .1), ("Strong", .5)):
        noise = np.random.default_rng(int(10 * gain)).random(truth.shape)
        scores = gain * truth + (1 - gain) * noise
        rows.append(pd.DataFrame({
            "run": [f"{row}-0-{k}" for k in who % 2], "row": row, "fold": who % 2, "seed": 0,
            "window": np.arange(40), "recording": [f"r{k}" for k in range(40)],
            "subject": [f"s{k}" for k in who], **{f"score_{o}": scores[:, k].astype(np.float32)
                                                  for k, o in enumerate(CLASSES)},
            **{f"truth_{o}": truth[:, k].astype(np.int8) for k, o in enumerate(CLASSES)}}))
    frame = pd.concat(rows, ignore_index=True)
    if text: frame["truth"] = "AF, TAb"
    records = [record(row, fold, table="table4", classes=list(CLASSES), thresholds=levels[fold])
               for row in ("Weak", "Strong") for fold in (0, 1)]
    return Kept(frame, records, [])


def of_row(launched, row):
    "Truth, scores, calls at each fold's own thresholds, and folds."
    part = launched.predictions.query("row == @row")
    y = part[[f"truth_{o}" for o in CLASSES]].to_numpy()
    s = part[[f"score_{o}" for o in CLASSES]].to_numpy().astype(float)
    return y, s, s >= np.array([LEVELS[k] for k in part.fold]), part.fold.to_numpy()


def made(table, launched):
    return table.compute(launched.predictions, launched.records + launched.failures)


def line(frame, row, metric="auroc"):
    return frame[(frame.row == row) & (frame.metric == metric)].iloc[0]


def test_columns_rows_and_metrics_stand_in_their_order():
    frame = made(TABLE, kept())
    assert tuple(frame.columns) == COLUMNS
    assert frame.row.tolist() == ["One"] * 3 + ["Two"] * 3
    assert frame.metric.tolist() == list(TABLE.metrics) * 2
    assert (frame.n == 12).all() and (frame.cohort == "simulated").all()
    assert frame.versus.tolist() == [""] * 3 + ["One"] * 3
    assert frame.schedule[0] == "2 folds by subject, 1 seed; not trained"


def auroc_of_folds(frame):
    from sklearn.metrics import roc_auc_score
    each = [(o.truth.sum() * (1 - o.truth).sum(), roc_auc_score(o.truth, o.score_1.astype(np.float32)))
            for _, o in frame.groupby("fold")]
    return np.average([o for _, o in each], weights=[pairs for pairs, _ in each])


def test_values_are_those_of_all_windows_in_percent_rankings_within_folds():
    from sklearn.metrics import f1_score
    frame, launched = made(TABLE, kept()), kept()
    two = launched.predictions.query("row == 'Two'")
    assert line(frame, "Two")["mean"] == pytest.approx(100 * auroc_of_folds(two), abs=1e-4)
    f1 = f1_score(two.truth, two.score_1 > .5, average="macro")
    assert line(frame, "Two", "f1_macro")["mean"] == pytest.approx(100 * f1, abs=1e-4)
    subject = two.groupby("subject").agg(truth=("truth", "first"), p=("score_1", "mean"))
    right = 100 * ((subject.p > .5) == subject.truth).mean()
    assert line(frame, "Two", "subject_accuracy")["mean"] == pytest.approx(right, abs=1e-4)
    gap = line(frame, "Two")["mean"] - line(frame, "One")["mean"]
    assert line(frame, "Two").difference == pytest.approx(gap, abs=2e-4) and gap > 0


def test_mean_and_sd_are_over_seeds():
    launched = kept(seeds=(0, 1, 2))
    two = launched.predictions.query("row == 'Two'")
    each = [100 * auroc_of_folds(o) for _, o in two.groupby("seed")]
    found = line(made(TABLE, launched), "Two")
    assert found["mean"] == pytest.approx(np.mean(each), abs=1e-4)
    assert found.sd == pytest.approx(np.std(each, ddof=1), abs=1e-4)
    assert "3 seeds" in found.schedule and found.n == 12


def test_quantities_keep_their_unit():
    launched = quantities()
    frame = made(RATE, launched)
    error = launched.predictions.score - launched.predictions.truth
    assert line(frame, "Slow", "mae")["mean"] == pytest.approx(error.abs().mean(), abs=1e-3)
    assert line(frame, "Slow", "bias")["mean"] == pytest.approx(error.mean(), abs=1e-3)
    assert (frame.versus == "").all() and frame.difference.isna().all()


def test_many_labels_are_called_at_the_thresholds_of_their_run():
    launched = labelled()
    frame, calls = made(LABELLED, launched), {}
    for row in ("Weak", "Strong"):
        y, s, calls[row], folds = of_row(launched, row)
        ranked = dict(challenge_auroc=macro(class_auroc(y, s, folds)),
                      challenge_auprc=macro(class_auprc(y, s, folds)))
        for name, value in (challenge_metrics(y, s, calls[row]) | ranked).items():
            assert line(frame, row, name)["mean"] == pytest.approx(100 * value, abs=6e-5)
    gap = line(frame, "Strong", "challenge")
    assert gap.difference == pytest.approx(100 * (challenge_score(y, calls["Strong"])
                                                  - challenge_score(y, calls["Weak"])), abs=2e-4)
    assert gap.low < gap["mean"] < gap.high and gap.n == 20 and gap.p < .05
    assert line(frame, "Strong", "challenge_auprc").published == 64.22
    assert line(frame, "Strong", "challenge").published == 64.16
    plain = labelled()
    for o in plain.records: del o["thresholds"]
    at_half = line(made(LABELLED, plain), "Strong", "challenge")["mean"]
    assert at_half == pytest.approx(100 * challenge_score(y, s >= .5), abs=6e-5)
    assert at_half != gap["mean"]


@pytest.mark.parametrize("text", [True, False])
def test_many_labels_stand_beside_other_tables_and_are_rebuilt(tmp_path, text):
    many, one = labelled(text), kept()
    save(tmp_path, {LABELLED: (made(LABELLED, many), many)})
    save(tmp_path, {TABLE: (made(TABLE, one), one)})
    assert rebuild(tmp_path, [TABLE, LABELLED], write=False) == {
        tmp_path / "table1.csv": True, tmp_path / "table4.csv": True}
    stored = pd.read_parquet(tmp_path / "predictions.parquet")
    assert stored.truth_AF.dtype == "Int8" and stored.score_AF.dtype == np.float32
    of_one = stored.run.isin([o["key"] for o in one.records])
    assert stored.truth_AF[of_one].isna().all() and stored.truth_AF[~of_one].notna().all()
    assert ("truth" in storable(many.predictions)) == text
    results = stored_results(tmp_path, "table4")
    y, s, calls, _ = of_row(many, "Strong")
    found = results.estimate("Strong", "challenge")
    assert found.mean == pytest.approx(challenge_score(y, calls))
    assert (results.answers("Strong")[0].calls == calls).all()
    csv = made(LABELLED, many)
    low = line(csv, "Strong", "challenge").low
    wide = replace(results, resamples=100).estimate("Strong", "challenge").interval[0]
    assert 100 * wide == pytest.approx(low, abs=6e-5)
    page = side_by_side(csv, "challenge")
    assert page.index.tolist() == ["Weak", "Strong"] and page.loc["Strong", "paper"] == "64.16"


def test_pairs_of_rows_become_a_ledger():
    launched = labelled()
    results = Results(launched.predictions, launched.records, resamples=100)
    frame = paired(results, {"strength": ("Strong", "Weak"), "none": ("Gone", "Weak")},
                   ("challenge", "challenge_auroc"))
    assert frame.row.tolist() == ["strength", "none"] * 2
    found = line(frame, "strength", "challenge")
    table = line(made(LABELLED, launched), "Strong", "challenge")
    assert (found.difference, found.p) == pytest.approx((table.difference, table.p), abs=1e-4)
    draws = [results.estimate(o, "challenge").draws for o in ("Strong", "Weak")]
    assert (found.low, found.high) == pytest.approx(
        tuple(100 * np.percentile(draws[0] - draws[1], [2.5, 97.5])))
    assert frame[frame.row == "none"].iloc[:, 2:].isna().all(axis=None)
    slow = quantities()
    gap = paired(Results(slow.predictions, slow.records, 50), {"x": ("Slow", "Slow")}, ["mae"])
    assert gap.difference.tolist() == [0]


@pytest.mark.parametrize("levels, told", [
    ({0: LEVELS[0], 1: None}, "no 24 thresholds"), ({0: LEVELS[0], 1: [.5]}, "no 24 thresholds")])
def test_a_run_without_its_thresholds_cannot_be_judged(levels, told):
    frame = made(LABELLED, labelled(levels=levels))
    assert frame["mean"].isna().all() and told in frame.schedule[0]


@pytest.mark.parametrize("table, rows", [("ssltsg_table1", 12), ("ssltsg_table2", 8)])
def test_the_seven_columns_of_the_challenge_are_printed(table, rows):
    frame = published_table(table)
    assert len(frame) == rows and set(dict(LABELLED.published_map).values()) < set(frame.columns)
    assert published_value(table, "SSL-TSG", "ChM") == dict(
        ssltsg_table1=65.4, ssltsg_table2=65.39)[table]
    assert frame.drop(columns="Group").max().max() < 100
    if rows == 12: assert np.isnan(published_value(table, "[31]", "F2"))


@settings(deadline=None, max_examples=10)
@given(st.randoms(use_true_random=False))
def test_the_order_of_what_is_stored_does_not_matter(random):
    launched = kept(seeds=(0, 1))
    order = list(range(len(launched.predictions)))
    random.shuffle(order)
    records = random.sample(launched.records, len(launched.records))
    shuffled = Kept(launched.predictions.iloc[order].reset_index(drop=True), records, [])
    pd.testing.assert_frame_equal(made(TABLE, launched), made(TABLE, shuffled), check_exact=True)


def test_a_table_is_rebuilt_from_two_files_byte_for_byte(tmp_path):
    one, two = kept(seeds=(0, 1)), quantities()
    save(tmp_path, {TABLE: (made(TABLE, one), one), RATE: (made(RATE, two), two)})
    assert sorted(o.name for o in tmp_path.iterdir()) == [
        "predictions.parquet", "runs.jsonl", "table1.csv", "table2.csv"]
    paths = [tmp_path / "table1.csv", tmp_path / "table2.csv"]
    assert rebuild(tmp_path, [TABLE, RATE]) == dict.fromkeys(paths, True)
    before = [o.read_bytes() for o in paths]
    for path in paths: path.unlink()
    assert rebuild(tmp_path, [TABLE, RATE]) == dict.fromkeys(paths, False)
    assert [o.read_bytes() for o in paths] == before


def test_changing_one_prediction_changes_the_table(tmp_path):
    launched = kept()
    save(tmp_path, {TABLE: (made(TABLE, launched), launched)})
    stored = pd.read_parquet(tmp_path / "predictions.parquet")
    stored.loc[stored.row == "Two", "score_1"] = [.99, *stored[stored.row == "Two"].score_1[1:]]
    stored.to_parquet(tmp_path / "predictions.parquet", index=False)
    path, before = tmp_path / "table1.csv", (tmp_path / "table1.csv").read_text()
    assert rebuild(tmp_path, [TABLE], write=False) == {path: False}
    assert path.read_text() == before
    rebuild(tmp_path, [TABLE])
    assert path.read_text() != before and rebuild(tmp_path, [TABLE]) == {path: True}


def test_saving_one_table_keeps_the_others(tmp_path):
    one, two = kept(), quantities()
    save(tmp_path, {TABLE: (made(TABLE, one), one)})
    save(tmp_path, {RATE: (made(RATE, two), two)})
    again = kept(seeds=(5,))
    save(tmp_path, {TABLE: (made(TABLE, again), again)})
    assert all(rebuild(tmp_path, [TABLE, RATE], write=False).values())
    assert {o["seed"] for o in stored_records(tmp_path) if o["table"] == "table1"} == {5}
    assert set(pd.read_parquet(tmp_path / "predictions.parquet").seed) == {0, 5}


def test_two_tables_share_a_run(tmp_path):
    launched, other = kept(), replace(TABLE, name="table3", metrics=("accuracy",))
    third = replace(launched, records=[o | dict(table="table3") for o in launched.records])
    save(tmp_path, {TABLE: (made(TABLE, launched), launched), other: (made(other, third), third)})
    assert all(rebuild(tmp_path, [TABLE, other], write=False).values())
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) == len(launched.predictions)


def test_what_is_stored_stays_readable(tmp_path):
    launched = kept(failures=[record("Two", 0, seed=1, error="it broke", traceback="/home/me")])
    save(tmp_path, {TABLE: (made(TABLE, launched), launched)})
    lines = [json.loads(o) for o in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [o["key"] for o in lines[:4]] == [o["key"] for o in launched.records]
    assert lines[4]["error"] == "it broke" and "traceback" not in lines[4]
    stored = pd.read_parquet(tmp_path / "predictions.parquet")
    assert stored.score_1.dtype == np.float32 and stored.truth.tolist()[:7] == ["0"] * 6 + ["1"]
    assert {"run", "row", "fold", "seed", "window", "subject", "truth"} <= set(stored.columns)


@pytest.mark.parametrize("name", ["runs.jsonl", "predictions.parquet"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damaged_files_are_named(tmp_path, name, harm):
    launched = kept()
    save(tmp_path, {TABLE: (made(TABLE, launched), launched)})
    path = tmp_path / name
    if harm == "gone": path.unlink()
    else: path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoreError, match=name): rebuild(tmp_path, [TABLE])


@pytest.mark.parametrize("odd", ["[]", "3", '"text"', '{"key": "x"}', "{", "null"])
def test_a_line_that_tells_no_run_is_named(tmp_path, odd):
    launched = kept()
    save(tmp_path, {TABLE: (made(TABLE, launched), launched)})
    path = tmp_path / "runs.jsonl"
    path.write_text(path.read_text() + odd + "\n")
    with pytest.raises(StoreError, match="runs.jsonl"): rebuild(tmp_path, [TABLE])
    with pytest.raises(StoreError, match="runs.jsonl"): stored_records(tmp_path)


def test_a_table_without_runs_cannot_be_rebuilt(tmp_path):
    launched = kept()
    save(tmp_path, {TABLE: (made(TABLE, launched), launched)})
    assert rebuild(tmp_path, [RATE]) == {}
    (tmp_path / "table2.csv").touch()
    with pytest.raises(StoreError, match="table2.csv"): rebuild(tmp_path, [RATE])


# ---- what is missing

def test_a_row_that_failed_says_why_and_has_no_number():
    launched = kept()
    launched.records = [o for o in launched.records if o["row"] == "One"]
    launched.failures = [dict(row="Two", fold=k, seed=0, error="MethodError: no beats",
                              table="table1", profile="smoke", resamples=100) for k in (0, 1)]
    two = line(made(TABLE, launched), "Two")
    assert two.schedule == "not run: MethodError: no beats" and two.n == 0
    assert np.isnan(two["mean"]) and np.isnan(two.low) and two.cohort == "simulated"


def test_a_row_nobody_ran_stands_there_without_a_number():
    launched = kept()
    launched.records = [o for o in launched.records if o["row"] == "Two"]
    frame = made(TABLE, launched)
    assert line(frame, "One").schedule == "not run" and np.isnan(line(frame, "One")["mean"])
    assert np.isnan(line(frame, "Two").difference) and line(frame, "Two")["mean"] > 50


def test_no_runs_at_all():
    frame = made(TABLE, Kept(pd.DataFrame(), [], []))
    assert len(frame) == 6 and frame["mean"].isna().all() and (frame.schedule == "not run").all()


def test_a_missing_fold_is_said_and_compared_on_common_people():
    launched = kept()
    launched.records = [o for o in launched.records if o["key"] != "Two-0-1"]
    frame = made(TABLE, launched)
    two = line(frame, "Two")
    assert "incomplete: 1 of 2 runs" in two.schedule and two.n == 6 and line(frame, "One").n == 12
    few = launched.predictions.query("fold == 0")
    alone = made(TABLE, replace(launched, predictions=few))
    assert two.difference == line(alone, "Two").difference


def test_a_seed_with_a_missing_fold_is_left_out_and_said():
    launched = kept(seeds=(0, 1))
    launched.records = [o for o in launched.records if o["key"] != "Two-1-1"]
    two, alone = line(made(TABLE, launched), "Two"), line(made(TABLE, kept()), "Two")
    assert two["mean"] == alone["mean"] and np.isnan(two.sd)
    assert "incomplete: 3 of 4 runs" in two.schedule


@pytest.mark.parametrize("lacking", ["One", "Two"])
def test_rows_are_compared_seed_by_seed_on_the_people_both_were_asked_about(lacking):
    "Each seed of one row lacks another fold: no seed of it is whole."
    launched, gone = kept(seeds=(0, 1)), ("-0-1", "-1-0")
    launched.records = [o for o in launched.records if o["key"] not in {lacking + g for g in gone}]
    whole = launched.predictions
    alike = replace(launched, predictions=whole[~whole.run.str.endswith(gone)])
    frame = made(TABLE, launched)
    two, expected = line(frame, "Two"), line(made(TABLE, alike), "Two")
    assert line(frame, "One").n == two.n == 12                    # together everybody was asked
    assert two.difference == expected.difference and two.p == expected.p
    everybody = line(made(TABLE, kept(seeds=(0, 1))), "Two")
    assert two.difference != pytest.approx(everybody.difference)


@pytest.mark.parametrize("lacking", ["One-1", "Two-1"])
def test_a_seed_that_one_row_lacks_is_not_compared(lacking):
    launched = kept(seeds=(0, 1))
    launched.records = [o for o in launched.records if not o["key"].startswith(lacking)]
    two, alone = line(made(TABLE, launched), "Two"), line(made(TABLE, kept()), "Two")
    assert two.difference == alone.difference


@pytest.mark.parametrize("column", [["score_1"], ["score_0", "score_1"]])
def test_scores_that_are_nan_are_said_not_averaged(column):
    launched = kept()
    launched.predictions.loc[launched.predictions.row == "Two", column] = np.nan
    two = line(made(TABLE, launched), "Two")
    assert two.schedule == "cannot be judged: scores are NaN in seed 0" and np.isnan(two["mean"])


def test_a_class_nobody_has_is_named():
    launched = kept()
    launched.predictions["score_flutter"] = 0.0
    launched.records = [o | dict(classes=["0", "1", "flutter"]) for o in launched.records]
    assert "too few to judge: flutter" in line(made(TABLE, launched), "Two").schedule


def test_the_split_and_the_schedule_are_told():
    launched = kept()
    facts = dict(final_loss=1.5, split="window", schedule=dict(epochs=3, batch=8, lr=.001,
                 penalties=[1.0], forgotten=7))
    launched.records = [o | facts for o in launched.records]
    told = line(made(TABLE, launched), "One").schedule
    assert told.startswith("2 folds by window, 1 seed; 3 epochs, batch 8, lr 0.001")


def test_the_schedule_tells_how_a_row_was_judged():
    facts = dict(epochs=15, lr=8e-4, every=2, precision="bfloat16", tune_epochs=10, tune_lr=4e-4,
                 optimiser="adam", weight_decay=.35)
    cases = {
        (1.5, "probe", False, "true"): "15 epochs, batch 16, lr 0.0008, every 2nd window, "
            "bfloat16, adam with L2, weight decay 0.35",
        (1.5, "finetune", False, "true"): "15 epochs, batch 16, lr 0.0008, every 2nd window, "
            "bfloat16, adam with L2, weight decay 0.35; fine-tuned 10 epochs, lr 0.0004",
        (None, "finetune", False, "true"): "fine-tuned 10 epochs, batch 16, lr 0.0004, every 2nd "
            "window, bfloat16, adam with L2, weight decay 0.35",
        (None, "finetune", True, "true"): "supervised 25 epochs, batch 16, lr 0.0008, every 2nd "
            "window, bfloat16, adam with L2, weight decay 0.35",
        (None, "probe", False, "shuffled"): "labels shuffled over subjects"}
    for (loss, judge, scratch, labels), words in cases.items():
        launched = kept()
        more = dict(final_loss=loss, judge=judge, scratch=scratch, labels=labels, schedule=facts)
        launched.records = [o | more for o in launched.records]
        assert line(made(TABLE, launched), "One").schedule == f"2 folds by subject, 1 seed; {words}"


def test_predictions_are_kept_once_per_run_and_window():
    twice = pd.concat([kept().predictions] * 2)
    assert len(storable(twice)) == len(kept().predictions)
    again = storable(storable(twice))
    pd.testing.assert_frame_equal(storable(twice), again)


# ---- declarations

@pytest.mark.parametrize("wrong", [dict(versus="Oen"), dict(metrics=("auroq",)),
                                   dict(rows=(Row("a", "b"),) * 2),
                                   dict(published_map=(("auroq", "x"),))])
def test_a_table_that_cannot_be_is_refused_when_declared(wrong):
    with pytest.raises(RequestError): replace(TABLE, **wrong)


def test_runs_are_every_row_seed_and_fold(home):
    runs = TABLE.runs(profile="smoke", seed=3, options=dict(subjects=9))
    from biossl.train.profiles import get_profile
    smoke = get_profile("smoke")
    assert len(runs) == len(TABLE.rows) * smoke.seeds * smoke.folds == len({o.key for o in runs})
    assert {dict(o.options)["subjects"] for o in runs} == {9}
    assert {o.seed for o in runs} == set(range(3, 3 + smoke.seeds))
    assert runs[-1].hyper == (("signals", ("ecg",)),) and runs[0].task == "af"
    with pytest.raises(RequestError): TABLE.runs(profile="smok")


def test_a_row_says_judge_labels_and_what_of_the_schedule_it_changes(home):
    row = Row("x", "simclr", judge="finetune", labels="shuffled", penalties=(.1,),
              schedule=(("weight_decay", .35), ("optimiser", "adam")))
    run = replace(TABLE, rows=(row,), versus="").runs(profile="smoke")[0]
    assert (run.judge, run.labels) == ("finetune", "shuffled")
    told = run.schedule
    assert (told.weight_decay, told.optimiser, told.penalties) == (.35, "adam", (.1,))
    assert told.steps == 1 and told.lr == 1e-4                     # the rest is the profile's
    wrong = replace(TABLE, versus="", rows=(replace(row, schedule=(("epoch", 2),)),))
    with pytest.raises(RequestError, match="no epoch.*did you mean epochs"):
        wrong.runs(profile="smoke")


@pytest.mark.parametrize("profile,cohort,seconds", [
    ("smoke", "simulated", (10, 10)), ("quick", "simulated", (10, 10)),
    ("paper", "simulated", (30, 60)), ("quick", "mimic_perform_af", (30, 60))])
def test_brief_profiles_look_at_shorter_windows_of_the_simulator(profile, cohort, seconds):
    from biossl.data.store import Windowing
    long = Windowing(signals=(("ecg", 20.0),), seconds=60, hop=30)
    table = replace(TABLE, brief=Windowing(seconds=10, hop=10),
                    rows=(TABLE.rows[0], Row("Two", "chance", windowing=long)))
    runs = {o.row: o.windowing for o in table.runs(cohort, profile)}
    assert (runs["One"].seconds, runs["Two"].seconds) == seconds
    assert runs["Two"].signals == long.signals                     # the rest is the row's own
    assert {o.windowing.seconds for o in TABLE.runs(cohort, profile)} == {30}


def test_a_table_says_what_its_chapter_can_pay_for_where_there_is_no_gpu(home, monkeypatch):
    import biossl.train.launch as launching
    from biossl.train.profiles import TWO_CORES, get_profile
    asked = []
    def spy(runs, **_):
        asked.extend(runs)
        return launching.Launched(pd.DataFrame(), [], [])
    monkeypatch.setattr(launching, "launch", spy)
    table = replace(TABLE, cut=TWO_CORES, cut_seeds=1)
    for device, of, schedule, seeds in (
            ("cpu", table, TWO_CORES.on("cpu"), {0}),
            ("cuda", table, get_profile("paper").schedule, set(range(5))),
            ("cpu", TABLE, get_profile("paper").cut, set(range(5)))):
        asked.clear()
        of.run(profile="paper", device=device)
        assert {o.schedule for o in asked} == {schedule} and {o.seed for o in asked} == seeds


def test_rows_judged_by_another_version_are_stale(home, monkeypatch):
    frame, launched = TABLE.run(profile="smoke", workers=1)
    assert stale_rows(TABLE, launched.records) == {}
    monkeypatch.setattr("biossl.train.runs.JUDGE", "next")
    monkeypatch.setattr("biossl.train.probe.JUDGE", "next")
    assert set(stale_rows(TABLE, launched.records)) == {"One", "Two"}
    assert "now next" in stale_rows(TABLE, launched.records)["One"]


def test_a_changed_declaration_makes_rows_stale(home):
    from biossl.train.launch import run_key
    from biossl.train.probe import JUDGE
    records = [dict(key=run_key(o, "data"), row=o.row, cohort=o.cohort, options=dict(o.options),
                    fold=o.fold, folds=o.folds, seed=o.seed, data="data", version="1",
                    judge_version=JUDGE,
                    schedule=json.loads(json.dumps(vars(o.schedule))))
               for o in TABLE.runs(profile="smoke")]
    from biossl.methods.contract import method_class
    for o in records: o["version"] = method_class(TABLE.row(o["row"]).method).version
    assert stale_rows(TABLE, records) == {}
    two = Row("Two", "clinical", (("signals", ("ppg",)),))
    changed = replace(TABLE, rows=(TABLE.rows[0], two))
    assert stale_rows(changed, records) == {"Two": "its configuration has changed"}
    fewer = replace(TABLE, rows=TABLE.rows[:1])
    assert stale_rows(fewer, records) == {"Two": "is declared no longer"}
    for o in records:
        if o["row"] == "One": o.update(key="0", version="0.9")
    assert "version 0.9, now" in stale_rows(TABLE, records)["One"]
    gone = replace(TABLE, rows=(TABLE.rows[0], Row("Two", "no_such_method")))
    assert "no_such_method" in stale_rows(gone, records)["Two"]


def test_a_table_runs_from_end_to_end(home, tmp_path):
    frame, launched = TABLE.run(profile="smoke", workers=1)
    assert not launched.failures and (frame.n > 0).all() and frame["mean"].notna().all()
    save(tmp_path, {TABLE: (frame, launched)})
    assert list(rebuild(tmp_path, [TABLE], write=False).values()) == [True]
    assert stale_rows(TABLE, stored_records(tmp_path)) == {}


# ---- readers

def test_side_by_side():
    launched = kept(seeds=(0, 1))
    launched.records = [o for o in launched.records if o["key"] != "Two-1-1"]
    frame = made(replace(TABLE, rows=(*TABLE.rows, Row("Lost", "chance"))), launched)
    page = side_by_side(frame, "auroc", stale={"One"})
    assert page.index.tolist() == ["One (stale)", "Two (incomplete)", "Lost (not run)"]
    assert page.columns.tolist() == ["ours [95 %]", "subjects", "difference to One"]
    assert page.iloc[2].tolist() == ["none", 0, ""] and " ± " in page.iloc[0, 0]
    assert page.iloc[1, 2].startswith("+") and "(p " in page.iloc[1, 2]
    printed = side_by_side(frame.assign(published=[81.25, *[np.nan] * (len(frame) - 1)]))
    assert printed.columns[0] == "paper" and printed["paper"].tolist()[:2] == ["81.25", ""]
    assert len(side_by_side(frame)) == 9
    with pytest.raises(RequestError): side_by_side(frame, "auroq")


# ---- what the papers printed

def test_the_papers_numbers_stand_beside_ours():
    table = replace(TABLE, published="tsta_table1", published_map=(("f1_macro", "F1 Score (%)"),),
                    rows=(replace(TABLE.rows[0], published="LSTM"), TABLE.rows[1]))
    frame = made(table, kept())
    assert line(frame, "One", "f1_macro").published == 64.92
    assert np.isnan(line(frame, "One", "auroc").published)
    assert np.isnan(line(frame, "Two", "f1_macro").published)


def test_the_harmonic_means_of_the_first_papers_table():
    frame = published_table("tsta_table1")
    p, r = frame["Pre(%)"], frame["Recall(%)"]
    expected = [64.897, 66.863, 82.254, 89.716, 82.144, 74.202, 90.757]
    assert (2 * p * r / (p + r)).tolist() == pytest.approx(expected, abs=5e-4)


SHAPES = dict(tsta_table1=(7, 4), tsta_table2=(6, 3), tsta_table3=(4, 4), tsta_table4=(4, 4),
              ssltsg_table1=(12, 7), ssltsg_table2=(8, 7), cg_dmer_table1=(17, 18),
              cg_dmer_table2=(5, 7), cg_dmer_table3=(5, 6), xmae_figure1=(5, 3),
              xmae_data_efficiency=(9, 10))
WORDS = dict(xmae_datasets=(6, 4), xmae_features=(35, 2), xmae_tasks=(19, 6))  # no percents


@pytest.mark.parametrize("name", SHAPES)
def test_published_tables_are_whole(name):
    frame = published_table(name).select_dtypes("number")
    assert frame.shape == SHAPES[name] and frame.index.is_unique
    assert frame.isna().to_numpy().sum() == (32 if name == "ssltsg_table1" else 0)
    assert ((frame.to_numpy() >= 0) | frame.isna().to_numpy()).all() and frame.max().max() < 100


def test_every_published_table_is_known():
    assert {o.stem for o in published_folder().glob("*.csv")} == {*SHAPES, *WORDS}


@pytest.mark.parametrize("name", WORDS)
def test_published_lists_are_whole(name):
    frame = published_table(name)
    assert frame.shape == WORDS[name] and frame.index.is_unique


def test_the_totals_of_the_overview_are_those_of_the_evaluation_sets():
    "12.5k subjects and 2.3k hours of PPG, of which 19 to 39 people and 5k to 13k segments vague."
    frame = published_table("xmae_datasets")
    exact = frame.drop("Abnormal Lab Tests")
    people, segments = (exact[o].str.replace(",", "").astype(int).sum()
                        for o in ("# Subjects", "# Segments"))
    assert round((people + 39) / 1000, 1) == 12.5
    assert round((segments + 4 * 13_000) * 10 / 3600 / 1000, 1) == 2.3


def test_every_task_of_the_nineteen_has_its_set_and_what_is_printed_says_so():
    tasks, sets = published_table("xmae_tasks"), published_table("xmae_datasets").index
    assert set(tasks["Data set"]) <= {*sets, "not told"} and set(sets) <= set(tasks["Data set"])
    assert set(tasks.Kind) == {"classification", "regression"}
    asked = {o for cell in tasks["Cohort here"].dropna() for o in cell.split(", ")}
    assert asked <= set(cohort_names())
    columns = {o.removesuffix(" ±") for o in published_table("xmae_data_efficiency").columns[1:]}
    columns = {o.replace("Hyptn", "Hypertension") for o in columns}
    assert columns <= set(tasks.index[tasks.Reading == "printed"])


@pytest.mark.parametrize("wrong", [("tsta_table9", "LSTM", "Acc(%)"),
                                   ("tsta_table1", "X", "Acc(%)"),
                                   ("tsta_table1", "LSTM", "X")])
def test_what_was_not_printed_is_an_error(wrong):
    with pytest.raises(RequestError): published_value(*wrong)
