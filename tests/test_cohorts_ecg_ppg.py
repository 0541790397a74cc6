"""The synchronous ECG and PPG cohorts: small copies of their layouts, traps, the real ones."""
import math
from collections import Counter, namedtuple
from dataclasses import fields, replace

import numpy as np
import pytest
from layouts import edit, write_bidmc, write_challenge_2015, write_mimic_perform_af, write_wfdb

from biossl.cohorts.bidmc import Bidmc
from biossl.cohorts.challenge_2015 import ALARM_TYPES, Challenge2015
from biossl.cohorts.mimic_perform_af import MimicPerformAf
from biossl.cohorts.registry import at_hand, cohort_names, get_cohort, locate
from biossl.data.errors import BiosslError, CohortError, RecordingError, RequestError, StoreError
from biossl.data.store import Windowing, pack

ALL = (MimicPerformAf, Bidmc, Challenge2015)


def read(cohort, folder): return list(cohort.recordings(folder))


def mean_of(recording, key, start, end):
    "The time-weighted mean of an interval label over a window, and the seconds it covers."
    parts = [(min(o.end, end) - max(o.start, start), o.value) for o in recording.intervals
             if o.key == key and o.start < end and o.end > start]
    covered = sum(o[0] for o in parts)
    return (sum(t * v for t, v in parts) / covered if covered else np.nan), covered


# Every cohort

@pytest.mark.parametrize("kind", ALL)
def test_a_cohort_is_known_complete_and_at_hand_where_its_layout_is(kind, home):
    cohort = kind()
    assert cohort.name in cohort_names() and type(get_cohort(cohort.name)) is kind
    card = cohort.card
    assert all((card.title, card.publisher, card.version, card.licence, card.citation, card.url))
    assert card.files or (card.roots and card.index)
    assert card.bytes or "size" in card.note  # what is not known is said
    assert at_hand(cohort) == ""
    with pytest.raises(CohortError, match=f"{cohort.name}: is not at hand"): locate(cohort)
    folder = home / "cohorts" / cohort.name
    {MimicPerformAf: write_mimic_perform_af, Bidmc: lambda o: write_bidmc(o, 1, "s1"),
     Challenge2015: lambda o: write_challenge_2015(o, [("a1s", "Asystole", 1)])}[kind](folder)
    assert locate(cohort) == folder
    for one in read(cohort, folder):
        assert one.cohort == cohort.name and {"ecg", "ppg"} <= set(one.signals)
        assert set(one.signals) <= set(card.signals)
        assert {o.rate for o in one.signals.values()} == {card.signals["ecg"]}
        keys = {*one.labels, *(o.key for o in one.intervals)}
        assert {o.key for o in cohort.tasks} <= keys
        assert all(one.labels[o.key] in o.classes for o in cohort.tasks if o.classes)



PACKED = Windowing(signals=(("ecg", 0.0), ("ppg", 0.0)), seconds=30, hop=30, beats=())


def packed_bidmc(folder, monkeypatch, numbers=(1,)):
    "BIDMC below `folder`, packed; afterwards the recordings are gone."
    for i in numbers: write_bidmc(folder / "bidmc", i, f"s{i}")
    monkeypatch.setenv("BIOSSL_DATA", str(folder))
    windows = pack(Bidmc(), PACKED, locate(Bidmc()))
    monkeypatch.delenv("BIOSSL_DATA")
    return windows


def test_packed_windows_stand_in_for_recordings_that_are_not_here(home, tmp_path, monkeypatch):
    windows = packed_bidmc(tmp_path, monkeypatch)
    assert locate(Bidmc()) == windows.folder
    assert pack(Bidmc(), PACKED, locate(Bidmc())).folder == windows.folder
    with pytest.raises(StoreError, match="bidmc: .*only other windows.*BIOSSL_DATA"):
        pack(Bidmc(), replace(PACKED, seconds=20), locate(Bidmc()))
    with pytest.raises(BiosslError, match="bidmc"): read(Bidmc(), locate(Bidmc()))
    assert at_hand(Bidmc()) == ""
    monkeypatch.setattr(Bidmc, "reader", "another")   # it would read something else by now
    with pytest.raises(CohortError, match="is not at hand"): locate(Bidmc())


