"""VitalDB: small cases, written by its publisher's library, and their faults."""
import gzip
import math

import numpy as np
import pytest
from vitaldb import VitalFile

from biossl.cohorts.registry import at_hand, cohort_names, get_cohort, locate
from biossl.cohorts.vitaldb import VitalDB
from biossl.data.errors import CohortError, RecordingError
from biossl.data.fetch import plan
from biossl.data.recordings import LeftOut
from biossl.data.store import Windowing, pack

START = 4102444800.5    # the publisher moves all operations to the year 2100
COLUMNS = ("caseid", "subjectid", "casestart", "age", "sex", "bmi", "asa", "preop_htn", "preop_dm",
           "preop_hb", "preop_plt", "preop_na")
TRACKS = {"ecg": ("SNUADC/ECG_II", "mV"), "ppg": ("SNUADC/PLETH", ""),
          "abp": ("SNUADC/ART", "mmHg"), "co2": ("Primus/CO2", "mmHg")}


def wave(key, second): return np.random.default_rng([ord(key[0]), second]).normal(
    size=500).astype(np.float32)


def write_case(folder, number, keys=("ecg", "ppg", "abp"), seconds=range(30), rate=500,
               packed=True):
    """A case of one packet a second; without a packet nothing was recorded in that second.

    `packed`: sorted by track, as the library writes now; if not, in the order of time, as before.
    """
    inner = folder / "vital_files"
    inner.mkdir(parents=True, exist_ok=True)
    file = VitalFile()
    file.dtstart, file.dtend = START, START + 30
    for key in keys:
        packets = [dict(dt=START + o, val=wave(key, o)[:rate]) for o in seconds]
        file.add_track(TRACKS[key][0], packets, rate, TRACKS[key][1])
    file.add_track("Solar8000/HR", [dict(dt=START + o, val=70.0) for o in range(30)])
    file.to_vital(str(inner / f"{number:04}.vital"), packed=packed)
    return inner / f"{number:04}.vital"


def write_table(folder, rows, columns=COLUMNS):
    "The clinical table with a mark of byte order, as the publisher writes it."
    text = "\n".join(",".join(map(str, o)) for o in (columns, *rows))
    (folder / "clinical_data.csv").write_text("\ufeff" + text + "\n")


FIRST = (1, 5955, 0, "77", "M", "26.3", 2, 1, 0, "14.1", "189", "141")
SECOND = (12, 2487, 0, ">89", "F", "19.6", "", "", "", "", "", "")


@pytest.fixture
def cases(tmp_path):
    write_case(tmp_path, 1)
    write_case(tmp_path, 12, keys=("ppg", "co2"))
    write_table(tmp_path, [SECOND, FIRST])
    return tmp_path


def test_a_case_is_its_waves_and_what_was_known_before(cases):
    one, other = VitalDB().recordings(cases)
    assert (one.name, one.subject, other.subject) == ("case_0001", "vital_p005955", "vital_p002487")
    assert set(one.signals) == {"ecg", "ppg", "abp"} and set(other.signals) == {"ppg"}
    for key, unit in (("ecg", "mV"), ("ppg", "NU"), ("abp", "mmHg")):
        signal = one.signal(key)
        assert (signal.rate, signal.unit, signal.seconds) == (500, unit, 30)
        assert (signal.samples[0] == np.concatenate([wave(key, o) for o in range(30)])).all()
    assert dict(one.labels) == dict(age=77, sex="M", bmi=26.3, asa=2, hemoglobin=14.1,
                                    platelets=189, sodium=141, hypertension=1, diabetes=0)
    told = other.labels
    assert (told["age"], told["sex"], told["hypertension"]) == (90, "F", None)
    assert math.isnan(other.labels["sodium"]) and other.labels["diabetes"] is None


@pytest.mark.parametrize("packed", [True, False])
def test_what_was_not_recorded_is_a_gap_and_moves_nothing(tmp_path, packed):
    write_table(tmp_path, [FIRST])
    write_case(tmp_path, 1, seconds=[0, 1, 2, *range(7, 20), *range(22, 30)], packed=packed)
    one, = VitalDB().recordings(tmp_path)
    for key in ("ecg", "ppg"):
        found = one.signal(key).samples[0].reshape(30, 500)
        lost = np.isnan(found).all(axis=1)
        assert np.flatnonzero(lost).tolist() == [3, 4, 5, 6, 20, 21]
        assert np.isfinite(found[~lost]).all() and (found[7] == wave(key, 7)).all()
        assert (found[29] == wave(key, 29)).all()


def test_a_case_without_any_of_the_waves_is_counted(cases):
    write_case(cases, 12, keys=("co2",))
    assert [*VitalDB().screened(cases)][1] == LeftOut(
        "case_0012", "cases without ECG, PPG and arterial pressure")
    assert [o.name for o in VitalDB().recordings(cases)] == ["case_0001"]


@pytest.mark.parametrize("sex", ["", "FM", "x"])
def test_a_sex_that_is_not_told_is_missing(cases, sex):
    write_table(cases, [(*FIRST[:4], sex, *FIRST[5:]), SECOND])
    assert next(VitalDB().recordings(cases)).labels["sex"] is None


