"""Fixtures: a home of one's own for every test, and the real recordings where they are at hand."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")   # before torch: small networks wait for threads
REAL = os.environ.get("BIOSSL_DATA", "")


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty BIOSSL_HOME for this test alone, and no BIOSSL_DATA."
    monkeypatch.setenv("BIOSSL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BIOSSL_DATA", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def real_home(tmp_path_factory):
    "One BIOSSL_HOME for all tests on real recordings, so that each archive is unpacked once."
    if "PYTEST_XDIST_WORKER" not in os.environ: return tmp_path_factory.mktemp("real_home")
    shared = tmp_path_factory.getbasetemp().parent / "real_home"     # of all processes of this run
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture
def real_data(real_home, monkeypatch):
    "The cohorts that BIOSSL_DATA offers; skips, with the reason, where it is not set."
    if not REAL: pytest.skip("BIOSSL_DATA is not set: no real recordings at hand")
    folders = [str(Path(o).absolute()) for o in REAL.split(os.pathsep) if o]
    monkeypatch.setenv("BIOSSL_DATA", os.pathsep.join(folders))
    monkeypatch.setenv("BIOSSL_HOME", str(real_home))
    return [Path(o) for o in folders]
