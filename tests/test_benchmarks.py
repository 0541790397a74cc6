"The six label sets: written tables, faults, and every number that the published tables give."
import ast
import csv
from collections import Counter
from dataclasses import replace

import layouts_12lead as layouts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.benchmarks import (CLASSES, PARTS, PTB_XL_SETS, TASKS, as_meant, ceiling,
                                       cpsc_labels, csn_labels, label_faults, label_set,
                                       nested_draw, published_draw, published_parts,
                                       recordings_at_fault, statement_classes, statement_labels,
                                       tables_folder)
from biossl.cohorts.chapman_ningbo import condition_names
from biossl.cohorts.registry import cohort_names, get_cohort, locate
from biossl.cohorts.twelve_lead import comment_fields, read_table
from biossl.data.errors import CohortError, RequestError, SplitError

FILES = dict(ptbxl_super="ptbxl/super_class/ptbxl_super_class_", cpsc2018="icbeb/icbeb_",
             ptbxl_sub="ptbxl/sub_class/ptbxl_sub_class_", ptbxl_form="ptbxl/form/ptbxl_form_",
             ptbxl_rhythm="ptbxl/rhythm/ptbxl_rhythm_", csn="chapman/chapman_")


# ---- small written tables

def write(folder, name, part, rows, columns=None):
    "One file of the published layout; a class that a row lacks is 0."
    path = folder / "data_split" / f"{FILES[name]}{part}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = columns or [*rows[0], *(o for o in CLASSES[name] if o not in rows[0])]
    layouts.write_rows(path, columns, [dict.fromkeys(CLASSES[name], 0) | o for o in rows])
    return folder


def csn(folder, parts):
    "CSN's files as their authors made them: 1 where the acronym is within the text of the list."
    for part, told in parts.items():
        write(folder, "csn", part, [
            dict(ecg_path=f"/chapman/WFDBRecords/01/010/JS{ord(part[1]):02}{i:03}.mat", age=5,
                 diagnose=o, **{c: int(c in o) for c in CLASSES["csn"]})
            for i, o in enumerate(told)])
    return folder


def super_rows(numbers, **changes):
    return [dict(ecg_id=o, patient_id=f"{o // 2}.0", super_class="['MI']", MI=1) | changes
            for o in numbers]


def test_an_acronym_within_another_is_counted_by_the_one_and_not_by_the_other(tmp_path):
    csn(tmp_path, dict(train=["VB", "SR"], val=["SR"], test=["AVB,SR", "SR", "VPB", "VB"]))
    exact, files = (label_set("csn", labels=o, folder=tmp_path) for o in ("exact", "substring"))
    assert exact.table("test").VB.tolist() == [0, 0, 0, 1]
    assert files.table("test").VB.tolist() == [1, 0, 0, 1]
    assert label_faults(files).loc["VB"].tolist() == [3, 2, 1]
    assert recordings_at_fault(files) == 1 and recordings_at_fault(exact) == 0
    # of the pairs of VB told (2) and not (2), the truth orders half and leaves half
    assert ceiling(files).by_class["VB"] == 0.75 and ceiling(exact).macro == 1
    assert "VB" in exact.counted() and "LVH" not in exact.counted()
    assert exact.table("test").recording[0] == "JS101000" and exact.table("test").patient[0] is None


def test_columns_are_found_by_name_wherever_they_stand(tmp_path):
    turned = ["ecg_id", "patient_id", "super_class", *reversed(CLASSES["ptbxl_super"])]
    write(tmp_path, "ptbxl_super", "train", super_rows([2, 4]))
    write(tmp_path, "ptbxl_super", "test", super_rows([6, 8], HYP=1), turned)
    write(tmp_path, "ptbxl_super", "val", super_rows([10]))
    named, placed = (label_set("ptbxl_super", o, folder=tmp_path)
                     for o in ("by_name", "by_position"))
    assert named.table("test")[["HYP", "MI", "STTC"]].values.tolist() == [[1, 1, 0]] * 2
    # train's order begins MI (as written), HYP, NORM...: the first of test's columns is STTC
    assert placed.table("test")[["MI", "HYP", "NORM", "CD", "STTC"]].values.tolist() == [
        [0, 0, 1, 0, 1]] * 2
    assert placed.table("test").recording.tolist() == ["00006", "00008"]
    assert placed.table("test").patient.tolist() == ["ptb_xl_3", "ptb_xl_4"]
    assert named.counts().loc["HYP"].to_dict() == dict(train=0, val=0, test=2)
    assert published_parts(named)["00010"] == "val"


