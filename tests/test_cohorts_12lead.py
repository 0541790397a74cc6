"""The twelve-lead cohorts: on small files in the published layouts, and on real recordings."""
import csv
import io
import json
import math
import tarfile
from collections import Counter
from itertools import chain, islice

import layouts_12lead as layouts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.challenge_2020 import Challenge2020
from biossl.cohorts.chapman_ningbo import ChapmanNingbo
from biossl.cohorts.ludb import Ludb
from biossl.cohorts.ptb_xl import PtbXl, PtbXlFiltered
from biossl.cohorts.registry import get_cohort, locate
from biossl.cohorts.statements import CLASSES, SCORED, scored_classes
from biossl.cohorts.twelve_lead import LEADS, constant_leads, duplicates
from biossl.data.recordings import Recording, Signal
from biossl.data.store import pack
from biossl.data.windowing import Windowing
from biossl.data.errors import CohortError, FetchError, RecordingError, RequestError


def labels_of(cohort, folder):
    return [dict(o.labels) for o in cohort.recordings(folder)]


def classes_of(labels, key="dx"):
    "The classes of the multilabel task `key` that a recording carries."
    return {k.removeprefix(f"{key}_") for k, v in labels.items() if k.startswith(f"{key}_") and v}


def plain(labels):
    "Whether a table can hold these labels: numbers, text, and tuples of names."
    values = [o for v in labels.values() for o in (v if isinstance(v, tuple) else [v])]
    return all(type(o) in (int, float, str) for o in values)


# ---- PTB-XL, small files

@pytest.mark.parametrize("rate", [100, 500])
def test_ptb_xl_reads_the_published_layout(tmp_path, rate):
    rows = [layouts.ptb_xl_row(1), layouts.ptb_xl_row(2, patient_id="9001.0", sex="1",
                                                      heart_axis="ALAD", age="300.0",
                                                      scp_codes="{'AFIB': 0.0, 'CRBBB': 50.0}")]
    folder = layouts.ptb_xl(tmp_path / "ptb_xl", rows)
    one, two = PtbXl(rate).recordings(folder)
    assert (one.name, two.name) == ("00001", "00002") and one.subject == two.subject
    ecg = two.signal("ecg")
    assert ecg.rate == rate and ecg.leads == LEADS and ecg.unit == "mV"
    np.testing.assert_allclose(ecg.samples, layouts.counts(2) / 1000, rtol=1e-6)
    assert one.labels["sex"] == "male" and two.labels["sex"] == "female"
    assert one.labels["age"] == 56 and two.labels["age"] == 90
    assert classes_of(one.labels) == {"NSR"}
    assert classes_of(two.labels) == {"AF", "CRBBB", "LAD"}
    assert classes_of(two.labels, "superclass") == {"CD"}
    assert json.loads(two.labels["scp_codes"]) == {"AFIB": 0.0, "CRBBB": 50.0}
    assert plain(one.labels) and one.labels.keys() == two.labels.keys()


def small(name, folder):
    "One recording of the cohort `name`, in its published layout."
    if name == "ludb": layouts.ludb(folder, [1])
    elif name == "ptb_xl": layouts.ptb_xl(folder, [layouts.ptb_xl_row(1)])
    elif name == "ptb_xl_filtered": layouts.ptb_xl_filtered(folder, [layouts.filtered_row(1)])
    elif name == "challenge_2020":
        layouts.challenge_record(folder / "training/georgia/g1", "E00001")
    else:
        layouts.chapman_ningbo(folder)
        layouts.challenge_record(folder / "WFDBRecords/01/010", "JS00001")
    return folder


COHORTS = ("ptb_xl", "ptb_xl_filtered", "challenge_2020", "chapman_ningbo", "ludb")


@pytest.mark.parametrize("name", COHORTS)
def test_every_task_finds_its_labels(tmp_path, home, monkeypatch, name):
    small(name, tmp_path / "in" / name)
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path / "in"))
    cohort = get_cohort(name)
    [recording] = cohort.recordings(locate(cohort))
    assert recording.cohort == name and plain(recording.labels)
    for task in cohort.tasks:
        truth = recording.labels[task.key]
        if task.kind != "multilabel":
            assert task.kind == "regression" or truth in task.classes
            continue
        assert set(truth) <= set(task.classes)
        for o in task.classes: assert recording.labels[f"{task.key}_{o}"] == (o in truth)


