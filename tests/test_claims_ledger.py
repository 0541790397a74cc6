"""The papers' sentences: each verdict follows from the printed digits and the stored runs, and with them."""
import csv
import json
import shutil
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from biossl.command import paper_names
from biossl.data.errors import RequestError, StoreError
from biossl.evaluation import published, sentences
from biossl.evaluation.claims import FALLS, OPEN, STANDS, UNRUN, Results
from biossl.evaluation.metrics import find_metric
from biossl.evaluation.questions import Amount, Exceeds, Leads, Share, _judged
from biossl.evaluation.sentences import (COLUMNS, UNTOLD, claims_frame, claims_page, read_claims,
                                         write_claims)
from biossl.evaluation.sources import NotRun, Ran
from biossl.evaluation.statistics import Difference
from biossl.evaluation.tables import Table

FIGURES = Path(__file__).parents[1] / "figures"
PAPERS = ("tsta", "ssltsg", "xmae", "cg_dmer")
#: Where each paper's ledger is published, if it is.
LEDGERS = {"tsta": FIGURES / "05_tsta_ablation" / "claims.csv",
           "ssltsg": FIGURES / "09_ssltsg_fusion" / "verdicts.csv",
           "xmae": FIGURES / "07_xmae_transfer" / "claims.csv",
           "cg_dmer": FIGURES / "11_cgdmer_zeroshot" / "claims.csv"}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    "A copy of the published folder that the library reads instead."
    folder = tmp_path / "published"
    shutil.copytree(published.published_folder(), folder)
    for room in (published, sentences): monkeypatch.setattr(room, "published_folder", lambda: folder)
    published.published_table.cache_clear()
    yield folder
    published.published_table.cache_clear()


def change(path, row, column, value):
    "One cell of a CSV file, by the name in whichever column holds names; digits else stay as printed."
    with open(path, newline="", encoding="utf-8") as f: lines = list(csv.reader(f))
    k = lines[0].index(column)
    changed = [o for o in lines[1:] if row in o]
    assert len(changed) == 1 and changed[0][k] != value
    changed[0][k] = value
    with open(path, "w", newline="", encoding="utf-8") as f: csv.writer(f).writerows(lines)
    published.published_table.cache_clear()


def told(frame, start): return frame[frame.claim.str.startswith(start)].squeeze()


# ---- the printed digits ----------------------------------------------------------------------

DIGITS = [   # paper, sentence, table, row, column, another value, verdict before and after
    ("tsta", "Its F1 is 9.3 %", "tsta_table1", "TSTA-Net", "F1 Score (%)", "89.69", FALLS, STANDS),
    ("tsta", "Its F1 is 2.01 %", "tsta_table1", "TS-TCC", "F1 Score (%)", "87.62", STANDS, FALLS),
    ("tsta", "It outperforms", "tsta_table1", "TS-TCC", "Recall(%)", "90.15", FALLS, STANDS),
    ("tsta", "The F1 in each row", "tsta_table1", "SimCLR", "F1 Score (%)", "75.84", FALLS, FALLS),
    ("tsta", "The alignment (STN)", "tsta_table2", "Remove STN", "F1 Score (%)", "82.40", FALLS, STANDS),
    ("tsta", "Without the STN", "tsta_table2", "Remove STN", "F1 Score (%)", "82.70", STANDS, FALLS),
    ("tsta", "Of the three modules", "tsta_table2", "Remove STN", "ACC (%)", "73.10", STANDS, FALLS),
    ("tsta", "Of all rows", "tsta_table2", "Single PPG Mode", "Accuracy (%)", "79.30", FALLS, FALLS),
    ("tsta", "The full model's accuracy", "tsta_table2", "Full Model", "Accuracy (%)", "90.80", FALLS, STANDS),
    ("ssltsg", "Pre-training helps", "ssltsg_table2", "SSL-TSC", "F2", "64.02", STANDS, FALLS),
    ("ssltsg", "Both domains with", "ssltsg_table2", "TSC", "F2", "64.52", STANDS, FALLS),
    ("xmae", "Pre-trained on all", "xmae_data_efficiency", "Apple-M 100%", "PVC", "81.7", STANDS, FALLS),
    ("xmae", "It was evaluated", "xmae_datasets", "DREAMT", "# Subjects", "900", STANDS, FALLS),
    ("xmae", "Its average is", "xmae_figure1", "AnyPPG", "Average performance", "66.3", STANDS, FALLS),
    ("cg_dmer", "It is the best", "cg_dmer_table1", "C-MELT† [12]", "CSN 100%", "94.94", STANDS, FALLS),
    ("cg_dmer", "With 10 %", "cg_dmer_table1", "CLOCS [23]", "PTBXL-Form 100%", "75.65", STANDS, FALLS),
    ("cg_dmer", "Without labels it sur", "cg_dmer_table2", "CG-DMER (Ours)", "Average", "76.10", STANDS, FALLS),
    ("cg_dmer", "Without labels it is", "cg_dmer_table2", "CG-DMER (Ours)", "PTBXL-Sub", "76.62", FALLS, STANDS),
    ("cg_dmer", "The averages", "cg_dmer_table2", "ETP† [10]", "CSN", "60.42", STANDS, FALLS),
    ("cg_dmer", "Masked modelling of the ECG adds 1.96", "cg_dmer_table3", "Variant 2", "Linear (1%)", "66.39", FALLS, STANDS),
    ("cg_dmer", "Each part adds", "cg_dmer_table3", "Variant 3", "Zero-shot", "74.80", STANDS, FALLS),
    ("cg_dmer", "The ablation's linear", "cg_dmer_table3", "CG-DMER", "Linear (1%)", "70.25", STANDS, FALLS)]


