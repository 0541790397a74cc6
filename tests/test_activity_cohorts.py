"""Daily life, walks, stays: small files in the published layouts, and what is wrong with others."""
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from layouts import edit
from layouts_activity import (dalia, ptt_samples, write_af, write_dalia, write_pickle, write_ptt,
                              write_ptt_csv, write_stay)

from biossl.cohorts import mimic_iii_wdb, ppg_dalia, ptt_ppg
from biossl.cohorts.mimic_iii_wdb import MimicIIIWdb
from biossl.cohorts.ppg_dalia import PpgDalia
from biossl.cohorts.ptt_ppg import PttPpg
from biossl.cohorts.registry import at_hand, cohort_names, get_cohort, locate
from biossl.data.errors import CohortError, FetchError, RecordingError, RequestError
from biossl.data.fetch import plan
from biossl.data.recordings import LeftOut
from biossl.data.store import Windowing, pack
from biossl.data.windowing import cut

STAY = "p000020-2183-04-28-17-47"


def written(kind, folder):
    "Two people of the cohort below `folder`."
    if kind is PpgDalia:
        for i in (2, 10): write_dalia(folder, dalia(f"S{i}", ((0, 8), (7, 8)), number=i % 2))
    elif kind is PttPpg:
        for i, name in enumerate(("s1_sit", "s2_run")):
            write_ptt(folder, name, told=f"<activity>: {name[3:]} <age>: 28 <gender>: female",
                      values=ptt_samples(i))
    else:
        write_stay(folder)
        write_stay(folder, "p000030-2172-10-16-12-22", "3524877")
        write_af(folder, [(STAY, 0, 30, 0), (STAY, 30, 150, 1)])
    return folder


def known(column): return [o if isinstance(o, str) else None for o in column]


# All three

@pytest.mark.parametrize("kind, task", [
    (PpgDalia, "activity"), (PttPpg, "activity"), (MimicIIIWdb, "af")])
def test_a_cohort_is_known_complete_and_at_hand_where_its_layout_is(kind, task, home):
    cohort = kind()
    assert cohort.name in cohort_names() and type(get_cohort(cohort.name)) is kind
    card = cohort.card
    assert all((card.title, card.publisher, card.version, card.licence, card.citation, card.note))
    assert at_hand(cohort) == "" and cohort.task(task).classes
    with pytest.raises(CohortError, match=f"{cohort.name}: is not at hand"): locate(cohort)
    folder = written(kind, home / "cohorts" / cohort.name)
    assert locate(cohort) == folder
    found = [*cohort.recordings(folder)]
    assert cohort.count(folder) == len(found) and len({o.subject for o in found}) == 2
    for one in found:
        assert one.cohort == cohort.name and set(one.signals) <= set(card.signals)
        assert all(o.rate == card.signals[key] for key, o in one.signals.items())
    told = {key for o in found for key in (*o.labels, *(i.key for i in o.intervals))}
    assert {o.key for o in cohort.tasks} <= told


def test_what_can_be_fetched_is_planned_and_what_cannot_is_said(home, monkeypatch):
    assert "PPG-DaLiA" in PpgDalia.card.title and plan(PpgDalia()).missing[0].unpack
    with pytest.raises(FetchError, match="mimic_iii_wdb.*choose people.*af_intervals.csv"):
        plan(MimicIIIWdb())
    from biossl.data import fetch
    listed = [fetch.Piece(fetch.inside(o), ()) for o in (
        "RECORDS", "s1_sit.hea", "s22_run.dat", "csv/s1_sit.csv", "csv/subjects_info.csv",
        "README.txt")]
    kept = fetch._matching(listed, PttPpg.card.wanted)
    assert [str(o.path) for o in kept] == ["RECORDS", "s1_sit.hea", "s22_run.dat"]


@pytest.mark.parametrize("room, name, lengths", [
    (ppg_dalia, "paper", (256, 512)), (ppg_dalia, "sane", (512, 512)),
    (ppg_dalia, "accidental", (256, 512)), (ptt_ppg, "paper", (4000, 4000)),
    (ptt_ppg, "sane", (1000, 1000)), (mimic_iii_wdb, "paper", (1260, 1260))])