@pytest.mark.parametrize("name", COHORTS)
def test_windows_can_be_packed(tmp_path, home, name):
    folder, cohort = small(name, tmp_path / name), get_cohort(name)
    windowing = Windowing(signals=(("ecg", 0),), seconds=0.2, hop=0.2, beats=())
    windows = pack(cohort, windowing, folder=folder)
    assert len(windows) and windows.arrays["ecg"].shape[1] == 12
    for task in cohort.tasks: assert len(windows.labels(task.key)) == len(windows)


@pytest.mark.parametrize("name", COHORTS)
def test_a_card_says_where_its_cohort_comes_from(name):
    card = get_cohort(name).card
    assert card.leads == 12 and card.licence and "doi" in card.citation and card.bytes > 0
    assert card.note and card.recordings >= card.subjects > 0
    assert all(o.startswith("https://") and o.endswith("/") for o in card.roots)
    assert bool(card.roots) == bool(card.index) == (name != "ptb_xl_filtered")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_damaged_umlauts_stay_as_published(tmp_path, encoding):
    report = "supraventrikulÄre #bergangsrhythmus,\tü"
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1, report=report)], encoding)
    assert labels_of(PtbXl(), folder)[0]["report"] == report


@pytest.mark.parametrize("age, read", [
    ("", math.nan), ("NaN", math.nan), ("300", 90), ("300.0", 90), ("0.0", 0), ("91", 91),
    ("-1", math.nan), ("-99999", math.nan), ("131", math.nan), ("1e9", math.nan),
    ("inf", math.nan), ("old", math.nan)])
def test_ages_that_are_no_ages(tmp_path, age, read):
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1, age=age)])
    np.testing.assert_equal(labels_of(PtbXl(), folder)[0]["age"], float(read))


@pytest.mark.parametrize("field, value", [
    ("scp_codes", "__import__('os').getcwd()"), ("scp_codes", "['NORM']"),
    ("scp_codes", "{'NORM':"), ("scp_codes", "{" * 500), ("patient_id", ""),
    ("patient_id", "12.5"), ("patient_id", "inf"), ("patient_id", "nan"), ("strat_fold", "three")])
def test_a_bad_cell_is_named(tmp_path, field, value):
    rows = [layouts.ptb_xl_row(1), layouts.ptb_xl_row(2, **{field: value})]
    folder = layouts.ptb_xl(tmp_path, rows)
    with pytest.raises(RecordingError) as e: list(PtbXl().recordings(folder))
    assert e.value.field == field and str(e.value.where) == "2" and e.value.remedy


@pytest.mark.parametrize("fold", ["0", "11", "-1", "1e9", ""])
def test_a_fold_that_is_none_of_the_ten_is_named(tmp_path, fold):
    layouts.ptb_xl(tmp_path / "a", [layouts.ptb_xl_row(1, strat_fold="10"),
                                    layouts.ptb_xl_row(2, strat_fold=fold)])
    layouts.ptb_xl_filtered(tmp_path / "b", [layouts.filtered_row(2, strat_fold=fold)])
    for cohort, folder in ((PtbXl(), tmp_path / "a"), (PtbXlFiltered(), tmp_path / "b")):
        with pytest.raises(RecordingError, match="^2, strat_fold") as e:
            list(cohort.recordings(folder))
        assert e.value.remedy


@pytest.mark.parametrize("name", ["../00001_lr", "/etc/passwd", "records100/../../x/00001_lr",
                                  "http://there/00001_lr"])
def test_a_table_that_climbs_out_is_refused(tmp_path, name):
    folder = layouts.ptb_xl(tmp_path / "in", [layouts.ptb_xl_row(1, filename_lr="../00001_lr")])
    layouts.write_record(tmp_path / "00001_lr", layouts.counts(), 100)
    layouts.write_rows(folder / "ptbxl_database.csv", layouts.PTB_XL_COLUMNS,
                       [layouts.ptb_xl_row(1, filename_lr=name)])
    with pytest.raises(FetchError): list(PtbXl().recordings(folder))


def test_missing_files_and_columns_are_named(tmp_path):
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1)])
    (folder / "records100/00000/00001_lr.dat").unlink()
    with pytest.raises(RecordingError, match="00001_lr"): list(PtbXl().recordings(folder))
    columns = [o for o in layouts.PTB_XL_COLUMNS if o != "scp_codes"]
    layouts.write_rows(folder / "ptbxl_database.csv", columns, [])
    with pytest.raises(CohortError, match="scp_codes"): list(PtbXl().recordings(folder))
    (folder / "scp_statements.csv").unlink()
    with pytest.raises(CohortError, match="scp_statements"): list(PtbXl().recordings(folder))


