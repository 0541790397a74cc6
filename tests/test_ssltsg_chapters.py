"""Chapters 08 and 09: what their tables declare, thresholds of runs, gate, collapse."""
import numpy as np
import pandas as pd
import pytest

from biossl.cohorts.statements import CLASSES
from biossl.data.errors import RequestError
from biossl.evaluation.arms import TWO_CORES, metrics, named
from biossl.evaluation.challenge import choose_thresholds
from biossl.evaluation.claims import Results
from biossl.evaluation.gates import ASIDE, collapses, found_alone, gate_shares
from biossl.evaluation.tables import published_table, with_thresholds
from biossl.methods.contract import get_config
from biossl.papers.ssltsg import fig3
from biossl.papers.ssltsg_fusion import pairs, switches, table2
from biossl.train.launch import Launched

TABLES = (fig3, table2, switches)


def run_of(table, row, profile="quick"):
    return next(o for o in table.runs("", profile) if o.row == row)


# ---- declarations ------------------------------------------------------------------------------

def test_every_printed_row_and_metric_stands_beside_one_of_ours():
    printed = published_table(table2.published)
    assert [o.published for o in table2.rows if o.published] == list(printed.index)
    assert [column for _, column in named] == list(printed.columns[-7:])
    assert all(o.judge == "finetune" and o.name == o.published for o in table2.rows if o.published)


@pytest.mark.parametrize("table", TABLES, ids=lambda o: o.name)
def test_every_table_has_chance_an_untrained_network_and_what_a_cardiologist_measures(table):
    assert {"Chance", "Random init T, probe", "Intervals and shapes, boosted"} <= {
        o.name for o in table.rows}


@pytest.mark.parametrize("table", TABLES, ids=lambda o: o.name)
def test_rows_differ_in_what_is_run_but_for_thresholds(home, table):
    keys = {o.name: run_of(table, o.name).key for o in table.rows}
    same = {"Thresholds chosen on the evaluation fold", "SSL-T"}
    assert len(set(keys.values())) == len(keys) - (table is switches)
    if table is switches: assert len({keys[o] for o in same}) == 1


@pytest.mark.parametrize("one, other", [
    (("SSL-T", table2), ("SSL-T", switches)), (("SSL-TSG", table2), ("SSL-TSG", switches)),
    (("TSG, Kaiming start", table2), ("Ensemble weights never loaded", switches)),
    (("SSL-T", table2), ("T, TC and GN", fig3)), (("SSL-S", table2), ("S, TC and FC", fig3))],
    ids=lambda o: o[0])
def test_what_two_tables_share_is_computed_once(home, one, other):
    assert run_of(one[1], one[0]).key == run_of(other[1], other[0]).key


def differing(one, other):
    "The names of hyper-parameters in which two runs' methods differ, those of pre-training too."
    def flat(run):
        config = vars(get_config(run.method, **run._hyper)).copy()
        made = {f"dino {k}": v for k, v in dict(config.pop("dino", ())).items()}
        return config | made
    a, b = flat(one), flat(other)
    return {k for k in a | b if a.get(k) != b.get(k)}


SWITCHED = {
    "Lead copied": {"lead_copy"}, "FC overwritten": {"dino crops"},
    "Ensemble weights never loaded": {"start", "dino crops", "dino momentum", "dino out",
                                      "dino teacher_temperature"},
    "Centre divided twice": {"dino divisions"}, "Local length ignored": {"dino crops"},
    "Teacher's momentum constant": {"dino momentum_last"},
    "Teacher's temperature 0.04": {"dino teacher_temperature"},
    "Adam with coupled decay": {"dino decay_all"}, "Classifier without activation": {"act"},
    "Epoch chosen on the evaluation fold": set(), "Folds by recording": set(),
    "Thresholds chosen on the evaluation fold": set(), "Pre-trained on evaluation recordings": set()}


@pytest.mark.parametrize("name", SWITCHED)
def test_a_defect_is_one_change_to_the_arm_it_is_compared_with(home, name):
    row, base = (run_of(switches, o) for o in pairs[name])
    assert differing(row, base) == SWITCHED[name]
    schedules = {k for k, v in vars(row.schedule).items() if v != vars(base.schedule)[k]}
    assert schedules == {"Adam with coupled decay": {"optimiser"},
                         "Epoch chosen on the evaluation fold": {"select"},
                         "Thresholds chosen on the evaluation fold": {"thresholds"},
                         "Pre-trained on evaluation recordings": {"sees"}}.get(name, set())
    assert (row.split != base.split) == (name == "Folds by recording")


def test_the_ledger_holds_every_defect_once():
    assert set(SWITCHED) == set(pairs) and len(pairs) >= 8


def test_the_cut_keeps_the_published_rate_per_crop_and_says_what_it_is():
    paper = table2.profile("paper")
    full, cut = paper.on("cuda"), paper.on("cpu", table2.cut, table2.cut_seeds)
    assert (full.folds, full.seeds, full.schedule.epochs) == (10, 3, 300)
    assert cut.schedule.epochs == TWO_CORES.epochs >= 20 and cut.seeds == 1 and cut.folds == 3
    rates = [o.schedule.tune_lr / o.schedule.tune_batch for o in (full, cut)]
    assert rates[0] == pytest.approx(rates[1])
    assert {o.split(" ")[0] for o in (str(cut.schedule),)} == {"20"}


