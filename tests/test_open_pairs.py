"""Pairs of ECG and PPG from several cohorts: one deal for all tasks, who is kept, what is refused."""
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import write_bidmc, write_challenge_2015, write_mimic_perform_af, write_wfdb

from biossl.cohorts.open_pairs import APART, MEMBERS, SAME_SIGNAL, OpenPairs, unpaired
from biossl.cohorts.registry import at_hand, get_cohort, locate
from biossl.data.errors import CohortError, RecordingError, RequestError, SplitError
from biossl.data.recordings import LeftOut, Recording, Signal
from biossl.data.splits import assert_disjoint, cohort_folds
from biossl.data.store import pack
from biossl.data.windowing import Windowing, cut
from biossl.train.pretrain import gate_table
from biossl.train.runs import truth_of

PAIRS = Windowing(signals=(("ecg", 100.0), ("ppg", 100.0)), seconds=10, hop=10, beats=(),
                  filters=(("ecg", 0.5, 40.0), ("ppg", 0.5, 8.0)), normalise="minmax", flattest=0.5)

# ---- one fold for each person of a whole cohort

CLASSES = ["a/x", "a/y", "b/x", "b/rare", "b/rarer", "c"]


@st.composite
def people(draw):
    "Who, and of which class: windows in any order, now and then without a stratum."
    each = draw(st.lists(st.sampled_from(CLASSES), min_size=6, max_size=60))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    count = random.integers(1, 5, len(each))
    order = random.permutation(count.sum())
    names = np.repeat([f"p{i}" for i in range(len(each))], count)[order]
    strata = np.repeat(np.array(each, object), count)[order]
    known = {name: i for i, name in enumerate(names.tolist())}.values()   # one window of each
    strata[[i for i in range(len(names)) if i not in known and random.random() < 0.3]] = None
    return names, strata, dict(zip(names[list(known)], strata[list(known)]))


@settings(deadline=None, max_examples=40)
@given(made=people(), folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_everybody_has_one_fold_and_classes_that_can_are_spread(made, folds, seed):
    names, strata, of_person = made
    fold = cohort_folds(names, strata, folds, seed)
    of = dict(zip(names.tolist(), fold.tolist()))
    assert all(of[name] == f for name, f in zip(names.tolist(), fold.tolist()))
    for k in range(folds): assert_disjoint(names[fold != k], names[fold == k])
    count = Counter(of_person.values())
    for label in [o for o in count if count[o] >= folds]:
        held = Counter(of[name] for name, o in of_person.items() if o == label)
        held = [held[k] for k in range(folds)]
        assert max(held) - min(held) <= 1
    size = Counter(of.values())
    assert max(size.values()) - min(size.values()) <= 1


def test_small_classes_are_dealt_out_with_their_source():
    "Six people of six classes are one class of six; left alone, each would be dealt by chance."
    strata = np.array(["b/0"] + ["a/x"] * 29 + ["b/1"] + ["c/x"] * 20 + [f"b/{o}" for o in "2345"])
    small = np.char.startswith(strata, "b")
    for seed in range(20):
        fold = cohort_folds(np.arange(55), strata, 3, seed)
        assert np.bincount(fold[small]).tolist() == [2, 2, 2]


@settings(deadline=None, max_examples=20)
@given(made=people(), seed=st.integers(0, 99))
def test_names_do_not_matter_but_seeds_do(made, seed):
    names, strata, _ = made
    spelt = np.array([o[::-1] for o in names.tolist()])   # in another order of the alphabet
    assert np.array_equal(cohort_folds(names, strata, 3, seed), cohort_folds(spelt, strata, 3, seed))


def test_seeds_give_other_cohort_folds():
    strata = np.array(["a/x", "a/y"])[np.arange(40) % 2]
    one, other = (cohort_folds(np.arange(40), strata, 5, seed) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_the_first_known_stratum_of_a_person_counts():
    names = np.repeat(np.arange(20), 3)
    clean = np.array(["a/x", "a/y"], object)[names % 2]
    mixed = clean.copy()
    mixed[::3], mixed[2::3] = None, "a/z"
    assert np.array_equal(cohort_folds(names, mixed, 5), cohort_folds(names, clean, 5))


@pytest.mark.parametrize("subjects, strata, folds, message", [
    ([], [], 5, "no window"),
    (["a", "b", "c"], ["x"] * 3, 4, "4 folds of 3 subjects.*at most 3"),
    (["a", "b"], ["x"] * 2, 1, "nothing to train on"),
    (["a", "b", "c"], ["x"] * 2, 2, "3 subjects but 2 strata"),
    (["a", None, "c"], ["x"] * 3, 2, "1 windows are nobody's"),
    (["a", float("nan"), ""], ["x"] * 3, 2, "2 windows are nobody's"),
    (["a", "b", "b"], ["x", None, float("nan")], 2, "1 labels are missing"),
    (["a", "b", "c"], [60.5, 71.2, 80.0], 2, "measures")])
def test_cohort_folds_that_cannot_be_are_refused(subjects, strata, folds, message):
    with pytest.raises(SplitError, match=message): cohort_folds(subjects, strata, folds)


def test_without_strata_numbers_are_balanced():
    fold = cohort_folds(np.repeat(np.arange(23), 2), None, 5)
    assert sorted(np.bincount(fold[::2]).tolist()) == [4, 4, 5, 5, 5]


# ---- the cohort, on small files

ALARMS = [("a1l", "Asystole", 1), ("b1s", "Bradycardia", 0)]


@pytest.fixture
def members(tmp_path, home, monkeypatch):
    "Two alarms, two recordings of one person, and four people of MIMIC, offered by BIOSSL_DATA."
    write_challenge_2015(tmp_path / "in/challenge_2015", ALARMS)
    write_bidmc(tmp_path / "in/bidmc", 4, "s1", seconds=40, sex="F", age="90+")
    write_bidmc(tmp_path / "in/bidmc", 5, "s1", seconds=40, sex="?", age="NaN")
    write_mimic_perform_af(tmp_path / "in/mimic_perform_af", subjects=("p1", "p2"))
    for group, seeds in (("af", (31, 32)), ("non_af", (33, 34))):   # noise of one's own for each
        for i, seed in enumerate(seeds, 1):
            write_wfdb(tmp_path / f"in/mimic_perform_af/mimic_perform_{group}_wfdb",
                       f"mimic_perform_{group}_{i:03}", [("PPG, finger", "NU"),
                       ("ECG, bedside, lead " + "IV"[i - 1], "mV")], 125, samples=125 * 30, seed=seed,
                       comments=[f"<Original Subject ID>: p{seed} <Original File>: 1"])
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path / "in"))
    return tmp_path / "in"


