"""PulseDB: small files in its publisher's layout and in that of xMAE's shards, and their faults."""
import h5py
import numpy as np
import pytest

from biossl.cohorts.pulsedb import PulseDB, PulseDBShards
from biossl.cohorts.registry import at_hand, cohort_names, get_cohort, locate
from biossl.data.errors import CohortError, FetchError, RecordingError, RequestError
from biossl.data.fetch import fetch
from biossl.data.recordings import LeftOut, Recording
from biossl.data.store import Windowing, pack

KINDS = (PulseDB, PulseDBShards)


def noise(*shape, seed=0): return np.random.default_rng(seed).uniform(size=shape)


# the publisher's layout

def codes(text): return np.array([[ord(o)] for o in text], np.uint16)


def segment(i, subject="p000160", **changes):
    "The fields of one segment, as MATLAB gives them to HDF5."
    waves = {f"{kind}_{form}": noise(1, 1250, seed=[i, j, k])
             for j, kind in enumerate(("ECG", "PPG")) for k, form in
             enumerate(("Raw", "F", "Record", "Record_F"))}
    return waves | dict(
        ABP_Raw=80 + 40 * noise(1, 1250, seed=i), T=(20 * i + np.arange(1, 1251) / 125)[None],
        SubjectID=codes(subject), CaseID=codes("2174-11-06-10-12"), Gender=codes("F"),
        Age=np.array([[50.0]]), SegmentID=np.array([[i + 1.0]]), SegSBP=np.array([[120.0 + i]]),
        SegDBP=np.array([[70.0 + i]]), IncludeFlag=np.array([[1]], np.uint8)) | changes


def write_subject(path, segments):
    "A subject's file; a structure alone holds its values, several hold references to them."
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        fields, refs = file.create_group("Subj_Wins"), file.create_group("#refs#")
        for key in segments[0]:
            if len(segments) == 1:
                fields[key] = segments[0][key]
                continue
            row = np.empty((1, len(segments)), h5py.ref_dtype)
            for i, told in enumerate(segments):
                row[0, i] = refs.create_dataset(f"{key}{i}", data=told[key]).ref
            fields.create_dataset(key, data=row)
    return path


@pytest.fixture
def published(tmp_path):
    "Two subjects of MIMIC, the second with one segment, and one of VitalDB with the same number."
    write_subject(tmp_path / "PulseDB_MIMIC/p000160.mat", [segment(i) for i in range(4)])
    write_subject(tmp_path / "PulseDB_MIMIC/p000333.mat", [segment(9, "p000333")])
    write_subject(tmp_path / "PulseDB_Vital/p000160.mat", [segment(i) for i in (5, 6)])
    return tmp_path


def replaced(folder, **changes):
    "The file of p000160 with other fields in its third segment."
    told = [segment(i, **(changes if i == 2 else {})) for i in range(4)]
    write_subject(folder / "PulseDB_MIMIC/p000160.mat", told)


def test_pulsedb_gives_each_segment_of_each_subject(published):
    found = [*PulseDB().recordings(published)]
    assert [o.name for o in found] == [*(f"p000160-0000{i}" for i in range(4)), "p000333-00000"]
    for i, one in zip((0, 1, 2, 3, 9), found):
        assert set(one.signals) == {"ecg", "ppg", "abp"} and one.seconds == 10
        for key, kind, unit in (("ecg", "ECG", "NU"), ("ppg", "PPG", "NU"), ("abp", "ABP", "mmHg")):
            signal = one.signal(key)
            assert (signal.rate, signal.unit) == (125, unit)
            expected = segment(i)[f"{kind}_Raw"].astype(np.float32)
            assert (signal.samples == expected).all()
        assert (one.labels["sbp"], one.labels["dbp"]) == (120 + i, 70 + i)
        assert (one.labels["age"], one.labels["sex"]) == (50, "F")
        assert one.labels["case"] == "2174-11-06-10-12" and one.labels["segment"] == i + 1
        assert one.labels["case_second"] == pytest.approx(20 * i + 0.008)
    assert {o.subject for o in found} == {"p000160", "p000333"}


@pytest.mark.parametrize("form", ["F", "Record", "Record_F"])
def test_pulsedb_gives_the_form_that_is_asked_for(published, form):
    one = next(PulseDB(form=form).recordings(published))
    for key in ("ECG", "PPG"):
        expected = segment(0)[f"{key}_{form}"].astype(np.float32)
        assert (one.signal(key.lower()).samples == expected).all()