def test_metrics_are_the_official_seven_and_those_over_common_classes():
    assert metrics[:7] == tuple(f"challenge_{o}" for o in (
        "auroc", "auprc", "accuracy", "f1", "f2", "g2")) + ("challenge",)
    assert all(o.endswith("_common") for o in metrics[7:]) and len(metrics) == 12


# ---- thresholds -------------------------------------------------------------------------------

def frame(run, row, n=40, seed=0, fold=0):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 24)) < .2).astype(np.int8)
    scores = np.clip(.3 * truth + rng.random((n, 24)) * .6, 0, 1)
    columns = {f"truth_{c}": truth[:, k] for k, c in enumerate(CLASSES)}
    columns |= {f"score_{c}": scores[:, k] for k, c in enumerate(CLASSES)}
    return pd.DataFrame(dict(run=run, row=row, fold=fold, seed=0, window=np.arange(n),
                             recording=[f"r{i}" for i in range(n)],
                             subject=[f"p{i // 2}" for i in range(n)], **columns)), truth, scores


def test_thresholds_come_from_the_inner_part_unless_a_row_says_otherwise():
    inner, *inside = frame("k", "nested", seed=1)
    test, *tested = frame("k", "nested", seed=2)
    records = [dict(key="k", row=row, fold=0, seed=0, n_inner=40, schedule=dict(thresholds=part))
               for row, part in (("nested", "inner"), ("as released", "test"))]
    both = [pd.concat([o, o.assign(row="as released")]) for o in (test, inner)]
    made = with_thresholds(Launched(both[0], records, [], both[1])).records
    assert made[0]["thresholds"] == choose_thresholds(*inside).tolist()
    assert made[1]["thresholds"] == choose_thresholds(*tested).tolist()
    assert made[0]["thresholds"] != made[1]["thresholds"]


def test_two_rows_of_one_run_keep_their_own_thresholds():
    test, truth, scores = frame("k", "a", seed=2)
    records = [dict(key="k", row=row, fold=0, seed=0, folds=1, resamples=50, classes=list(CLASSES),
                    thresholds=[level] * 24) for row, level in (("a", .1), ("b", .5))]
    results = Results(pd.concat([test, test.assign(row="b")]), records)
    for row, level in (("a", .1), ("b", .5)):
        assert np.array_equal(results.answers(row)[0].decided, scores.astype(float) >= level)


def test_runs_of_one_answer_have_no_thresholds():
    launched = Launched(pd.DataFrame(dict(run=["k"], row=["a"])), [dict(key="k", row="a")], [])
    assert with_thresholds(launched) is launched


# ---- gate, branches, collapse -------------------------------------------------------------------

def test_shares_of_the_gate_by_class_and_fold():
    predictions = pd.concat([frame(f"k{f}", "TSG", fold=f, seed=f)[0] for f in (0, 1)])
    predictions[ASIDE] = np.linspace(.2, .8, len(predictions))
    shares = gate_shares(predictions, "TSG", CLASSES).set_index(["class", "fold"])
    mine = predictions[(predictions.fold == 1) & (predictions.truth_AF == 1)][ASIDE]
    assert shares.loc[("AF", 1), "n"] == len(mine)
    assert shares.loc[("AF", 1), "mean"] == pytest.approx(mine.mean())
    assert shares.loc[("AF", 1), "q50"] == pytest.approx(np.median(mine))
    assert shares.loc[("all", 0), "n"] == 40 and len(shares) == 2 * 25
    with pytest.raises(RequestError, match="no gate"):
        gate_shares(predictions.assign(row="T", **{ASIDE: np.nan}), "T", CLASSES)


def test_recordings_that_only_one_branch_finds():
    test, truth, scores = frame("k", "T", seed=2)
    other = frame("m", "S", seed=3)[0]
    for c in CLASSES: other[f"truth_{c}"] = test[f"truth_{c}"]
    records = [dict(key=key, row=row, fold=0, seed=0, folds=1, resamples=50,
                    thresholds=[.4] * 24) for key, row in (("k", "T"), ("m", "S"))]
    results = Results(pd.concat([test, other]), records)
    found = found_alone(results, "T", "S")
    a, b = (results.answers(o)[0].decided == 1 for o in "TS")
    k, has = list(CLASSES).index("AF"), truth.astype(bool)
    here = has[:, k]
    assert found.loc["AF"].tolist() == [here.sum(), (a & b)[here, k].sum(), (a & ~b)[here, k].sum(),
                                        (~a & b)[here, k].sum(), (~a & ~b)[here, k].sum()]
    assert (found.iloc[:, 1:].sum(axis=1) == found.recordings).all()


def test_every_pre_training_says_what_it_still_tells_apart():
    told = dict(entropy=1.5, most_entropy=6.9, classes=12, rows=256, feature_sd=.4)
    records = [dict(row="probe", fold=0, seed=0, config=dict(domain="time"), found=told),
               dict(row="TSG", fold=1, seed=0, config={},
                    found={f"{d}_{k}": v for d in ("time", "spectrogram") for k, v in told.items()}),
               dict(row="Chance", fold=0, seed=0, config={})]
    made = collapses(records)
    assert made[["row", "domain"]].values.tolist() == [
        ["probe", "time"], ["TSG", "time"], ["TSG", "spectrogram"]]
    assert (made.classes == 12).all() and made.entropy.eq(1.5).all()