def screened(cohort):
    "Kept recordings by name, and the names left out by reason."
    kept, left = {}, {}
    for o in cohort.screened(locate(cohort)):
        if isinstance(o, LeftOut): left.setdefault(o.reason, []).append(o.recording)
        else: kept[o.name] = o
    return kept, left


def more_alarms(members, name, channels, **more):
    "One more recording of Challenge 2015."
    inner = members / "challenge_2015/training"
    write_wfdb(inner, name, channels, 250, comments=["Asystole", "True alarm"], **more)
    for file, line in (("RECORDS", name), ("ALARMS", f"{name},Asystole,1")):
        (inner / file).write_text((inner / file).read_text() + line + "\n")


def test_everybody_is_there_once_under_a_name_of_their_source(members):
    kept, left = screened(OpenPairs())
    assert {name: o.subject for name, o in kept.items()} == {
        "a1l": "challenge_2015:a1l", "b1s": "challenge_2015:b1s", "bidmc_04": "bidmc:s1",
        "bidmc_05": "bidmc:s1", "mimic_perform_af_001": "mimic_perform_af:p31",
        "mimic_perform_af_002": "mimic_perform_af:p32",
        "mimic_perform_non_af_001": "mimic_perform_af:p33",
        "mimic_perform_non_af_002": "mimic_perform_af:p34"} and left == {}
    for o in kept.values():
        assert list(o.signals) == ["ecg", "ppg"] and o.cohort == "open_pairs"
        assert [len(x.samples) for x in o.signals.values()] == [1, 1]
        assert unpaired(o) is None
    assert kept["bidmc_04"].signals["ecg"].leads == ("II",)
    assert kept["mimic_perform_af_002"].labels["lead"] == "V"
    assert kept["a1l"].seconds == 300                         # up to the alarm
    assert list(screened(OpenPairs("bidmc"))[0]) == ["bidmc_04", "bidmc_05"]


