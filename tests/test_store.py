"""The store: what goes in comes out, whole or not at all, whatever kills the packing."""
import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import Given, Noise, noise

import biossl
from biossl.cohorts.registry import get_cohort, locate
from biossl.data import places
from biossl.data import store as room
from biossl.data.errors import RecordingError, RequestError, SplitError, StoreError
from biossl.data.recordings import Recording, Signal
from biossl.data.splits import assert_one_name
from biossl.data.store import Windowing, join, open_windows, pack, store_key
from biossl.data.windowing import cut

PLAIN = Windowing(beats=(), seconds=10, hop=10)


def contents(folder):
    "Every file of a store as bytes."
    return {o.name: o.read_bytes() for o in sorted(Path(folder).iterdir())}


def recording(i, keys=("ecg", "ppg"), seconds=30, **kwargs):
    rng = np.random.default_rng(i)
    return Recording(f"r{i}", f"s{i}", {key: noise(rng, seconds, 125) for key in keys}, **kwargs)


@settings(deadline=None, max_examples=15,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(people=st.integers(1, 5), seconds=st.sampled_from([5, 10, 30]), seed=st.integers(0, 99),
       normalise=st.sampled_from(["none", "zscore", "minmax"]), moments=st.booleans())
def test_a_store_holds_what_was_cut(home, people, seconds, seed, normalise, moments):
    windowing = replace(PLAIN, seconds=seconds, hop=seconds, normalise=normalise, moments=moments)
    cohort = Noise(people, seed=seed)
    windows, cuts = pack(cohort, windowing), [cut(o, windowing) for o in cohort.recordings()]
    assert set(windows.arrays) == set(cuts[0].arrays)
    for key, array in windows.arrays.items():
        assert array.dtype == np.float32 and isinstance(array, np.memmap)
        assert np.array_equal(array, np.concatenate([o.arrays[key] for o in cuts]))
    for key in cuts[0].columns:
        expected = [tuple(v) if isinstance(v, list) else v for o in cuts for v in o.columns[key]]
        found = [None if v is None or v != v else v for v in windows.labels(key).tolist()]
        assert found == expected
    assert windows.report == {} and len(windows) == len(windows.index)


def test_the_same_request_is_found_and_gives_the_same_bytes(home, monkeypatch):
    first = pack(Noise(), PLAIN)
    before = contents(first.folder)
    made = first.folder.stat().st_mtime_ns
    assert pack(Noise(), PLAIN).folder.stat().st_mtime_ns == made
    monkeypatch.setenv("BIOSSL_HOME", str(home / "other"))
    again = pack(Noise(), PLAIN)
    assert again.folder != first.folder and contents(again.folder) == before


def test_the_key_changes_with_everything_that_changes_windows(monkeypatch):
    other = dict(signals=(("ppg", 42.0),), seconds=20, hop=5, filters=(("ecg", 1, 2),),
                 normalise="none", beats=("ecg",), purity=0.5, take="last", longest_gap=2,
                 moments=False, leads=(("ecg", ("II",)),), flattest=0.5,
                 gappiest=0.5, quality=("ecg",), clean="neurokit")
    assert set(other) == {o.name for o in fields(Windowing)}
    keys = [store_key(Noise(), replace(Windowing(), **{k: v})) for k, v in other.items()]
    keys += [store_key(Noise(), Windowing()), store_key(Noise(seed=1), Windowing())]
    monkeypatch.setattr(room, "VERSION", "next")
    keys += [store_key(Noise(), Windowing())]
    assert len(set(keys)) == len(keys)


def test_workers_change_nothing(home, monkeypatch):
    cohort = Noise(8)
    alone = contents(pack(cohort, PLAIN).folder)
    monkeypatch.setenv("BIOSSL_HOME", str(home / "two"))
    assert contents(pack(cohort, PLAIN, workers=2).folder) == alone


def test_an_error_in_a_worker_comes_back_whole(home):
    bad = Recording("bad", "s", recording(0).signals, labels={"start": 1})
    with pytest.raises(RecordingError, match="bad, start"): pack(Given((bad,)), PLAIN, workers=2)
    assert not list((home / "store").iterdir())


def test_batches_are_the_rows_asked_for(home):
    windows = pack(Noise(), PLAIN)
    rows = np.random.default_rng(0).integers(0, len(windows), 64)
    keys = ("ppg", "ecg_moments", "rhythm", "af", "codes", "rest")
    batch = windows.batch(rows, keys)
    frame = windows.index.iloc[rows]
    for key in ("ppg", "ecg_moments"):
        assert np.array_equal(batch[key], np.stack([windows.arrays[key][i] for i in rows]))
    assert batch["rhythm"].tolist() == [("AF", "SR").index(o) for o in frame.rhythm]
    assert batch["af"].tolist() == frame.af.tolist()
    assert batch["codes"].tolist() == [[int("a" in o), int("b" in o)] for o in frame.codes]
    assert windows.codes("codes")[1] == ("a", "b")
    assert batch["rest"].tolist() == [-1 if o is None else 0 for o in frame.rest]
    assert tuple(windows.batch(rows)) == windows.signals
    again = windows.batch(rows[::-1], keys[:2], out=batch)
    assert again["ppg"] is batch["ppg"]
    assert np.array_equal(batch["ppg"], np.stack([windows.arrays["ppg"][i] for i in rows[::-1]]))


def test_rows_and_labels_that_do_not_exist_are_refused(home):
    windows = pack(Noise(), PLAIN)
    for rows in ([len(windows)], [-1], [0, 10**9]):
        with pytest.raises(RequestError, match="rows"): windows.batch(rows)
    with pytest.raises(RequestError, match="rhythm"): windows.batch([0], ["rhytm"])
    assert windows.batch([])["ecg"].shape == (0, 1, 420)


def test_rows_are_selected_by_label_and_windows_travel_by_name(home):
    windows = pickle.loads(pickle.dumps(pack(Noise(), PLAIN)))
    rows = windows.select("subject", ["s0001", "s0003"])
    assert windows.labels("subject")[rows].tolist() == ["s0001"] * 7 + ["s0003"] * 7


def test_drops_are_counted_and_named(home):
    cohort = Given((recording(0), recording(1, ("ecg",)), recording(2, seconds=5), recording(3)))
    windows = pack(cohort, PLAIN)
    assert windows.report == {"recordings without ppg": 1, "recordings shorter than a window": 1}
    assert windows.dropped["recordings without ppg"] == ["r1"]
    assert set(windows.labels("recording")) == {"r0", "r3"}


def test_a_person_under_two_names_is_one_person(home):
    first = recording(0)
    twin = Recording("other", "else", dict(recording(9).signals, ppg=first.signals["ppg"]))
    windows = pack(Given((first, twin, recording(1))), PLAIN)
    assert windows.dropped == {"recordings equal to an earlier one": ["other = r0"]}
    assert set(windows.labels("subject")) == {"s0", "s1"}


def test_flat_and_empty_signals_are_nobodys_twin(home):
    parts = [np.zeros((1, 3750)), np.zeros((1, 3750)), np.full((1, 3750), np.nan)]
    flat = [Recording(f"f{i}", f"p{i}", dict(ecg=Signal(o, 125, ("II",), "mV"),
                                             ppg=recording(i).signals["ppg"]))
            for i, o in enumerate([*parts, parts[2]])]
    windows = pack(Given(tuple(flat)), PLAIN)
    assert windows.report == {"recordings with a flat ecg, kept": 4} and len(windows) == 12
    assert windows.labels("gap").tolist() == [False] * 6 + [True] * 6


def still(name, keys=("ppg",), upto=None):
    "A recording whose signals `keys` are 1 from start to end, or up to a sample."
    parts = {key: o.samples.copy() for key, o in recording(int(name[1:])).signals.items()}
    for key in keys: parts[key][:, :upto] = 1
    return Recording(name, f"p{name}", {key: Signal(o, 125, ("II",), "mV")
                                        for key, o in parts.items()})


def test_recordings_flat_from_end_to_end_are_named_and_kept_or_dropped(home):
    cohort = Given((recording(0), still("r1"), still("r2", ("ecg", "ppg")),
                    still("r3", upto=3000)))      # two of three windows of r3 are flat
    kept = pack(cohort, PLAIN)
    assert kept.flat == {"ppg": ["r1", "r2"], "ecg": ["r2"]} and len(kept) == 12
    assert kept.report == {"recordings with a flat ppg, kept": 2,
                           "recordings with a flat ecg, kept": 1}
    gated = pack(cohort, replace(PLAIN, flattest=0.99))
    assert gated.report == {"recordings with a flat ppg": 1, "recordings with a flat ecg": 1,
                            "windows of a flat signal": 2}
    assert gated.dropped["recordings with a flat ppg"] == ["r1"] and gated.flat == {}
    assert gated.labels("recording").tolist() == ["r0"] * 3 + ["r3"]


def test_a_dead_lead_does_not_make_a_recording_flat(home):
    signal = Signal(np.stack([np.ones(3750), np.random.default_rng(0).normal(size=3750)]), 125,
                    ("I", "II"), "mV")
    one = Given((Recording("a", "a", dict(ecg=signal)),))
    whole = replace(PLAIN, signals=(("ecg", 42),))
    assert pack(one, whole).flat == {}
    assert pack(one, replace(whole, leads=(("ecg", ("I",)),))).flat == {"ecg": ["a"]}


def test_joined_stores_name_the_flat_recordings_of_all(home):
    parts = [pack(Given(o), PLAIN) for o in ((still("r1"), recording(5)), (still("r2"),))]
    assert open_windows(join(parts, home / "both").folder).flat == {"ppg": ["r1", "r2"]}


def test_a_store_of_before_flat_recordings_were_counted_is_still_good(home):
    folder = pack(Noise(), PLAIN).folder
    report = json.loads((folder / "report.json").read_text())
    del report["flat"]
    (folder / "report.json").write_text(json.dumps(report))
    assert open_windows(folder).flat == {} == open_windows(folder).report


@pytest.mark.parametrize("where", [".", "..", "../.."])
def test_a_file_where_the_store_should_be_is_named(home, where):
    target = (room.store_folder(store_key(Noise(), PLAIN)) / where).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("not a folder")
    for ask in (lambda: pack(Noise(), PLAIN), lambda: open_windows(target)):
        with pytest.raises(StoreError, match="is a file.*BIOSSL_HOME") as e: ask()
        assert e.value.where == target
    assert target.read_text() == "not a folder"


def test_two_names_in_joined_stores_are_found(home):
    one = pack(Given((recording(0),)), PLAIN)
    two = pack(Given((Recording("x", "y", recording(0).signals),)), PLAIN)
    both = join([one, two], home / "both")
    with pytest.raises(SplitError, match="x, subject.*r0.*s0"): assert_one_name(both)
    assert_one_name(one)


@pytest.mark.parametrize("second, message", [
    (Recording("r0", "s9", recording(5).signals), "r0, name"),
    (Recording("b", "s9", dict(recording(5).signals, ecg=Signal(
        np.random.rand(2, 3750), 125, ("I", "II"), "mV"))), "b, ecg.*leads"),
    (Recording("b", "s9", dict(recording(5).signals, ecg=Signal(
        np.random.rand(1, 3000), 100, ("I",), "mV"))), "b, ecg.*shape")])
def test_recordings_that_do_not_fit_together_are_named(home, second, message):
    windowing = replace(PLAIN, signals=(("ecg", 0), ("ppg", 0)))
    with pytest.raises(RecordingError, match=message):
        pack(Given((recording(0), second)), windowing)
    assert not list((home / "store").iterdir())


def test_no_window_at_all_is_an_error_that_says_why(home):
    with pytest.raises(StoreError, match="given.*1 recordings without ppg"):
        pack(Given((recording(0, ("ecg",)),)), PLAIN)
    with pytest.raises(StoreError, match="no recording"): pack(Given(()), PLAIN)


def test_labels_may_differ_between_recordings(home):
    cohort = Given((recording(0, labels=dict(age=50, note="x")), recording(1, labels=dict(sex="F")),
                    recording(2, labels=dict(age=50.5, codes=()))))
    frame = pack(cohort, PLAIN).index.groupby("recording").first()
    assert frame.age.tolist()[::2] == [50, 50.5] and np.isnan(frame.age["r1"])
    assert frame.sex["r1"] == "F" and frame.sex.isna().sum() == 2
    torn = Given((recording(0, labels=dict(age=50)), recording(1, labels=dict(age="90+"))))
    with pytest.raises(StoreError, match="age"): pack(torn, PLAIN)


# -- faults ------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", ["truncate", "remove", "swap", "report", "version", "index"])
def test_a_damaged_store_is_refused_with_its_folder_and_remedy(home, damage):
    folder = pack(Noise(), PLAIN).folder
    report, index = folder / "report.json", folder / "index.parquet"
    if damage == "truncate": os.truncate(folder / "ppg.npy", 5000)
    if damage == "remove": (folder / "ppg.npy").unlink()
    if damage == "swap": shutil.copy(folder / "ecg_moments.npy", folder / "ppg.npy")
    if damage == "report": os.truncate(report, 20)
    if damage == "version": report.write_text(report.read_text().replace('"1"', '"0"'))
    if damage == "index": pd.read_parquet(index)[1:].to_parquet(index)
    with pytest.raises(StoreError, match=f"{folder.name}.*pack again"):
        len(pack(Noise(), PLAIN).index)


@pytest.mark.parametrize("limit", [1_000, 100_000])
def test_a_full_disk_is_said_plainly_and_leaves_nothing(home, limit):
    "The kernel itself refuses: no file may grow beyond `limit` bytes."
    pack(Noise(1), PLAIN)
    before = sorted(home.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreError, match="store.*full.*BIOSSL_HOME"): pack(Noise(20), PLAIN)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(home.rglob("*")) == before
    assert len(pack(Noise(20), PLAIN)) == 140


@pytest.mark.parametrize("place", ["_flush", "merge_indexes"])
def test_a_disk_that_fills_at_the_end_is_said_plainly_too(home, monkeypatch, place):
    def full(*args): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(places if place == "_flush" else room, place, full)
    with pytest.raises(StoreError, match="full"): pack(Noise(), PLAIN)
    assert not list((home / "store").iterdir())


def test_other_errors_of_the_system_are_not_called_a_full_disk(home, monkeypatch):
    def broken(*args): raise OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(places, "_flush", broken)
    with pytest.raises(OSError, match="Input/output"): pack(Noise(), PLAIN)


# A process of its own, that imports everything and then forks: each child packs and is killed at
# a random moment; `look` says what it left.
KILLS = """
import json, os, random, signal, sys, time
import scipy.signal, pandas, pyarrow.parquet
from made_up import Noise
from biossl.data.store import Windowing, pack, store_folder, store_key
cohort, windowing = Noise(12, seconds=300), Windowing(beats=(), seconds=10, hop=10)
target = store_folder(store_key(cohort, windowing))

def packing(delay=None):
    child = os.fork()
    if not child:
        try: pack(cohort, windowing)
        finally: os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

def look():
    if not target.exists(): return "absent"
    return {o.name: [o.stat().st_size, hash(o.read_bytes())] for o in sorted(target.iterdir())}

def gone():
    if target.exists():
        import shutil
        shutil.rmtree(target)

start = time.monotonic()
packing()
whole, took = look(), time.monotonic() - start
random.seed(int(sys.argv[1]))
seen = []
for k in range(20):
    gone()
    status = packing(took * random.uniform(0, 1.1))
    after = look()
    left = len(list(target.parent.glob(".*")))
    if after == "absent": packing()
    seen.append(dict(killed=status == 9, absent=after == "absent", left=left,
                     whole=after in ("absent", whole), next=look() == whole))
print(json.dumps(seen))
"""


def environment(home):
    "For a process of its own that uses this package and these tests' cohorts."
    paths = [str(Path(biossl.__file__).parents[1]), str(Path(__file__).parent)]
    return os.environ | dict(BIOSSL_HOME=str(home), PYTHONPATH=os.pathsep.join(paths),
                             OMP_NUM_THREADS="1")


def run(home, code, *args):
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], env=environment(home),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_twenty_kills_leave_the_store_whole_or_absent(home):
    seen = run(home, KILLS, 1)
    assert len(seen) == 20 and all(o["whole"] and o["next"] for o in seen)
    assert sum(o["killed"] and o["absent"] for o in seen) >= 5   # most came in the midst of it
    assert seen[-1]["left"] > 0                                  # passing folders lie about ...
    for folder in (home / "store").glob(".*"): os.utime(folder, (0, 0))
    pack(Noise(1), PLAIN)
    assert not list((home / "store").glob(".*"))                 # ... until the next pack sweeps


