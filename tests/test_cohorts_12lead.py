"""The twelve-lead cohorts: on small files in the published layouts, and on real recordings."""
import csv
import io
import json
import math
import tarfile

import layouts_12lead as layouts
import numpy as np
import pytest

from biossl.cohorts.ptb_xl import PtbXl, PtbXlFiltered
from biossl.cohorts.registry import get_cohort, locate
from biossl.cohorts.statements import CLASSES, scored_classes
from biossl.cohorts.twelve_lead import LEADS, constant_leads, duplicates
from biossl.data.errors import BiosslError, CohortError, FetchError, RecordingError, RequestError


def labels_of(cohort, folder):
    return [dict(o.labels) for o in cohort.recordings(folder)]


def classes_of(labels, key="dx"):
    "The classes of the multilabel task `key` that a recording carries."
    return {k.removeprefix(f"{key}_") for k, v in labels.items() if k.startswith(f"{key}_") and v}


def scalars(labels):
    return all(type(o) in (int, float, str) for o in labels.values())


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
    assert scalars(one.labels) and one.labels.keys() == two.labels.keys()


def test_every_task_finds_its_columns(tmp_path):
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1)])
    [labels] = labels_of(PtbXl(), folder)
    for task in PtbXl.tasks:
        many = task.kind == "multilabel"
        for column in [f"{task.key}_{o}" for o in task.classes] if many else [task.key]:
            assert column in labels


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_damaged_umlauts_stay_as_published(tmp_path, encoding):
    report = "supraventrikulÄre #bergangsrhythmus,\tü"
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1, report=report)], encoding)
    assert labels_of(PtbXl(), folder)[0]["report"] == report


@pytest.mark.parametrize("age, read", [("", math.nan), ("NaN", math.nan), ("300", 90), ("0.0", 0)])
def test_ages_that_are_no_ages(tmp_path, age, read):
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1, age=age)])
    np.testing.assert_equal(labels_of(PtbXl(), folder)[0]["age"], float(read))


@pytest.mark.parametrize("field, value", [
    ("scp_codes", "__import__('os').getcwd()"), ("scp_codes", "['NORM']"), ("scp_codes", "{'NORM':"),
    ("scp_codes", "{" * 500), ("patient_id", ""), ("patient_id", "12.5"), ("strat_fold", "three"),
    ("patient_id", "inf"), ("patient_id", "nan")])
def test_a_bad_cell_is_named(tmp_path, field, value):
    folder = layouts.ptb_xl(tmp_path, [layouts.ptb_xl_row(1), layouts.ptb_xl_row(2, **{field: value})])
    with pytest.raises(RecordingError) as e: list(PtbXl().recordings(folder))
    assert e.value.field == field and str(e.value.where) == "2" and e.value.remedy


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


@pytest.mark.parametrize("leads", [["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5",
                                    "X"], [*layouts.UPPER[:11], "V1"]])
def test_a_missing_or_double_lead_is_named(tmp_path, leads):
    with pytest.raises(RecordingError, match="lead V[61]") as e:
        reread(tmp_path, layouts.counts(), leads)
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
    x = recording.signal("ecg").samples.astype(float)
    return dict(name=recording.name, subject=recording.subject, labels=dict(recording.labels),
                rate=recording.signal("ecg").rate, length=x.shape[1], finite=np.isfinite(x).all(),
                einthoven=abs(x[1] - x[0] - x[2]).max(), constant=constant_leads(recording.signal("ecg")),
                bits=hash(x.tobytes()))


def passed(once, name, **options):
    "Summaries of all recordings of a real cohort."
    key = (name, *options.items())
    if key not in once:
        cohort, folder = real(name, **options)
        once[key] = [summary(o) for o in cohort.recordings(folder)]
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
    assert not any(o["constant"] for o in found) and all(scalars(o["labels"]) for o in found)


@pytest.mark.real
def test_ptb_xl_classes_equal_the_challenge_headers(real_data, once):
    found = passed(once, "ptb_xl")
    _, folder = real("ptb_xl")
    with open(folder / "challenge_dx_g1.csv", newline="") as f:
        told = {o["filename"][2:7]: set(o["Dx"].split(",")) for o in csv.DictReader(f)}
    assert [o["name"] for o in found
            if classes_of(o["labels"]) != scored_classes(told[o["name"]])] == []
    assert tally(found, "dx", CLASSES) == [10, 13, 8, 0, 8, 20, 29, 58, 8, 4, 6, 6, 6, 0, 3, 3, 10, 9, 26,
                                           9, 444, 5, 51, 5]


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
def test_ptb_xl_recordings_that_are_there_twice(real_data):
    cohort, folder = real("ptb_xl")
    both = [("00456", "00457"), ("00459", "00460")]
    assert duplicates(cohort.recordings(folder)) == both
    finer = [("00137", "00138"), ("00143", "00144"), ("00145", "00463")]
    assert duplicates(PtbXl(500).recordings(folder)) == finer + both


@pytest.mark.real
def test_ptb_xl_filtered_counts(real_data, once):
    found = passed(once, "ptb_xl_filtered")
    assert len(found) == 1819 and len({o["subject"] for o in found}) == 1796
    folds = [sum(o["labels"]["strat_fold"] == f for o in found) for f in range(1, 11)]
    assert folds == [169, 188, 179, 188, 185, 188, 185, 160, 183, 194]
    expected = dict(AF=122, AFL=2, CRBBB=51, IRBBB=104, LBBB=59, LQRSV=22, PAC=30, LPR=29, LQT=9,
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
