"""The command line: what it says, with what exit status, with and without recordings."""
import re

import pytest
from typer.testing import CliRunner

import biossl.command as command
from biossl.cohorts.registry import cohort_names

RUNNER = CliRunner()
COMMANDS = ("cohorts", "doctor", "fetch", "pack", "run", "grid", "tables")


def told(*words, ok=True):
    "What a command prints; it must end well unless `ok` is false."
    result = RUNNER.invoke(command.app, list(words), catch_exceptions=True)
    if ok: assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(monkeypatch, capsys, *words):
    "The one line on stderr with which the program ends, status 2."
    monkeypatch.setattr("sys.argv", ["biossl", *words])
    with pytest.raises(SystemExit) as end: command.main()
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("biossl: "), lines
    return lines[0]


def test_tables_declared_as_a_tuple_are_found_by_name():
    assert command.find_table("xmae_transfer.efficiency_af").name == "efficiency_af"
    assert {"table1_ptbxl_sub_10", "table3_csn"} <= {
        o.name for o in command.declared_tables("10_cgdmer")}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_worth_reading(name):
    text = told(name, "--help")
    about = text.split("Usage:")[1].splitlines()[2:]
    assert len(" ".join(about).split()) > 10


def test_the_help_names_every_command():
    text = told("--help")
    assert all(re.search(rf"^\s+{name}\b", text, re.M) for name in COMMANDS)


def test_cohorts_without_recordings_has_only_the_simulated(home):
    lines = {line.split()[0]: line for line in told("cohorts").splitlines() if line.strip()}
    assert set(cohort_names()) <= set(lines)
    made = {o for o in cohort_names() if o.startswith("simulated")}
    assert all("made" in lines[o] for o in made)
    assert all("not at hand" in lines[o] for o in set(cohort_names()) - made)


@pytest.fixture
def unmeasured(monkeypatch):
    "The doctor measures nothing: `test_doctor` lets it."
    monkeypatch.setattr("biossl.doctor.pack_seconds", lambda rates: [0.01 for _ in rates])
    monkeypatch.setattr("biossl.doctor.learn_speed", lambda *_: 1e9)


def test_doctor_names_home_data_and_what_is_missing(home, tmp_path, monkeypatch, unmeasured):
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path / "nowhere"))
    text = told("doctor")
    assert str(home) in text and f"{tmp_path / 'nowhere'}: no such folder" in text
    bidmc = next(o for o in text.splitlines() if o.split()[:1] == ["bidmc"])
    assert "biossl fetch" in bidmc
    assert "packed at 500 Hz 192.01" in text


@pytest.mark.real
def test_cohorts_and_doctor_see_the_recordings_at_hand(real_data, unmeasured):
    for name in ("cohorts", "doctor"):
        line = next(o for o in told(name).splitlines() if o.split()[:1] == ["mimic_perform_af"])
        assert "mimic_perform_af.tar.xz" in line or "unpacked" in line


def test_cohorts_counts_what_lies_in_a_folder(home, tmp_path, monkeypatch):
    training = tmp_path / "challenge_2015" / "training"
    training.mkdir(parents=True)
    for name in ("ALARMS", "a103l.hea", "b215s.hea"): (training / name).touch()
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path))
    line = next(o for o in told("cohorts").splitlines() if o.split()[:1] == ["challenge_2015"])
    assert line.split()[1:4] == ["750", "750", "2"]


def test_pack_tells_windows_and_finds_them_again(home):
    words = ("pack", "simulated", "-o", "subjects=3", "-o", "seconds=65")
    first = told(*words)
    assert first.startswith("6 windows of 3 subjects")
    assert told(*words) == first
    assert len(list((home / "store").iterdir())) == 1