def test_people_of_vitaldb_come_only_when_asked_and_are_nobody_of_mimic(published):
    subjects = [o.subject for o in PulseDB(vitaldb=True).recordings(published)]
    assert subjects == ["p000160"] * 4 + ["p000333"] + ["vital_p000160"] * 2


@pytest.mark.parametrize("most, places", [(1, [0]), (2, [0, 3]), (3, [0, 2, 3]), (4, range(4)),
                                          (9, range(4))])
def test_a_subject_gives_at_most_so_many_segments(published, most, places):
    found = [o.name for o in PulseDB(per_subject=most).recordings(published)]
    assert found == [*(f"p000160-0000{i}" for i in places), "p000333-00000"]


@pytest.mark.parametrize("changes, reason", [
    (dict(IncludeFlag=np.array([[0]], np.uint8)), "the publisher flags"),
    (dict(ECG_Raw=np.full((1, 1250), 0.5)), "flat signal"),
    (dict(PPG_Raw=np.full((1, 1250), 0.5)), "flat signal"),
    (dict(PPG_Raw=np.where(np.arange(1250) == 7, np.nan, noise(1, 1250))), "not finite"),
    (dict(ECG_Raw=np.where(np.arange(1250) == 7, np.inf, noise(1, 1250))), "not finite")])
def test_segments_that_cannot_be_used_are_counted(published, changes, reason):
    replaced(published, **changes)
    left = [o for o in PulseDB().screened(published) if isinstance(o, LeftOut)]
    assert [o.recording for o in left] == ["p000160-00002"] and reason in left[0].reason
    assert len([*PulseDB().recordings(published)]) == 4


def test_ages_beyond_life_and_empty_fields_are_read_as_meant(published):
    replaced(published, Age=np.array([[300.2]]), Gender=codes("?"))
    one = [*PulseDB().recordings(published)][2]
    assert (one.labels["age"], one.labels["sex"]) == (90, None)
    with h5py.File(published / "PulseDB_MIMIC/p000160.mat", "a") as file:
        file["#refs#/Age2"].attrs["MATLAB_empty"] = 1
    assert np.isnan([*PulseDB().recordings(published)][2].labels["age"])


@pytest.mark.parametrize("changes, words", [
    (dict(PPG_Raw=noise(1, 1000)), r"Subj_Wins/PPG_Raw: segment 2 has shape \(1, 1000\)"),
    (dict(ECG_Raw=noise(2, 625)), r"Subj_Wins/ECG_Raw: segment 2 has shape \(2, 625\)"),
    (dict(T=np.arange(1250)[None] / 250), "Subj_Wins/T: .*not 125 Hz")])
def test_a_segment_of_another_shape_or_rate_is_refused(published, changes, words):
    replaced(published, **changes)
    with pytest.raises(RecordingError, match=f"p000160.mat, {words}") as e:
        [*PulseDB().recordings(published)]
    assert e.value.remedy


def other_root(file): file.move("Subj_Wins", "Subset")
def no_ppg(file): del file["Subj_Wins/PPG_Raw"]
def short_field(file):
    row = file["Subj_Wins/PPG_Raw"][:, :3]
    del file["Subj_Wins/PPG_Raw"]
    file["Subj_Wins"].create_dataset("PPG_Raw", data=row)


@pytest.mark.parametrize("spoil, words", [
    (other_root, "Subj_Wins: is not there, but .*Subset"),
    (no_ppg, "Subj_Wins/PPG_Raw: is not there, but .*ECG_Raw"),
    (short_field, "Subj_Wins/PPG_Raw: holds 3 segments, not 4")])
def test_a_file_of_another_layout_is_refused(published, spoil, words):
    with h5py.File(published / "PulseDB_MIMIC/p000160.mat", "a") as file: spoil(file)
    with pytest.raises(RecordingError, match=f"p000160.mat, {words}") as e:
        [*PulseDB().recordings(published)]
    assert e.value.remedy


def test_a_file_under_another_subjects_name_is_refused(published):
    old = published / "PulseDB_MIMIC/p000333.mat"
    old.rename(old.with_name("p000334.mat"))
    with pytest.raises(RecordingError, match="p000334.mat, Subj_Wins/SubjectID: is p000333"):
        [*PulseDB().recordings(published)]


