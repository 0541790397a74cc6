"PTB-XL with its reports: labels, texts, the published split, and nobody in two parts of it."
import json
from collections import Counter

import layouts_12lead as layouts
import numpy as np
import pytest

from biossl.cohorts.benchmarks import (CLASSES, PTB_XL_SETS, label_set, published_parts,
                                       tables_folder)
from biossl.cohorts.challenge_2020 import NO_SAMPLES
from biossl.cohorts.open_12lead import SAME_NUMBER, standardised
from biossl.cohorts.ptb_xl_text import NOT_RELEASED, WITHDRAWN, PtbXlText
from biossl.cohorts.registry import get_cohort, locate
from biossl.cohorts.twelve_lead import LEADS
from biossl.data.clauses import CODES
from biossl.data.errors import CohortError, RequestError
from biossl.data.recordings import Recording
from biossl.data.reports import spoken
from biossl.data.splits import assert_disjoint
from biossl.data.store import Windowing, pack
from biossl.data.wfdbfiles import WfdbRecord
from biossl.train.runs import truth_of

WINDOWING = Windowing(signals=(("ecg", 100.0),), seconds=1, hop=1, beats=())
SUPER_OF = dict.fromkeys("AMI IMI LMI PMI".split(), "MI") | dict.fromkeys(
    "LVH RVH SEHYP LAO/LAE RAO/RAE".split(), "HYP") | dict.fromkeys(
    "STTC NST ISC ISCA ISCI".split(), "STTC") | {"NORM": "NORM"}