@pytest.mark.parametrize("paper, start, table, row, column, value, before, after", DIGITS,
                         ids=[f"{o[0]}: {o[1]}" for o in DIGITS])
def test_a_changed_printed_digit_changes_what_is_told(shelf, paper, start, table, row, column, value,
                                                      before, after):
    first = told(claims_frame(paper), start)
    change(shelf / f"{table}.csv", row, column, value)
    then = told(claims_frame(paper), start)
    assert (first.by_table, then.by_table) == (before, after)
    assert first.table_evidence != then.table_evidence


def test_a_spread_that_is_printed_is_seen(shelf):
    for k in range(1, 5):
        path = shelf / f"tsta_table{k}.csv"
        lines = path.read_text("utf-8").splitlines()
        path.write_text("\n".join(f"{o},{'F1 ±' if not i else '0.5'}" for i, o in enumerate(lines)), "utf-8")
        published.published_table.cache_clear()
        stands = told(claims_frame("tsta"), "Means of five repeats").by_table
        assert stands == (STANDS if k == 4 else FALLS)


def test_a_repeated_number_is_named_and_an_unrepeated_one_is_not(shelf):
    for row, column in (("Random Init (CNN)", "PTBXL-Sub 1%"), ("CLOCS [23]", "PTBXL-Super 100%"),
                        ("ST-MEM [9]", "CSN 10%"), ("ST-MEM [9]", "CSN 100%")):
        before = told(claims_frame("cg_dmer"), "No number of a row")
        assert before.by_table == FALLS and row in before.table_evidence
        change(shelf / "cg_dmer_table1.csv", row, column, "12.34" if column == "CSN 10%" else "12.35")
    assert told(claims_frame("cg_dmer"), "No number of a row").by_table == STANDS


# ---- the same, counted plainly ---------------------------------------------------------------

def printed(name):
    "A table as `{row: {column: float}}`, read without the library."
    with open(published.published_folder() / f"{name}.csv", newline="", encoding="utf-8") as f:
        lines = list(csv.DictReader(f))
    label = next(o for o in lines[0] if o != "Group")
    def number(o):
        try: return float(o)
        except ValueError: return None
    return {o[label]: {k: number(v) for k, v in o.items()} for o in lines}


