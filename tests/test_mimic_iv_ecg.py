"""MIMIC-IV-ECG on files in its layout: joined by study, read one by one, left out by cause."""
import shutil
import tracemalloc
from collections import Counter

import layouts
import numpy as np
import pytest

from biossl.cohorts.challenge_2020 import NO_LEADS, NO_SAMPLES
from biossl.cohorts.mimic_iv_ecg import (CUT_SHORT, FLAT, LIST, NOT_HERE, OTHER_RATE, REPORTS,
                                         MimicIvEcg, machine_codes)
from biossl.cohorts.registry import at_hand, cohort_names, get_cohort, locate
from biossl.cohorts.statements import scored_classes
from biossl.cohorts.twelve_lead import LEADS
from biossl.data.errors import CohortError, FetchError, RecordingError, RequestError
from biossl.data.recordings import LeftOut
from biossl.data.reports import FOREIGN, NO_REPORT, SHORT, assert_withheld, spoken
from biossl.data.store import join, pack, store_key
from biossl.data.windowing import Windowing

WINDOWING = Windowing(signals=(("ecg", 0.0),), seconds=10, hop=10, beats=())
USUAL = ("Sinus rhythm", "Left axis deviation")
GAP = layouts.waves(12, 5000, 5)
GAP[77, 3] = np.nan


def study(number, *reports, subject=None, **changes):
    "A study whose subject, unless given, lies in the folder p1NNN of its number."
    return dict(subject=subject or 10_000_000 + 10_000 * number + 32, study=40_000_000 + number,
                reports=reports, **changes)


STUDIES = [
    study(1, *USUAL), study(2, "*** Atrial fibrillation ***", "", "Abnormal ECG - consider ischemia"),
    study(3, "Sinus rhythm"), study(4), study(5, *USUAL, untold=True), study(6, "   ", "***"),
    study(7, "синусовый ритм", "отклонение оси влево"),
    study(8, *USUAL, leads=LEADS[::-1]), study(9, *USUAL, leads=[*LEADS[:11], "X"]),
    study(10, *USUAL, rate=100, samples=1000), study(11, *USUAL, samples=4999),
    study(12, *USUAL, values=np.zeros((5000, 12))), study(13, *USUAL, values=GAP),
    study(14, *USUAL, here=False), study(15, "Sinus rhythm, with 1st degree A-V block", subject=10_010_032)]