def test_windows_have_the_lengths_that_the_paper_or_its_reading_says(room, name, lengths):
    windowing = room.WINDOWINGS[name]
    assert tuple(round(windowing.seconds * rate) for _, rate in windowing.signals) == lengths
    assert windowing.hop == windowing.seconds == (30 if room is mimic_iii_wdb else 8)
    assert (windowing.purity, windowing.normalise) == (1, "zscore")


def test_windows_with_the_accelerometer_for_the_ecg_go_into_the_paper_s_network(tmp_path):
    import torch

    from biossl.methods.contract import for_windows, get_method
    write_dalia(tmp_path, dalia("S1", ((1, 16),)))
    one, windowing = next(PpgDalia().recordings(tmp_path)), ppg_dalia.WINDOWINGS["accidental"]
    made = cut(one, replace(windowing, beats=()))
    method = get_method("tsta", **for_windows("tsta", dict(signals=windowing.keys), windowing))
    batch = {key: torch.from_numpy(made.arrays[key]) for key in windowing.keys}
    with torch.no_grad(): assert method.eval().embed(batch).shape == (2, 256)


# PPG-DaLiA

def test_a_life_is_read_as_published(tmp_path):
    data = dalia("S1")
    path = write_dalia(tmp_path, data)
    with open(path, "rb") as file: held = pickle.load(file, encoding="latin1")   # made here
    one, = PpgDalia().recordings(tmp_path)
    assert (one.name, one.subject, one.seconds) == ("S1", "S1", 64)
    assert dict(one.labels) == dict(age=34, sex="M")
    chest, wrist = held["signal"]["chest"], held["signal"]["wrist"]
    for key, x in (("ecg", chest["ECG"]), ("resp", chest["Resp"]), ("ppg", wrist["BVP"])):
        assert (one.signal(key).samples == x.T.astype(np.float32)).all()
    acc = wrist["ACC"]
    assert one.signal("acc").lead("Y") == pytest.approx(acc[:, 1])
    assert one.signal("acc").lead("magnitude") == pytest.approx((acc**2).sum(1)**0.5)


EXERCISE = {1: 0, 5: 0, 6: 0, 8: 0, 2: 1, 3: 1, 4: 1, 7: 1}   # as the specification has it


def told(data, starts, purity, named):
    "What a share of the 32 codes of each window say, looked up sample by sample; else None."
    for start in starts:
        said = [named(int(o)) for o in data["activity"][int(4 * start):int(4 * start) + 32, 0]]
        best = max(set(said) - {None} or {None}, key=said.count)
        yield best if said.count(best) >= purity * 32 else None


PLAN = ((1, 24), (0, 5), (2, 17), (8, 7), (4, 27))   # s; 80 s, changes inside of windows


@pytest.mark.parametrize("purity", [1.0, 0.8])
@pytest.mark.parametrize("hop", [8.0, 2.0])
def test_packed_windows_know_their_activity_subject_and_heart_rate(home, tmp_path, purity, hop):
    people = {f"S{i}": dalia(f"S{i}", PLAN if i == 2 else ((7, 40),), i) for i in (2, 10)}
    for data in people.values(): write_dalia(tmp_path, data)
    windowing = Windowing(signals=(("ppg", 64.0),), seconds=8, hop=hop, purity=purity, beats=())
    windows = pack(get_cohort("ppg_dalia"), windowing, tmp_path)
    subjects, labels = windows.labels("subject"), windows.labels
    assert [*dict.fromkeys(subjects)] == ["S2", "S10"]   # by number
    for name, data in people.items():
        of = subjects == name
        starts = labels("start")[of]
        assert len(starts) == (72 if name == "S2" else 32) // hop + 1
        expected = [*told(data, starts, purity, lambda o: ppg_dalia.ACTIVITIES[o])]
        assert known(labels("activity")[of]) == expected
        exercise = [None if o is None or o != o else int(o) for o in labels("exercise")[of]]
        assert exercise == [*told(data, starts, purity, EXERCISE.get)]
        assert (None in expected) == (name == "S2")
        exact = starts % 8 == 0
        rates = labels("heart_rate")[of].astype(float)
        assert rates[exact] == pytest.approx(data["label"][(starts[exact] / 2).astype(int)])


