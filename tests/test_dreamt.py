"""DREAMT: small nights in the published layout, at both rates, and their faults."""
import numpy as np
import pytest

from biossl.cohorts.dreamt import STAGES, Dreamt
from biossl.cohorts.registry import at_hand, cohort_names, get_cohort, locate
from biossl.data.errors import CohortError, FetchError, RecordingError
from biossl.data.fetch import fetch
from biossl.data.store import Windowing, pack

PEOPLE = """SID,AGE,GENDER,BMI,OAHI,AHI,Mean_SaO2,Arousal Index,MEDICAL_HISTORY
S002,65.9,M,27,19,19,91%,98,"Asthma, Body Pain, Hypertension"
S003,29.38,F,51,34,37,95%,28,None
S004,,F,,,,,,
"""
NIGHT = (("P", 10), ("W", 30), ("N1", 30), ("N2", 30), ("N3", 30), ("Missing", 30), ("R", 30))
EXTRA = {64: (), 100: ("C4-M1", "ECG", "SAO2")}
TAIL = ("TEMP", "EDA", "HR", "IBI", "Sleep_Stage", "Obstructive_Apnea", "Hypopnea")


def staged(night, rate): return [stage for stage, seconds in night for _ in range(seconds * rate)]


def columns(rate):
    first = EXTRA[rate]
    return ("TIMESTAMP", *first, "BVP", "ACC_X", "ACC_Y", "ACC_Z", *TAIL)


def write_night(folder, name="S002", night=NIGHT, rate=64, seed=0, skip=(), change=None):
    "A night's file, without the rows `skip`; gives the values that it holds, by column."
    (folder / "participant_info.csv").write_text(PEOPLE)
    inner = folder / f"data_{rate}Hz"
    inner.mkdir(exist_ok=True)
    stages = staged(night, rate)
    rng = np.random.default_rng(seed)
    values = {o: np.round(rng.normal(size=len(stages)) * 20, 2) for o in columns(rate)}
    values["TIMESTAMP"] = [f"{i / rate:.6g}" if rate == 100 else f"{i / rate}"
                           for i in range(len(stages))]
    values["Sleep_Stage"] = stages
    for o in ("Obstructive_Apnea", "Hypopnea"): values[o] = [""] * len(stages)
    rows = [",".join(str(values[o][i]) for o in columns(rate)) for i in range(len(stages))
            if i not in set(skip)]
    lines = [",".join(columns(rate)), *rows]
    if change: change(lines)
    kind = "whole_df" if rate == 64 else "PSG_df_updated"
    (inner / f"{name}_{kind}.csv").write_text("\n".join(lines) + "\n")
    return values


def stage_at(recording, second, key="sleep_stage"):
    "What the intervals say of one moment, looked up one by one."
    found = {o.value for o in recording.intervals if o.key == key and o.start <= second < o.end}
    assert len(found) <= 1
    return found.pop() if found else None


@pytest.mark.parametrize("rate", [64, 100])
def test_a_night_is_read_as_published(tmp_path, rate):
    values = write_night(tmp_path, rate=rate)
    night, = Dreamt(psg=rate == 100).recordings(tmp_path)
    assert (night.name, night.subject, night.seconds) == ("S002", "S002", 190)
    assert {o.rate for o in night.signals.values()} == {rate}
    assert set(night.signals) == {"ppg", "acc", *(["ecg"] if rate == 100 else [])}
    assert (night.signal("ppg").samples[0] == values["BVP"].astype(np.float32)).all()
    if rate == 100:
        assert (night.signal("ecg").samples[0] == values["ECG"].astype(np.float32)).all()
    for lead in "XYZ":
        expected = values[f"ACC_{lead}"] / 64   # published in 64ths of g
        assert night.signal("acc").lead(lead) == pytest.approx(expected, abs=1e-6)
    told = dict(night.labels)
    assert told == dict(age=65.9, sex="M", bmi=27, ahi=19, hypertension=1)


@pytest.mark.parametrize("second, stage", [
    (0, None), (9.9, None), (10, "wake"), (39.9, "wake"), (40, "light"), (75, "light"),
    (99.9, "light"), (100, "deep"), (129.9, "deep"), (130, None), (159.9, None), (160, "rem"),
    (189.9, "rem")])