def test_another_rate_than_asked_for_is_refused(tmp_path):
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1)])
    layouts.write_record(folder / "records100/00000/00001_lr", layouts.counts(), 250)
    with pytest.raises(RecordingError, match="250"): list(PtbXl().recordings(folder))
    with pytest.raises(RequestError): get_cohort("ptb_xl", rate=250)


# ---- leads and units, wherever they are read

def reread(tmp_path, wave, leads, **how):
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1)])
    layouts.write_record(folder / "records100/00000/00001_lr", wave, 100, leads, **how)
    return next(PtbXl().recordings(folder)).signal("ecg")


def test_leads_are_sought_by_name(tmp_path):
    wave, order = layouts.counts(), np.random.default_rng(3).permutation(12)
    ecg = reread(tmp_path, wave[order], [layouts.MIXED[o] for o in order])
    np.testing.assert_allclose(ecg.samples, wave / 1000, rtol=1e-6)
    more = reread(tmp_path, np.vstack([wave[:1], wave]), ["vx", *layouts.LOWER])
    np.testing.assert_array_equal(more.samples, ecg.samples)


@pytest.mark.parametrize("leads", [[*layouts.UPPER[:11], "X", "Y"], [*layouts.UPPER, "v6"]])
def test_a_missing_or_double_lead_is_named(tmp_path, leads):
    wave = np.vstack([layouts.counts(), layouts.counts(1)[:1]])
    with pytest.raises(RecordingError, match="lead V6") as e: reread(tmp_path, wave, leads)
    assert e.value.field == "leads"


@pytest.mark.parametrize("unit", ["uV", "NU", "mmHg"])
def test_a_unit_other_than_millivolt_is_refused(tmp_path, unit):
    with pytest.raises(RecordingError, match=unit):
        reread(tmp_path, layouts.counts(), layouts.UPPER, gain=f"1000(0)/{unit}")


def test_a_constant_lead_is_reported_not_refused(tmp_path):
    wave = layouts.counts()
    wave[4], wave[9] = 0, 17
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1)])
    layouts.write_record(folder / "records100/00000/00001_lr", wave, 100)
    assert labels_of(PtbXl(), folder)[0]["constant_leads"] == "AVL V4"


# ---- PTB-XL filtered, small files

def test_ptb_xl_filtered_reads_lists_of_statements(tmp_path):
    rows = [layouts.filtered_row(1), layouts.filtered_row(1001, form="[]", rhythm="['AFIB']")]
    one, two = PtbXlFiltered().recordings(layouts.ptb_xl_filtered(tmp_path, rows))
    assert one.signal("ecg").unit == "NU" and one.subject == "ptb_xl_9001"
    np.testing.assert_allclose(one.signal("ecg").samples, layouts.counts(1) / 200, rtol=1e-6)
    assert classes_of(one.labels) == {"CRBBB", "TAb", "NSR"} and two.name == "01001"
    assert classes_of(two.labels) == {"CRBBB", "AF"} and two.labels["superclass"] == ("CD",)
    assert "dx_IAVB" not in one.labels


def test_ptb_xl_filtered_is_not_read_as_millivolt(tmp_path):
    folder = layouts.ptb_xl_filtered(tmp_path, [layouts.filtered_row(1)])
    layouts.write_record(folder / "records100/00000/00001_lr", layouts.counts(), 100)
    with pytest.raises(RecordingError, match="mV"): list(PtbXlFiltered().recordings(folder))


# ---- the challenge's format, small files

def challenge(folder, **how):
    "One record of the challenge, read back, and the counts that were written."
    wave = layouts.challenge_record(folder / "training/georgia/g1", "E00001", **how)
    return next(Challenge2020().recordings(folder)), wave


@pytest.mark.parametrize("style", layouts.STYLES)
def test_all_header_styles_read_alike(tmp_path, style):
    read, wave = challenge(tmp_path, style=style, dx="427172004,17338001,164865005,17338001",
                           sex="Female")
    assert read.labels["age"] == 74 and read.labels["sex"] == "female"
    assert read.labels["dx"] == ("PVC",) and read.labels["source"] == "georgia"
    assert read.labels["codes"] == "427172004,17338001,164865005"
    assert read.signal("ecg").leads == LEADS and read.signal("ecg").unit == "mV"
    np.testing.assert_allclose(read.signal("ecg").samples, wave / 1000, rtol=1e-6)