def test_one_person_may_have_several_cases(cases):
    write_table(cases, [(12, 5955, *SECOND[2:]), FIRST])
    assert [o.subject for o in VitalDB().recordings(cases)] == ["vital_p005955"] * 2


def cut(path): path.write_bytes(path.read_bytes()[:-500])
def flip(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(bytes(whole))
def page(path): path.write_text("<html>Too many requests</html>")
def other(path): path.write_bytes(gzip.compress(b"something else"))
def empty(path): path.write_bytes(b"")


@pytest.mark.parametrize("spoil, words", [(cut, "is damaged"), (flip, "is damaged"),
                                          (page, "is damaged"), (other, "is no vital file"),
                                          (empty, "is no vital file")])
def test_a_damaged_case_is_refused_after_the_good_one(cases, spoil, words):
    spoil(cases / "vital_files/0012.vital")
    found = VitalDB().recordings(cases)
    assert next(found).name == "case_0001"
    with pytest.raises(RecordingError, match=f"0012.vital: {words}") as e: next(found)
    assert e.value.remedy


def test_a_wave_at_another_rate_is_refused(cases):
    write_case(cases, 12, rate=250)
    with pytest.raises(RecordingError, match="0012.vital, SNUADC/ECG_II: is at 250 Hz, not 500"):
        [*VitalDB().recordings(cases)]


@pytest.mark.parametrize("rows, error, words", [
    ([FIRST], RecordingError, "case_0012, clinical_data.csv caseid: stands in no row"),
    ([FIRST, FIRST, SECOND], CohortError, "clinical_data.csv caseid: names a case twice"),
    ([(1, "x", *FIRST[2:]), SECOND], RecordingError, "case_0001, .*subjectid: 'x' is no subject"),
    ([(*FIRST[:3], "old", *FIRST[4:]), SECOND], RecordingError, "csv age: 'old' is no number"),
    ([(*FIRST[:-1], ">150"), SECOND], RecordingError, "csv preop_na: '>150' is no number")])
def test_a_table_that_does_not_fit_is_refused(cases, rows, error, words):
    write_table(cases, rows)
    with pytest.raises(error, match=words) as e: [*VitalDB().recordings(cases)]
    assert e.value.remedy


def test_a_table_that_is_absent_or_another_is_refused(cases):
    write_table(cases, [FIRST[:-1]], COLUMNS[:-1])
    with pytest.raises(CohortError, match="clinical_data.csv: has no column preop_na"):
        [*VitalDB().recordings(cases)]
    (cases / "clinical_data.csv").write_text('"never ends')
    with pytest.raises(CohortError, match="vitaldb, clinical_data.csv"):
        [*VitalDB().recordings(cases)]
    (cases / "clinical_data.csv").unlink()
    with pytest.raises(CohortError, match="there is no .*clinical_data.csv"):
        [*VitalDB().recordings(cases)]


def test_files_are_cases_by_their_number(cases):
    for number in (2, 100): write_case(cases, number, keys=("ppg",), seconds=range(2))
    write_table(cases, [FIRST, SECOND, (2, *FIRST[1:]), (100, *FIRST[1:])])
    assert [o.name for o in VitalDB().recordings(cases)] == [
        "case_0001", "case_0002", "case_0012", "case_0100"]
    (cases / "vital_files/0002.vital").rename(cases / "vital_files/two.vital")
    with pytest.raises(CohortError, match="two.vital is not named by the number"):
        [*VitalDB().recordings(cases)]


def test_windows_of_a_case_are_of_one_moment(cases, home):
    windowing = Windowing(signals=(("ecg", 0.0), ("ppg", 0.0)), seconds=10, hop=10, beats=(),
                          normalise="none")
    write_case(cases, 12, keys=("abp",))
    windows = pack(VitalDB(), windowing, cases)
    assert len(windows) == 3 and windows.report == {"recordings without ecg": 1}
    batch = windows.batch([1])
    for key in ("ecg", "ppg"):
        assert (batch[key][0, 0] == np.concatenate([wave(key, o) for o in range(10, 20)])).all()


def test_who_has_no_case_may_fetch_them_or_some(home, tmp_path, monkeypatch):
    cohort = VitalDB()
    assert "vitaldb" in cohort_names() and type(get_cohort("vitaldb")) is VitalDB
    assert at_hand(cohort) == ""
    with pytest.raises(CohortError, match="biossl fetch vitaldb"): locate(cohort)
    (tmp_path / "clinical_data.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(CohortError, match="holds no vital_files"):
        [*cohort.recordings(tmp_path)]
    listed = "".join(f"{'0' * 64}  {o}\n" for o in (
        "LICENSE.txt", "clinical_data.csv", "lab_data.csv", "vital_files/0001.vital"))
    def list_alone(piece, target, *_, **__):
        target.write_text(listed)
        return target
    monkeypatch.setattr("biossl.data.fetch.download", list_alone)
    assert [str(o.path) for o in plan(cohort).missing] == ["clinical_data.csv",
                                                           "vital_files/0001.vital"]
    assert [str(o.path) for o in plan(cohort, ("vital_files/*",)).missing] == [
        "vital_files/0001.vital"]