def test_stages_stand_where_they_were_scored(tmp_path, second, stage):
    write_night(tmp_path)
    night, = Dreamt().recordings(tmp_path)
    assert stage_at(night, second) == stage
    for o in STAGES: assert stage_at(night, second, o) == (None if stage is None else o == stage)


def test_what_people_are_is_read_whatever_the_headings_are_spelt(tmp_path):
    for name in ("S002", "S003", "S004"): write_night(tmp_path, name, NIGHT[:2])
    def labels(): return [dict(o.labels) for o in Dreamt().recordings(tmp_path)]
    first, second, third = labels()
    assert (second["sex"], second["hypertension"], second["bmi"]) == ("F", 0, 51)
    assert third["hypertension"] is None and np.isnan(third["age"]) and np.isnan(third["ahi"])
    info = tmp_path / "participant_info.csv"
    info.write_text("\ufeff" + PEOPLE.replace("GENDER", "GEDNER").replace("AGE", "Age"))
    assert labels()[:2] == [first, second]


def test_lost_rows_are_a_gap_and_move_nothing(tmp_path):
    skip = [*range(1000, 1200), *range(64 * 38, 64 * 42)]   # the second across wake and light
    values = write_night(tmp_path, skip=skip)
    night, = Dreamt().recordings(tmp_path)
    found = night.signal("ppg").samples[0]
    kept = np.setdiff1d(np.arange(len(found)), skip)
    assert (found[kept] == values["BVP"].astype(np.float32)[kept]).all()
    assert np.isnan(found[skip]).all() and np.isnan(night.signal("acc").samples[:, skip]).all()
    assert [stage_at(night, o) for o in (37.9, 39, 41, 42)] == ["wake", None, None, "light"]


def set_cell(row, column, value):
    def change(lines):
        cells = lines[row].split(",")
        cells[lines[0].split(",").index(column)] = value
        lines[row] = ",".join(cells)
    return change


def without(column):
    def change(lines): lines[0] = lines[0].replace(column, "X")
    return change


def swap(lines): lines[50], lines[51] = lines[51], lines[50]
def twice(lines): lines[51] = lines[50]
def headings_alone(lines): del lines[1:]


@pytest.mark.parametrize("change, words", [
    (set_cell(70, "Sleep_Stage", "N4"), "Sleep_Stage: 'N4' is none of W, N1"),
    (set_cell(70, "BVP", "high"), "S002_whole_df.csv: is no table with .*high"),
    (without("BVP"), "S002_whole_df.csv: is no table with .*BVP"),
    (without("Sleep_Stage"), "S002_whole_df.csv: is no table with .*Sleep_Stage"),
    (set_cell(70, "TIMESTAMP", ""), "TIMESTAMP: row 69 .*does not follow at 64 Hz"),
    (set_cell(70, "TIMESTAMP", "1e9"), "TIMESTAMP: row 69"),
    (swap, "TIMESTAMP: row 50"), (twice, "TIMESTAMP: row 50"),
    (set_cell(70, "TIMESTAMP", "1.086"), "TIMESTAMP: row 69"),
    (headings_alone, "holds no sample")])
def test_a_night_that_is_not_as_published_is_refused(tmp_path, change, words):
    write_night(tmp_path, change=change)
    with pytest.raises(RecordingError, match=f"S002, .*{words}") as e:
        [*Dreamt().recordings(tmp_path)]
    assert e.value.remedy


def test_a_night_at_another_rate_is_refused(tmp_path):
    write_night(tmp_path, rate=100)
    (tmp_path / "data_100Hz").rename(tmp_path / "data_64Hz")
    path = tmp_path / "data_64Hz/S002_PSG_df_updated.csv"
    path.rename(path.with_name("S002_whole_df.csv"))
    with pytest.raises(RecordingError, match="S002, TIMESTAMP: row 1 .*64 Hz"):
        [*Dreamt().recordings(tmp_path)]