@pytest.mark.parametrize("age, read", [("NaN", math.nan), ("Unknown", math.nan), ("300", 90),
                                       ("-1", math.nan)])
def test_challenge_ages_that_are_no_ages(tmp_path, age, read):
    np.testing.assert_equal(challenge(tmp_path, age=age)[0].labels["age"], float(read))


@pytest.mark.parametrize("dx", ["", "Unknown", "426783006;164889003", "426783006,,"])
def test_codes_that_are_none_are_refused(tmp_path, dx):
    with pytest.raises(RecordingError) as e: challenge(tmp_path, dx=dx)
    assert e.value.field == "Dx" and e.value.where == "E00001"


def test_a_header_without_codes_is_refused(tmp_path):
    with pytest.raises(RecordingError) as e: challenge(tmp_path, comments=["#Age: 74"])
    assert e.value.field == "Dx"


@pytest.mark.parametrize("rate, length", [(257, 462_600), (1000, 115_200), (500, 28_934)])
def test_rates_and_lengths_are_kept(tmp_path, rate, length):
    wave = layouts.counts(length=length)
    read, _ = challenge(tmp_path, rate=rate, wave=wave)
    ecg = read.signal("ecg")
    assert ecg.rate == rate and ecg.samples.shape == (12, length)
    assert (np.rint(ecg.samples[:, -9:] * 1000) == wave[:, -9:]).all()


def test_sources_are_read_in_a_fixed_order_and_one_can_be_chosen(tmp_path):
    for place in ("ptb-xl/g1/HR00007", "cpsc_2018/g1/A0002", "cpsc_2018/g1/A0001",
                  "georgia/g8/E07500"):
        folder, _, name = place.rpartition("/")
        layouts.challenge_record(tmp_path / "training" / folder, name)
    names = [o.name for o in Challenge2020().recordings(tmp_path)]
    assert names == ["A0001", "A0002", "E07500", "HR00007"]
    assert [o.name for o in Challenge2020("georgia").recordings(tmp_path)] == ["E07500"]
    with pytest.raises(CohortError, match="no recording"):
        list(Challenge2020("ptb").recordings(tmp_path))
    with pytest.raises(RequestError, match="ptb-xl"): get_cohort("challenge_2020", source="ptb_xl")


def test_ptb_xl_patients_are_one_subject_where_their_table_is(tmp_path):
    for name in ("HR00007", "HR00008", "HR00009"):
        layouts.challenge_record(tmp_path / "training/ptb-xl/g1", name)
    subjects = lambda: [o.subject for o in Challenge2020().recordings(tmp_path)]  # noqa: E731
    assert subjects() == ["HR00007", "HR00008", "HR00009"]
    layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(o, patient_id="16193.0") for o in (7, 8)])
    assert subjects() == ["ptb_xl_16193", "ptb_xl_16193", "HR00009"]
    assert {o.subject for o in PtbXl().recordings(tmp_path)} == {"ptb_xl_16193"}
    layouts.write_rows(tmp_path / "ptbxl_database.csv", layouts.PTB_XL_COLUMNS,
                       [layouts.ptb_xl_row(7, patient_id="who")])
    with pytest.raises(CohortError, match="who"): subjects()


@pytest.mark.parametrize("fault", ["short", "long", "other name", "no samples"])
def test_damaged_challenge_records_are_named(tmp_path, fault):
    folder = tmp_path / "training/georgia/g1"
    layouts.challenge_record(folder, "E00001")
    file = folder / "E00001.mat"
    if fault == "short": file.write_bytes(file.read_bytes()[:-24])
    if fault == "long": file.write_bytes(file.read_bytes() + bytes(24))
    if fault == "no samples": file.unlink()
    if fault == "other name": (folder / "E00001.hea").rename(folder / "E00002.hea")
    with pytest.raises(RecordingError, match="E0000[12]"):
        list(Challenge2020().recordings(tmp_path))


