"""The outline of the project, measured: what docs/ARCHITECTURE.md promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.architecture import (
    FLOORS,
    PAGE,
    draw,
    is_command,
    longest_chain,
    module_files,
    package_of,
    read_imports,
)
from benchmarks.grid import replace_table
from datasets import labels
from training.options import make_parser
from utils import overlays
from utils.run_folder import REPO_ROOT

FILES, IMPORTS = module_files(), read_imports()
HEIGHT = {name: height for height, floor in enumerate(reversed(FLOORS)) for name in floor}
COMMANDS = [name for name, path in FILES.items() if is_command(path) and package_of(name) != "benchmarks"]
MAX_CHAIN = 10  # modules from main.py down, counted with imports anywhere in a file
MAX_ENTRIES = {"evaluation": 14, "training": 16}
MAX_COMMAND_LINES = 80
MAX_LOADED = 80  # the project's modules in sys.modules after a plain run; the goal is 50
MAX_OPTIONS = 66
# Prints the project's modules that a run of one epoch has loaded.
PLAIN_RUN = """
import json, sys
from training.fit import configure, fit
fit(configure(json.loads(sys.argv[1])))
packages = {"main", "benchmarks", "training", "evaluation", "datasets", "models", "utils"}
print(*sorted(name for name in sys.modules if name.partition(".")[0] in packages))
"""


def test_imports_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "main.py").write_text("def main():\n    from utils import cli\n    import utils.cli\n    import json\n")
    (tmp_path / "utils/cli.py").write_text("from utils.files import read\n")
    (tmp_path / "utils/files.py").write_text("from __future__ import annotations\n")
    imports = read_imports(tmp_path)
    assert imports == {"main": {"utils.cli"}, "utils.cli": {"utils.files"}, "utils.files": set()}
    assert longest_chain(imports, "main") == ["main", "utils.cli", "utils.files"]


@pytest.mark.parametrize(
    ("back", "circle"), [("b", "b → c → b"), ("a", "a → b → c → a"), ("c", "c → c")], ids=["below", "whole", "itself"]
)
def test_a_circle_is_refused(back, circle):
    imports = {"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert longest_chain(imports, "a") == ["a", "b", "c", "d"]
    imports["c"].add(back)
    with pytest.raises(ValueError, match=f"^{circle}$"):
        longest_chain(imports, "a")


def test_no_arrow_runs_upward():
    arrows = [(name, other) for name, others in IMPORTS.items() for other in others if name not in COMMANDS]
    upward = [
        f"{name} → {other}"
        for name, other in arrows
        if HEIGHT[package_of(name)] <= HEIGHT[package_of(other)] and package_of(name) != package_of(other)
    ]
    assert upward == []


def test_there_is_no_circle():
    for name in IMPORTS:
        longest_chain(IMPORTS, name)


def test_no_library_imports_a_command():
    libraries = [name for name in IMPORTS if name not in COMMANDS and package_of(name) != "benchmarks"]
    assert [f"{name} → {other}" for name in libraries for other in IMPORTS[name] if other in COMMANDS] == []


def test_pictures_know_the_ignored_value_without_an_arrow():
    assert overlays.IGNORE == labels.IGNORE


def test_the_chain_of_imports_is_short():
    assert len(longest_chain(IMPORTS, "main")) <= MAX_CHAIN


@pytest.mark.parametrize("package", MAX_ENTRIES)
def test_packages_hold_few_entries(package):
    entries = [path for path in (REPO_ROOT / package).iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert len(entries) <= MAX_ENTRIES[package]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_only_parse_and_call(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MAX_COMMAND_LINES


def test_commands_import_nothing_large_before_they_listen_to_signals():
    code = (
        f"import importlib, sys\nfor name in {COMMANDS}: importlib.import_module(name)\nprint('numpy' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True)
    assert answer.stdout == "False\n", answer.stderr


def test_a_plain_run_loads_little(workspace, tmp_path):
    given = {"dataset": "disks", "epochs": 1, "width": 2, "crop": 32, "device": "cpu", "tensorboard": False}
    command = [sys.executable, "-c", PLAIN_RUN, json.dumps({**given, "preset": "quick"})]
    answer = subprocess.run(command, cwd=workspace, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    loaded = answer.stdout.strip().splitlines()[-1].split()
    assert "training.engine" in loaded and len(loaded) <= MAX_LOADED, loaded


def test_options_are_few():
    options = [action for action in make_parser()._actions if action.dest != "help"]
    assert len(options) <= MAX_OPTIONS


def test_the_formatter_is_never_silenced():
    sources = [path for folder in (*HEIGHT, "tests") for path in (REPO_ROOT / folder).rglob("*.py")]
    silenced = "# fmt: " + "skip"
    assert [str(path) for path in sources if silenced in path.read_text(encoding="utf-8")] == []


def test_the_picture_is_that_of_the_imports():
    text = (REPO_ROOT / PAGE).read_text(encoding="utf-8")
    assert replace_table(text, "arrows", draw(IMPORTS, FILES)) == text, "run benchmarks/architecture.py"


def test_every_file_that_the_page_names_exists():
    text = Path(REPO_ROOT / PAGE).read_text(encoding="utf-8")
    named = {word.strip("`") for word in text.replace("(", " ").replace(")", " ").split() if word.startswith("`")}
    named = {word.rstrip("`,.;:") for word in named if "/" in word and word.rstrip("`,.;:").endswith((".py", "/"))}
    assert len(named) > 10 and [name for name in named if not (REPO_ROOT / name).exists()] == []