def statements(folder):
    "A table in which each subclass, form and rhythm is a statement of its name; NT ends as NT_."
    rows = {o: {"": o, "diagnostic": "1.0", "diagnostic_subclass": o,
                "diagnostic_class": SUPER_OF.get(o, "CD")} for o in CLASSES["ptbxl_sub"]}
    for kind in ("form", "rhythm"):
        for o in CLASSES[f"ptbxl_{kind}"]: rows.setdefault(o, {"": o})[kind] = "1.0"
    rows["NT"][""] = "NT_"
    rows["AVB"]["diagnostic_subclass"] = "_AVB"
    layouts.write_rows(folder / "scp_statements.csv", (
        "", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"),
        rows.values())


def written(folder, length=300):
    """The two members: 1 and 2 with text, of which 2 is in both; 1001 in the second table, with a
    number in English, 1002 in lists only; 145 was taken out of the release; 3 has a gap."""
    rows = [layouts.ptb_xl_row(1, scp_codes="{'LVH': 80.0, 'AVB': 0.0, 'NT_': 0.0, 'SR': 0.0}"),
            layouts.ptb_xl_row(2, strat_fold="9", sex="1", age="300"), layouts.ptb_xl_row(145),
            layouts.ptb_xl_row(3)]
    layouts.ptb_xl(folder / "ptb_xl", rows)
    statements(folder / "ptb_xl")
    for o in rows:
        wave = layouts.counts(o["ecg_id"], length * 5)
        if o["ecg_id"] == 3: wave[2, 7] = -32768
        layouts.write_record(folder / "ptb_xl" / o["filename_hr"], wave)
    extra = layouts.ptb_xl_row(1001, patient_id="11.0", scp_codes="{'AFIB': 0.0}", strat_fold="10",
                               report="vorhofflimmern")
    layouts.write_rows(folder / "ptb_xl/ptbxl_database_metadata.csv", layouts.PTB_XL_COLUMNS,
                       [extra | dict(ecg_id=2, report="another release"), extra])
    layouts.write_rows(folder / "ptb_xl/ptbxl_reports_english_fold10.csv", layouts.PTB_XL_COLUMNS,
                       [extra | dict(report="Atrial fibrillation.")])
    theirs = dict(super_class="['CD']", sub_class="['CRBBB', 'AVB', 'STTC']", form="['NT']",
                  rhythm="['AFIB']")
    layouts.ptb_xl_filtered(folder / "ptb_xl_filtered", [
        layouts.filtered_row(o, patient_id=f"{p}.0", strat_fold=fold, **theirs)
        for o, p, fold in ((2, 9002, "9"), (1001, 11, "10"), (1002, 12, "8"))])
    for o in (2, 1001, 1002):
        layouts.write_record(folder / "ptb_xl_filtered" / layouts.filtered_row(o)["filename_lr"],
                             layouts.counts(o, length), 100, gain="200.0(0)/NU")
    return folder


def screened(cohort, folder):
    "The recordings by name, and the names left out by reason."
    kept, left = {}, {}
    for o in cohort.screened(folder):
        if isinstance(o, Recording): kept[o.name] = o
        else: left.setdefault(o.reason, []).append(o.recording)
    return kept, left


def test_texts_classes_and_parts_come_from_the_table_that_knows_them(tmp_path):
    kept, left = screened(PtbXlText(), written(tmp_path))
    assert list(kept) == ["00001", "00002", "01001", "01002"]
    assert left == {NOT_RELEASED: ["ptb_xl/00145"], NO_SAMPLES: ["ptb_xl/00003"],
                    SAME_NUMBER: ["ptb_xl_filtered/00002 = ptb_xl/00002"]}
    told = {name: o.labels for name, o in kept.items()}
    assert [told[o]["report"] for o in told] == ["sinusrhythmus"] * 2 + ["vorhofflimmern", ""]
    assert [told[o]["report_english"] for o in told] == ["", "", "Atrial fibrillation.", ""]
    assert [told[o]["part"] for o in told] == ["train", "val", "test", "train"]
    assert [o.subject for o in kept.values()] == ["ptb_xl_9001", "ptb_xl_9002", "ptb_xl_11",
                                                  "ptb_xl_12"]
    assert [told[o]["ptbxl_form_part"] for o in told] == ["train", "", "test", "train"]
    assert told["00001"]["ptbxl_super"] == ("HYP", "CD")      # a likelihood of 0 counts
    assert told["00001"]["ptbxl_sub"] == ("LVH", "AVB")
    assert told["00001"]["ptbxl_form"] == ("NT",) and told["00001"]["ptbxl_rhythm_SR"] == 1
    assert told["01001"]["ptbxl_rhythm"] == ("AFIB",)
    assert told["01001"]["ptbxl_sub"] == ("STTC", "CRBBB", "AVB")   # lists, not another release
    assert json.loads(told["01001"]["statements"]) == ["AFIB"]      # which writes the report
    assert told["01002"]["ptbxl_sub"] == ("STTC", "CRBBB", "AVB")
    assert json.loads(told["01002"]["statements"]) == ["CRBBB", "AVB", "STTC", "NT", "AFIB"]
    assert {"AVB", "AFIB"} <= spoken(told["01002"]["report_codes"])
    hushed = screened(PtbXlText(withheld="AFIB"), tmp_path)[0]["01002"].labels["report_codes"]
    assert "AVB" in spoken(hushed) and "AFIB" not in spoken(hushed)
    assert told["00002"]["sex"] == "female" and told["00002"]["age"] == 90
    assert told["01002"]["sex"] == "" and np.isnan(told["01002"]["age"])


def test_tasks_are_read_from_packed_windows(tmp_path, home):
    cohort = PtbXlText()
    windows = pack(cohort, WINDOWING, written(tmp_path))
    truth = truth_of(windows, cohort.task("ptbxl_rhythm"))
    who = windows.labels("recording").tolist()
    assert truth.shape == (len(who), 12) and set(np.unique(truth)) == {0, 1}
    assert truth[who.index("01002")].sum() == 1
    assert windows.labels("report")[who.index("01001")] == "vorhofflimmern"


def test_all_come_in_one_scale_or_the_one_member_as_published(tmp_path):
    folder = written(tmp_path)
    kept = screened(PtbXlText(), folder)[0]
    assert {(o.signal("ecg").rate, o.signal("ecg").unit) for o in kept.values()} == {(100, "NU")}
    raw = screened(PtbXlText("ptb_xl", "published"), folder)[0]
    assert list(raw) == ["00001", "00002"]
    ecg = raw["00001"].signal("ecg")
    assert (ecg.rate, ecg.unit) == (500, "mV")
    assert ecg.samples[3, 5] == pytest.approx(layouts.counts(1, 1500)[3, 5] / 1000)
    assert np.array_equal(standardised(ecg).samples, kept["00001"].signal("ecg").samples)
    alone = screened(PtbXlText("ptb_xl_filtered"), folder / "ptb_xl/..")[0]
    assert list(alone) == ["00002", "01001", "01002"]


def test_the_filtered_member_needs_nothing_of_the_other(tmp_path):
    (written(tmp_path) / "ptb_xl").rename(tmp_path / "elsewhere")
    kept = screened(PtbXlText("ptb_xl_filtered"), tmp_path)[0]
    assert [o.labels["report"] for o in kept.values()] == [""] * 3
    assert kept["01001"].labels["ptbxl_rhythm"] == ("AFIB",)


@pytest.mark.parametrize("ask, message", [
    (dict(scale="publish"), "no scale publish.*published"), (dict(members="ptbxl"), "no member ptbxl"),
    (dict(scale="published"), "members=ptb_xl"), (dict(withheld="AFIBB"), "no statement.*AFIB"),
    (dict(scale="published", members="ptb_xl_filtered"), "members=ptb_xl")])
def test_options_that_there_are_not(ask, message):
    with pytest.raises(RequestError, match=message): get_cohort("ptb_xl_text", **ask)


# ---- real recordings

READ = {}   # once for both tests


@pytest.fixture
def real(real_data, monkeypatch):
    "All recordings at hand, by name, and those left out; labels need no samples: none are read."
    def made_up(path):
        random = np.random.default_rng(int(path.name[:5])).normal(size=(12, 60))
        rate, unit = (100, "NU") if "filtered" in str(path) else (500, "mV")
        return WfdbRecord(path.name, rate, 60, LEADS, (unit,) * 12, (1.0,) * 12, (0,) * 12, (),
                          random, random)
    try: folder = locate(PtbXlText())
    except CohortError as e: pytest.skip(str(e))
    monkeypatch.setattr("biossl.cohorts.ptb_xl.read_wfdb", made_up)
    if folder not in READ: READ[folder] = screened(PtbXlText(), folder)
    return READ[folder]


@pytest.mark.real
def test_what_is_at_hand_and_what_has_a_text(real):
    kept, left = real
    assert {key: len(o) for key, o in left.items()} == {NOT_RELEASED: 12, SAME_NUMBER: 34}
    assert len(kept) == 500 + 1819 - 12 - 34 == PtbXlText.card.recordings
    assert len({o.subject for o in kept.values()}) == PtbXlText.card.subjects
    written_ = [o for o in kept.values() if o.labels["report"]]
    assert len(written_) == 952   # and one row's report is empty
    assert Counter(o.labels["part"] for o in written_).keys() == {"train", "val", "test"}
    for o in kept.values():   # what a report is written from: all that is known but a group
        assert set(json.loads(o.labels["statements"])) - set(CODES) <= {"STTC"}


@pytest.mark.real
def test_labels_and_parts_are_the_published_ones_and_nobody_is_in_two(real):
    kept, _ = real
    try: tables_folder()
    except CohortError as e: pytest.skip(str(e))
    subjects, part = (np.array(o) for o in zip(*((o.subject, o.labels["part"])
                                                 for o in kept.values())))
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert_disjoint(subjects[part == a], subjects[part == b])
    released = set()
    for name in PTB_XL_SETS:
        labels = label_set(name)
        parts = published_parts(labels)
        released |= set(parts)
        told = {row["recording"]: row for o in ("train", "val", "test")
                for row in labels.table(o).to_dict("records")}
        for key, o in kept.items():
            assert bool(o.labels[name]) == (key in parts), (name, key)
            if key not in parts: continue
            assert o.labels["part"] == parts[key] and o.subject == told[key]["patient"]
            assert o.labels[name] == tuple(c for c in labels.classes if told[key][c])
    assert set(kept) <= released and not {f"{o:05d}" for o in WITHDRAWN} & released