def test_wrong_names_are_one_line_with_the_nearest_right_one(home, monkeypatch, capsys):
    assert "simulated" in refused(monkeypatch, capsys, "pack", "simulatd")
    assert "subjects" in refused(monkeypatch, capsys, "pack", "simulated", "-o", "subject=3")
    assert "name=value" in refused(monkeypatch, capsys, "pack", "simulated", "-o", "subjects")
    assert "protocol" in refused(monkeypatch, capsys, "grid", "protocoll.table1")
    assert "table1" in refused(monkeypatch, capsys, "grid", "protocol.tabel1")
    assert "02_protocol" in refused(monkeypatch, capsys, "run", "02_protocl")
    assert "profile" in refused(monkeypatch, capsys, "run", "02", "-p", "profil=smoke")
    assert "biossl fetch" in refused(monkeypatch, capsys, "pack", "bidmc")
    assert "biossl fetch" in refused(monkeypatch, capsys, "run", "02", "-p", "cohort=bidmc")
    assert "workers" in refused(monkeypatch, capsys, "grid", "protocol.table1", "--workers", "two")
    assert "hop" in refused(monkeypatch, capsys, "pack", "simulated", "--hop", "0")
    for name, value in (("hop", "1e-9"), ("rate", "1e7"), ("rate", "nan"), ("seconds", "0"),
                        ("seconds", "-30"), ("seconds", "nan"), ("hop", "nan")):
        line = refused(monkeypatch, capsys, "pack", "simulated", f"--{name}", value)
        assert {"rate": "signals: a rate"}.get(name, name) in line and "windowing" in line
    for option in ("subjects=abc", "subjects=2.5", "seconds=NaN", "clip=3"):
        line = refused(monkeypatch, capsys, "pack", "simulated", "-o", option)
        assert f"simulated, option {option.partition('=')[0]}" in line and "is not" in line
    assert not home.exists() or not any((home / "store").glob("*"))


def test_an_unknown_command_ends_non_zero():
    assert RUNNER.invoke(command.app, ["packk"]).exit_code != 0


def test_a_run_that_cannot_be_leaves_earlier_results_alone(home, tmp_path, monkeypatch, capsys):
    grid = ("grid", "protocol.table2_subjects", "--profile", "smoke", "--workers", "1",
            "--out", str(tmp_path))
    told(*grid)
    stored = {o: o.read_bytes() for o in (tmp_path / "02_protocol").iterdir()}
    assert "seed" in refused(monkeypatch, capsys, *grid, "--seed", "-1")
    monkeypatch.setattr("biossl.train.launch.pack", lambda *_, **__: 1 / 0)
    assert "failed" in refused(monkeypatch, capsys, *grid, "--seed", "7")
    assert stored == {o: o.read_bytes() for o in (tmp_path / "02_protocol").iterdir()}


def test_a_home_that_cannot_be_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BIOSSL_HOME", str(tmp_path / "file"))
    assert "file" in refused(monkeypatch, capsys, "pack", "simulated", "-o", "subjects=2")


def test_a_wrong_archive_does_not_stand_in_the_right_ones_way(home, tmp_path, monkeypatch, capsys):
    import tarfile
    (tmp_path / "note.txt").write_text("not a cohort")
    with tarfile.open(tmp_path / "ludb.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "note.txt", "ludb/note.txt")
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path))
    assert "does not hold" in refused(monkeypatch, capsys, "pack", "ludb", "--signals", "ecg")
    assert not (home / "unpacked" / "ludb").exists()


def test_a_grid_is_computed_stored_and_rebuilt(home, tmp_path):
    out = tmp_path / "out"
    told("grid", "protocol.table2_subjects", "--profile", "smoke", "--workers", "1",
         "--out", str(out))
    folder = out / "02_protocol"
    table = folder / "table2_subjects.csv"
    stored = table.read_bytes()
    assert "as stored" in told("tables", str(folder))
    table.write_bytes(stored.replace(b"auroc", b"auroq", 1))
    assert "differs" in told("tables", "--check", str(folder), ok=False)
    assert table.read_bytes() != stored
    assert "rewritten" in told("tables", str(folder))
    assert table.read_bytes() == stored


def test_rows_that_are_stale_are_named_when_tables_are_rebuilt(home, tmp_path, monkeypatch):
    told("grid", "protocol.table2_subjects", "--profile", "smoke", "--workers", "1",
         "--out", str(tmp_path))
    folder = str(tmp_path / "02_protocol")
    assert ": stale," not in told("tables", folder)
    monkeypatch.setattr("biossl.methods.baselines.Chance.version", "another")
    said = told("tables", folder)
    assert "table2_subjects, Chance: stale, version" in said and said.count(": stale,") == 1