def test_chapman_ningbo_names_conditions_and_constant_leads(tmp_path):
    layouts.chapman_ningbo(tmp_path)
    wave = layouts.counts()
    wave[6:] = 0
    folder = tmp_path / "WFDBRecords"
    layouts.challenge_record(folder / "46/461", "JS45542", wave=wave,
                             dx="425856008,284470004,164909002")
    layouts.challenge_record(folder / "01/010", "JS00001")
    first, last = ChapmanNingbo().recordings(tmp_path)
    assert (first.name, first.subject, last.name) == ("JS00001", "JS00001", "JS45542")
    assert last.labels["conditions"] == "425856008,APB,LBBB"
    assert last.labels["dx"] == ("LBBB", "PAC")
    assert last.labels["constant_leads"] == "V1 V2 V3 V4 V5 V6"
    assert not first.labels["constant_leads"]


# ---- LUDB, small files

def test_ludb_reads_counts_not_gains(tmp_path):
    one, two = Ludb().recordings(layouts.ludb(tmp_path))
    assert (one.name, one.subject, two.name) == ("ludb_1", "ludb_1", "ludb_2")
    assert one.signal("ecg").leads == LEADS and one.signal("ecg").unit == "mV"
    microvolt = np.rint(two.signal("ecg").samples * 1000)
    np.testing.assert_array_equal(microvolt, layouts.counts(2, 5000))
    assert one.labels["rhythm"] == "Atrial fibrillation" and one.labels["af"] == 1
    assert one.labels["axis"] == "vertical" and one.labels["sex"] == "female"
    assert one.labels["hypertrophy"] == "Left ventricular overload; Left ventricular hypertrophy"


def test_ludb_marks_become_intervals(tmp_path):
    [read] = Ludb().recordings(layouts.ludb(tmp_path, [1]))
    keys = {f"{kind}:{lead}" for kind in ("wave", "peak") for lead in layouts.LOWER}
    assert {o.key for o in read.intervals} == keys
    found = [(round(o.start * 500), round(o.end * 500), o.value) for o in read.intervals
             if o.key == "wave:v3"]
    assert found == [(10, 14, "P"), (20, 25, "QRS"), (40, 60, "T")]
    assert [round(o.start * 500) for o in read.intervals if o.key == "peak:v3"] == [12, 22, 50]


@pytest.mark.parametrize("symbols, at, expected", [
    ("N)(t", (1, 2, 3, 4), [(1, 2, "QRS"), (3, 4, "T")]),     # begins or ends with its peak
    ("()p", (1, 2, 3), [(3, 3, "P")]),                        # brackets around nothing
    ("((tt))", (1, 2, 3, 4, 5, 6), [(2, 3, "T"), (4, 5, "T")])])
def test_ludb_marks_that_lack_a_bracket(tmp_path, symbols, at, expected):
    [read] = Ludb().recordings(layouts.ludb(tmp_path, [1], (symbols, at)))
    assert [(round(o.start * 500), round(o.end * 500), o.value) for o in read.intervals
            if o.key == "wave:ii"] == expected


@pytest.mark.parametrize("marks", [("(V)", (1, 2, 3)), ("(p)", (1, 2, 5000)),
                                   ("(p)", (1, 2, 90_000))])
def test_ludb_marks_that_cannot_be_are_refused(tmp_path, marks):
    with pytest.raises(RecordingError, match="marks of i"):
        list(Ludb().recordings(layouts.ludb(tmp_path, [1], marks)))


def test_ludb_missing_or_damaged_marks_are_named(tmp_path):
    folder = layouts.ludb(tmp_path, [1])
    (folder / "data/1.v2").write_bytes(b"\x3b")
    with pytest.raises(RecordingError) as e: list(Ludb().recordings(folder))
    assert e.value.field == "marks of v2"
    (folder / "data/1.v2").unlink()
    with pytest.raises(RecordingError) as e: list(Ludb().recordings(folder))
    assert e.value.field == "marks of v2" and e.value.where == "1"


@pytest.mark.parametrize("line", ["../1", "/data/1", "data/../../1"])
def test_a_list_of_records_that_climbs_out_is_refused(tmp_path, line):
    folder = layouts.ludb(tmp_path / "in", [1])
    layouts.ludb(tmp_path, [1])
    (folder / "RECORDS").write_text(f"{line}\n")
    with pytest.raises(FetchError): list(Ludb().recordings(folder))


def test_ludb_records_that_the_table_does_not_know(tmp_path):
    folder = layouts.ludb(tmp_path)
    layouts.write_rows(folder / "ludb.csv", layouts.LUDB_COLUMNS, [])
    with pytest.raises(RecordingError, match="ludb.csv"): list(Ludb().recordings(folder))
    layouts.ludb(tmp_path, Rhythms="Tango")
    with pytest.raises(RecordingError, match="Tango"): list(Ludb().recordings(folder))