def test_labels_stand_side_by_side_and_what_is_not_told_is_missing(members):
    windows = pack(OpenPairs(), PAIRS, locate(OpenPairs()))
    assert len(windows) == 2 * 30 + 2 * 4 + 4 * 3
    index = windows.index.groupby("recording").first(skipna=False)
    assert index.stratum.to_dict() == {
        "a1l": "challenge_2015/Asystole, true", "b1s": "challenge_2015/Bradycardia, false",
        "bidmc_04": "bidmc", "bidmc_05": "bidmc", "mimic_perform_af_001": "mimic_perform_af/AF",
        "mimic_perform_af_002": "mimic_perform_af/AF",
        "mimic_perform_non_af_001": "mimic_perform_af/non-AF",
        "mimic_perform_non_af_002": "mimic_perform_af/non-AF"}
    source = windows.labels("source")
    known = {o.name: truth_of(windows, o) for o in OpenPairs.tasks}
    known = {o: np.isfinite(x) & (x >= 0) for o, x in known.items()}
    told = {o: sorted(set(source[rows])) for o, rows in known.items()}
    assert told == {"af": ["mimic_perform_af"], "true_alarm": ["challenge_2015"],
                    "alarm_type": ["challenge_2015"], "heart_rate": ["bidmc"],
                    "resp_rate": ["bidmc"], "spo2": ["bidmc"], "age": ["bidmc"], "sex": ["bidmc"]}
    by = lambda o: set(windows.labels("recording")[known[o]])  # noqa: E731
    assert by("age") == by("sex") == {"bidmc_04"} and known["af"].sum() == 12
    assert truth_of(windows, OpenPairs().task("sex"))[known["sex"]].tolist() == [1] * 4   # female
    assert truth_of(windows, OpenPairs().task("af")).max() == 1
    fold = cohort_folds(windows.labels("subject"), windows.labels("stratum"), 3)
    assert set(fold.tolist()) == {0, 1, 2}


def test_a_recording_of_one_signal_or_seen_before_is_left_out(members):
    more_alarms(members, "c1s", [("II", "mV"), ("V", "mV")], samples=75_000, seed=70)
    more_alarms(members, "c2s", [("V", "mV"), ("PLETH", "NU")], samples=75_000, seed=71)
    again = np.random.default_rng(0).uniform(-1, 1, (82_500, 2))   # the ECG of a1l, another PPG
    again[:, 1] = np.random.default_rng(72).uniform(-1, 1, 82_500)
    more_alarms(members, "c3l", [("II", "mV"), ("PLETH", "NU")], samples=82_500, values=again)
    kept, left = screened(OpenPairs("challenge_2015"))
    assert left == {"recordings without ppg": ["challenge_2015/c1s"],
                    "recordings without ecg": ["challenge_2015/c2s"],
                    SAME_SIGNAL: ["challenge_2015/c3l = challenge_2015/a1l"]}
    assert list(kept) == ["a1l", "b1s"]
    windows = pack(OpenPairs("challenge_2015"), PAIRS, locate(OpenPairs("challenge_2015")))
    assert windows.report == {"recordings without ppg": 1, "recordings without ecg": 1,
                              SAME_SIGNAL: 1}


def test_flat_signals_are_nobodys_copies_and_their_windows_are_counted(members):
    random = np.random.default_rng(80)
    for name, key in (("d1s", 1), ("d2s", 1), ("d3s", 0)):
        values = random.uniform(-1, 1, (75_000, 2))
        values[:, key] = 0.25
        more_alarms(members, name, [("II", "mV"), ("PLETH", "NU")], values=values)
    values = random.uniform(-1, 1, (75_000, 2))
    values[250 * 10:250 * 36, 1] = 0.25                       # flat from 10 to 36 s
    more_alarms(members, "d4s", [("II", "mV"), ("PLETH", "NU")], values=values)
    windows = pack(OpenPairs("challenge_2015"), PAIRS, locate(OpenPairs("challenge_2015")))
    assert windows.dropped == {"recordings with a flat ppg": ["d1s", "d2s"],
                               "recordings with a flat ecg": ["d3s"],
                               "windows of a flat signal": ["d4s"] * 3}
    there = windows.index[windows.index.recording == "d4s"].start
    assert there.tolist() == [0, *range(40, 300, 10)]


# ---- what is not synchronous is never paired