@pytest.mark.parametrize("task, classes", [("activity", 9), ("activity_eight", 8), ("exercise", 2)])
def test_the_tasks_have_nine_eight_and_two_classes(home, tmp_path, task, classes):
    from biossl.train.runs import truth_of
    write_dalia(tmp_path, dalia("S1", ((0, 16), (1, 16), (2, 16), (7, 16))))
    windowing = Windowing(signals=(("ppg", 64.0),), seconds=8, hop=8, beats=())
    windows = pack(PpgDalia(), windowing, tmp_path)
    task = PpgDalia().task(task)
    expected = dict(activity=[0, 1, 2, 7], activity_eight=[-1, 0, 1, 6], exercise=[-1, 0, 1, 1])
    assert len(task.classes) == classes
    assert truth_of(windows, task).tolist() == np.repeat(expected[task.name], 2).tolist()


def halved(*keys):
    "A change that leaves the first half of the rows of each of `keys`."
    def change(data):
        for key in keys:
            *way, last = key.split(".")
            inner = data
            for o in way: inner = inner[o]
            inner[last] = inner[last][:len(inner[last]) // 2]
    return change


def without(key):
    def change(data):
        *way, last = key.split(".")
        for o in way: data = data[o]
        del data[last]
    return change


def put(key, value):
    def change(data):
        *way, last = key.split(".")
        for o in way: data = data[o]
        data[last] = value(data[last]) if callable(value) else value
    return change


def code(value):
    def change(data): data["activity"][50] = value
    return change


def twice(x): return np.concatenate([x, x])


@pytest.mark.parametrize("change, words", [
    (without("signal.chest.ECG"), "signal.chest.ECG: lacks ECG; there are ACC, Resp"),
    (without("signal.wrist.BVP"), "signal.wrist.BVP: lacks BVP"),
    (without("signal.wrist.ACC"), "signal.wrist.ACC: lacks ACC"),
    (without("signal.chest"), "signal.chest.ECG: lacks chest; there are wrist"),
    (without("activity"), "activity: lacks activity"), (without("label"), "label: lacks label"),
    (put("signal.wrist", None), "signal.wrist.BVP: is no dictionary above BVP"),
    (put("label", twice), r"label: tells of 122 s, the signals last 64 s"),
    (put("activity", twice), "activity: tells of 128 s, the signals last 64 s"),
    (halved("activity"), "activity: tells of 32 s, the signals last 64 s"),
    (put("label", lambda o: o[::2]), "label: tells of 36 s"),   # one each 4 s
    (code(9), "activity: code 9 at 12.5 s is none of 0 to 8"),
    (code(-1), "activity: code -1 at 12.5 s"), (code(2.5), "activity: code 2.5 at 12.5 s"),
    (code(np.nan), "activity: code nan at 12.5 s"),
    (put("signal.chest.ECG", lambda o: o[::2]),
     "signal.chest.ECG: lasts 32 s at its published rate, the other signals 64 s"),
    (halved("signal.chest.ECG", "signal.chest.Resp"), "signal.chest.ECG: lasts 32 s"),
    (put("signal.wrist.BVP", lambda o: np.repeat(o, 2, 0)), "signal.wrist.BVP: lasts 128 s"),
    (put("signal.wrist.ACC", lambda o: o[:, :2]), r"signal.wrist.ACC: has shape \(2048, 2\)"),
    (put("signal.chest.ECG", lambda o: o[:0]), "signal.chest.ECG: is no array of numbers"),
    (put("signal.chest.ECG", [0.5] * 44_800), "signal.chest.ECG: is no array of numbers"),
    (put("signal.chest.ECG", np.array(5.0)), r"signal.chest.ECG: has shape \(\)"),
    (put("activity", np.array(["sit"] * 256)), "activity: is no array of numbers"),
    (put("subject", "S2"), "subject: is S2, and the file is called S1.pkl")])
def test_a_file_that_is_not_as_published_is_refused(tmp_path, change, words):
    data = dalia("S1")
    change(data)
    write_pickle(tmp_path / "PPG_FieldStudy/S1/S1.pkl", data)
    with pytest.raises(RecordingError, match=f"^S1, {words}") as e:
        [*PpgDalia().recordings(tmp_path)]
    assert e.value.remedy


def test_a_life_with_code_in_it_is_not_run(tmp_path):
    path = tmp_path / "PPG_FieldStudy/S1/S1.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x80\2}U\6signalcos\nsystem\nU\5falseq\1\x85Rs.")
    with pytest.raises(RecordingError, match="S1.pkl, os.system: .*nothing of the file was run"):
        [*PpgDalia().recordings(tmp_path)]