CAUSES = {
    f"recordings with {SHORT}": ["40000003"], f"recordings with {NO_REPORT}": [
        "40000004", "40000005", "40000006"], f"recordings with {FOREIGN}": ["40000007"],
    NO_LEADS: ["40000009"], OTHER_RATE: ["40000010"], CUT_SHORT: ["40000011"], FLAT: ["40000012"],
    NO_SAMPLES: ["40000013"], NOT_HERE: ["40000014"]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mimic_iv_ecg"
    return folder, layouts.write_mimic_iv_ecg(folder, STUDIES)


def screened(cohort, folder):
    kept, left = {}, {}
    for o in cohort.screened(folder):
        if isinstance(o, LeftOut): left.setdefault(o.reason, []).append(o.recording)
        else: kept[o.name] = o
    return kept, left


def test_what_is_kept_and_what_is_left_out_by_cause(written):
    kept, left = screened(MimicIvEcg(), written[0])
    assert list(kept) == ["40000001", "40000002", "40000008", "40000015"] and left == CAUSES
    assert [o.name for o in MimicIvEcg().recordings(written[0])] == list(kept)
    assert MimicIvEcg().count(written[0]) == 14


def test_reports_are_joined_by_study_whatever_their_order(written):
    kept, _ = screened(MimicIvEcg(), written[0])
    report = {name: o.labels["report"] for name, o in kept.items()}
    assert report["40000001"] == "Sinus rhythm. Left axis deviation"
    assert report["40000002"] == "*** Atrial fibrillation ***. Abnormal ECG - consider ischemia"
    assert report["40000015"] == "Sinus rhythm, with 1st degree A-V block"
    assert kept["40000015"].subject == kept["40000001"].subject == "10010032"
    assert kept["40000001"].labels["ecg_time"] == "2180-07-23 08:44:00"


def test_leads_are_ordered_by_name(written):
    folder, waves = written
    kept, _ = screened(MimicIvEcg(), folder)
    for name, order in (("40000001", layouts.MIMIC_IV_ORDER), ("40000008", LEADS[::-1])):
        ecg = kept[name].signal("ecg")
        assert (ecg.leads, ecg.rate, ecg.unit) == (LEADS, 500, "mV")
        stored = dict(zip((o.upper() for o in order), waves[int(name)].T))
        np.testing.assert_allclose(ecg.samples, np.stack([stored[o] for o in LEADS]), atol=1e-4)


@pytest.mark.parametrize("words, more", [(1, ["40000003"]), (3, []), (8, None)])
def test_fewer_words_are_an_option(written, words, more):
    kept, left = screened(MimicIvEcg(min_words=words), written[0])
    usual = ["40000001", "40000002", "40000008", "40000015"]
    assert sorted(kept) == (sorted(usual + more) if more is not None else [])
    assert len(kept) + sum(map(len, left.values())) == len(STUDIES)


def test_without_reports_signals_alone_can_be_asked_for(written, tmp_path):
    alone = tmp_path / "mimic_iv_ecg"
    shutil.copytree(written[0], alone, ignore=shutil.ignore_patterns(REPORTS))
    with pytest.raises(CohortError, match="min_words=0"): list(MimicIvEcg().recordings(alone))
    kept, left = screened(MimicIvEcg(min_words=0), alone)
    assert {o.labels["report"] for o in kept.values()} == {""}
    assert set(left) == {NO_LEADS, OTHER_RATE, CUT_SHORT, FLAT, NO_SAMPLES, NOT_HERE}
    told, _ = screened(MimicIvEcg(min_words=0), written[0])
    assert list(told) == list(kept) and told["40000003"].labels["report"] == "Sinus rhythm"


def test_shards_part_the_subjects_and_join_to_the_whole(written, home, tmp_path):
    folder, _ = written
    parts = [MimicIvEcg(shard=i, shards=2) for i in range(2)]
    subjects = [{o.subject for o in part.recordings(folder)} for part in parts]
    assert sum(map(len, subjects)) == len(set().union(*subjects)) == 3   # nobody in two of them
    left = Counter()
    for part in parts: left.update({k: len(v) for k, v in screened(part, folder)[1].items()})
    assert left == {k: len(v) for k, v in CAUSES.items()}
    whole = pack(MimicIvEcg(), WINDOWING, folder)
    stores = [pack(o, WINDOWING, folder) for o in parts]
    joined = join(stores, tmp_path / "joined")
    assert sorted(joined.index.recording) == sorted(whole.index.recording)
    assert {k: sorted(v) for k, v in joined.dropped.items()} == whole.dropped == CAUSES
    row = list(joined.index.recording).index("40000008")
    np.testing.assert_array_equal(joined.arrays["ecg"][row], whole.arrays["ecg"][2])
    assert list(joined.index.report)[row] == "Sinus rhythm. Left axis deviation"


def test_it_is_found_by_its_name_alone(written, home, monkeypatch):
    monkeypatch.setenv("BIOSSL_DATA", str(written[0].parent))
    cohort = get_cohort("mimic_iv_ecg")
    assert "mimic_iv_ecg" in cohort_names() and at_hand(cohort) == str(written[0])
    assert len(pack(cohort, WINDOWING, locate(cohort))) == 4


def test_the_card_agrees_with_itself_and_says_what_a_plan_needs():
    from biossl.doctor import pack_cost
    card = MimicIvEcg().card
    assert card.bytes == card.recordings * 12 * 5000 * 2
    assert card.hours == pytest.approx(card.recordings * 10 / 3600, abs=0.1)
    cost = pack_cost(card, Windowing(signals=(("ecg", 0.0),), seconds=10, hop=10, beats=()))
    assert cost.windows == 800_035 and cost.bytes == 2 * card.bytes and cost.memory < 2**24


# ---- files that are not as published

def test_the_key_tells_when_a_record_changes_without_naming_each(written, tmp_path):
    folder = tmp_path / "mimic_iv_ecg"
    shutil.copytree(written[0], folder)
    told = MimicIvEcg().fingerprint(folder)
    assert len(told["files"]) == 2 + 13 and told == MimicIvEcg().fingerprint(written[0])
    key = store_key(MimicIvEcg(), WINDOWING, folder)
    assert key != store_key(MimicIvEcg(min_words=3), WINDOWING, folder)
    shard = MimicIvEcg(shards=2, shard=1)
    part = store_key(shard, WINDOWING, folder)
    next(folder.glob("files/p1002/*/*/*.dat")).unlink()      # of the other shard
    assert store_key(MimicIvEcg(), WINDOWING, folder) != key
    assert store_key(shard, WINDOWING, folder) == part


def fault(tmp_path, *edits, studies=STUDIES[:2]):
    "The error that reading gives after these edits: file, old, new."
    layouts.write_mimic_iv_ecg(tmp_path, studies)
    for name, old, new in edits: layouts.edit(tmp_path / name, old, new)
    with pytest.raises((CohortError, RecordingError, FetchError)) as e:
        list(MimicIvEcg().recordings(tmp_path))
    return e.value


def test_a_study_of_two_subjects_is_an_error(tmp_path):
    e = fault(tmp_path, (REPORTS, "10010032,40000001", "10010033,40000001"))
    assert e.field == "subject_id" and "40000001" in str(e) and "10010033" in str(e)


def test_a_path_of_another_study_is_an_error(tmp_path):
    e = fault(tmp_path, (LIST, "s40000001/40000001", "s40000002/40000002"))
    assert e.field == "path"


def test_a_path_that_leaves_the_folder_is_refused(tmp_path):
    e = fault(tmp_path, (LIST, "files/p1001/", "../files/p1001/"))
    assert isinstance(e, FetchError)


@pytest.mark.parametrize("name, old, new, field", [
    (LIST, "study_id", "study", "study_id"), (REPORTS, "report_0,", "report,", "report_0"),
    (LIST, "10010032,", "p10010032,", "subject_id"), (REPORTS, ",40000002,", ",4e7,", "study_id")])
def test_a_table_that_is_not_as_published_names_the_column(tmp_path, name, old, new, field):
    e = fault(tmp_path, (name, old, new))
    assert isinstance(e, CohortError) and e.field == field and name in str(e.where)


def test_a_study_that_is_reported_twice_is_an_error(tmp_path):
    e = fault(tmp_path, (REPORTS, "10020032,40000002", "10020032,40000001"))
    assert e.field == "study_id" and "40000001 twice" in str(e)


def test_another_unit_and_a_cut_file_are_errors(tmp_path):
    e = fault(tmp_path / "a", studies=[study(1, *USUAL, unit="uV")])
    assert isinstance(e, RecordingError) and e.field == "units"
    layouts.write_mimic_iv_ecg(tmp_path / "b", STUDIES[:1])
    file = next((tmp_path / "b").rglob("*.dat"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RecordingError, match="bytes"): list(MimicIvEcg().recordings(tmp_path / "b"))


@pytest.mark.parametrize("options", [dict(min_words=-1), dict(shard=2, shards=2), dict(shards=0)])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(RequestError): MimicIvEcg(**options)


def test_memory_does_not_grow_with_the_tables(tmp_path):
    def peak(number):
        folder = tmp_path / str(number)
        layouts.write_mimic_iv_ecg(folder, [
            study(i % 900, *USUAL, here=False) | dict(study=50_000_000 + i,
                                                      subject=10_000_000 + i) for i in range(number)])
        tracemalloc.start()
        try:
            assert sum(1 for _ in MimicIvEcg().screened(folder)) == number
            return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    peak(10)
    assert peak(2000) < peak(100) + 100_000


# ---- what the machine states -------------------------------------------------------------------

@pytest.mark.parametrize("line, classes", [
    ("Sinus rhythm", {"NSR"}), ("Normal sinus rhythm", {"NSR"}), ("Sinus tachycardia", {"STach"}),
    ("Sinus bradycardia", {"SB", "Brady"}), ("Sinus arrhythmia", {"SA"}),
    ("Atrial fibrillation with rapid ventricular response", {"AF"}), ("Atrial flutter", {"AFL"}),
    ("with 1st degree A-V block", {"IAVB"}), ("Right bundle branch block", {"CRBBB"}),
    ("Incomplete RBBB", {"IRBBB"}), ("Left bundle branch block", {"LBBB"}),
    ("Incomplete LBBB", set()), ("RBBB with left anterior fascicular block", {"CRBBB", "LAnFB"}),
    ("IV conduction defect", {"NSIVCB"}), ("Left axis deviation", {"LAD"}),
    ("Right axis deviation", {"RAD"}), ("Low QRS voltages in limb leads", {"LQRSV"}),
    ("Ventricular-paced rhythm", {"PR"}), ("PAC(s)", {"PAC"}), ("with frequent PVCs", {"PVC"}),
    ("Prolonged QT interval", {"LQT"}), ("Prolonged PR interval", {"LPR"}),
    ("Abnormal Q waves", {"QAb"}), ("Lateral T wave changes are nonspecific", {"TAb"}),
    ("T wave inversion", {"TInv"}), ("Possible atrial flutter", set()),
    ("Sinus rhythm or ectopic atrial rhythm", set()), ("No previous atrial fibrillation", set()),
    ("Consider left bundle branch block", set()), ("Normal ECG", set()), ("", set())])
def test_what_is_stated_without_reserve_is_a_label(line, classes):
    assert scored_classes(machine_codes(line)) == classes
    other = "Poor data quality, interpretation may be affected"
    assert scored_classes(machine_codes(f"{other}. {line}. {other}")) == classes


def test_labels_and_sentences_say_what_the_machine_states(written):
    labels = {o.name: o.labels for o in MimicIvEcg(min_words=1).recordings(written[0])}
    assert labels["40000001"]["dx"] == ("LAD", "NSR") and labels["40000001"]["dx_AF"] == 0
    assert labels["40000002"]["dx"] == ("AF",)
    told = {name: spoken(o["report_codes"]) for name, o in labels.items()}
    assert {"AFIB"} <= told["40000002"] and not {"SR", "LAD"} & told["40000002"]


def test_what_is_withheld_is_not_in_the_sentences(written):
    cohort = MimicIvEcg(withheld="AFIB,SR")
    for recording in cohort.recordings(written[0]):
        assert_withheld([recording.labels["report_codes"]], ("AFIB", "SR"))
    assert "AF" in dict((o.name, o.labels["dx"]) for o in cohort.recordings(written[0]))["40000002"]
    with pytest.raises(RequestError, match="no statement"): MimicIvEcg(withheld="AFIBB")