def pair(ecg_rate=250, ppg_rate=125, ecg_seconds=60.0, ppg_seconds=60.0, offset=0.0, at=None):
    "A recording whose signals are noise, or each one bump `at` a second of its own clock."
    def signal(rate, seconds, offset, seed):
        t = np.arange(round(rate * seconds)) / rate
        if at is None: return np.random.default_rng(seed).normal(size=(1, len(t)))
        return np.exp(-((t + offset - at) / 0.05)**2 / 2)[None]
    return Recording("r", "s", dict(
        ecg=Signal(signal(ecg_rate, ecg_seconds, 0, 1), ecg_rate, ("II",), "mV"),
        ppg=Signal(signal(ppg_rate, ppg_seconds, offset, 2), ppg_rate, ("PLETH",), "NU", offset)))


@pytest.mark.parametrize("changed", [dict(offset=0.5), dict(offset=-0.1), dict(ppg_seconds=59.0),
                                     dict(ecg_seconds=61.0), dict(offset=1.0, ecg_seconds=61.0)])
def test_signals_of_another_time_are_no_pair(changed):
    assert unpaired(pair(**changed)) == APART and unpaired(pair()) is None


@settings(deadline=None, max_examples=15)
@given(rates=st.tuples(*[st.sampled_from([100, 125, 128, 250, 500])] * 2),
       at=st.floats(1.0, 9.0))
def test_unequal_rates_stay_aligned(rates, at):
    "What happens at one time stands at one sample in both windows, to within one of 10 ms."
    made = cut(pair(*rates, at=at), Windowing(signals=PAIRS.signals, seconds=10, hop=10, beats=(),
                                              normalise="none"))
    tops = [made.arrays[key][0, 0].argmax() / 100 for key in ("ecg", "ppg")]
    assert abs(tops[0] - at) < 0.011 and abs(tops[1] - at) < 0.011


def test_nobody_is_nameless():
    with pytest.raises(RecordingError, match="needs a name and a subject"):
        Recording("r", "", pair().signals)


def test_members_not_at_hand_are_named(members, monkeypatch):
    assert at_hand(OpenPairs()).count("; ") == 2
    monkeypatch.setenv("BIOSSL_DATA", str(members / "bidmc"))
    with pytest.raises(CohortError, match="not at hand: challenge_2015, bidmc, mimic_perform_af"):
        locate(OpenPairs())
    assert get_cohort("open_pairs", members="bidmc, challenge_2015") == OpenPairs(
        "challenge_2015,bidmc")
    assert OpenPairs(",".join(reversed(MEMBERS))) == OpenPairs()
    with pytest.raises(RequestError, match="no member bidcm.*bidmc"): OpenPairs("bidcm")


# ---- what a gate of quality removes

def test_what_the_gate_removes_is_counted_by_source_and_class(members):
    scored = replace(PAIRS, quality=("ecg", "ppg"))
    windows = pack(OpenPairs(), scored, locate(OpenPairs()))
    worst = np.minimum(*(windows.labels(f"{o}_quality") for o in ("ecg", "ppg")))
    least = float(np.median(worst))
    table = gate_table(windows, least)
    assert list(table.columns) == ["source", "class", "windows", "kept", "share"]
    assert table.windows.sum() == len(windows) and table.kept.sum() == (worst >= least).sum()
    for line in table.itertuples(index=False):
        mine = windows.labels("stratum") == "/".join(o for o in line[:2] if o)
        assert (line.windows, line.kept) == (mine.sum(), (worst[mine] >= least).sum())
        assert line.share == pytest.approx(line.kept / line.windows)
    assert table["class"].tolist()[:3] == ["Asystole, true", "Bradycardia, false", ""]
    assert gate_table(windows, 0).share.min() == 1
    with pytest.raises(RequestError, match="tell no quality.*quality="):
        gate_table(pack(OpenPairs(), PAIRS, locate(OpenPairs())))


# ---- the recordings at hand

@pytest.mark.real
def test_the_card_counts_what_is_at_hand(real_data):
    kept, left = screened(OpenPairs())
    card = OpenPairs.card
    assert left == {} and len(kept) == card.recordings
    assert len({o.subject for o in kept.values()}) == card.subjects
    assert sum(o.seconds for o in kept.values()) / 3600 == pytest.approx(card.hours, abs=0.01)
    assert Counter(o.labels["source"] for o in kept.values()) == {
        "challenge_2015": 144, "bidmc": 53, "mimic_perform_af": 35}
    assert sum(o.labels["lead"] == "II" for o in kept.values()) == 229
    strata = Counter(o.labels["stratum"] for o in kept.values())
    assert strata["mimic_perform_af/AF"] == 19 and strata["challenge_2015/Asystole, true"] == 17
    assert len(strata) == 1 + 2 + 10