def test_packed_windows_of_other_options_do_not_stand_in(home, tmp_path, monkeypatch):
    write_challenge_2015(tmp_path / "challenge_2015", [("a1l", "Asystole", True)])
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path))
    pack(Challenge2015(forecast=False), PACKED, locate(Challenge2015()))
    monkeypatch.delenv("BIOSSL_DATA")
    assert locate(Challenge2015(forecast=False)).parent == home / "store"
    with pytest.raises(CohortError, match="is not at hand"): locate(Challenge2015())


def test_packed_windows_of_several_sets_of_recordings_are_not_guessed_between(
        home, tmp_path, monkeypatch):
    part = packed_bidmc(tmp_path / "part", monkeypatch)
    whole = packed_bidmc(tmp_path / "whole", monkeypatch, (1, 2))
    with pytest.raises(CohortError, match=f"(?=.*{part.key})(?=.*{whole.key})"): locate(Bidmc())
    assert locate(get_cohort("simulated")) is None


def test_a_store_of_before_learns_what_it_was_made_of(home, tmp_path, monkeypatch):
    origin = packed_bidmc(tmp_path, monkeypatch).folder / "made_of.json"
    told = origin.read_bytes()
    origin.unlink()
    with pytest.raises(CohortError, match="is not at hand"): locate(Bidmc())
    assert packed_bidmc(tmp_path, monkeypatch).folder == origin.parent
    assert origin.read_bytes() == told and locate(Bidmc()) == origin.parent
    origin.write_text("{")
    with pytest.raises(StoreError, match="made_of.json.*pack again"): locate(Bidmc())


OPTIONS = [(name, o) for name in cohort_names() for o in fields(type(get_cohort(name)))]
WRONG = {int: ("abc", 2.5, True, None, [3]), float: ("abc", math.nan, math.inf, True, None),
         bool: ("abc", 1, None), str: (2020, None, ["x"])}


@pytest.mark.parametrize("name, option", OPTIONS, ids=[f"{n}-{o.name}" for n, o in OPTIONS])
def test_an_option_of_another_kind_is_refused_with_its_name_and_kind(name, option):
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    assert get_cohort(name, **{option.name: option.default}) == get_cohort(name)
    for value in WRONG[option.type]:
        with pytest.raises(RequestError) as e: get_cohort(name, **{option.name: value})
        assert f"{name}, option {option.name}: {value!r} is not {kind[option.type]}" in str(e.value)
        assert str(option.default).lower() in e.value.remedy.lower()


def test_an_option_is_taken_as_it_is():
    "A whole number where any will do: written otherwise, it would be another cohort's key."
    assert repr(get_cohort("simulated", seconds=65).seconds) == "65"


# mimic_perform_af

def test_perform_has_leads_units_and_the_folder_as_label(tmp_path):
    found = read(MimicPerformAf(), write_mimic_perform_af(tmp_path))
    assert [o.labels["af"] for o in found] == [1, 1, 0, 0]
    assert [o.labels["rhythm"] for o in found] == ["AF", "AF", "non-AF", "non-AF"]
    ecg, ppg = found[0].signal("ecg"), found[0].signal("ppg")
    assert (ecg.leads, ecg.unit, ppg.unit, ppg.rate) == (("II",), "mV", "NU", 125)


def test_perform_channels_are_found_by_name_not_by_place(tmp_path):
    write_mimic_perform_af(tmp_path)
    inner = tmp_path / "mimic_perform_af_wfdb"
    channels = [("resp, x", "pm"), ("ECG, ECG recorded using bedside monitor, lead II", "mV"),
                ("PPG, Fingertip", "NU")]
    values = write_wfdb(inner, "mimic_perform_af_001", channels, 125, seed=9,
                        comments=["<Original Subject ID>: p000001 <subject group>: "])
    first = read(MimicPerformAf(), tmp_path)[0]
    for key, column in (("resp", 0), ("ecg", 1), ("ppg", 2)):
        np.testing.assert_allclose(first.signal(key).samples[0], values[:, column], atol=1e-4)


def test_perform_does_not_tell_the_class_by_the_respiration(tmp_path):
    with_resp, without = read(MimicPerformAf(), write_mimic_perform_af(tmp_path))[:2]
    assert "resp" in with_resp.signals and "resp" not in without.signals
    assert dict(with_resp.labels) == dict(without.labels)
    assert with_resp.intervals == without.intervals