def test_the_papers_own_numbers_agree_with_a_plain_count():
    one, two, three = (printed(f"cg_dmer_table{k}") for k in (1, 2, 3))
    cg = claims_frame("cg_dmer").set_index("claim")
    rivals, whole = list(one)[2:12], [o for o in one["CLOCS [23]"] if o.endswith("100%")]
    above = sum(one[a][o] > one["Random Init (CNN)"][o] for a in rivals for o in whole)
    line = cg.loc["Pre-training on signals exceeds a random start, given all labels."]
    assert line.table_evidence.startswith(f"{above} of 60 comparisons stand, {60 - above} do not")
    assert line.recomputed == pytest.approx(
        min(one[a][o] - one["Random Init (CNN)"][o] for a in rivals for o in whole))
    ours, sets = "CG-DMER (Ours)", [o for o in two["CG-DMER (Ours)"] if o not in ("Methods", "Average")]
    assert cg.loc["Without labels it is the best in every set."].recomputed == pytest.approx(
        min(two[ours][o] - two[a][o] for a in two if a != ours for o in sets))
    assert cg.loc["The ablation's linear probe is the mean of table 1 at 1 %."].recomputed == pytest.approx(
        sum(one[ours][f"{o} 1%"] for o in sets) / 6)
    assert cg.loc["Masked modelling of the ECG adds 1.96 to the linear probe."].recomputed == pytest.approx(
        three["Variant 2"]["Linear (1%)"] - three["Variant 1"]["Linear (1%)"])


def test_what_is_known_of_the_first_paper_is_found():
    "From the paper's own digits: 9.47 at the nearest, 67.06 %, two rows whose F1 cannot be."
    table, parts = printed("tsta_table1"), printed("tsta_table2")
    lines = claims_frame("tsta")
    f1 = {k: o["F1 Score (%)"] for k, o in table.items()}
    readings = [100 * (f1["TSTA-Net"] / f1[o] - 1) for o in ("TS-TCC", "CLIP", "BYOL", "SimCLR")]
    readings += [f1["TSTA-Net"] - f1[o] for o in ("TS-TCC", "CLIP", "BYOL", "SimCLR")]
    assert told(lines, "Its F1 is 9.3").recomputed == pytest.approx(min(readings, key=lambda o: abs(o - 9.3)))
    full, without, ecg = (parts[o]["F1 Score (%)"] for o in ("Full Model", "Remove STN", "Single ECG Mode"))
    assert told(lines, "The alignment").recomputed == pytest.approx(100 * (full - without) / (full - ecg))
    high = {k for k, o in table.items() if o["F1 Score (%)"] > 0.01 + 2 * o["Pre(%)"] * o["Recall(%)"] / (
        o["Pre(%)"] + o["Recall(%)"])}
    evidence = told(lines, "The F1 in each row").table_evidence
    assert {o.split(" by ")[0] for o in evidence.split("; ")} == high == {"LSTM", "BYOL"}


@pytest.mark.parametrize("paper", PAPERS)
def test_without_any_run_every_sentence_is_still_asked_of_its_tables(paper):
    frame, claims = claims_frame(paper), read_claims(paper)
    assert tuple(frame.columns) == COLUMNS and len(frame) == len(claims) >= 8
    assert frame.claim.is_unique and not frame.claim.str.contains("\n").any()
    assert set(frame.by_table) <= {STANDS, FALLS, UNTOLD}
    for claim, line in zip(claims, frame.itertuples()):
        assert (claim.printed is None) == (line.by_table == UNTOLD) == (not line.table_evidence)
        counted = type(claim.ours).__name__ == "Counted"
        assert counted or line.verdict == (UNRUN if claim.runs else "")
        assert claim.runs or claim.ours is None
    assert all(f"{k}. **{o}**" in claims_page(frame) for k, o in enumerate(frame.claim, 1))


# ---- what is declared ------------------------------------------------------------------------

def asked_of(question):
    "The tables with their metrics, and the rows, that a question of our runs names."
    get = lambda name: getattr(question, name, ()) or ()  # noqa: E731
    names = [get("table")] if isinstance(get("table"), str) else get("table")
    names = [o for name in names for o in ((name,) if isinstance(name, str) else name)]
    tables = dict(get("tasks")) or dict.fromkeys(names)
    rows = [get("row")] if isinstance(get("row"), str) else list(get("row"))
    rows += [*get("over"), *(o for pair in get("pairs") for o in pair)]
    rows += [o for o in (get("full"), get("without")) if o]
    for o in get("least"): rows += [o] if isinstance(o, str) else o
    return {o: {metric} if metric else set(get("columns")) for o, metric in tables.items()}, rows


@cache
def tables_of_all():
    "Every table of every chapter, by CHAPTER/TABLE: those within a tuple as well."
    found = [o for paper in paper_names() for o in vars(import_module(f"biossl.papers.{paper}")).values()]
    found = [o for one in found for o in (one if isinstance(one, tuple) else (one,)) if isinstance(o, Table)]
    return {f"{o.chapter}/{o.name}": o for o in found}