def test_people_come_one_by_one_by_number_whatever_else_lies_there(tmp_path):
    for name in ("S10", "S2"): write_dalia(tmp_path, dalia(name, ((1, 16),)))
    inner = tmp_path / "PPG_FieldStudy"
    for name in ("S2_E4.zip", "S2_quest.csv"): (inner / "S2" / name).write_text("x")
    (inner / "S10/S10.pkl").write_text("no pickle")
    found = PpgDalia().recordings(tmp_path)
    assert next(found).name == "S2"
    with pytest.raises(RecordingError, match="S10.pkl: is no whole pickle"): next(found)
    (inner / "S2/S2_copy.pkl").write_text("")
    with pytest.raises(CohortError, match="S2_copy.pkl is not named"):
        next(PpgDalia().recordings(tmp_path))
    with pytest.raises(CohortError, match="biossl fetch"): next(PpgDalia().recordings(inner))


def test_who_did_not_answer_has_neither_age_nor_sex(tmp_path):
    for i, change in enumerate((without("questionnaire"), put("questionnaire", {}),
                                put("questionnaire", {"AGE": "?", "Gender": "-"})), 1):
        data = dalia(f"S{i}", ((1, 16),))
        change(data)
        write_dalia(tmp_path, data)
    for one in PpgDalia().recordings(tmp_path):
        assert one.labels["sex"] is None and np.isnan(one.labels["age"])


# Pulse Transit Time PPG

def check_walk(one, values, column, sex):
    "A recording of `values`, its PPG from that column."
    assert (one.name, one.subject, one.labels["activity"]) == ("s1_walk", "s1", "walk")
    assert one.signal("ecg").samples[0] == pytest.approx(values[:, 0], abs=1e-3)
    assert one.signal("ppg").samples[0] == pytest.approx(values[:, column], abs=1e-3)
    assert one.signal("acc").lead("a_z") == pytest.approx(values[:, 14], abs=1e-3)
    assert one.signal("ppg").leads == (f"pleth_{column}",)
    assert (one.labels["age"], one.labels["sex"]) == (28, sex)


def test_a_walk_is_read_from_both_layouts(tmp_path):
    values = write_ptt(tmp_path, "s1_walk", told="<activity>: walk <age>: 28 <gender>: male")
    write_ptt_csv(tmp_path, ("s1_walk",))
    for site, column in ((None, 3), ("pleth_1", 1), ("pleth_6", 6)):
        options = dict(site=site) if site else {}
        check_walk(next(PttPpg(**options).recordings(tmp_path)), values, column, "M")
        check_walk(next(PttPpg(csv=True, **options).recordings(tmp_path)), values, column, "F")


def test_packed_walks_have_three_classes_and_people_are_told(home, tmp_path):
    written(PttPpg, tmp_path)
    windows = pack(PttPpg(), replace(ptt_ppg.WINDOWINGS["sane"], beats=()), tmp_path)
    assert windows.labels("activity").tolist() == ["sit"] * 2 + ["run"] * 2
    assert windows.labels("subject").tolist() == ["s1"] * 2 + ["s2"] * 2
    assert PttPpg().task("activity").classes == ("sit", "walk", "run")


