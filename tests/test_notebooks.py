"""Chapters as files: executed by papermill in every form a reader may type, collected, cleaned."""
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from biossl.book import (Executed, chapters, find_chapter, readme, reproduce, run_book, run_chapter,
                         strip_notebooks, stripped)
from biossl.data.errors import RequestError

ROOT = Path(__file__).parents[1]
CHAPTERS = chapters(ROOT)
PROTOCOL = ROOT / "nbs" / "02_protocol.ipynb"
PROMISES = ROOT / "nbs" / "12_tsta_promises.ipynb"   # smoked in test_tsta_promises.py
v4 = nbformat.v4
PYTHON = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def notebook(path, *sources, title="# A chapter"):
    "A stored notebook: a title, the parameters, then `sources`."
    head = v4.new_code_cell('profile = "quick"\ncohort = "simulated"\nworkers = "auto"\n'
                            'out = "build"')
    head.metadata["tags"] = ["parameters"]
    cells = [v4.new_markdown_cell(title), head, *map(v4.new_code_cell, sources)]
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": PYTHON}), path)


WORK = """from pathlib import Path
folder = Path(out) / "00_good"
folder.mkdir(parents=True, exist_ok=True)
(folder / "table1.csv").write_text(f"row,mean\\n{profile} & {cohort},0.25\\n")
(folder / "curve.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    "A book of a good and a failing chapter, with the test standing in it."
    (tmp_path / "nbs").mkdir()
    shutil.copy(ROOT / "settings.ini", tmp_path)
    notebook(tmp_path / "nbs" / "00_good.ipynb", WORK, title="# The good & the rest")
    notebook(tmp_path / "nbs" / "01_bad.ipynb", "raise ValueError('a fault <here>')")
    notebook(tmp_path / "nbs" / "library.ipynb", "never = 'run as a chapter'")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def papermill(*words, cwd, **more):
    line = [sys.executable, "-m", "papermill", *map(str, words)]
    return subprocess.run(line, cwd=cwd, check=True, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, **more)


# ---- the book as files -----------------------------------------------------------------------

def test_a_failing_chapter_is_shown_and_stops_no_other(book, capsys):
    before = {o: o.read_bytes() for o in (book / "nbs").iterdir()}
    assert not reproduce("build", profile="smoke")
    assert {o: o.read_bytes() for o in (book / "nbs").iterdir()} == before
    said, page = capsys.readouterr().out, (book / "build" / "index.html").read_text()
    assert "00_good" in said and "a fault <here>" in said and "FAILED" in said
    assert "a fault &lt;here&gt;" in page and "The good &amp; the rest" in page
    assert "<td>smoke &amp; simulated</td>" in page and 'src="00_good/curve.svg"' in page
    assert sorted(o.name for o in (book / "build").iterdir()) == [
        "00_good", "00_good.html", "00_good.ipynb", "01_bad.html", "01_bad.ipynb", "index.html"]
    assert "a fault" in (book / "build" / "01_bad.ipynb").read_text()


def test_a_book_without_faults_ends_well(book):
    (book / "nbs" / "01_bad.ipynb").unlink()
    assert [isinstance(o, Executed) and o.error for o in run_book("build")] == [""]


def test_run_chapter_fills_in_the_output_and_passes_parameters(book):
    target = run_chapter("good", "deep/er", {"cohort": "other"}, progress=False)
    assert target == book / "deep" / "er" / "00_good.ipynb" and target.is_file()
    assert "quick & other" in (target.with_suffix("") / "table1.csv").read_text()


def test_a_failing_chapter_raises_and_leaves_what_it_did(book):
    with pytest.raises(Exception, match="a fault <here>"): run_chapter("bad", progress=False)
    assert "a fault" in (book / "build" / "01_bad.ipynb").read_text()


def test_a_parameter_that_the_chapter_lacks_is_refused_with_the_nearest(book):
    with pytest.raises(RequestError, match="00_good.*profil .*did you mean profile"):
        run_chapter("00", parameters={"profil": "smoke"}, progress=False)
    assert not (book / "build").exists()


def test_names_of_chapters(book):
    assert [find_chapter(o).stem for o in ("0", "00", "good", "00_good", "nbs/01_bad.ipynb")] == [
        "00_good"] * 4 + ["01_bad"]
    for wrong in ("2", "library", ""):
        with pytest.raises(RequestError, match="no chapter"): find_chapter(wrong)


def test_outside_a_book_nothing_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="no book here"): chapters()


def test_an_executed_notebook_is_stripped_to_its_source(book):
    source = nbformat.read(book / "nbs" / "00_good.ipynb", as_version=4)
    path = book / "nbs" / "run" / "00_good.ipynb"
    run_chapter("good", path.parent, {"profile": "smoke"}, progress=False)
    executed = nbformat.read(path, as_version=4)
    executed.metadata["widgets"] = {"state": {}}
    nbformat.write(executed, path)
    assert strip_notebooks(book) == [path]
    assert nbformat.read(path, as_version=4) == stripped(source) == source
    assert strip_notebooks(book) == []


def test_readme_drops_what_is_not_for_readers(tmp_path):
    notebook(tmp_path / "index.ipynb", "#| hide\nsecret = 1", "#| eval: false\nshown = 2")
    text = readme(tmp_path / "index.ipynb")
    assert "secret" not in text and "shown = 2" in text and "#|" not in text


# ---- the real chapters -----------------------------------------------------------------------

def tables(folder):
    return {o.name: o.read_text() for o in Path(folder).rglob("*.csv")}


def smoke(path, out, *more, cwd, env=os.environ):
    "Run a chapter in the smoke profile, its home and its results under `out`."
    return papermill(path, *more, "-p", "profile", "smoke", "-p", "out", out, "-p", "workers", 1,
                     "--no-progress-bar", cwd=cwd, env=env | {"BIOSSL_HOME": f"{out}/home"})


@pytest.mark.parametrize("path", [o for o in CHAPTERS if o != PROMISES], ids=lambda o: o.stem)
def test_chapter_runs_in_smoke(path, tmp_path):
    done = smoke(path, tmp_path, tmp_path / "run.ipynb", cwd=ROOT)
    assert "Passed unknown parameter" not in done.stderr
    assert any((tmp_path / path.stem).iterdir()), "a chapter writes its files to out/NN_name"


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    "One chapter, simulated, thrice: from the root, from nbs/ with one path only, with another seed."
    if not PROTOCOL.exists(): pytest.skip("there is no chapter 02_protocol")
    folder, source = tmp_path_factory.mktemp("protocol"), PROTOCOL.read_bytes()
    forms = {"root": ([folder / "root.ipynb"], ROOT), "nbs": ([], ROOT / "nbs"),
             "seed": ([folder / "seed.ipynb", "-p", "seed", 1], ROOT)}
    env = {k: v for k, v in os.environ.items() if k != "BIOSSL_DATA"}
    with ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(smoke, PROTOCOL, folder / name, *more, cwd=cwd, env=env)
                   for name, (more, cwd) in forms.items()}
        done = {name: o.result() for name, o in running.items()}
    assert PROTOCOL.read_bytes() == source
    return done, {name: tables(folder / name) for name in forms}


def test_papermill_with_one_path_writes_the_executed_notebook_to_its_output(protocol):
    executed = json.loads(protocol[0]["nbs"].stdout)
    assert any(o.get("execution_count") for o in executed["cells"])
    assert protocol[0]["root"].stdout == ""


def test_the_same_chapter_from_both_folders_gives_the_same_tables(protocol):
    assert protocol[1]["root"] and protocol[1]["root"] == protocol[1]["nbs"]


def test_a_parameter_really_changes_the_run(protocol):
    assert protocol[1]["seed"].keys() == protocol[1]["root"].keys()
    assert protocol[1]["seed"] != protocol[1]["root"]
