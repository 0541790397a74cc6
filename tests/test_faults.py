"""The ledger: what is printed against what is computed, here again by another way."""
import csv

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from test_benchmarks import csn, super_rows, write

from biossl.cohorts.benchmarks import CLASSES, label_set, tables_folder
from biossl.data.errors import CohortError, RequestError
from biossl.evaluation.faults import (below_random, ceiling_entry, draw_entries, faults_frame, frozen_entry, is_frozen,
                                      peek_entries, peeked, table_entries, without_positive)
from biossl.evaluation.published import published_folder
from biossl.evaluation.statistics import Estimate


def printed(table):
    with open(published_folder() / f"{table}.csv", newline="") as f: return list(csv.reader(f))


def entry(entries, row, what=""):
    found = [o for o in entries if o.row == row and what in o.what]
    assert len(found) == 1, [o.what for o in entries]
    return found[0]


def test_cells_below_random_are_counted_from_the_csv():
    head, *rows = printed("cg_dmer_table1")
    random, ours = rows[0], rows[2:12]
    for fraction, of in (("1%", 18), ("10%", 21), ("100%", 45)):
        columns = [k for k, o in enumerate(head) if o.endswith(f" {fraction}")]
        count = sum(float(row[k]) < float(random[k]) for row in ours for k in columns)
        assert below_random(fraction) == (count, 60) == (of, 60)
    with pytest.raises(RequestError): below_random("50%")
    assert below_random("100%", "Random Init (Trans)")[0] < 45


def test_what_the_papers_tables_say_of_themselves():
    found = table_entries()
    assert entry(found, "text against Table 3", "Linear").line["difference"] == pytest.approx(1.0)
    assert entry(found, "text against Table 3", "Zero").line["difference"] == pytest.approx(0)
    assert entry(found, "averages", "Linear").ours == pytest.approx(70.1567, abs=1e-4)
    assert entry(found, "averages", "zero-shot").ours == pytest.approx(76.0, abs=0.005)
    assert entry(found, "best of all").line["difference"] == pytest.approx(75.70 - 74.62)
    assert entry(found, "below chance").ours == 13 and entry(found, "below chance").n == 17 * 18


# ---- small written tables

@pytest.fixture
def written(tmp_path):
    "Sets of which all is told, but for CSN's substrings and the third part of sub's columns."
    csn(tmp_path, dict(train=["VB", "SR", "AVB"], val=["SR"], test=["AVB,SR", "SR", "VB", "ST"]))
    for name in set(CLASSES) - {"csn", "ptbxl_sub", "cpsc2018"}:
        for k, part in enumerate(("train", "val", "test")):
            rows = [dict(ecg_id=10 * k + i, patient_id=f"{10 * k + i}.0", **{name.replace("ptbxl_", "").replace(
                "super", "super_class"): "['x']"}) for i in range(4)]
            write(tmp_path, name, part, [o | {CLASSES[name][i % 2]: 1} for i, o in enumerate(rows)])
    for k, part in enumerate(("train", "val", "test")):
        write(tmp_path, "cpsc2018", part, [dict(filename=f"A{10 * k + i}", NORM=i % 2) for i in range(4)])
        told = [dict(ecg_id=10 * k + i, patient_id=f"{10 * k + i // 2}.0", sub_class="['AVB']", AVB=i % 2)
                for i in range(8)]
        first = [*told[0]][:3]
        order = [*CLASSES["ptbxl_sub"]] if part == "train" else [*reversed(CLASSES["ptbxl_sub"])]
        write(tmp_path, "ptbxl_sub", part, told, [*first, *order])
    return tmp_path


def test_columns_by_position_are_scored_against_others(written):
    labels = label_set("ptbxl_sub", "by_position", folder=written)
    found = ceiling_entry(labels, "x", "y", 50)
    place = CLASSES["ptbxl_sub"].index("AVB")
    other = CLASSES["ptbxl_sub"][::-1][place]
    by_name = label_set("ptbxl_sub", folder=written)
    assert by_name.table("test")["AVB"].sum() == 4 and labels.table("test")[
        CLASSES["ptbxl_sub"][CLASSES["ptbxl_sub"][::-1].index("AVB")]].sum() == 4
    assert found.ours == 50 and found.n == 8 and other != "AVB"      # it is never told of what is there


def test_substrings_cost_what_the_pairs_say(written):
    found = ceiling_entry(label_set("csn", labels="substring", folder=written), "x", "y", 200)
    truth = dict(VB=[0, 0, 1, 0], AVB=[1, 0, 0, 0], SR=[1, 1, 0, 0], ST=[0, 0, 0, 1])
    asked = truth | dict(VB=[1, 0, 1, 0])
    slow = np.mean([roc_auc_score(asked[o], truth[o]) for o in truth])
    assert found.ours == pytest.approx(100 * slow) and found.low <= found.ours - 100 <= found.high


def test_classes_without_a_positive_are_named(written):
    table, classes = label_set("csn", folder=written).table("train"), CLASSES["csn"]
    assert set(classes) - set(without_positive(table, classes, [0, 1])) == {"VB", "SR"}
    assert len(without_positive(table, classes, [])) == 38