# ---- what the rooms share

@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(SCORED) + ["164865005", "1"]), max_size=6))
def test_scored_classes_do_not_depend_on_order_or_repetition(codes):
    assert scored_classes(codes) == scored_classes(set(codes)) <= set(CLASSES)
    assert bool(scored_classes(codes)) == bool(set(codes) & set(SCORED))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=8))
def test_duplicates_are_groups_of_equal_signals(seeds):
    made = [Recording(f"r{i}", f"r{i}", {"ecg": Signal(np.full((1, 4), seed), 100, ("II",), "mV")})
            for i, seed in enumerate(seeds)]
    groups = duplicates(made)
    expected = {tuple(f"r{i}" for i, o in enumerate(seeds) if o == seed) for seed in set(seeds)}
    assert set(groups) == {o for o in expected if len(o) > 1}


def test_equal_numbers_at_another_rate_are_no_duplicate():
    made = [Recording(f"r{rate}", "s", {"ecg": Signal(np.ones((1, 4)), rate, ("II",), "mV")})
            for rate in (100, 500)]
    assert duplicates(made) == []


def test_a_lead_of_gaps_alone_is_constant():
    wave = np.tile(np.arange(4.0), (12, 1))
    wave[1], wave[2, :3] = np.nan, np.nan
    assert constant_leads(Signal(wave, 100, LEADS, "mV")) == ("II", "III")


# ---- real recordings

def real(name, **options):
    "The cohort and its folder, or skip with a reason where this cohort is not at hand."
    cohort = get_cohort(name, **options)
    try: return cohort, locate(cohort)
    except CohortError as e: pytest.skip(str(e))


@pytest.fixture(scope="module")
def once():
    "What one pass over a cohort found, kept for all tests of this module."
    return {}


def summary(recording):
    "What the tests ask of a recording, without its samples."
    ecg = recording.signal("ecg")
    x = ecg.samples.astype(float)
    return dict(name=recording.name, subject=recording.subject, labels=dict(recording.labels),
                rate=ecg.rate, length=x.shape[1], finite=np.isfinite(x).all(),
                einthoven=abs(x[1] - x[0] - x[2]).max(), constant=constant_leads(ecg))


def passed(once, name, **options):
    "Summaries of all recordings of a real cohort."
    key = (name, *options.items())
    if key not in once:
        cohort, folder = real(name, **options)
        once[key], there = [], cohort.recordings(folder)
        once[key, "twice"] = duplicates(once[key].append(summary(o)) or o for o in there)
    return once[key]


def tally(found, key, classes):
    return [sum(o["labels"][f"{key}_{c}"] for o in found) for c in classes]


@pytest.mark.real
def test_ptb_xl_counts(real_data, once):
    found = passed(once, "ptb_xl")
    assert len(found) == 500 and len({o["subject"] for o in found}) == 466
    assert all(o["rate"] == 100 and o["length"] == 1000 and o["finite"] for o in found)
    assert [o["name"] for o in found] == [f"{i:05d}" for i in range(1, 501)]
    folds = [sum(o["labels"]["strat_fold"] == f for o in found) for f in range(1, 11)]
    assert folds == [58, 51, 34, 42, 47, 33, 44, 44, 81, 66]
    ages = [o["labels"]["age"] for o in found]
    assert np.nanmin(ages) == 17 and np.nanmax(ages) == 91
    assert max(o["einthoven"] for o in found) < 0.0021
    assert not any(o["constant"] for o in found) and all(plain(o["labels"]) for o in found)


@pytest.mark.real
def test_ptb_xl_classes_equal_the_challenge_headers(real_data, once):
    found = passed(once, "ptb_xl")
    _, folder = real("ptb_xl")
    with open(folder / "challenge_dx_g1.csv", newline="") as f:
        told = {o["filename"][2:7]: set(o["Dx"].split(",")) for o in csv.DictReader(f)}
    assert [o["name"] for o in found
            if classes_of(o["labels"]) != scored_classes(told[o["name"]])] == []
    assert tally(found, "dx", CLASSES) == [10, 13, 8, 0, 8, 20, 29, 58, 8, 4, 6, 6, 6, 0, 3, 3, 10,
                                           9, 26, 9, 444, 5, 51, 5]