def test_perform_groups_one_subject_under_two_names(tmp_path):
    write_mimic_perform_af(tmp_path, subjects=("p000007", "p000007"))
    found = read(MimicPerformAf(), tmp_path)
    assert {o.subject for o in found} == {"p000007"} and len({o.name for o in found}) == 4


@pytest.mark.parametrize("old, new, words", [
    ("/NU", "/mV", "mimic_perform_af_001, unit of PPG: is mV, not NU"),
    ("/mV", "/uV", "mimic_perform_af_001, unit of ECG: is uV, not mV"),
    (" 3 125 ", " 3 250 ", "mimic_perform_af_001, rate: is 250 Hz, not 125"),
    (" ECG, ", " EKG, ", "mimic_perform_af_001, channels: has no channel ECG"),
    (", lead II", "", "mimic_perform_af_001, name of ECG: .*no lead"),
    ("p000001", "?", "mimic_perform_af_001, Original Subject ID: names no subject")])
def test_perform_refuses_what_is_not_as_published(tmp_path, old, new, words):
    write_mimic_perform_af(tmp_path)
    edit(tmp_path / "mimic_perform_af_wfdb/mimic_perform_af_001.hea", old, new)
    with pytest.raises(RecordingError, match=words): read(MimicPerformAf(), tmp_path)


def test_perform_misses_a_listed_recording(tmp_path):
    write_mimic_perform_af(tmp_path)
    (tmp_path / "mimic_perform_non_af_wfdb/mimic_perform_non_af_002.hea").unlink()
    with pytest.raises(RecordingError, match="non_af_002, header: there is no"):
        read(MimicPerformAf(), tmp_path)


# bidmc

def test_bidmc_picks_columns_by_name_in_any_order(tmp_path):
    orders = [("RESP", "PLETH", "V", "AVR", "II"), ("II", "ABP", "PLETH", "RESP"),
              ("V", "RESP", "II", "AVR", "PLETH", "ART", "CVP")]
    wrote = [write_bidmc(tmp_path, i, f"s{i}", columns=o) for i, o in enumerate(orders, 1)]
    for values, one, pressure in zip(wrote, read(Bidmc(), tmp_path), (None, "ABP", "ART")):
        for key, column in (("ecg", "II"), ("ppg", "PLETH"), ("resp", "RESP"), ("abp", pressure)):
            assert (key in one.signals) == (column is not None)
            if column is None: continue
            np.testing.assert_allclose(one.signal(key).samples[0], values[column], atol=1e-6)
            assert one.signal(key).leads == (column,)


def test_bidmc_groups_by_person(tmp_path):
    for number, subject in ((1, "s1"), (2, "s3386"), (3, "s3386")):
        write_bidmc(tmp_path, number, subject)
    assert [o.subject for o in read(Bidmc(), tmp_path)] == ["s1", "s3386", "s3386"]


def test_bidmc_persons(tmp_path):
    for number, age, sex in ((1, "90+", "F"), (2, "NaN", "?"), (3, "41", "M")):
        write_bidmc(tmp_path, number, f"s{number}", age=age, sex=sex)
    labels = [o.labels for o in read(Bidmc(), tmp_path)]
    assert [o["sex"] for o in labels] == ["F", None, "M"]
    assert labels[0]["age"] == 90 and np.isnan(labels[1]["age"]) and labels[2]["age"] == 41


def test_bidmc_numerics_are_a_number_a_second(tmp_path):
    rows = [(60 + i, 70, 0 if i < 5 else 12, "NaN" if i % 2 else 97) for i in range(41)]
    write_bidmc(tmp_path, 1, "s1", numerics=rows)
    one, = read(Bidmc(), tmp_path)
    mean, covered = mean_of(one, "heart_rate", 10, 20)
    assert covered == 10 and mean == pytest.approx(np.mean([70 + i for i in range(10)]))
    assert mean_of(one, "pulse_rate", 0, 30) == (70, 30)
    assert mean_of(one, "monitor_resp_rate", 0, 10) == (12, 5)  # zeros are a lost breath
    assert mean_of(one, "spo2", 0, 10) == (97, 5)
    assert max(o.end for o in one.intervals) <= one.seconds