@pytest.mark.parametrize("spoil", [lambda o: o.write_bytes(b"<html>quota exceeded</html>"),
                                   lambda o: o.write_bytes(o.read_bytes()[:3000])])
def test_a_damaged_file_is_refused_after_the_good_ones(published, spoil):
    spoil(published / "PulseDB_MIMIC/p000333.mat")
    found = PulseDB().recordings(published)
    assert [next(found).name for _ in range(4)][3] == "p000160-00003"   # one at a time
    with pytest.raises(RecordingError, match="p000333.mat: cannot be read as HDF5"): next(found)


# xMAE's shards

GOOD = "{}+++{}+++{}+++1+++0.950+++0.910"


def write_shard(path, subjects):
    "Windows by subject: pairs of name and samples `(1000, 3)`."
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for subject, windows in subjects.items():
            for name, x in windows:
                file.create_dataset(f"{subject}/{name}", data=np.asarray(x, np.float16))
    return path


def window(i): return 2 * noise(1000, 3, seed=i) - 1


@pytest.fixture
def shards(tmp_path):
    "A subject in both of two shards, another, and one of VitalDB."
    write_shard(tmp_path / "shards/part_0.h5", {
        "p000160": [(GOOD.format(i, i, i), window(i)) for i in (0, 2, 10)],
        "vital_p000007": [(GOOD.format(3, 1, 1), window(30))]})
    write_shard(tmp_path / "shards/part_1.h5", {
        "p000160": [(GOOD.format(0, 11, 11), window(40))],
        "p000333": [(GOOD.format(i, i, i), window(50 + i)) for i in (1, 2)]})
    return tmp_path


def test_shards_give_each_window_with_what_its_name_says(shards):
    found = [*PulseDBShards().recordings(shards)]
    assert [o.name for o in found] == [
        "p000160-part_0-000000", "p000160-part_0-000002", "p000160-part_0-000010",
        "p000160-part_1-000000", "p000333-part_1-000001", "p000333-part_1-000002"]
    for seed, one in zip((0, 2, 10, 40, 51, 52), found):
        x = window(seed).astype(np.float16).astype(np.float32)
        assert (one.signal("ppg").samples == x[:, 1]).all()
        assert (one.signal("ecg").samples == x[:, 2]).all()
        assert {o.rate for o in one.signals.values()} == {100} and one.seconds == 10
        assert one.labels["published_ppg_quality"] == 0.95
        assert one.labels["published_ecg_quality"] == 0.91
    assert [o.labels["segment"] for o in found][2:4] == ["10", "11"]
    assert [o.subject for o in found] == ["p000160"] * 4 + ["p000333"] * 2
    assert "vital_p000007" in {o.subject for o in PulseDBShards(vitaldb=True).recordings(shards)}


@pytest.mark.parametrize("ppg, ecg, kept", [
    ("0.900", "0.900", True), ("0.899", "0.990", False), ("0.990", "0.899", False),
    ("nan", "0.990", False), ("0.990", "nan", False)])
def test_windows_below_the_quality_are_counted_and_only_if_asked(tmp_path, ppg, ecg, kept):
    write_shard(tmp_path / "shards/a.h5", {"p1": [(f"0+++1+++1+++1+++{ppg}+++{ecg}", window(0))]})
    assert len([*PulseDBShards().recordings(tmp_path)]) == 1
    one, = PulseDBShards(quality=0.9).screened(tmp_path)
    assert isinstance(one, Recording) == kept
    assert kept or one == LeftOut("p1-a-000000", "segments below the quality asked for")


@pytest.mark.parametrize("column, value, reason", [
    (1, np.nan, "not finite"), (2, np.nan, "not finite"), (1, 0.25, "flat"), (2, -1, "flat")])
def test_flat_windows_and_what_becomes_of_them_are_counted(tmp_path, column, value, reason):
    x = window(0)
    x[:, column] = value
    write_shard(tmp_path / "shards/a.h5", {"p1": [(GOOD.format(5, 1, 1), x)]})
    one, = PulseDBShards().screened(tmp_path)
    assert one.recording == "p1-a-000005" and reason in one.reason


def test_the_time_column_may_hold_anything(tmp_path):
    "Half precision cannot tell seconds of a long record apart; what overflows is no fault."
    x = window(0)
    x[:, 0] = np.inf
    write_shard(tmp_path / "shards/a.h5", {"p1": [(GOOD.format(5, 1, 1), x)]})
    assert len([*PulseDBShards().recordings(tmp_path)]) == 1