@pytest.mark.parametrize("paper", PAPERS)
def test_what_is_asked_of_our_runs_is_declared(paper):
    "A misspelt table would say for ever that it was not run."
    for claim in read_claims(paper):
        if claim.ours is None or type(claim.ours).__name__ == "Counted": continue
        tables, rows = asked_of(claim.ours)
        for name, metrics in tables.items():
            assert metrics and all(find_metric(o)[0].higher_is_better for o in metrics)
            assert name in tables_of_all(), claim.says
            table = tables_of_all()[name]
            assert set(rows) <= {o.name for o in table.rows}, claim.says
            assert metrics <= set(table.metrics), claim.says


BROKEN = [("says = 1\n", "where"), ('says = "x"\nwhere = "y"\nprinted = {kind = "exceed"}', "exceeds"),
          ('says = "x"\nwhere = "y"\nprinted = {kind = "exceeds", tabel = "z"}', "table"),
          ('says = "x"\nwhere = "y"\nprinted = {kind = "amount", table = "z"}', "row"),
          ('says = "x"\nwhere = "y"\nwhwere = "z"', "where")]


@pytest.mark.parametrize("text, nearest", BROKEN)
def test_a_declaration_that_is_not_one_is_refused_with_what_is_nearest(shelf, text, nearest):
    (shelf / "tsta_claims.toml").write_text(f"[[claim]]\n{text}\n", "utf-8")
    with pytest.raises(RequestError, match=f"tsta_claims.toml, claim 1.*{nearest}"): read_claims("tsta")


UNKNOWN = [('table = "tsta_table1"', 'table = "tsta_tabel1"', "tsta_table1"),
           ('row = "TSTA-Net"', 'row = "TSTA-Ned"', "TSTA-Net"),
           ('columns = ["F1 Score (%)"]', 'columns = ["F1 Score"]', "F1 Score"),
           ('units = ["points", "percent"]', 'units = ["inches"]', "points"),
           ('over = ["TS-TCC"]', 'over = ["TSTCC"]', "TS-TCC")]


@pytest.mark.parametrize("right, wrong, nearest", UNKNOWN)
def test_a_name_that_the_papers_table_does_not_have_is_refused(shelf, right, wrong, nearest):
    path = shelf / "tsta_claims.toml"
    assert right in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(right, wrong), "utf-8")
    with pytest.raises(RequestError, match=nearest): claims_frame("tsta")


def test_no_paper_and_no_toml_are_said(shelf):
    with pytest.raises(RequestError, match="did you mean tsta"): read_claims("tstta")
    (shelf / "tsta_claims.toml").write_text("[[claim]\n", "utf-8")
    with pytest.raises(StoreError, match="tsta_claims.toml"): read_claims("tsta")


# ---- our runs --------------------------------------------------------------------------------