@pytest.mark.parametrize("number, told", [(3, "ptb_xl_1"), (2, "00002")])
def test_nobody_stands_in_two_parts(tmp_path, number, told):
    for part, numbers in zip(PARTS, ([2], [8], [number])):
        write(tmp_path, "ptbxl_super", part, super_rows(numbers))
    with pytest.raises(SplitError, match=f"train and test.*{told}"):
        published_parts(label_set("ptbxl_super", folder=tmp_path))


def test_a_table_that_is_none_is_told(tmp_path):
    write(tmp_path, "ptbxl_super", "train", super_rows([2], CD="yes"))
    here = label_set("ptbxl_super", folder=tmp_path)
    with pytest.raises(CohortError, match="2, CD: 'yes' is neither 0 nor 1"): here.table("train")
    with pytest.raises(CohortError, match="cannot be read"): here.table("val")
    with pytest.raises(RequestError, match="no part tests.*test"): here.table("tests")
    path = tmp_path / "data_split" / f"{FILES['cpsc2018']}test.csv"
    path.parent.mkdir(parents=True)
    path.write_text("filename,AFIB\nA0001,1\n")
    with pytest.raises(CohortError, match="no such column"):
        label_set("cpsc2018", folder=tmp_path).table("test")
    write(tmp_path, "cpsc2018", "train", [dict(filename="A0001", STD=1)])
    cpsc = label_set("cpsc2018", folder=tmp_path)
    assert cpsc.table("train").loc[0, ["recording", "STD"]].tolist() == ["A0001", 1]
    with pytest.raises(RequestError, match="labels only"): cpsc.said("train")


def test_tables_that_are_not_at_hand_are_asked_for(home):
    with pytest.raises(CohortError, match="data_split.*BIOSSL_DATA"): label_set("csn")
    assert "merl_label_splits" not in cohort_names()


def test_tables_are_found_where_cohorts_are(home):
    write(home / "cohorts/merl_label_splits", "cpsc2018", "test", [dict(filename="A0001", STD=1)])
    assert label_set("cpsc2018").counted() == ()
    with pytest.raises(SplitError, match="no class has an AUC"): ceiling(label_set("cpsc2018"))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=700), st.integers(0, 9))
def test_more_labels_are_the_same_and_some_and_a_person_comes_whole(numbers, seed):
    subjects = np.array(numbers)
    people = len(np.unique(subjects))
    few, some, every = (nested_draw(subjects, o, seed) for o in (0.01, 0.1, 1))
    assert set(few) <= set(some) and every.tolist() == list(range(len(subjects)))
    rest = np.setdiff1d(every, some)
    assert not set(subjects[some]) & set(subjects[rest])
    drawn = len(set(subjects[some]))
    assert drawn == 1 if people < 10 else abs(drawn - people / 10) < 1
    assert len(few) and (people < 20 or len(rest)) and len(set(subjects[few])) <= max(1, drawn)


def test_stratified_percents_hold_what_random_ones_miss():
    labels = np.zeros((500, 2), int)
    labels[:100, 0] = 1                      # a fifth: one in each percent of five people
    subjects, held = np.arange(500), []
    for seed in range(5):
        few, some = (nested_draw(subjects, o, seed, labels) for o in (0.01, 0.1))
        assert set(few) <= set(some) and abs(len(few) - 5) <= 1
        held.append(labels[few, 0].sum())
    assert held == [1] * 5
    assert len({labels[nested_draw(subjects, 0.01, o), 0].sum() for o in range(5)}) > 1


@pytest.mark.parametrize("fraction, says", [(0, "0 of"), (0.005, "percent"), (0.015, "percent"),
                                            (1.01, "at most 1"), (-.1, "at most 1")])
def test_a_stratified_fraction_is_in_whole_percents_and_any_is_a_share(fraction, says):
    labels = np.ones((200, 1), int)
    with pytest.raises(RequestError, match=says): nested_draw(range(200), fraction, labels=labels)
    with pytest.raises(SplitError, match="subjects"): nested_draw(range(99), .1, labels=labels[:99])
    if 0 < fraction <= 1: assert len(nested_draw(range(200), fraction)) == round(200 * fraction)
    else:
        with pytest.raises(RequestError, match=says): nested_draw(range(200), fraction)


STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NST_,"ST, changes",1.0,1.0,,STTC,NST_
1AVB,first degree,1.0,,,CD,_AVB
2AVB,second degree,1.0,,,CD,_AVB
SR,sinus rhythm,,,1.0,,
"""


def test_a_statement_table_of_another_release_is_told(tmp_path):
    (tmp_path / "scp_statements.csv").write_text(STATEMENTS)
    with pytest.raises(CohortError, match="ptbxl_super has or lacks HYP, MI, NORM"):
        statement_classes(tmp_path)


def test_statements_may_stand_for_several_sets_and_for_none():
    of = {"ptbxl_super": {"NST_": "STTC", "1AVB": "CD"}, "ptbxl_form": {"NST_": "NST"}}
    told = statement_labels(iter(["NST_", "FOO", "1AVB"]), of)
    assert told["ptbxl_super"] == ("CD", "STTC") or told["ptbxl_super"] == ("STTC", "CD")
    assert told["ptbxl_form_NST"] == 1 and sum(
        o for key, o in told.items() if key.startswith("ptbxl_super_")) == 2


def test_a_task_reads_the_columns_that_labels_write():
    told = csn_labels(["AF", "SB"]) | cpsc_labels(["164889003"])
    for name in ("csn", "cpsc2018"):
        assert {f"{TASKS[name].key}_{o}" for o in TASKS[name].classes} <= set(told)
    assert told["csn_AF"] == 1 and told["csn_AFIB"] == 0   # AF of csn is flutter
    assert told["cpsc2018"] == ("AFIB",)


# ---- the published tables

@pytest.fixture
def tables(real_data):
    "The folder of the published tables, or skip with a reason."
    try: return tables_folder()
    except CohortError as e: pytest.skip(str(e))


SIZES = dict(ptbxl_super=(17_084, 2_146, 2_158), ptbxl_sub=(17_084, 2_146, 2_158),
             ptbxl_form=(7_197, 901, 880), ptbxl_rhythm=(16_832, 2_100, 2_098),
             cpsc2018=(4_950, 551, 1_376), csn=(16_546, 1_860, 4_620))
FEW = dict(ptbxl_super=(170, 1_708), ptbxl_sub=(170, 1_708), ptbxl_form=(71, 719),
           ptbxl_rhythm=(168, 1_683), cpsc2018=(49, 495), csn=(165, 1_654))
UNSEEN = dict(ptbxl_super="", ptbxl_sub="PMI", ptbxl_form="HVOLT TAB PRC(S) STE",
              ptbxl_rhythm="TRIGU SVTAC PSVT AFLT", cpsc2018="STE",
              csn="UW WPW PRIE VEB MI PWC RVH")


@pytest.mark.real
@pytest.mark.parametrize("name", CLASSES)
def test_sizes_splits_and_draws_are_the_published_ones(tables, name):
    labels = label_set(name, labels="substring" if name == "csn" else "exact")
    frames = {o: labels.table(o) for o in PARTS}
    assert tuple(len(o) for o in frames.values()) == SIZES[name]
    assert len(published_parts(labels)) == sum(SIZES[name])   # nobody in two parts, none twice
    rows = [published_draw(len(frames["train"]), o) for o in (0.01, 0.1)]
    assert tuple(map(len, rows)) == FEW[name]
    drawn = frames["train"].iloc[rows[0]][list(labels.classes)].sum()
    assert set(drawn[drawn == 0].index) == set(UNSEEN[name].split())
    with open(labels.folder / "data_split" / f"{FILES[name]}train.csv", newline="") as f:
        head = next(csv.reader(f))
    assert tuple(head[-len(labels.classes):]) == labels.classes
    ratio = [n / sum(SIZES[name]) for n in SIZES[name]]
    if name in ("cpsc2018", "csn"): np.testing.assert_allclose(ratio, (.72, .08, .2), atol=2e-3)


@pytest.mark.real
def test_ptb_xls_parts_are_its_folds_and_hold_everybody_once(tables):
    every = set()
    for name in PTB_XL_SETS:
        for part, folds in zip(PARTS, (set("12345678"), {"9"}, {"10"})):
            rows = read_table(tables / "data_split" / f"{FILES[name]}{part}.csv", ("strat_fold",))
            assert {o["strat_fold"] for o in rows} == folds
            every |= {o["ecg_id"] for o in rows}
    assert len(every) == 21_799
    n = sum(SIZES["ptbxl_super"])
    assert (n, 21_799 - n) == (21_388, 411)
    assert label_set("ptbxl_super").counts().sum(axis=1).to_dict() == dict(
        NORM=9_514, MI=5_469, STTC=5_235, CD=4_898, HYP=2_649)


@pytest.mark.real
@pytest.mark.parametrize("name", PTB_XL_SETS)
def test_ptb_xls_columns_by_name_are_what_their_lists_say(tables, name):
    labels = label_set(name)
    for part in PARTS:
        told = labels.table(part)[list(labels.classes)].to_numpy()
        assert (told == [[c in o for c in labels.classes] for o in labels.said(part)]).all()
        assert told.any(1).all()   # a recording without any class of the set is not in it


@pytest.mark.real
def test_three_permuted_columns_cost_almost_seven_points(tables):
    found = ceiling(label_set("ptbxl_sub", "by_position"))
    assert round(found.macro, 6) == 0.933683 and not found.skipped
    faulty = {c: round(100 * o, 1) for c, o in found.by_class.items() if o < 1}
    assert faulty == {"AVB": 50.1, "RAO/RAE": 50.4, "ISC": 47.0}
    for name in set(PTB_XL_SETS) - {"ptbxl_sub"} | {"cpsc2018"}:
        assert ceiling(label_set(name, "by_position")).macro == 1


SUBSTRINGS = dict(VB=(916, 3), AVB=(913, 176), AF=(4753, 3340), ST=(6338, 5154), SA=(2828, 2107),
                  CR=(216, 75))


@pytest.mark.real
def test_acronyms_within_acronyms_cost_almost_five_points(tables):
    files = label_set("csn", labels="substring")
    for part in PARTS:   # the files are what a test by substring gives, and not read off them
        text = [o["diagnose"] for o in files._rows(part)]
        assert (files.table(part)[list(files.classes)].to_numpy() == [
            [c in o for c in files.classes] for o in text]).all()
    found = ceiling(files)
    assert round(found.macro, 6) == 0.953432 and found.by_class["VB"] == 0.5
    assert recordings_at_fault(files) == 3_817
    faults = label_faults(files)
    faults = faults[faults.wrong > 0]
    assert {c: (o.told, o.true) for c, o in faults.iterrows()} == SUBSTRINGS | {"2AVB": (38, 22)}
    assert (faults.told - faults.true == faults.wrong).all()   # none is missing, some are too much
    test, meant = (o.table("test") for o in (files, as_meant(files)))
    assert (test.VB.sum(), meant.VB.sum()) == (169, 0)
    assert set(files.classes) - set(as_meant(files).counted()) == {"VB"}


@pytest.mark.real
def test_csns_commonest_codes(tables):
    said = [o for part in PARTS for o in label_set("csn").said(part)]
    count = Counter(c for o in said for c in set(o))
    assert len(said) == 23_026
    assert {c: count[c] for c in ("SB", "LVQRSAL", "IDC", "VPE")} == dict(
        SB=3_903, LVQRSAL=751, IDC=412, VPE=12)
    none = Counter(tuple(sorted(o)) for o in said if not set(o) & set(CLASSES["csn"]))
    assert none == {("LVQRSAL", "SB"): 145, ("SB", "VPE"): 2}   # in the set, and of no class
    alone = Counter(o[0] for o in said if len(o) == 1)
    assert alone.most_common(5) == [("SR", 5908), ("ST", 3224), ("AF", 1483), ("SA", 1234),
                                    ("AFIB", 422)]


@pytest.mark.real
def test_cpscs_recordings_may_have_several_labels(tables):
    labels = label_set("cpsc2018")
    n = np.concatenate([labels.table(o)[list(labels.classes)].sum(axis=1) for o in PARTS])
    assert (len(n), int((n > 1).sum()), n.max()) == (6_877, 476, 3)


RARE = dict(ptbxl_form={"PRC(S)": 1}, ptbxl_rhythm=dict(TRIGU=2, PSVT=2),
            ptbxl_sub=dict(SEHYP=2, PMI=2), csn={"2AVB1": 1})


@pytest.mark.real
@pytest.mark.parametrize("name", RARE)
def test_positives_that_move_the_mean_by_points(tables, name):
    n = label_set(name).counts().test
    assert {c: n[c] for c in RARE[name]} == RARE[name]
    assert set(n[(n > 0) & (n <= max(RARE[name].values()))].index) == set(RARE[name])


@pytest.mark.real
def test_conditions_that_share_a_code(real_data):
    folder = locate(get_cohort("chapman_ningbo"))
    names = condition_names(folder)
    rows = read_table(folder / "ConditionNames_SNOMED-CT.csv", ("AcronymName", "Snomed_CT"))
    shared = {}
    for o in rows: shared.setdefault(names[o["Snomed_CT"].strip()], set()).add(o["AcronymName"])
    assert {"MI", "MIBW", "MIFW", "MILW", "MISW"} <= shared["MI"]
    assert shared["LBBB"] == {"LBBB", "LBBBB", "LFBBB"} and {"IDC", "IVB"} <= shared["IDC"]
    assert set(CLASSES["csn"]) <= set(names.values())


def told_by(labels):
    "The 0 and 1 of each recording of a set, whichever part it is in."
    frames = [labels.table(o).set_index("recording")[list(labels.classes)] for o in PARTS]
    return {k: v.tolist() for o in frames for k, v in zip(o.index, o.to_numpy())}


def ptb_xl_statements(folder):
    "Statements of each PTB-XL recording whose row is at hand."
    found = {}
    for name in ("ptbxl_database_metadata.csv", "ptbxl_database.csv"):
        for o in read_table(folder / name, ("ecg_id", "scp_codes")):
            found[f"{int(o['ecg_id']):05d}"] = ast.literal_eval(o["scp_codes"])
    return found


@pytest.mark.real
def test_statements_give_the_published_labels(tables, real_data):
    "Of every PTB-XL recording whose statements are at hand, with and without a class of the set."
    folder = locate(get_cohort("ptb_xl"))
    of, rows = statement_classes(folder), ptb_xl_statements(folder)
    told = {name: told_by(label_set(name)) for name in PTB_XL_SETS}
    released = set().union(*told.values())
    gone = set(rows) - released   # the second ids of recordings that release 1.0.3 took out
    assert len(rows) > 6_000 and "00137" in gone and len(gone) < 38
    made, differ = {o: statement_labels(rows[o], of) for o in set(rows) & released}, set()
    for name, of_set in told.items():
        none = [0] * len(CLASSES[name])
        differ |= {key for key, o in made.items()
                   if [o[f"{name}_{c}"] for c in CLASSES[name]] != of_set.get(key, none)}
    assert len(differ) <= 4       # whose statements were corrected from one release to the next
    assert not differ & {f"{o:05d}" for o in range(1, 501)}   # which are at hand as of 1.0.3


@pytest.mark.real
def test_lists_of_the_filtered_recordings_are_the_published_labels(tables, real_data):
    path = locate(get_cohort("ptb_xl_filtered")) / "labels.csv"
    rows = read_table(path, ("ecg_id", "super_class", "sub_class", "form", "rhythm"))
    assert len(rows) == 1_819
    for name in PTB_XL_SETS:
        told, column = told_by(label_set(name)), {"ptbxl_super": "super_class",
                                                  "ptbxl_sub": "sub_class"}.get(name, name[6:])
        for o in rows:
            said = [c.strip("_") for c in ast.literal_eval(o[column])]
            key = f"{int(o['ecg_id']):05d}"
            assert (key in told) == bool(said)
            if said: assert told[key] == [int(c in said) for c in CLASSES[name]], (name, key)


@pytest.mark.real
@pytest.mark.parametrize("cohort, name, n", [("challenge_2020", "cpsc2018", 10),
                                             ("chapman_ningbo", "csn", 1)])
def test_codes_of_headers_give_the_published_labels(tables, real_data, cohort, name, n):
    folder, told = locate(get_cohort(cohort)), told_by(label_set(name))
    names = condition_names(folder) if name == "csn" else {}
    shared = [o for o in sorted(folder.rglob("*.hea")) if o.stem in told]
    assert len(shared) >= n
    for path in shared:
        lines = [o for o in path.read_text().splitlines() if o.startswith("#")]
        codes = [o.strip() for o in comment_fields(lines)["dx"].split(",")]
        made = csn_labels(names[o] for o in codes) if names else cpsc_labels(codes)
        assert [made[f"{name}_{c}"] for c in CLASSES[name]] == told[path.stem], path.stem


def test_switches_are_those_of_the_set(tmp_path):
    assert as_meant(replace(label_set("csn", folder=tmp_path), labels="substring",
                            columns="by_position")) == label_set("csn", folder=tmp_path)