def test_two_packs_of_the_same_at_once_agree(home):
    code = """
import json
from made_up import Noise
from biossl.data.store import Windowing, pack
print(json.dumps(len(pack(Noise(12), Windowing(beats=(), seconds=10, hop=10)))))
"""
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment(home),
                             stdout=subprocess.PIPE) for _ in range(2)]
    assert [json.loads(o.communicate(timeout=60)[0]) for o in both] == [84, 84]
    assert len(list((home / "store").iterdir())) == 1


def test_memory_does_not_grow_with_the_cohort(home):
    code = """
import json, resource, sys
from made_up import Noise
from biossl.data.store import Windowing, pack
windows = pack(Noise(int(sys.argv[1]), seconds=300), Windowing(beats=(), seconds=10, hop=10))
size = sum(o.nbytes for o in windows.arrays.values()) / 1e6
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, size]))
"""
    (small, few), (large, many) = run(home, code, 5), run(home, code, 250)
    assert many - few > 20 and large - small < 10   # MB


# -- joining -----------------------------------------------------------------------------------

def test_shards_joined_are_the_cohort_packed_at_once(home):
    every = tuple(Noise(6).recordings())
    whole = pack(Given(every), PLAIN)
    shards = [pack(Given(every[i:i + 2]), PLAIN) for i in (0, 2, 4)]
    both = join(shards, home / "joined")
    assert both.index.equals(whole.index) and both.windowing == PLAIN
    for key in whole.arrays: assert np.array_equal(both.arrays[key], whole.arrays[key])
    assert open_windows(both.folder).report == {}


