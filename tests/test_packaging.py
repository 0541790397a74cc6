"""The wheel: built from a copy, opened, and imported where the repository is not."""
import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREE = ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE",
        "NOTICE")


def below(folder, *suffixes):
    return {o.relative_to(ROOT / folder).as_posix() for o in (ROOT / folder).rglob("*")
            if o.suffix in suffixes}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    import shutil
    tree = tmp_path_factory.mktemp("tree")
    for name in TREE: shutil.copy(ROOT / name, tree)
    for name in ("biossl", "nbs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
                    "--no-build-isolation", "--wheel-dir", tree / "dist", tree], check=True)
    return next((tree / "dist").glob("*.whl"))


def test_wheel_holds_every_module_and_the_published_tables(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tables = below("nbs/published", ".csv", ".toml")
    assert tables and {f"biossl/published/{o}" for o in tables} <= names
    prompts = below("nbs/prompts", ".json")
    assert prompts and {f"biossl/prompts/{o}" for o in prompts} <= names
    assert {f"biossl/{o}" for o in below("biossl", ".py")} <= names
    assert not [o for o in names if o.startswith(("tests", "nbs", "figures"))]


def test_wheel_says_what_it_needs_and_under_which_licence(wheel):
    with zipfile.ZipFile(wheel) as z:
        read = {o.rpartition("/")[2]: z.read(o).decode() for o in z.namelist() if "dist-info" in o}
    meta = email.message_from_string(read["METADATA"])
    assert set(meta.get_all("Provides-Extra")) == {"book", "dev", "text"}
    assert meta["License"] == "Apache-2.0" and {"LICENSE", "NOTICE"} <= set(read)
    needed = [o for o in meta.get_all("Requires-Dist") if "extra" not in o]
    assert any(o.startswith("torch") for o in needed)
    assert not [o for o in needed if o.startswith(("nbdev", "papermill", "pytest"))]
    assert "biossl=biossl.command:main" in read["entry_points.txt"].replace(" ", "")


def test_wheel_is_imported_away_from_the_repository(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as z: z.extractall(tmp_path / "site")
    code = ("import importlib, pkgutil, sys; sys.path.insert(0, 'site'); import biossl\n"
            "assert 'site' in biossl.__file__, biossl.__file__\n"
            "for o in pkgutil.walk_packages(biossl.__path__, 'biossl.'):\n"
            "    importlib.import_module(o.name)\n"
            "from biossl.evaluation.tables import published_folder\n"
            "assert 'site' in str(published_folder()) and any(published_folder().glob('*.csv'))\n"
            "from biossl.cohorts.prompts import prompts, prompts_folder\n"
            "assert 'site' in str(prompts_folder()) and len(prompts('csn')) == 38\n"
            "print(biossl.__version__)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in wheel.name


REFERENCE = {"type", "abbreviation", "title", "authors", "editors", "date-released", "doi", "url",
             "status", "notes"}   # of those that the Citation File Format 1.2.0 knows
PERSON = {"family-names", "given-names"}


def test_the_four_papers_are_to_be_cited():
    "By the names that the README gives them, in the format's words, with ids that agree."
    import yaml
    papers = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["references"]
    named, = re.findall(r"unlabelled ECG and PPG: ([^.]*?)\.", (ROOT / "README.md").read_text("utf-8"))
    assert {o["abbreviation"] for o in papers} == set(re.split(r",\s+|\s+and\s+", named))
    for paper in papers:
        assert {"type", "title", "authors"} <= set(paper) <= REFERENCE
        for one in paper["authors"] + paper.get("editors", []):
            assert set(one) == PERSON and all(o and isinstance(o, str) for o in one.values())
        number = paper.get("doi", "arXiv.").partition("arXiv.")[2]
        assert paper.get("url", "").endswith(number) and re.fullmatch(r"(\d{4}\.\d{5})?", number)