def test_another_rate_or_activity_than_the_name_says_is_refused(tmp_path):
    with pytest.raises(RequestError, match="ptt_ppg, site: no PPG pleth_7.*pleth_6"):
        PttPpg(site="pleth_7")
    write_ptt(tmp_path / "a", told="<activity>: run")
    with pytest.raises(RecordingError, match="s1_sit, header activity: is 'run'"):
        [*PttPpg().recordings(tmp_path / "a")]
    write_ptt(tmp_path / "b", rate=250)
    with pytest.raises(RecordingError, match="s1_sit, rate: is 250 Hz, not 500"):
        [*PttPpg().recordings(tmp_path / "b")]
    write_ptt(tmp_path / "c", values=ptt_samples()[:, :3], channels=("ecg", "pleth_1", "pleth_2"))
    with pytest.raises(RecordingError, match="s1_sit, channels: has no channel a_x"):
        [*PttPpg().recordings(tmp_path / "c")]
    write_ptt(tmp_path / "d", "s1_swim")
    with pytest.raises(RecordingError, match="s1_swim, name: does not name a person and one"):
        [*PttPpg().recordings(tmp_path / "d")]
    write_ptt(tmp_path / "e")
    edit(tmp_path / "e/s1_sit.hea", " 500 8000", " 500 7000")
    with pytest.raises(RecordingError, match="s1_sit, s1_sit.dat: expected .* bytes, found"):
        [*PttPpg().recordings(tmp_path / "e")]


@pytest.mark.parametrize("clock, samples", [
    (None, 8000), (lambda i: f"{i / 500:.3f}", 8000),
    (lambda i: f"2020-05-15 10:00:{i / 495:06.3f}", 7900)])   # a clock may be out by a little
def test_times_bear_the_rate_out_whatever_they_look_like(tmp_path, clock, samples):
    write_ptt_csv(tmp_path, clock=clock, values=ptt_samples()[:samples])
    one, = PttPpg(csv=True).recordings(tmp_path)
    assert one.signal("ecg").samples.shape == (1, samples)


@pytest.mark.parametrize("clock, lasts", [
    (lambda i: f"{i / 125:.3f}", "63.992"), (lambda i: "noon", "nan"), (lambda i: "3", "0")])
def test_times_that_contradict_the_rate_are_refused(tmp_path, clock, lasts):
    write_ptt_csv(tmp_path, clock=clock)
    with pytest.raises(RecordingError, match=f"s1_sit, time: 8000 samples in {lasts} s are not"):
        [*PttPpg(csv=True).recordings(tmp_path)]


@pytest.mark.parametrize("file, old, new, words", [
    ("s1_sit.csv", "pleth_3", "ppg", "s1_sit.csv: is no table with .*pleth_3"),
    ("s1_sit.csv", ":00.000000,", ":00.000000,high", "s1_sit.csv: is no table with .*high"),
    ("subjects_info.csv", "s1_sit", "s9_sit", "subjects_info.csv record: stands in 0 rows"),
    ("subjects_info.csv", ",sit,", ",run,", "subjects_info.csv activity: is 'run'"),
    ("subjects_info.csv", "gender", "sex", "subjects_info.csv: is no table with .*gender")])
def test_tables_that_are_not_as_published_are_refused(tmp_path, file, old, new, words):
    write_ptt_csv(tmp_path)
    edit(tmp_path / "csv" / file, old, new)
    with pytest.raises(RecordingError, match=f"^s1_sit, {words}") as e:
        [*PttPpg(csv=True).recordings(tmp_path)]
    assert e.value.remedy


def test_no_csv_file_at_all_is_said_and_so_is_the_other_layout(tmp_path):
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/subjects_info.csv").write_text("record\n")
    with pytest.raises(CohortError, match="option csv: .*holds no csv/.*csv=false"):
        [*PttPpg(csv=True).recordings(tmp_path)]


# MIMIC-III waveforms