def test_bidmc_numbers_that_cannot_be_are_missing_and_counted(tmp_path, home):
    good = (80, 70, 12, 97)
    bad = [(-99999, 70, 12, 97), ("inf", 70, 12, 97), (80, "-inf", 12, 97), (80, 401, 12, 97),
           (80, 70, -1, 97), (80, 70, 12, 101), (80, 70, 12, -1)]
    write_bidmc(tmp_path, 1, "s1", numerics=[*[good] * 20, *bad, *[good] * 14])
    write_bidmc(tmp_path, 2, "s2", numerics=[(0, 400, "NaN", 100)] * 41)   # odd, but possible
    first, second = read(Bidmc(), tmp_path)
    expected = dict(heart_rate=(80, 18), pulse_rate=(70, 18), monitor_resp_rate=(12, 19),
                    spo2=(97, 18))
    assert {key: mean_of(first, key, 15, 35) for key in expected} == expected
    assert first.labels["impossible_numerics"] == 7 and "impossible_numerics" not in second.labels
    assert mean_of(second, "spo2", 0, 40) == (100, 40)
    assert mean_of(second, "pulse_rate", 0, 40) == (400, 40)
    frame = pack(Bidmc(), Windowing(seconds=10, hop=10, beats=()), tmp_path).index
    assert frame.heart_rate.isna().tolist() == [False] * 2 + [True] + [False] * 5
    assert frame.impossible_numerics.tolist()[:4] == [7] * 4
    assert frame.impossible_numerics.isna().sum() == 4


@pytest.mark.parametrize("age", ["-1", "131", "-99999", "inf", "9000+"])
def test_bidmc_ages_that_cannot_be_are_refused(tmp_path, age):
    write_bidmc(tmp_path, 1, "s1", age=age)
    with pytest.raises(RecordingError, match=r"bidmc_01, Fix.txt Age.*is no age"):
        read(Bidmc(), tmp_path)


def test_bidmc_numerics_that_begin_a_second_early(tmp_path):
    write_bidmc(tmp_path, 1, "s1", numerics=[(60 + i, 70, 12, 97) for i in range(41)], start=-1)
    one, = read(Bidmc(), tmp_path)
    assert mean_of(one, "heart_rate", 0, 1) == (61, 1) and min(o.start for o in one.intervals) == 0


@pytest.mark.parametrize("start", [-2, 1, 5])
def test_bidmc_numerics_of_another_time_are_refused(tmp_path, start):
    write_bidmc(tmp_path, 1, "s1", start=start)
    with pytest.raises(RecordingError, match="bidmc_01, Numerics.csv Time .*out of time"):
        read(Bidmc(), tmp_path)


def test_bidmc_breathing_is_breaths_over_time_as_both_marked_them(tmp_path):
    "A second way: whole breaths between a window's edges that both annotators marked."
    first, second = list(range(250, 4800, 375)), list(range(250, 4800, 300))
    first[3], first[4] = first[4], first[3]  # published marks are not all in order
    write_bidmc(tmp_path, 1, "s1", breaths=(first, second))
    one, = read(Bidmc(), tmp_path)
    start, end = 2.0, 2.0 + 12  # 12 s: 4 breaths of 3 s, 5 breaths of 2.4 s
    mean, covered = mean_of(one, "resp_rate", start, end)
    assert covered == pytest.approx(12) and mean == pytest.approx((4 + 5) / 2 * 60 / 12)


def test_bidmc_breathing_does_not_go_on_for_ever(tmp_path):
    marks = list(range(2500, 3001, 250))  # breaths of 2 s from 20 s to 24 s
    write_bidmc(tmp_path, 1, "s1", breaths=(marks, marks))
    one, = read(Bidmc(), tmp_path)
    assert mean_of(one, "resp_rate", 20, 24) == (30, 4)
    assert mean_of(one, "resp_rate", 30, 40)[1] == 0 and mean_of(one, "resp_rate", 0, 10)[1] == 0


@pytest.mark.parametrize("kind, old, new, words", [
    ("Signals.csv", " PLETH", " PULS", "Signals.csv: has no column PLETH"),
    ("Signals.csv", " II", " I", "Signals.csv: has no column II"),
    ("Signals.csv", "\n0.008,", "\n0.016,", "Time .*row 1 is missing or out of time"),
    ("Signals.csv", "\n0.008,", "\n0.008,x", "Signals.csv: is no table of numbers"),
    ("Numerics.csv", " SpO2", " O2", "Numerics.csv: has no column SpO2"),
    ("Numerics.csv", "\n40,", "\n41,", "Numerics.csv Time .*row 40 is missing"),
    ("Breaths.csv", "ann2", "anno", "Breaths.csv: needs two annotators"),
    ("Fix.txt", "wdb ID: s1", "wdb ID: ", "MIMIC II matched wdb ID: '' is no subject"),
    ("Fix.txt", "frequency: 125", "frequency: 250", "sampling frequency: is 250 Hz, not 125"),
    ("Fix.txt", "Age: 88", "Age: old", "Fix.txt Age: 'old' is no age")])