@pytest.mark.parametrize("name", [
    "0+++1+++1+++1+++0.9", "0_1_1_1_0.9_0.9", "a+++1+++1+++1+++0.9+++0.9",
    "0+++1+++1+++1+++0.9+++good", "0+++1+++1+++1+++0.9+++0.9+++0.9", "window"])
def test_a_name_that_says_something_else_is_refused(tmp_path, name):
    write_shard(tmp_path / "shards/a.h5", {"p1": [(name, window(0))]})
    with pytest.raises(RecordingError, match="a.h5: p1, name: .* is not INDEX") as e:
        [*PulseDBShards().recordings(tmp_path)]
    assert name in str(e.value) and e.value.remedy


@pytest.mark.parametrize("shape", [(3, 1000), (1000, 2), (1250, 3), (1000,)])
def test_a_window_of_another_shape_is_refused(tmp_path, shape):
    write_shard(tmp_path / "shards/a.h5", {"p1": [(GOOD.format(0, 1, 1), noise(*shape))]})
    with pytest.raises(RecordingError, match=r"a.h5: p1, 0\+\+\+.*has shape") as e:
        [*PulseDBShards().recordings(tmp_path)]
    assert str(shape) in str(e.value) and e.value.remedy


def test_a_shard_of_another_layout_is_refused(tmp_path):
    (tmp_path / "shards").mkdir()
    with h5py.File(tmp_path / "shards/a.h5", "w") as file: file["ppg"] = noise(5, 1000)
    with pytest.raises(RecordingError, match="a.h5: ppg, group: is no group of windows"):
        [*PulseDBShards().recordings(tmp_path)]
    with h5py.File(tmp_path / "shards/a.h5", "w") as file:
        file.create_group(f"p1/{GOOD.format(0, 1, 1)}")
    with pytest.raises(RecordingError, match="has shape None"):
        [*PulseDBShards().recordings(tmp_path)]
    (tmp_path / "shards/a.h5").write_bytes(b"PK")
    with pytest.raises(RecordingError, match="a.h5: cannot be read as HDF5"):
        [*PulseDBShards().recordings(tmp_path)]


# both

def test_they_are_packed_and_what_is_left_out_is_counted(published, shards, home):
    windowing = Windowing(signals=(("ecg", 100.0), ("ppg", 100.0)), seconds=10, hop=10, beats=(),
                          normalise="minmax")
    replaced(published, PPG_Raw=np.full((1, 1250), 0.5))
    first = pack(PulseDB(), windowing, published)
    assert len(first) == 4 and first.batch([0])["ppg"].shape == (1, 1, 1000)
    assert first.report == {"segments with a flat signal": 1}
    assert first.labels("sbp").tolist() == [120, 121, 123, 129]
    second = pack(PulseDBShards(), windowing, shards)
    assert len(second) == 6 and second.batch([0])["ecg"].max() == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_no_recordings_learns_where_to_get_them(kind, home, tmp_path):
    cohort = kind()
    assert cohort.name in cohort_names() and type(get_cohort(cohort.name)) is kind
    card = cohort.card
    assert all((card.title, card.publisher, card.version, card.licence, card.citation, card.url))
    assert at_hand(cohort) == ""
    with pytest.raises(CohortError, match=f"biossl fetch {cohort.name}"): locate(cohort)
    with pytest.raises(FetchError, match=f"{cohort.name}.*(?=.*BIOSSL_DATA)(?=.*github.com)"):
        fetch(cohort, progress=False)
    with pytest.raises(CohortError, match=f"{cohort.name}: .* holds no"):
        [*cohort.recordings(tmp_path)]
    folder = home / "cohorts" / cohort.name / cohort.layout
    folder.mkdir(parents=True)
    assert locate(cohort) == folder.parent


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_that_means_nothing_is_refused(kind):
    with pytest.raises(RequestError, match="option per_subject.*negative"): kind(per_subject=-1)
    assert kind().fingerprint(None) != kind(vitaldb=True).fingerprint(None)
    with pytest.raises(RequestError, match="pulsedb, option form.*did you mean Record"):
        PulseDB(form="record")


def test_the_counts_on_the_card_agree_with_each_other():
    card = PulseDB.card
    assert card.hours == pytest.approx(card.recordings * 10 / 3600, abs=0.1)
