"""The house rules: what is stored, what may import what, and what everything weighs."""
import ast
import filecmp
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from biossl.book import HIDDEN, chapters, readme

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [o for o in sorted((ROOT / "nbs").rglob("*.ipynb"))
             if ".ipynb_checkpoints" not in o.parts]
CHAPTERS = chapters(ROOT)
MODULES = sorted(o for o in (ROOT / "biossl").rglob("*.py") if o.name != "_modidx.py")
ARROW = ("data", "cohorts", "nn", "methods", "train", "evaluation", "papers", "book", "doctor",
         "command")
PARAMETERS = {"cohort", "profile", "seed", "device", "workers", "out"}


def short(path):
    return path.relative_to(ROOT).as_posix()


def cells(path, kind="code"):
    "The notebook's cells of one kind, as stored, their sources joined."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [o | {"source": "".join(o["source"])} for o in found if o["cell_type"] == kind]


def settings():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


# ---- notebooks and package -------------------------------------------------------------------

def test_package_is_in_step_with_its_notebooks(tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs",
                    ignore=shutil.ignore_patterns(".ipynb_checkpoints", "published"))
    subprocess.run([Path(sys.executable).parent / "nbdev_export"], cwd=tmp_path, check=True,
                   stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    stored, fresh = ({o.relative_to(root).as_posix() for o in (root / "biossl").rglob("*.py")}
                     for root in (ROOT, tmp_path))
    assert stored - fresh == set(), "modules without a notebook"
    assert fresh - stored == set(), "not exported"
    _, differ, odd = filecmp.cmpfiles(ROOT, tmp_path, sorted(stored), shallow=False)
    assert differ + odd == []


def test_readme_is_made_from_the_index():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(ROOT / "nbs" / "index.ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=short)
def test_notebook_is_stored_clean(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert nb["metadata"]["kernelspec"]["name"] == "python3"
    assert set(nb["metadata"]) == {"kernelspec"}, "widget state or another tool's metadata"
    ids = Counter(o.get("id") for o in nb["cells"])
    assert None not in ids and [o for o, n in ids.items() if n > 1] == []
    for cell in nb["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        assert "injected-parameters" not in cell["metadata"].get("tags", [])
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("path", CHAPTERS, ids=short)
def test_chapter_has_one_parameters_cell_and_it_comes_first(path):
    code = [o for o in cells(path) if not HIDDEN.search(o["source"])]
    tagged = [o for o in code if "parameters" in o["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is code[0]
    names = {target.id for node in ast.parse(tagged[0]["source"]).body
             if isinstance(node, ast.Assign) for target in node.targets}
    assert PARAMETERS <= names


@pytest.mark.parametrize("path", CHAPTERS, ids=short)
def test_chapter_exports_instances_only_and_runs_everywhere(path):
    for cell in cells(path):
        assert "nbdev_export(" not in cell["source"], "rewrites the package while others run it"
        skipped = re.search(r"^#\s*\|\s*eval:\s*false", cell["source"], re.M)
        assert not skipped, "papermill runs it anyway"
        if not re.search(r"^#\s*\|\s*exporti?\b", cell["source"], re.M): continue
        made = [o for o in ast.walk(ast.parse(cell["source"]))
                if isinstance(o, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
        assert [o.name for o in made] == [], "would exist twice: here and in the module"


# ---- imports ---------------------------------------------------------------------------------

def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(o): o for o in MODULES}


def imported(path):
    "The modules of the package that `path` imports, at any depth of its code."
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (o.name for o in node.names if o.name in NAMES)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[:len(package.split(".")) - node.level + 1]
            base = ".".join(filter(None, [*up, node.module])) if node.level else node.module
            for o in node.names:
                if f"{base}.{o.name}" in NAMES: yield f"{base}.{o.name}"
                elif base in NAMES: yield base


def wing(name):
    return name.split(".")[1] if "." in name else ""


def test_every_module_lies_in_a_wing_of_the_arrow():
    assert {wing(o) for o in NAMES} - {""} <= set(ARROW)


@pytest.mark.parametrize("name", [o for o in NAMES if wing(o)])
def test_imports_only_go_up(name):
    above = [o for o in imported(NAMES[name])
             if wing(o) and ARROW.index(wing(o)) > ARROW.index(wing(name))]
    assert above == []


def test_no_circle_between_modules():
    graph = {name: set(imported(path)) - {"biossl"} for name, path in NAMES.items()}
    assert sum(map(len, graph.values())) > len(NAMES) // 2, "the reading of imports is broken"
    try: list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as e: pytest.fail(" -> ".join(e.args[1]))


HEAVY = {"torch", "pandas", "matplotlib", "wfdb", "nbdev", "papermill", "sklearn", "neurokit2",
         "seaborn", "scipy.signal", "h5py", "vitaldb", "tokenizers", "transformers"}


def loaded_by(*names):
    "What a fresh interpreter has loaded after importing `names`, and the CPU seconds that took."
    code = ("import importlib, json, sys, time\nbegan = time.process_time()\n"
            f"for name in {names!r}: importlib.import_module(name)\n"
            "print(json.dumps([time.process_time() - began, sorted(sys.modules)]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return set(modules), seconds


def test_import_biossl_is_light():
    modules, seconds = loaded_by("biossl")
    assert modules & HEAVY == set()
    assert seconds < 0.5


def test_data_and_cohorts_load_nothing_heavy():
    modules, _ = loaded_by(*(o for o in NAMES if wing(o) in ("data", "cohorts", "book")))
    assert modules & HEAVY == set()


#: These look into networks, and only chapters call them; all others read predictions.
INSIDE = {f"biossl.evaluation.{o}" for o in ("alignment", "anatomy", "drawings")}


def test_evaluation_loads_no_torch_unless_it_looks_into_networks():
    assert INSIDE < set(NAMES)
    modules, _ = loaded_by(*(o for o in NAMES if wing(o) == "evaluation" and o not in INSIDE))
    assert "torch" not in modules


def test_each_room_can_be_imported_first():
    code = (f"import importlib, sys\nfor name in {sorted(NAMES)!r}:\n"
            "    ours = [o for o in sys.modules if o.split('.')[0] == 'biossl']\n"
            "    for o in ours: del sys.modules[o]\n"
            "    try: importlib.import_module(name)\n"
            "    except Exception as e: print(name, repr(e))\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_no_proof_cell_was_exported(path):
    done = [o for o in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(o, (ast.Assert, ast.For, ast.While, ast.With))]
    assert [ast.unparse(o)[:60] for o in done] == []


# ---- code and text ---------------------------------------------------------------------------

def test_no_function_over_sixty_lines():
    long = [f"{short(path)}: {node.name}" for path in [*MODULES, *(ROOT / "tests").glob("*.py")]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and node.end_lineno - node.lineno + 1 > 60]
    assert long == []


def repository_files():
    "What git holds or would add; skips where there is no git."
    if not shutil.which("git") or not (ROOT / ".git").exists(): pytest.skip("not a git clone")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / o for o in listed if o and (ROOT / o).is_file()]


def test_no_path_of_one_machine_is_stored():
    # /home/me stands for anybody's folder, and may be written
    machine = re.compile(rb"(?<![\w./\\-])(/((work|root|Users|mnt|opt|srv)/|home/(?!me\b))\w"
                         rb"|[A-Z]:\\+Users)")
    found = [f"{short(path)}: {hit[0].decode()}" for path in repository_files()
             for hit in [machine.search(path.read_bytes())] if hit]
    assert found == []


# ---- the frame -------------------------------------------------------------------------------

def test_environment_has_the_pins_of_the_settings():
    stored = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    groups = ("requirements", "book_requirements", "dev_requirements")
    pins = [o for group in groups for o in settings()[group].split()]
    assert stored[-1]["pip"] == pins
    assert f"python={settings()['min_python']}" in stored
    assert [o for o in pins if "==" not in o] == []


def test_citation_is_complete_and_of_this_version():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["cff-version"] == "1.2.0" and cff["version"] == settings()["version"]
    assert {"message", "title", "authors"} <= set(cff)


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    said = [ROOT / "README.md", ROOT / ".ci" / "run", *(ROOT / ".github/workflows").glob("*.yml")]
    command = re.compile(r"(?:^\s*|run: |`)make ([a-z-]+)", re.M)
    named = {o for path in said for o in command.findall(path.read_text(encoding="utf-8"))}
    assert {"test", "reproduce"} <= named <= targets


def test_the_shell_accepts_the_ci_script():
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