def test_bidmc_refuses_what_is_not_as_published(tmp_path, kind, old, new, words):
    write_bidmc(tmp_path, 1, "s1", columns=("RESP", "PLETH", "V", "AVR", "II"))
    edit(tmp_path / f"bidmc_csv/bidmc_01_{kind}", old, new)
    with pytest.raises(RecordingError, match=f"bidmc_01, .*{words}") as caught:
        read(Bidmc(), tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("place, column, value, unit", [
    (1, "RESP", "700", "NU"), (2, "PLETH", "-32768", "NU"), (5, "II", "725", "mV"),
    (5, "II", "inf", "mV")])
def test_bidmc_refuses_values_that_cannot_be_in_the_unit(tmp_path, place, column, value, unit):
    write_bidmc(tmp_path, 1, "s1", columns=("RESP", "PLETH", "V", "AVR", "II"))
    path = tmp_path / "bidmc_csv/bidmc_01_Signals.csv"
    rows = [o.split(",") for o in path.read_text().splitlines()]
    rows[70][place] = value
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    with pytest.raises(RecordingError, match=f"Signals.csv {column}: values .* cannot be {unit}"):
        read(Bidmc(), tmp_path)


def test_bidmc_refuses_cut_and_missing_files(tmp_path):
    write_bidmc(tmp_path, 1, "s1")
    signals = tmp_path / "bidmc_csv/bidmc_01_Signals.csv"
    signals.write_text("\n".join(signals.read_text().splitlines()[:3000]) + "\n")
    with pytest.raises(RecordingError, match="bidmc_01, Signals.csv: .* s of signals, 41 s"):
        read(Bidmc(), tmp_path)
    signals.write_text("")
    with pytest.raises(RecordingError, match="Signals.csv: is no table"): read(Bidmc(), tmp_path)
    signals.unlink()
    with pytest.raises(RecordingError, match="bidmc_01, Signals.csv: there is no"):
        read(Bidmc(), tmp_path)
    (tmp_path / "empty/bidmc_csv").mkdir(parents=True)
    with pytest.raises(CohortError, match="bidmc: .*no recording"):
        read(Bidmc(), tmp_path / "empty")


# challenge_2015

def test_challenge_stops_at_the_alarm(tmp_path):
    write_challenge_2015(tmp_path, [("b1l", "Tachycardia", 1), ("b2s", "Asystole", 0)])
    until, whole = read(Challenge2015(), tmp_path), read(Challenge2015(forecast=False), tmp_path)
    assert [o.signal("ecg").samples.shape for o in until] == [(1, 75_000)] * 2
    assert [o.seconds for o in whole] == [330, 300]
    assert (until[0].signal("ppg").samples == whole[0].signal("ppg").samples[:, :75_000]).all()
    assert [dict(o.labels) for o in until] == [dict(alarm_type="Tachycardia", true_alarm=1),
                                               dict(alarm_type="Asystole", true_alarm=0)]
    assert [o.subject for o in until] == ["b1l", "b2s"]
    cut, uncut = (Challenge2015(forecast=o).fingerprint(tmp_path) for o in (True, False))
    assert cut != uncut


def test_challenge_takes_other_channels_as_they_are(tmp_path):
    write_challenge_2015(tmp_path, [("a1s", "Asystole", 1)], channels=(
        ("V", "mV"), ("ABP", "mmHg"), ("PLETH", "NU"), ("II", "mV")))
    one, = read(Challenge2015(), tmp_path)
    assert set(one.signals) == {"ecg", "ppg", "abp"} and one.signal("ecg").leads == ("II",)
    write_challenge_2015(tmp_path / "b", [("a1s", "Asystole", 1)],
                         channels=(("II", "mV"), ("V", "mV")))
    assert set(read(Challenge2015(), tmp_path / "b")[0].signals) == {"ecg"}  # as 133 of the 750


@pytest.mark.parametrize("file, old, new, words", [
    ("ALARMS", "Asystole,1", "Asystole,0", "a1s, ALARMS: the header says Asystole, True alarm"),
    ("ALARMS", "Asystole,1", "Bradycardia,1", "a1s, ALARMS: the header says"),
    ("ALARMS", "a1s,", "a2s,", "a1s, ALARMS: .*ALARMS None"),
    ("ALARMS", "Asystole,1", "Asystole", "challenge_2015, ALARMS: 'a1s,Asystole' is not"),
    ("ALARMS", "Asystole,1", "Asystole,1\na1s,Asystole,0", "challenge_2015, ALARMS: .*twice"),
    ("a1s.hea", "True alarm", "Maybe", "a1s, ALARMS: the header says Asystole, Maybe"),
    ("a1s.hea", "/mV", "/mmHg", "a1s, unit of II: is mmHg, not mV"),
    ("a1s.hea", " 2 250 ", " 2 125 ", "a1s, rate: is 125 Hz, not 250"),
    ("RECORDS", "a1s", "../a1s", "leads out")])
def test_challenge_refuses_contradictions(tmp_path, file, old, new, words):
    write_challenge_2015(tmp_path, [("a1s", "Asystole", 1)])
    edit(tmp_path / "training" / file, old, new)
    with pytest.raises(BiosslError, match=words) as caught: read(Challenge2015(), tmp_path)
    assert caught.value.remedy


def test_challenge_needs_the_whole_five_minutes(tmp_path):
    write_challenge_2015(tmp_path, [("a1s", "Asystole", 1)])
    write_wfdb(tmp_path / "training", "a1s", [("II", "mV")], 250, samples=74_999,
               comments=["Asystole", "True alarm"])
    with pytest.raises(RecordingError, match="a1s, number of samples: 74999 .*75000"):
        read(Challenge2015(), tmp_path)


# The real ones: one pass each, of which the tests look at a summary

Seen = namedtuple("Seen", "name subject labels signals missing seconds intervals")


def _seen(one):
    missing = {key: int(np.isnan(o.samples).sum()) for key, o in one.signals.items()}
    kinds = {key: (o.leads, o.unit, o.rate, o.samples.shape) for key, o in one.signals.items()}
    return Seen(one.name, one.subject, dict(one.labels), kinds, missing, one.seconds, one.intervals)


@pytest.fixture
def real(real_data, request):
    "What one pass over a real cohort saw; kept for all tests of this module."
    cache = request.module.__dict__.setdefault("_PASSES", {})
    def see(cohort):
        if cohort not in cache:
            cache[cohort] = [_seen(o) for o in cohort.recordings(locate(cohort))]
        return cache[cohort]
    return see


@pytest.mark.real
def test_real_perform_counts_subjects_and_gaps(real):
    seen, card = real(MimicPerformAf()), MimicPerformAf.card
    assert len(seen) == card.recordings and len({o.subject for o in seen}) == card.subjects
    assert Counter(o.labels["af"] for o in seen) == {1: 19, 0: 16}
    assert sum(o.seconds for o in seen) / 3600 == pytest.approx(card.hours, abs=0.01)
    absent = {o.name.removeprefix("mimic_perform_") for o in seen if "resp" not in o.signals}
    assert absent == {"af_002", "af_005", "af_006", "af_007", "af_017",
                      "non_af_008", "non_af_011", "non_af_012", "non_af_015"}
    leads = {o.name.removeprefix("mimic_perform_"): o.signals["ecg"][0] for o in seen}
    assert {k: v for k, v in leads.items() if v != ("II",)} == {
        "af_005": ("V",), "af_007": ("III",), "af_014": ("V",)}
    for o in seen:
        assert o.signals["ecg"][1:] == ("mV", 125, (1, 150_001))
        assert o.signals["ppg"][1:] == ("NU", 125, (1, 150_001))
        assert o.labels["af"] == ("non" not in o.name)
    gaps = {o.name.removeprefix("mimic_perform_"): (o.missing["ecg"], o.missing["ppg"])
            for o in seen}
    assert {k: v for k, v in gaps.items() if any(v)} == {
        "af_005": (8, 429), "af_006": (128, 52), "af_007": (0, 289), "af_017": (6, 0),
        "non_af_006": (0, 291), "non_af_008": (0, 110), "non_af_011": (15, 0),
        "non_af_012": (218, 1728)}


@pytest.mark.real
def test_real_bidmc_counts_subjects_and_people(real):
    seen, card = real(Bidmc()), Bidmc.card
    assert len(seen) == card.recordings and len({o.subject for o in seen}) == card.subjects
    assert sum(o.seconds for o in seen) / 3600 == pytest.approx(card.hours, abs=0.01)
    several = Counter(o.subject for o in seen)
    numbers = {s: [int(o.name[-2:]) for o in seen if o.subject == s]
               for s, n in several.items() if n > 1}
    assert numbers == {"s03386": [6, 7, 8, 9], "s11342": [20, 21, 22, 23], "s25323": [38, 39]}
    assert Counter(o.labels["sex"] for o in seen) == {"F": 32, "M": 20, None: 1}
    assert Counter(o.labels["ward"] for o in seen) == {"micu": 46, "ccu": 6, "sicu": 1}
    assert [int(o.name[-2:]) for o in seen if o.labels["age"] == 90] == [28, 32, 44]
    assert [int(o.name[-2:]) for o in seen if np.isnan(o.labels["age"])] == [18]
    for o in seen:
        assert o.signals["ecg"] == (("II",), "mV", 125, (1, 60_001)) and not any(o.missing.values())


@pytest.mark.real
def test_real_bidmc_numerics_miss_what_is_known_to_miss(real):
    seen = {int(o.name[-2:]): o for o in real(Bidmc())}
    def missing(number, key):  # seconds of 480 without a number
        return round(480 - mean_of(seen[number], key, 0, 480)[1])
    assert [missing(i, "spo2") for i in (19, 1, 5, 44, 25, 2)] == [102, 13, 6, 6, 1, 0]
    assert [missing(i, "pulse_rate") for i in (19, 1)] == [102, 13]
    assert missing(27, "heart_rate") == 4
    assert missing(13, "monitor_resp_rate") == 146 + 220 - 1  # the last row stands at the very end
    gaps = [missing(i, "heart_rate") for i in seen]
    assert sum(gaps) == 4


@pytest.mark.real
def test_real_bidmc_breaths_agree_with_the_monitor_where_it_is_right(real):
    "Published with the data: 0.84 /min apart on average, median 0.26; 05 by 5 (6 against 11)."
    apart = {int(o.name[-2:]): abs(mean_of(o, "resp_rate", 0, 480)[0]
                                   - mean_of(o, "monitor_resp_rate", 0, 480)[0])
             for o in real(Bidmc())}
    assert np.mean(list(apart.values())) == pytest.approx(0.84, abs=0.25)
    assert np.median(list(apart.values())) == pytest.approx(0.26, abs=0.15)
    assert apart[5] == pytest.approx(5, abs=1)
    five = next(o for o in real(Bidmc()) if o.name.endswith("05"))
    assert mean_of(five, "resp_rate", 0, 480)[0] == pytest.approx(6, abs=0.5)


@pytest.mark.real
def test_real_challenge_alarms_and_channels(real):
    seen = real(Challenge2015())
    assert len(seen) == 144 == len({o.subject for o in seen})
    truths = {kind: tuple(sum(o.labels == dict(alarm_type=kind, true_alarm=t) for o in seen)
                          for t in (1, 0)) for kind in ALARM_TYPES}
    assert truths == dict(zip(ALARM_TYPES, [(17, 18), (18, 18), (20, 5), (6, 12), (15, 15)]))
    assert Counter(k for o in seen for k in o.signals) == dict(ecg=144, ppg=144, abp=54, resp=34)
    for o in seen:
        assert o.signals["ecg"] == (("II",), "mV", 250, (1, 75_000)) and not o.missing["ppg"]
        assert o.signals.get("abp", (0, "mmHg"))[1] == "mmHg" and o.seconds == 300
    worst = {o.name: round(o.missing["ecg"] / 75_000, 2) for o in seen if o.missing["ecg"] > 3750}
    assert worst == {"a152s": 0.13, "a396s": 0.12}


@pytest.mark.real
@pytest.mark.parametrize("kind, total", [(MimicPerformAf, 28_823_141), (Bidmc, 153_372_276)])
def test_real_cohorts_have_the_bytes_that_their_cards_tell(real_data, kind, total):
    found = sum(size for _, size in kind().fingerprint(locate(kind()))["files"])
    assert found == total and f"{total:,}" in f"{kind.card.bytes:,} {kind.card.note}"