def test_segments_are_what_the_whole_record_holds(tmp_path):
    "Against wfdb's own reading of a record of several segments."
    import wfdb
    write_stay(tmp_path)
    write_af(tmp_path, [(STAY, 0, 10, 0)])
    whole = wfdb.rdrecord(str(tmp_path / f"p00/p000020/{STAY}"), return_res=32)
    first, second = MimicIIIWdb().recordings(tmp_path)
    assert [o.name for o in (first, second)] == ["p000020-3544749_0001", "p000020-3544749_0003"]
    assert (first.subject, first.signal("ecg").leads, second.signal("ecg").leads) == (
        "p000020", ("II",), ("V",))
    for one, start, lead in ((first, 0, "II"), (second, 110 * 125, "V")):
        for key, channel in (("ecg", lead), ("ppg", "PLETH")):
            x = one.signal(key).samples[0]
            y = whole.p_signal[start:start + len(x), whole.sig_name.index(channel)]
            assert np.allclose(x, y, atol=1e-6)
    assert np.isnan(whole.p_signal[100 * 125:110 * 125]).all()


ROWS = [(STAY, 20, 50.5, 1), (STAY, 0, 20, 0), (STAY, 90, 140, 1), (STAY, 140, 180, 0)]


def test_packed_stays_have_the_truth_of_the_user_s_table(home, tmp_path):
    write_stay(tmp_path)
    write_af(tmp_path, ROWS)
    windowing = Windowing(signals=(("ppg", 42.0),), seconds=10, hop=10, beats=())
    windows = pack(MimicIIIWdb(), windowing, tmp_path)
    clock = dict(zip(("p000020-3544749_0001", "p000020-3544749_0003"), (0, 110)))
    def truth(start):
        "Each tenth of a second by itself."
        said = {next((af for _, a, b, af in ROWS if a <= t < b), None)
                for t in np.round(np.arange(start, start + 10, 0.1), 1)}
        return said.pop() if len(said) == 1 else None
    starts = [clock[o] + s for o, s in zip(windows.labels("recording"), windows.labels("start"))]
    found = [None if o is None or o != o else int(o) for o in windows.labels("af")]
    assert found == [truth(o) for o in starts] and set(found) == {0, 1, None}
    assert set(windows.labels("subject")) == {"p000020"} and len(found) == 17


def test_a_segment_without_a_signal_is_left_out_and_counted(home, tmp_path):
    write_stay(tmp_path, segments=((("II", "PLETH"), 60), (("RESP",), 40), (("II",), 35)))
    write_af(tmp_path, [(STAY, 0, 135, 1)])
    found = [*MimicIIIWdb().screened(tmp_path)]
    assert found[1] == LeftOut("p000020-3544749_0002", "segments without ecg and ppg")
    assert set(found[2].signals) == {"ecg"}
    windows = pack(MimicIIIWdb(), replace(mimic_iii_wdb.WINDOWINGS["paper"], beats=()), tmp_path)
    assert len(windows) == 2
    assert windows.report == {"segments without ecg and ppg": 1, "recordings without ppg": 1}


@pytest.mark.parametrize("rows, words", [
    ([(STAY, 0, 30, 1), (STAY, 29, 60, 0)], r"line 3: 29 to 60 s overlaps 0 to 30 s \(line 2\)"),
    ([(STAY, 10, 90, 1), (STAY, 20, 30, 1)], r"line 3: 20 to 30 s overlaps 10 to 90 s"),
    ([(STAY, 20, 30, 1), (STAY, 10, 90, 1)], r"line 2: 20 to 30 s overlaps 10 to 90 s \(line 3\)"),
    ([(STAY, 170, 181, 1)], "line 2: 170 to 181 s is no interval of a record of 180 s"),
    ([(STAY, -1, 10, 1)], "line 2: -1 to 10 s is no interval"),
    ([(STAY, 10, 10, 1)], "line 2: 10 to 10 s is no interval"),
    ([(STAY, "nan", 10, 1)], "line 2: nan to 10 s is no interval"),
    ([(STAY, 0, 10, 2)], "line 2 af: 2 is neither 0 nor 1"),
    ([(STAY, 0, "", 1)], "line 2: does not hold numbers"),
    ([(STAY, 0, 10, "AF")], "line 2: does not hold numbers")])