def test_a_last_row_cut_short_is_refused_or_without_a_stage(tmp_path):
    def half(lines): lines[-1] = lines[-1][:4]
    write_night(tmp_path, change=half)
    with pytest.raises(RecordingError, match="TIMESTAMP: row 12159"):
        [*Dreamt().recordings(tmp_path)]
    def no_stage(lines): lines[-1] = ",".join(lines[-1].split(",")[:5])
    write_night(tmp_path, change=no_stage)
    night, = Dreamt().recordings(tmp_path)
    assert stage_at(night, 189.99) is None and stage_at(night, 189.9) == "rem"


@pytest.mark.parametrize("old, new, error, words", [
    ("S002,65.9", "S102,65.9", RecordingError, "S002, participant_info.csv SID: is nobody"),
    ("S003,", "S002,", CohortError, "participant_info.csv: does not name each"),
    ("SID,", "ID,", CohortError, "participant_info.csv: does not name each"),
    ("65.9,M", "old,M", RecordingError, "S002, participant_info.csv AGE: 'old' is no number")])
def test_people_that_do_not_add_up_are_refused(tmp_path, old, new, error, words):
    write_night(tmp_path)
    info = tmp_path / "participant_info.csv"
    assert old in info.read_text()
    info.write_text(info.read_text().replace(old, new))
    with pytest.raises(error, match=words) as e: [*Dreamt().recordings(tmp_path)]
    assert e.value.remedy
    info.unlink()
    with pytest.raises(CohortError, match="dreamt, participant_info.csv: there is no"):
        [*Dreamt().recordings(tmp_path)]


def test_nights_come_one_at_a_time_and_in_order(tmp_path):
    for name in ("S004", "S002"): write_night(tmp_path, name, NIGHT[:2])
    (tmp_path / "data_64Hz/S003_whole_df.csv").write_text("no night")
    found = Dreamt().recordings(tmp_path)
    assert next(found).name == "S002"
    with pytest.raises(RecordingError, match="S003"): next(found)
    assert Dreamt().count(tmp_path) == 3 and Dreamt(psg=True).count(tmp_path) == 0


def test_windows_know_their_stage_and_those_between_two_do_not(tmp_path, home):
    write_night(tmp_path)
    windowing = Windowing(signals=(("ppg", 100.0),), seconds=10, hop=10, beats=(),
                          normalise="minmax")
    windows = pack(Dreamt(), windowing, tmp_path)
    expected = [None] + ["wake"] * 3 + ["light"] * 6 + ["deep"] * 3 + [None] * 3 + ["rem"] * 3
    assert [o if isinstance(o, str) else None for o in windows.labels("sleep_stage")] == expected
    known = [o for o in windows.labels("light") if o == o and o is not None]
    assert known == [0] * 3 + [1] * 6 + [0] * 6
    shifted = pack(Dreamt(), Windowing(signals=(("ppg", 0.0),), seconds=12, hop=12, beats=()),
                   tmp_path)
    wake = [o for o in shifted.labels("sleep_stage")]
    assert wake[1] == "wake" and not isinstance(wake[3], str)   # 36 to 48 s: wake, then light
    assert wake[5] == "light"                                   # 60 to 72 s: N1, then N2


def test_who_has_no_nights_learns_how_to_ask_for_them(home, tmp_path):
    cohort = Dreamt()
    assert "dreamt" in cohort_names() and type(get_cohort("dreamt", psg=True)) is Dreamt
    assert at_hand(cohort) == ""
    with pytest.raises(CohortError, match="biossl fetch dreamt"): locate(cohort)
    with pytest.raises(FetchError, match="dreamt.*restricted.*physionet.org.*BIOSSL_DATA"):
        fetch(cohort, progress=False)
    write_night(tmp_path)
    with pytest.raises(CohortError, match="option psg: .*no data_100Hz.*restricted"):
        [*Dreamt(psg=True).recordings(tmp_path)]
    folder = home / "cohorts/dreamt"
    folder.mkdir(parents=True)
    write_night(folder)
    assert locate(cohort) == folder and {o.key for o in cohort.tasks} <= {
        key for one in cohort.recordings(folder)
        for key in (*one.labels, *(o.key for o in one.intervals))}
