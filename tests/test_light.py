"""A machine that trains: packed windows, and neither the recordings nor what reads and shows them.

Tables are computed there by `biossl grid` in a process of its own, in which (and in whose workers)
the packages below cannot be imported.
"""
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from layouts import write_beating_perform

from biossl.cohorts.registry import get_cohort, locate
from biossl.command import find_table
from biossl.data.store import pack

ABSENT = ("wfdb", "papermill", "nbdev", "fastcore", "execnb", "neurokit2", "matplotlib", "jupyter",
          "jupyter_client", "jupyter_core", "jupyterlab", "jupytext", "nbformat", "nbclient",
          "nbconvert", "ipykernel", "IPython", "pooch", "pytest", "hypothesis")
TABLES = {"protocol.table1": 2, "tsta.table1": 1}     # with so many workers

HIDE = f"""
from importlib.machinery import PathFinder
found = PathFinder.find_spec


def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {ABSENT} else found(name, path, target)


PathFinder.find_spec = find_spec
"""


@pytest.fixture
def bare(tmp_path):
    "Words to a process as on a bare machine; `BIOSSL_HOME` is as it is, there is no `BIOSSL_DATA`."
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(HIDE)
    env = {key: value for key, value in os.environ.items() if key != "BIOSSL_DATA"}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "bare"), env.get("PYTHONPATH", "")])
    env["OMP_NUM_THREADS"] = "1"

    def run(code, *words, **more):
        return subprocess.run([sys.executable, "-c", code, *words], env=env | more, cwd=tmp_path,
                              capture_output=True, text=True, timeout=600)
    return run


BIOSSL = "from biossl.command import main; main()"


def packed(table, name="mimic_perform_af"):
    "The windows that a table asks for in the profile `smoke`, packed."
    cohort = get_cohort(name)
    windowings = {o.windowing for o in find_table(table).runs(name, "smoke")}
    return [pack(cohort, o, locate(cohort)) for o in windowings]


def grid(bare, table, out, workers, **more):
    return bare(BIOSSL, "grid", table, "--cohort", "mimic_perform_af", "--profile", "smoke",
                "--workers", workers, "--out", str(out), **more)


def computed(done, table, out):
    "The table that was written; every row of it was computed."
    assert done.returncode == 0, done.stderr[-3000:]
    item = find_table(table)
    frame = pd.read_csv(out / item.chapter / f"{item.name}.csv")
    assert set(frame.row) == {o.name for o in item.rows}
    assert frame["mean"].notna().any() and (frame.cohort == "mimic_perform_af").all()
    return frame


def test_the_bare_machine_is_bare(bare):
    tried = "\n".join(f"try: import {o}; print('{o} is there')\nexcept ImportError: pass"
                      for o in (*ABSENT, "matplotlib.pyplot"))
    done = bare(tried + "\nimport torch, pandas, sklearn, typer")
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
    other = "from joblib import Parallel, delayed\nprint(Parallel(2)(delayed(__import__)(o)" \
            " for o in ('wfdb', 'neurokit2')))"
    done = bare(other)
    assert done.returncode and "No module named" in done.stderr


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_packed_windows_needs_no_recordings_and_no_notebooks(
        home, tmp_path, monkeypatch, bare, table):
    data = tmp_path / "data"
    write_beating_perform(data / "mimic_perform_af", people=4)
    monkeypatch.setenv("BIOSSL_DATA", str(data))
    stores = {o.key for o in packed(table)}
    monkeypatch.delenv("BIOSSL_DATA")
    data.rename(tmp_path / "elsewhere")
    done = grid(bare, table, tmp_path / "out", str(TABLES[table]))
    computed(done, table, tmp_path / "out")
    assert {o.name for o in (home / "store").iterdir()} == stores


def test_other_windows_than_the_packed_ones_are_asked_for_plainly(home, tmp_path, monkeypatch, bare):
    write_beating_perform(tmp_path / "data" / "mimic_perform_af", people=2)
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path / "data"))
    packed("protocol.table1")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    done = bare(BIOSSL, "pack", "mimic_perform_af", "--seconds", "20")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "only other windows" in done.stderr and "BIOSSL_DATA" in done.stderr
    assert len(list((home / "store").iterdir())) == 1


@pytest.mark.real
def test_a_table_of_real_packed_windows(real_data, tmp_path, bare, table="protocol.table1"):
    stores = [o.folder for o in packed(table)]
    for store in stores: shutil.copytree(store, tmp_path / "home" / "store" / store.name)
    done = grid(bare, table, tmp_path / "out", "1", BIOSSL_HOME=str(tmp_path / "home"))
    frame = computed(done, table, tmp_path / "out")
    assert (frame.n[frame.metric == "accuracy"] == 35).all()   # people
