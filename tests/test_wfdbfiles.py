"""PhysioNet records: decoded right, and never believed."""
import re
import socket
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from layouts import edit, write_wfdb

from biossl.data.errors import BiosslError, RecordingError
from biossl.data.wfdbfiles import listed_records, read_header, read_wfdb, signal_of

CHANNELS = [("II", "mV"), ("PLETH, finger", "NU")]


@pytest.fixture
def record(tmp_path):
    "The path of a sound record of two channels."
    write_wfdb(tmp_path, "a1", CHANNELS, 250, comments=["age: 60"])
    return tmp_path / "a1"


def test_samples_equal_a_plain_decoder(tmp_path):
    "Format 16 decoded by hand: interleaved little-endian integers, (count - baseline) / gain."
    write_wfdb(tmp_path, "a1", CHANNELS, 250)
    lines = (tmp_path / "a1.hea").read_text().splitlines()[1:]
    counts = np.frombuffer((tmp_path / "a1.dat").read_bytes(), "<i2").reshape(-1, 2).T
    found = read_wfdb(tmp_path / "a1")
    assert (found.digital() == counts).all()
    for row, line in enumerate(lines):
        gain, baseline = re.search(r" ([\d.]+)\((-?\d+)\)/", line).groups()
        plain = (counts[row].astype(float) - int(baseline)) / float(gain)
        np.testing.assert_allclose(found.samples[row], plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fmt, step", [("16", 1e-4), ("24", 1e-6), ("32", 1e-6), ("80", 1e-2),
                                       ("212", 1e-3)])
@pytest.mark.parametrize("samples", [500, 501])
def test_every_format_gives_back_what_was_written(tmp_path, fmt, step, samples):
    values = write_wfdb(tmp_path, "a1", CHANNELS[:1], 250, fmt=fmt, samples=samples)
    found = read_wfdb(tmp_path / "a1")
    assert found.samples.dtype == np.float32 and found.samples.shape == (1, samples)
    np.testing.assert_allclose(found.samples.T, values, atol=step)


@pytest.mark.parametrize("first, gain", [("16+24", "1000/mV"), ("16x1+24", "1000.0(0)/mv")])
def test_challenge_headers_of_all_releases(tmp_path, first, gain):
    counts = np.arange(-300, 300, dtype="<i2").reshape(-1, 2)
    (tmp_path / "A1.mat").write_bytes(bytes(24) + counts.tobytes())
    rows = [f"A1.mat {first} {gain} 16 0 {counts[0, i]} {int(counts[:, i].sum()) % 65536} 0 {name}"
            for i, name in enumerate(("I", "II"))]
    (tmp_path / "A1.hea").write_text(
        "\n".join(["A1 2 500 300 12-May-2020 12:33:59", *rows, "# Age: NaN", "#Sex: Male"]) + "\n")
    found = read_wfdb(tmp_path / "A1")
    assert found.names == ("I", "II") and found.comments == ("Age: NaN", "Sex: Male")
    np.testing.assert_allclose(found.samples, counts.T / 1000, rtol=1e-6)


def test_invalid_samples_are_missing(record):
    counts = np.frombuffer(record.with_suffix(".dat").read_bytes(), "<i2").copy()
    was, counts[20] = int(counts[20]), -32768
    record.with_suffix(".dat").write_bytes(counts.tobytes())
    line = record.with_suffix(".hea").read_text().splitlines()[1].split()
    now = (int(line[6]) - was - 32768) % 65536
    edit(record.with_suffix(".hea"), f" {line[6]} 0 II", f" {now} 0 II")
    found = read_wfdb(record)
    assert np.argwhere(np.isnan(found.samples)).tolist() == [[0, 10]]
    assert found.digital()[0, 10] == -32768


def test_channels_by_their_name_before_the_comma(record):
    whole, part = read_wfdb(record), read_wfdb(record, channels=["pleth", "II"])
    assert part.names == ("PLETH, finger", "II") and part.units == ("NU", "mV")
    assert (part.samples == whole.samples[::-1]).all() and part.gains == whole.gains[::-1]
    with pytest.raises(RecordingError, match=r"a1, channels.*no channel aVR.*remedy: .*II"):
        read_wfdb(record, channels=["aVR"])


def test_a_header_is_read_without_its_signals(record):
    record.with_suffix(".dat").unlink()
    header = read_header(record)
    assert (header.rate, header.length, header.units) == (250, 500, ("mV", "NU"))
    with pytest.raises(RecordingError, match=r"a1\.dat: there is no"): read_wfdb(record)


def test_a_cut_file_names_the_bytes(record):
    data = record.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[:-7])
    with pytest.raises(RecordingError, match=r"a1, a1\.dat: expected 2000 bytes, found 1993.*rem"):
        read_wfdb(record)


@pytest.mark.parametrize("place, channel", [(600, "II"), (602, "PLETH")])
def test_a_turned_bit_names_the_channel(record, place, channel):
    data = bytearray(record.with_suffix(".dat").read_bytes())
    data[place] ^= 8
    record.with_suffix(".dat").write_bytes(data)
    with pytest.raises(RecordingError, match=f"checksum of {channel}"): read_wfdb(record)