def test_intervals_that_overlap_or_leave_their_record_are_refused(tmp_path, rows, words):
    write_stay(tmp_path)
    write_af(tmp_path, rows)
    with pytest.raises(RecordingError, match=f"^{STAY}, af_intervals.csv {words}") as e:
        [*MimicIIIWdb().recordings(tmp_path)]
    assert "table" in e.value.remedy or "write" in e.value.remedy


def test_a_table_of_other_records_or_columns_is_refused(tmp_path):
    write_stay(tmp_path)
    with pytest.raises(CohortError, match="there is no .*af_intervals.csv.*columns record, start"):
        [*MimicIIIWdb().recordings(tmp_path)]
    write_af(tmp_path, [(STAY.replace("2183", "2184"), 0, 10, 1)])
    with pytest.raises(CohortError, match="af_intervals.csv: tells of p000020-2184"):
        [*MimicIIIWdb().recordings(tmp_path)]
    (tmp_path / "af_intervals.csv").write_text("record,begin,end,af\n")
    with pytest.raises(CohortError, match="af_intervals.csv: has no column start"):
        [*MimicIIIWdb().recordings(tmp_path)]
    (tmp_path / "none").mkdir()
    write_af(tmp_path / "none", [])
    with pytest.raises(CohortError, match="holds no p00/"):
        [*MimicIIIWdb().recordings(tmp_path / "none")]


def of_stay(old, new): return lambda o: edit(o / f"{STAY}.hea", old, new)
def of_segment(old, new): return lambda o: edit(o / "3544749_0001.hea", old, new)


@pytest.mark.parametrize("change, words", [
    (of_stay(" 125 22500", " 125 22600"), "number of samples: announces 22600 samples"),
    (of_stay("~ 1250", "../../x 1250"), "header: '../../x 1250' is no line of a record"),
    (of_stay("~ 1250", "~ -1"), "header: '~ -1' is no line"),
    (of_stay(f"{STAY}/4", "p000021-2183-04-28-17-47/4"), "header: 'p000021"),
    (of_stay(f"{STAY}/4", STAY), "header: .* is no line of a record of several"),
    (of_stay(" 125 22500", " 250 22500"), "rate: 3544749_0001 is at 125 Hz, the record at 250 Hz"),
    (of_stay("0001 12500\n~ 1250", "0001 12400\n~ 1350"),
     "number of samples: 3544749_0001 has 12500 samples, not 12400"),
    (lambda o: (o / f"{STAY}.hea").write_text(""), "header: '' is no line")])
def test_a_record_that_does_not_add_up_is_refused(tmp_path, change, words):
    write_stay(tmp_path)
    write_af(tmp_path, [(STAY, 0, 10, 0)])
    change(tmp_path / "p00/p000020")
    with pytest.raises(RecordingError, match=f"^{STAY}, {words}") as e:
        [*MimicIIIWdb().recordings(tmp_path)]
    assert e.value.remedy


@pytest.mark.parametrize("change, words", [
    (of_segment(" 125 12500", " 125 12400"), "number of samples"),
    (of_segment("/mV", "/uV"), "unit of II: is uV, not mV"),
    (lambda o: (o / "3544749_0001.dat").unlink(), "3544749_0001.dat: there is no"),
    (lambda o: (o / "3544749_0001.hea").unlink(), "header: there is no")])
def test_a_segment_that_is_not_as_published_is_refused(tmp_path, change, words):
    write_stay(tmp_path)
    write_af(tmp_path, [(STAY, 0, 10, 0)])
    change(tmp_path / "p00/p000020")
    with pytest.raises(RecordingError, match=words) as e: [*MimicIIIWdb().recordings(tmp_path)]
    assert "p000020" in e.value.where or "3544749_0001" in e.value.where


def test_options_are_those_that_the_readers_name():
    assert [o.name for o in fields(PttPpg)] == ["site", "csv"]
    assert not fields(PpgDalia) and not fields(MimicIIIWdb)