def table_of(made, name="0/t", folds=2, resamples=300, n=24):
    "A stored table of `n` people whose rows are right with the skills `made`; `broken` lacks a fold."
    rng = np.random.default_rng(3)
    people, truth = np.repeat([f"p{k:02d}" for k in range(n)], 8), np.repeat(np.arange(n) % 2, 8)
    fold = np.repeat(np.arange(n) // 2 % folds, 8)
    frames, records = [], []
    for row, skill in made.items():
        p = np.where(rng.random(8 * n) < skill, truth, 1 - truth) * 0.8 + 0.1
        frames.append(pd.DataFrame(dict(
            run=[f"{row} {k}" for k in fold], row=row, fold=fold, seed=0, window=range(8 * n),
            subject=people, truth=truth, score_0=1 - p, score_1=p)))
        records += [dict(row=row, key=f"{row} {k}", seed=0, fold=k, folds=folds, cohort="made",
                         profile="up") for k in range(folds if row != "broken" else 1)]
    return Ran(name, Results(pd.concat(frames), records, resamples), tuple(made))


@pytest.fixture(scope="module")
def made(): return table_of(dict(sharp=0.95, good=0.8, same=0.8, coin=0.5, broken=0.9))


def test_exceeds_is_as_strong_as_its_weakest_comparison(made):
    ask = lambda **o: Exceeds("0/t", columns=("f1_macro",), **o).ask(lambda name: made)  # noqa: E731
    assert ask(row="sharp", over=("good", "coin")).verdict == STANDS
    assert ask(row="coin", over=("sharp",)).verdict == FALLS
    assert ask(row="good", over=("coin", "same")).verdict == OPEN
    mixed = ask(pairs=(("sharp", "coin"), ("coin", "good")))
    assert mixed.verdict == FALLS and "1 of 2 comparisons stand, 1 do not; least coin over good" in mixed.evidence
    least = ask(row="sharp", over=("good", "coin"))
    gap = made.results.difference("sharp", "good")
    assert (least.value, least.low, least.high) == pytest.approx((100 * gap.value, 100 * gap.low, 100 * gap.high))
    assert least.n == 24 and least.whose == "made (up)"
    with pytest.raises(NotRun, match="1 of 2 runs"): ask(row="sharp", over=("broken",))
    with pytest.raises(RequestError, match="did you mean sharp"): ask(row="shrap", over=("good",))
    with pytest.raises(RequestError, match="metrics"): Exceeds("0/t", "sharp").ask(lambda name: made)
    with pytest.raises(RequestError, match="less is better"):
        Exceeds("0/t", "sharp", ("good",), ("brier",)).ask(lambda name: made)


def test_a_row_is_held_against_rows_of_another_table_of_the_same_people(made):
    later = table_of(dict(sharp=0.6, good=0.95), "0/later")
    shelf = {o.name: o for o in (made, later, table_of(dict(good=0.9), "0/others", n=22))}
    ask = lambda *tables, **o: Exceeds(tables, columns=("f1_macro",), **o).ask(shelf.get)  # noqa: E731
    found = ask(("0/t", "0/later"), row="sharp", over=("sharp",), pairs=(("sharp", "sharp"),))
    gap = made.estimate("sharp", "f1_macro").mean - later.estimate("sharp", "f1_macro").mean
    assert found.value == pytest.approx(gap) and gap > 10 and found.verdict == STANDS
    assert ask(("0/later", "0/t"), pairs=(("sharp", "sharp"),)).verdict == FALLS
    assert ask(("0/t", "0/later"), row="coin").evidence.startswith("0 of 2 comparisons")   # all over there
    both = ask(("0/t", "0/later"), "0/t", pairs=(("sharp", "good"),))
    assert "1 of 2 comparisons stand" in both.evidence and "(0/t over 0/later; 2 of 2 are stored)" in both.evidence
    with pytest.raises(RequestError, match="other people"): ask(("0/t", "0/others"), pairs=(("good", "good"),))


def test_a_share_that_nobody_can_name_is_open_and_one_that_can_is_judged(made):
    ask = lambda number, *o: Share("0/t", *o, columns=("accuracy",)).ask(lambda name: made, number)  # noqa: E731
    found = ask("30", "sharp", "good", ("coin",))
    acc = {o: 100 * made.results.estimate(o, "accuracy").mean for o in ("sharp", "good", "coin")}
    assert found.value == pytest.approx(100 * (acc["sharp"] - acc["good"]) / (acc["sharp"] - acc["coin"]))
    assert found.verdict == STANDS and ask("95", "sharp", "good", ("coin",)).verdict == FALLS
    nobody = ask("30", "good", "coin", ("same",))
    assert nobody.verdict == OPEN and "no share can be named" in nobody.evidence
    both = ask("30", "sharp", "good", (("good", "coin"),))
    parts = [acc["sharp"] - acc[o] for o in ("good", "coin")]
    assert both.value == pytest.approx(100 * parts[0] / sum(parts))


def test_tasks_are_counted_and_those_that_are_not_stored_are_left_out():
    rows = dict(sharp=0.95, good=0.8, same=0.8, coin=0.5)
    shelf = {"0/a": table_of(rows, "0/a"), "0/b": table_of(rows | dict(sharp=0.5, good=0.9), "0/b"),
             "0/c": table_of(rows, "0/c")}
    def find(name):
        if name not in shelf: raise NotRun("is not stored", where=name)
        return shelf[name]
    tasks = tuple((o, "f1_macro") for o in ("0/a", "0/b", "0/c", "0/d"))
    ask = lambda *of: Leads(tasks, "sharp", ("good", "coin"), of).ask(find)  # noqa: E731
    assert (ask(2, 3).value, ask(2, 3).low, ask(2, 3).high) == (2, 2, 2) and "2 of 3" in ask(2, 3).evidence
    assert ask(2, 3).verdict == STANDS and ask(3, 3).verdict == FALLS
    with pytest.raises(NotRun): Leads((("0/d", "f1_macro"),), "sharp", ("good",), (1, 1)).ask(find)
    for one, other in (("good", "same"), ("same", "good")):   # whichever leads does not surely
        alike = Leads((("0/a", "f1_macro"),), one, (other,), (1, 1)).ask(find)
        assert alike.verdict == OPEN and (alike.low, alike.high) == (0, 1)
    ask = lambda *names: Exceeds(names, "sharp", ("coin",), ("f1_macro",)).ask(find)  # noqa: E731
    assert ask("0/a", "0/c", "0/d").verdict == STANDS and "0/a; 2 of 3" in ask("0/a", "0/c", "0/d").evidence
    gap = 100 * shelf["0/b"].results.difference("sharp", "coin").value
    assert ask("0/a", "0/b").value == pytest.approx(gap) and "(0/b; 2 of 2" in ask("0/a", "0/b").evidence
    with pytest.raises(NotRun): ask("0/d", "0/e")


def test_percent_are_of_the_other_and_points_are_not(made):
    ask = lambda unit: Amount("0/t", "sharp", ("good",), ("accuracy",), (unit,)).ask(lambda name: made, "1")  # noqa: E731
    acc = {o: 100 * made.results.estimate(o, "accuracy").mean for o in ("sharp", "good")}
    assert ask("points").value == pytest.approx(acc["sharp"] - acc["good"])
    assert ask("percent").value == pytest.approx(100 * (acc["sharp"] - acc["good"]) / acc["good"])
    assert ask("percent").low < ask("percent").value < ask("percent").high


@settings(deadline=None)
@given(st.floats(-20, 20), st.floats(0, 5), st.floats(0, 5), st.integers(-200, 200))
def test_a_number_stands_only_inside_an_interval_above_zero(value, below, above, tenths):
    gap, number = Difference(value, value - below, value + above, 0.5), f"{tenths / 10:.1f}"
    inside = gap.low - 0.05 <= tenths / 10 <= gap.high + 0.05
    found = _judged(gap, number, 0.0)
    edge = min(abs(gap.low - 0.05 - tenths / 10), abs(gap.high + 0.05 - tenths / 10)) < 1e-6
    assert edge or (found == FALLS) == (not inside)
    assert found != STANDS or gap.low > 0


# ---- what is stored --------------------------------------------------------------------------

@pytest.mark.parametrize("paper", PAPERS)
def test_the_published_ledger_is_what_tables_and_runs_say_now(paper):
    path = LEDGERS[paper]
    if not (path.parent / "runs.jsonl").is_file(): pytest.skip(f"no published result of {path.parent.name}")
    now = claims_frame(paper, FIGURES).round(4)
    kept = pd.read_csv(path, keep_default_na=False, na_values={o: "" for o in now.select_dtypes("number")},
                       dtype={o: str for o in now.columns if o not in now.select_dtypes("number")})
    pd.testing.assert_frame_equal(kept, now, check_dtype=False)
    assert {STANDS, FALLS} & set(now.verdict)


def test_the_published_verdicts_agree_with_the_published_tables():
    lines = pd.read_csv(LEDGERS["tsta"])
    table = pd.read_csv(FIGURES / "05_tsta_ablation" / "table2.csv").query("metric == 'f1_macro'").set_index("row")
    for start, row in (("Without the STN", "Remove STN"), ("Without the trans", "Remove Transformer Encoder"),
                       ("Without the contr", "Remove Contrast Loss")):
        line = told(lines, start)
        assert line.ours == pytest.approx(-table.loc[row].difference, abs=2e-4) and line.n == 35
        assert (line.low > 0) == (line.verdict == STANDS) or line.verdict != STANDS
        assert f"p = {table.loc[row].p:.3f}" in line.evidence
    gaps = pd.read_csv(FIGURES / "09_ssltsg_fusion" / "claims.csv")
    lines = pd.read_csv(LEDGERS["ssltsg"])
    for start, claim in (("Pre-training", "C1"), ("A gate", "C2"), ("The time series", "C3: (T|SSL-T) over")):
        mine, line = gaps[gaps.row.str.match(claim)], told(lines, start)
        assert line.ours == pytest.approx(mine.difference.min(), abs=2e-4)
        assert line.evidence.startswith(f"{(mine.low > 0).sum()} of {len(mine)} comparisons stand, "
                                        f"{(mine.high < 0).sum()} do not")


def test_the_full_models_f1_is_that_of_its_stored_answers():
    folder = FIGURES / "05_tsta_ablation"
    keys = {o["row"]: [] for o in map(json.loads, (folder / "runs.jsonl").read_text("utf-8").splitlines())}
    for o in map(json.loads, (folder / "runs.jsonl").read_text("utf-8").splitlines()):
        if o["table"] == "table2": keys[o["row"]].append(o["key"])
    frame = pd.read_parquet(folder / "predictions.parquet")
    def f1(row):
        mine = frame[frame.run.isin(keys[row])].drop_duplicates(["run", "window"])
        scores = mine.filter(like="score_").dropna(axis=1)
        return 100 * f1_score(mine.truth.astype(int), scores.to_numpy().argmax(1), average="macro")
    line = told(pd.read_csv(LEDGERS["tsta"]), "Without the trans")
    assert line.ours == pytest.approx(f1("Full") - f1("Remove Transformer Encoder"), abs=1e-3)


@pytest.fixture
def stored(tmp_path):
    shutil.copytree(FIGURES / "05_tsta_ablation", tmp_path / "05_tsta_ablation",
                    ignore=shutil.ignore_patterns("*.svg", "*.png"))
    return tmp_path


def test_a_run_that_is_gone_takes_its_sentences_with_it(stored):
    path = stored / "05_tsta_ablation" / "runs.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    gone = next(o for o in lines if json.loads(o)["row"] == "Remove STN" and json.loads(o)["table"] == "table2")
    path.write_text("".join(o for o in lines if o != gone), "utf-8")
    now = claims_frame("tsta", stored)
    without = told(now, "Without the STN")
    assert without.verdict == UNRUN and "4 of 5 runs" in without.evidence and np.isnan(without.ours)
    assert told(now, "The alignment").verdict == UNRUN
    assert told(now, "Without the trans").verdict == OPEN and told(now, "Its F1 is 9.3").verdict == UNRUN
    path.write_text("".join(o for o in lines if json.loads(o)["row"] != "Remove STN"), "utf-8")
    assert "0 of 1 runs" in told(claims_frame("tsta", stored), "Without the STN").evidence
    (stored / "05_tsta_ablation" / "predictions.parquet").unlink()
    with pytest.raises(StoreError, match="predictions.parquet"): claims_frame("tsta", stored)


def test_changed_answers_change_a_verdict(stored):
    path = stored / "05_tsta_ablation" / "predictions.parquet"
    frame, records = pd.read_parquet(path), (stored / "05_tsta_ablation" / "runs.jsonl").read_text("utf-8")
    keys = [o["key"] for o in map(json.loads, records.splitlines())
            if o["table"] == "table2" and o["row"] == "Remove Transformer Encoder"]
    mine, scores = frame.run.isin(keys), [o for o in frame if o.startswith("score_") and o[6:] in "01"]
    frame.loc[mine, scores] = 0.5
    frame.to_parquet(path, index=False)
    line = told(claims_frame("tsta", stored), "Without the trans")
    assert line.verdict == FALLS and line.ours > 30   # it lost far more than the 13.25 that are said


def test_a_row_that_our_table_does_not_have_is_refused(shelf, stored):
    path = shelf / "tsta_claims.toml"
    path.write_text(path.read_text("utf-8").replace('row = "Full"', 'row = "Ful"'), "utf-8")
    with pytest.raises(RequestError, match="did you mean Full"): claims_frame("tsta", stored)


def test_a_ledger_is_written_beside_its_chapter(stored):
    frame = write_claims(stored / "05_tsta_ablation", "tsta", "told.csv")
    kept = pd.read_csv(stored / "05_tsta_ablation" / "told.csv")
    assert tuple(kept.columns) == COLUMNS and kept.verdict.fillna("").tolist() == frame.verdict.tolist()
    assert "35 people" in claims_page(kept) and "nan" not in claims_page(kept)