def test_samples_that_moved_by_one_are_found(record):
    "Rolled by a whole frame the checksums still agree; the first values do not."
    data = record.with_suffix(".dat").read_bytes()
    record.with_suffix(".dat").write_bytes(data[4:] + data[:4])
    with pytest.raises(RecordingError, match="initial value of II"): read_wfdb(record)


HOSTILE = [  # what is wrong, in the header's text, and the field that the error must name
    ("a1.dat 16", "../a1.dat 16", "file name"), ("a1.dat 16", "/etc/passwd 16", "file name"),
    ("a1.dat 16", "http://h/a 16", "file name"), ("a1.dat 16", "s3://h/a.dat 16", "file name"),
    ("a1.dat 16", "c:\\a.dat 16", "file name"), ("a1.dat 16", "a*.dat 16", "file name"),
    ("a1.dat 16", "- 16", "- "), ("a1.dat 16", "~ 16", "file name"),
    ("a1 2 250", "../a1 2 250", "record name"), ("a1 2 250", "a2 2 250", "record name"),
    ("a1 2 250", "a1/3 2 250", "several segments"), ("a1 2 250", "a1 3 250", "number of signals"),
    ("a1 2 250", "a1 0 250", "number of signals"), ("a1 2 250", "a1 99999999999 250", "signals"),
    ("250 500", "250 999999999999", "a1.dat"), ("250 500", "250 0", "number of samples"),
    ("250 500", "250 -500", "number of samples"), ("250 500", "250 5e2", "number of samples"),
    ("250 500", "250", "number of samples"), ("250 500", "0 500", "rate"),
    ("250 500", "nan 500", "rate"), ("250 500", "-250 500", "rate"), ("250 500", "inf 500", "rate"),
    ("dat 16 ", "dat 17 ", "format"), ("dat 16 ", "dat 516 ", "format"),
    ("dat 16 ", "dat x ", "format"),
    ("dat 16 ", "dat 16x4 ", "format"), ("dat 16 ", "dat 16:900000000 ", "format"),
    ("dat 16 ", "dat 16+900000000 ", "a1.dat"), ("dat 16 ", "dat 16+1 ", "a1.dat")]


@pytest.mark.parametrize("old, new, field", HOSTILE)
def test_a_hostile_header_is_refused_by_field(record, old, new, field):
    edit(record.with_suffix(".hea"), old, new)
    with pytest.raises(RecordingError) as caught: read_wfdb(record)
    assert caught.value.where == "a1" and field in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("gain", ["0", "0.0(5)", "-0", "nan", "inf", "1e999", "", "1e-99", "0e5"])
def test_a_gain_that_is_none_is_refused(record, gain):
    "wfdb itself would read 0 as 200, and a missing gain as well."
    text = record.with_suffix(".hea").read_text()
    record.with_suffix(".hea").write_text(re.sub(r"16 \S+/mV", f"16 {gain}/mV", text, count=1))
    with pytest.raises(RecordingError, match="a1, .*gain"): read_wfdb(record)


def test_a_unit_outside_ascii_is_not_shortened(record):
    "wfdb drops what is not ASCII: µV would come back as V."
    edit(record.with_suffix(".hea"), "/mV", "/µV")
    with pytest.raises(RecordingError, match="ASCII"): read_header(record)
    edit(record.with_suffix(".hea"), "/µV", "/mV")
    edit(record.with_suffix(".hea"), "age: 60", "Ärztin: Å 60")
    assert "rztin" in read_header(record).comments[0]


def test_channels_of_one_file_must_be_alike(record):
    text = record.with_suffix(".hea").read_text()
    record.with_suffix(".hea").write_text(text[::-1].replace(" 61 tad", " 42 tad", 1)[::-1])
    with pytest.raises(RecordingError, match="a1, format: .*not alike"): read_wfdb(record)


def test_channels_of_one_file_must_stand_together(tmp_path):
    write_wfdb(tmp_path, "a1", [("I", "mV"), ("II", "mV"), ("III", "mV")], 250)
    lines = (tmp_path / "a1.hea").read_text().splitlines()
    (tmp_path / "b.dat").write_bytes((tmp_path / "a1.dat").read_bytes()[::3])
    lines[2] = lines[2].replace("a1.dat", "b.dat")
    (tmp_path / "a1.hea").write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordingError, match="a1, format: .*side by side"):
        read_wfdb(tmp_path / "a1")


def test_a_file_longer_than_its_header_says_is_refused(record):
    with open(record.with_suffix(".dat"), "ab") as f: f.write(bytes(2))
    with pytest.raises(RecordingError, match="expected 2000 bytes, found 2002"): read_wfdb(record)


def test_a_record_without_signals_is_refused(tmp_path):
    (tmp_path / "a1.hea").write_text("a1 0 250 500\n")
    with pytest.raises(RecordingError, match="a1, number of signals: is 0"):
        read_header(tmp_path / "a1")