def test_draws_need_a_hundred_people(written):
    from biossl.data.errors import SplitError
    with pytest.raises((SplitError, ValueError)): draw_entries(written)
    assert super_rows([1])[0]["MI"] == 1


# ---- the test set, looked at

def planted(n=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    truth = np.c_[x[:, 0] > 0, x[:, 1] + rng.normal(size=n) > 0.5, np.zeros(n)].astype(int)
    return x, truth, np.arange(n) // 2, (np.arange(100), np.arange(100, 140), np.arange(140, n))


def test_curves_are_what_is_said_after_each_epoch_and_the_rest_of_the_draws_is_left_alone():
    x, truth, people, parts = planted()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = peeked(x, truth, people, parts, tuple("abc"), epochs=4, drop=None)
    assert torch.equal(before, torch.get_rng_state())
    again = peeked(x, truth, people, parts, tuple("abc"), epochs=4, drop=None)
    np.testing.assert_array_equal(found.said, again.said)
    for auc, said in zip(found.test, found.said):
        slow = [roc_auc_score(truth[parts[2], k], said[:, k]) for k in (0, 1)]    # nobody has the third
        assert auc == pytest.approx(np.mean(slow))
    assert found.said.shape == (4, 60, 3) and found.subjects.tolist() == [str(k // 2) for k in range(140, 200)]


def test_one_batch_is_a_step_of_adam_and_the_rate_falls_after_so_many_batches():
    x, truth, people, (train, *rest) = planted()
    def weights_after(**how):
        found = peeked(x, truth, people, (train, *rest), tuple("abc"), batch=100, decay=0.0, **how)
        odds = np.log(found.said.astype(float) / (1 - found.said))
        inputs = np.c_[x[rest[1]], np.ones(60)]
        return np.stack([np.linalg.lstsq(inputs, o, rcond=None)[0] for o in odds])
    whole = weights_after(epochs=3, drop=None)
    fallen = weights_after(epochs=3, drop=2)
    np.testing.assert_allclose(whole[:2], fallen[:2], atol=1e-4)
    steps = [np.abs(np.diff(o, axis=0))[-1].mean() for o in (whole, fallen)]
    assert steps[1] == pytest.approx(steps[0] / 10, rel=0.05)
    assert np.abs(whole[1] - whole[0]).max() == pytest.approx(1e-3, rel=0.1)     # Adam's step is the rate


def test_the_maximum_is_never_less_and_of_noise_it_is_more():
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(300, 40)), rng.integers(0, 2, (300, 4))
    parts = np.arange(40), np.arange(40, 80), np.arange(80, 300)
    found = peeked(x, truth, np.arange(300), parts, tuple("abcd"), epochs=30, rate=0.02, drop=None)
    last, chosen = peek_entries("noise", found, 100)
    for o in (last, chosen):
        assert o.printed == 100 * found.test.max() >= o.ours and o.low <= o.line["difference"] <= o.high
    assert last.ours == 100 * found.test[-1] < last.printed
    assert chosen.ours == 100 * found.test[found.val.argmax()]


# ---- frozen or not, and all of it

def test_the_name_decides_what_learns():
    assert [is_frozen(o) for o in ("LinearProbing", "linear", "resnet_linear_1")] == [False, True, True]
    draws = np.random.default_rng(0).normal(size=100) / 100
    gap = frozen_entry(Estimate(0.8, 0, 50, 0.8 + draws), Estimate(0.7, 0, 50, 0.7 + draws))
    assert gap.line["difference"] == pytest.approx(-10) == pytest.approx(gap.low) == pytest.approx(gap.high)
    assert gap.n == 50


def test_the_ledger_has_a_line_for_what_was_computed_and_none_else():
    x, truth, people, parts = planted()
    seen = peeked(x, truth, people, parts, tuple("abc"), epochs=3)
    plain, more = faults_frame(), faults_frame(peeks=dict(ours=seen), resamples=20)
    assert list(plain) == ["row", "what", "printed", "ours", "difference", "low", "high", "n", "source"]
    assert len(more) == len(plain) + 2 and not more[["printed", "ours", "difference"]].isna().any(axis=None)
    assert not set(plain.row) & {"columns by position", "labels by substring", "frozen by name"}


@pytest.mark.real
def test_the_published_tables_cost_what_the_spec_says(real_data):
    try: folder = tables_folder()
    except CohortError as e: pytest.skip(str(e))
    frame = faults_frame(folder, resamples=30).set_index(["row", "what"])["ours"]
    assert frame["columns by position"].iloc[0] == pytest.approx(93.3683, abs=5e-5)
    assert frame["labels by substring"].tolist() == [pytest.approx(95.3432, abs=5e-5), 3817, 37]
    lost = dict(ptbxl_sub="PMI", ptbxl_form="HVOLT, TAB, PRC(S), STE", ptbxl_rhythm="TRIGU, SVTAC, PSVT, AFLT",
                cpsc2018="STE", csn="UW, WPW, PRIE, VEB, MI, PWC, RVH")
    said = [o for o in frame["published draw, 1 %"].index]
    for name, classes in lost.items():
        told = next(o for o in said if name in o).split("; not ")[1].split(", ")
        assert set(told) == set(classes.split(", "))
    assert "classes with a positive, ptbxl_super" in said