def test_shards_that_do_not_belong_together_are_refused(home):
    one, other = pack(Noise(2), PLAIN), pack(Noise(2, seed=1), replace(PLAIN, hop=5))
    with pytest.raises(StoreError, match="windowing"): join([one, other], home / "a")
    with pytest.raises(StoreError, match="r0000"): join([one, pack(Noise(3), PLAIN)], home / "a")
    with pytest.raises(StoreError, match="r0000"): join([one, one], home / "a")
    with pytest.raises(StoreError, match="nothing"): join([], home / "a")
    (home / "a").mkdir()
    with pytest.raises(StoreError, match="already"): join([one], home / "a")


# -- real recordings ---------------------------------------------------------------------------

@pytest.mark.real
def test_the_flat_recordings_that_are_here_are_kept_and_named(real_data):
    cohort = get_cohort("challenge_2015")
    folder = locate(cohort)
    names = {o.stem for o in (folder / "training").glob("*.hea")}
    windows = pack(cohort, Windowing(), folder)
    assert windows.flat == ({"ppg": ["b703l"]} if "b703l" in names else {})   # an unplugged sensor
    assert "b703l" not in names or "b703l" in set(windows.labels("recording"))


@pytest.mark.real
def test_the_cohort_of_the_first_table(real_data):
    "1,400 windows of 35 people, of which 760 in AF; samples as wfdb reads them."
    import wfdb

    cohort = get_cohort("mimic_perform_af")
    folder = locate(cohort)
    windows = pack(cohort, Windowing(signals=(("ecg", 0), ("ppg", 0)), normalise="none", beats=()),
                   folder)
    assert len(windows) == 1400 and windows.report == {} and windows.labels("af").sum() == 760
    assert windows.index.groupby("subject").size().tolist() == [40] * 35
    for key, column in (("ecg", 1), ("ppg", 0)):
        record = wfdb.rdrecord(str(folder / "mimic_perform_af_wfdb" / "mimic_perform_af_003"),
                               sampfrom=3750 * 7, sampto=3750 * 8, channels=[column])
        row = windows.select("recording", ["mimic_perform_af_003"])[7]
        assert np.allclose(windows.arrays[key][row, 0], record.p_signal[:, 0], atol=1e-4)
    flagged = windows.index[windows.labels("gap")].recording.unique().tolist()
    assert flagged == ["mimic_perform_non_af_006"]   # a run of 2.3 s


@pytest.mark.parametrize("name, content", [
    ("index.parquet", b"no table"), ("index.parquet", None), ("report.json", b"[1]"),
    ("report.json", b'{"version": "1"}'), ("ecg.npy", b"")])
def test_a_damaged_file_of_a_store_is_named(home, name, content):
    from biossl.cohorts.simulated import Simulated
    windows = pack(Simulated(subjects=2, seconds=30), Windowing())
    file = windows.folder / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(StoreError, match=name): open_windows(windows.folder).index  # noqa: B018