def test_a_folder_that_reads_as_an_address_is_refused(record):
    for name in ("a::b", "[ab]", "a*"):
        folder = record.parent / name
        folder.mkdir()
        for suffix in (".hea", ".dat"):
            (folder / f"a1{suffix}").write_bytes(record.with_suffix(suffix).read_bytes())
        with pytest.raises(RecordingError, match="a1, path: .*rename"): read_wfdb(folder / "a1")


def test_missing_empty_and_huge_headers(tmp_path):
    with pytest.raises(RecordingError, match="no1, header: there is no"):
        read_header(tmp_path / "no1")
    (tmp_path / "a1.hea").write_text("# nothing but talk\n")
    with pytest.raises(RecordingError, match="a1, header: is empty"): read_header(tmp_path / "a1")
    (tmp_path / "a1.hea").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(RecordingError, match="a1, header: has 1048577 bytes"):
        read_header(tmp_path / "a1")


def test_a_list_of_records_stays_in_its_folder(tmp_path):
    (tmp_path / "RECORDS").write_text("p00/a1\na2\n")
    assert listed_records(tmp_path) == [tmp_path / "p00/a1", tmp_path / "a2"]
    for bad in ("../a1", "/a1", "a1\na1", "\n"):
        (tmp_path / "RECORDS").write_text(bad)
        with pytest.raises(BiosslError): listed_records(tmp_path)
    (tmp_path / "RECORDS").unlink()
    with pytest.raises(RecordingError, match="RECORDS: there is no"): listed_records(tmp_path)


def test_a_signal_has_the_published_unit_and_rate(record):
    found = read_wfdb(record)
    assert signal_of(found, "II", lead="II", unit="mv", rate=250).leads == ("II",)
    with pytest.raises(RecordingError, match="a1, unit of II: is mV, not uV"):
        signal_of(found, "II", lead="II", unit="uV", rate=250)
    with pytest.raises(RecordingError, match="a1, rate: is 250 Hz, not 125 Hz"):
        signal_of(found, "II", lead="II", unit="mV", rate=125)


def test_whatever_wfdb_raises_names_the_record(record, monkeypatch):
    import wfdb
    def fail(*_, **__): raise KeyError("deep inside")
    monkeypatch.setattr(wfdb, "rdrecord", fail)
    with pytest.raises(RecordingError, match="a1, header: cannot be read: KeyError.*deep inside"):
        read_wfdb(record)


# Fuzzing: any change to a sound header gives a record or our own error, without net and cheaply.

def _changes():
    place = st.floats(0, 1, exclude_max=True)
    numbers = st.sampled_from(["0", "-1", "1", "3", "16", "999999999", "9" * 12, "9" * 40, "1e9",
                               "nan", "../x", "http://h/x", "212", "-", "", "a1.dat", "16+24"])
    return st.lists(st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("cut"), place, st.integers(1, 20)),
        st.tuples(st.just("put"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("word"), place, numbers)), min_size=1, max_size=4)


def _mutated(raw: bytes, changes) -> bytes:
    for kind, place, what in changes:
        at = int(place * max(len(raw), 1))
        if kind == "flip" and raw: raw = raw[:at] + bytes([raw[at] ^ 1 << what]) + raw[at + 1:]
        if kind == "cut": raw = raw[:at] + raw[at + what:]
        if kind == "put": raw = raw[:at] + what + raw[at:]
        if kind == "word":
            words = list(re.finditer(rb"\S+", raw))
            if words:
                hit = words[int(place * len(words))]
                raw = raw[:hit.start()] + what.encode() + raw[hit.end():]
    return raw


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write_wfdb(folder, "a1", CHANNELS, 250, comments=["age: 60"])
    return folder / "a1", (folder / "a1.hea").read_bytes(), read_wfdb(folder / "a1")


@settings(max_examples=400, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=_changes())
@example(changes=[("word", 0.1, "999999999")])
def test_any_header_gives_a_record_or_our_own_error(sound, monkeypatch, changes):
    path, raw, whole = sound
    def refuse(*_, **__): raise AssertionError("the net was asked")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path.with_suffix(".hea").write_bytes(_mutated(raw, changes))
    tracemalloc.start()
    try: found = read_wfdb(path)
    except RecordingError as e:
        assert e.where == "a1" and e.remedy and "AssertionError" not in str(e)
    else:  # never other samples than those that were written
        assert set(map(bytes, found.counts)) <= set(map(bytes, whole.counts))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20_000_000, f"{peak} bytes for a record of 2000"


@pytest.mark.real
def test_real_headers_are_all_read(real_data):
    from biossl.cohorts.registry import get_cohort, locate
    folder = locate(get_cohort("challenge_2015"))
    headers = [read_header(o) for o in listed_records(folder / "training")]
    assert len(headers) == 144 and {o.rate for o in headers} == {250}
    assert sorted({len(o.names) for o in headers}) == [3, 4]