def split_table(folders):
    "The superclasses of PTB-XL recordings in the split tables of another project, by ecg_id."
    for folder in folders:
        archive = folder / "merl_label_splits.tar.xz"
        if not archive.is_file(): continue
        with tarfile.open(archive) as tar:
            for o in tar:
                if "ptbxl/super_class/" not in o.name or not o.isfile(): continue
                yield from csv.DictReader(io.TextIOWrapper(tar.extractfile(o), "utf-8"))


@pytest.mark.real
@pytest.mark.parametrize("name, covered", [("ptb_xl", 477), ("ptb_xl_filtered", 1819)])
def test_superclasses_equal_the_split_tables(real_data, once, name, covered):
    classes = ("NORM", "MI", "STTC", "CD", "HYP")
    told = {int(o["ecg_id"]): {c for c in classes if o[c] == "1"} for o in split_table(real_data)}
    if not told: pytest.skip("the split tables are not at hand")
    found = [o for o in passed(once, name) if int(o["name"]) in told]
    assert len(found) == covered
    for o in found: assert classes_of(o["labels"], "superclass") == told[int(o["name"])], o["name"]
    if name == "ptb_xl": assert tally(found, "superclass", classes) == [293, 71, 93, 76, 38]


@pytest.mark.real
def test_ptb_xl_recordings_that_are_there_twice(real_data, once):
    coarse, fine = passed(once, "ptb_xl"), passed(once, "ptb_xl", rate=500)
    assert {(o["rate"], o["length"]) for o in fine} == {(500, 5000)} and len(fine) == 500
    assert [o["labels"] for o in coarse[1:3]] == [o["labels"] for o in fine[1:3]]
    both = [("00456", "00457"), ("00459", "00460")]
    finer = [("00137", "00138"), ("00143", "00144"), ("00145", "00463")]
    assert once[("ptb_xl",), "twice"] == both
    assert once[("ptb_xl", ("rate", 500)), "twice"] == finer + both


@pytest.mark.real
def test_ptb_xl_filtered_counts(real_data, once):
    found = passed(once, "ptb_xl_filtered")
    assert len(found) == 1819 and len({o["subject"] for o in found}) == 1796
    folds = [sum(o["labels"]["strat_fold"] == f for o in found) for f in range(1, 11)]
    assert folds == [169, 188, 179, 188, 185, 188, 185, 160, 183, 194]
    expected = dict(AF=122, AFL=2, CRBBB=51, IRBBB=104, LBBB=59, LQRSV=22, PAC=49, LPR=29, LQT=9,
                    QAb=31, SA=63, SB=38, STach=66, TAb=227, TInv=27, PR=0, PVC=0, Brady=0)
    assert dict(zip(expected, tally(found, "dx", expected))) == expected


@pytest.mark.real
def test_ptb_xl_filtered_agrees_with_the_original(real_data, once):
    "The same ids have the same patients and folds, and the same classes where both tell them."
    ours = {o["name"]: o for o in passed(once, "ptb_xl")}
    shared = [o for o in passed(once, "ptb_xl_filtered") if o["name"] in ours]
    assert len(shared) == 34
    untold = {"IAVB", "LAnFB", "LAD", "RAD"}
    for o in shared:
        other = ours[o["name"]]
        assert o["subject"] == other["subject"]
        assert o["labels"]["strat_fold"] == other["labels"]["strat_fold"]
        assert classes_of(o["labels"]) == classes_of(other["labels"]) - untold


TABLE = dict(  # scored classes of each source: CPSC, extra, PTB, PTB-XL, Georgia, Ningbo
    IAVB=(0, 1, 0, 0, 0, 0), AF=(4, 1, 0, 0, 2, 2),
    AFL=(0, 1, 0, 0, 1, 1), Brady=(0, 4, 0, 0, 0, 0),
    CRBBB=(3, 3, 0, 0, 3, 1), IRBBB=(0, 1, 0, 1, 2, 0),
    LAnFB=(0, 0, 0, 0, 1, 0), LAD=(0, 0, 0, 2, 2, 0),
    LBBB=(0, 1, 0, 0, 0, 0), LQRSV=(0, 0, 0, 1, 1, 0),
    NSIVCB=(0, 1, 0, 0, 0, 9), PR=(0, 1, 0, 0, 0, 0),
    PAC=(0, 2, 0, 0, 1, 20), PVC=(0, 3, 0, 0, 1, 5),
    LPR=(0, 0, 0, 1, 0, 0), LQT=(0, 1, 0, 0, 3, 0),
    QAb=(0, 1, 0, 0, 1, 0), RAD=(0, 0, 0, 0, 0, 0),
    SA=(0, 1, 0, 0, 0, 1), SB=(0, 1, 0, 2, 6, 8),
    NSR=(1, 1, 0, 21, 8, 1), STach=(0, 2, 0, 1, 8, 16),
    TAb=(0, 1, 0, 1, 3, 11), TInv=(0, 1, 0, 0, 2, 5))


@pytest.mark.real
def test_challenge_2020_counts(real_data, once):
    found = passed(once, "challenge_2020")
    sources = ["cpsc_2018", "cpsc_2018_extra", "ptb", "ptb-xl", "georgia"]
    parts = [[o for o in found if o["labels"]["source"] == s] for s in sources]
    assert [len(o) for o in parts] == [10, 29, 4, 22, 33] and len(found) == 98
    for place, part in enumerate(parts):
        assert tally(part, "dx", TABLE) == [o[place] for o in TABLE.values()]
    assert {o["rate"] for o in parts[2]} == {1000} and {o["rate"] for o in found} == {500, 1000}
    lengths = [o["length"] for o in parts[1]]
    assert (min(lengths), max(lengths)) == (5000, 28_934)
    assert sum(not o["labels"]["dx"] for o in found) == 16
    assert sum(math.isnan(o["labels"]["age"]) for o in found) == 3
    assert max(o["einthoven"] for o in found) < 0.0031 and len({o["subject"] for o in found}) == 98


@pytest.mark.real
def test_recordings_that_two_cohorts_share(real_data):
    challenge, folder = real("challenge_2020")
    ptb_xl, other = real("ptb_xl", rate=500)
    both = chain(challenge.recordings(folder), islice(ptb_xl.recordings(other), 20))
    shared = [(f"HR{i:05d}", f"{i:05d}") for i in range(1, 11)]
    assert duplicates(both) == [("E07509", "E07510"), *shared]


@pytest.mark.real
def test_chapman_ningbo_counts(real_data, once):
    found = passed(once, "chapman_ningbo")
    assert len(found) == 39 and all(o["rate"] == 500 and o["length"] == 5000 for o in found)
    assert tally(found, "dx", TABLE) == [o[5] for o in TABLE.values()]
    assert max(o["einthoven"] for o in found) < 0.0011
    constant = {o["name"]: " ".join(o["constant"]) for o in found if o["constant"]}
    assert constant == {"JS20004": "V2 V4 V6", "JS20008": "V2 V4 V6", "JS45551": "V4 V5 V6",
                        "JS45542": "V1 V2 V3 V4 V5 V6", "JS45544": "V2 V3 V4 V5 V6"}
    assert all(o["labels"]["constant_leads"] == constant.get(o["name"], "") for o in found)
    # the publisher's own diagnoses: atrial flutter, ST depression, ST-T change
    assert {o["name"]: o["labels"]["conditions"] for o in found}["JS00005"] == "AF,STDD,STTC"


@pytest.mark.real
def test_ludb_counts(real_data):
    cohort, folder = real("ludb")
    peaks, rhythms, names, broken = Counter(), Counter(), [], 0
    for o in cohort.recordings(folder):
        x = np.fromfile(folder / f"data/{o.name[5:]}.dat", "<i2").reshape(-1, 12).T.astype(int)
        counts = np.rint(o.signal("ecg").samples * 1000).astype(int)
        np.testing.assert_array_equal(counts, x)
        assert (counts[1] == counts[0] + counts[2]).all(), o.name
        at = [i.start for i in o.intervals if i.key.startswith("peak:")]
        peaks.update(i.value for i in o.intervals if i.key.startswith("peak:"))
        waves = [i for i in o.intervals if i.key.startswith("wave:")]
        broken += sum(i.start == peak or i.end == peak for i, peak in zip(waves, at))
        rhythms[o.labels["rhythm"]] += 1
        names.append(o.name)
    assert names == [f"ludb_{i}" for i in range(1, 201)]
    assert peaks == {"P": 16_797, "QRS": 21_965, "T": 19_661} and broken < 140
    assert rhythms == {"Sinus rhythm": 143, "Sinus bradycardia": 25, "Atrial fibrillation": 15,
                       "Sinus arrhythmia": 8, "Sinus tachycardia": 4, "Atrial flutter, typical": 3,
                       "Irregular sinus rhythm": 2}
