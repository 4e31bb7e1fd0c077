"""What README and docs/ say: snippets that run, links that lead somewhere, functions whose examples hold."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from benchmarks.architecture import module_files, package_of
from training.options import make_parser

REPO_ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "txt/README.md", "train_log/README.md")
    for path in REPO_ROOT.glob(pattern)
)


def snippets(page: Path) -> list[str]:
    """The Python snippets of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_python_snippets_of_the_readme_run(workspace):
    """With small drawn disks for the simulated set, and the smallest network."""
    found = snippets(REPO_ROOT / "README.md")
    assert found
    for code in found:
        assert '"er_sim"' in code and '"epochs": 2' in code
        code = code.replace('"er_sim"', '"disks"').replace('"epochs": 2', '"epochs": 2, "width": 2, "crop": 32')
        answer = subprocess.run([sys.executable, "-c", code], cwd=workspace, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        assert "biased at boundaries" in answer.stdout and "epoch 2/2" in answer.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO_ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            file, _, anchor = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO_ROOT).as_posix())
def test_scripts_in_commands_exist(page):
    commands = re.findall(r"python3? ([\w/]+\.py)", page.read_text(encoding="utf-8"))
    assert [name for name in commands if not (REPO_ROOT / name).exists()] == []


PUBLIC = (
    "datasets.image_io:read_label",
    "datasets.label_noise:make_noisy_label",
    "datasets.label_noise:parse_spec",
    "datasets.transition_matrix:TransitionMatrix",
    "evaluation.label_audit:audit_labels",
    "evaluation.scores:iou",
    "models:build_network",
    "training.losses:SegmentationLoss",
    "training.losses:parse_loss",
    "utils.registry:Registry",
)
WITH_EXAMPLES = sorted(
    name for name, path in module_files().items() if package_of(name) != "benchmarks" and ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.parametrize("place", PUBLIC)
def test_what_people_call_has_an_example(place):
    assert doctest.DocTestParser().get_examples(resolve_name(place).__doc__)


def extended(section: str, root: Path) -> None:
    """Do in a copy of the repository what a recipe's Python blocks say: their first line is a file and a place."""
    for block in re.findall(r"^```python\n# (.*?)^```", section, re.DOTALL | re.MULTILINE):
        where, code = block.split("\n", 1)
        name, place = where.split(", ")
        path = root / name
        text = path.read_text(encoding="utf-8") if place != "new" else ""
        if place.startswith("in "):
            opening = re.search(rf"^{place.removeprefix('in ')}\b[^\n]*[({{]\n( +{{\n)?", text, re.MULTILINE)
            text = text[: opening.end()] + code + text[opening.end() :]
        else:
            text += "\n\n" + code
        path.write_text(text, encoding="utf-8")


def recipes() -> dict[str, str]:
    """The recipes of docs/EXTENDING.md by heading."""
    text = (REPO_ROOT / "docs/EXTENDING.md").read_text(encoding="utf-8")
    sections = (section.split("\n", 1) for section in text.split("\n## ")[1:])
    return dict(sections)


def commands_of(section: str) -> list[list[str]]:
    """The commands of a recipe, for the small data set ``disks`` and the smallest network."""
    small = ["--epochs", "1", "--crop", "32", "--preset", "quick", "--no_audit"]
    found = []
    for line in re.findall(r"^python (.*)$", section, re.MULTILINE):
        words = shlex.split(line.replace("er_sim", "disks").replace("NAME", "own"))
        extra = [] if words[0] != "main.py" else small + ([] if "--width" in words else ["--width", "2"])
        found.append([*words, *extra])
    return found


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_for_extending_does_what_it_says(recipe, tmp_path, workspace):
    section, root = recipes()[recipe], tmp_path / "copy"
    shutil.copytree(workspace, root)
    shutil.copytree(REPO_ROOT / "tests", root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO_ROOT / "pyproject.toml", root)
    shutil.copytree(root / "datasets/disks", root / "datasets/own")
    for block in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        assert len(block.splitlines()) <= 18
    extended(section, root)
    commands = commands_of(section)
    assert commands
    for words in commands:
        answer = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True)
        assert answer.returncode == 0, f"{words}\n{answer.stdout}{answer.stderr}"


ELSEWHERE = {  # flags of other programs: pytest, TensorBoard, torchrun, SLURM
    *("--dist", "--logdir", "--nnodes", "--nproc_per_node", "--standalone", "--max_restarts", "--rdzv_backend"),
    *("--rdzv_endpoint", "--rdzv_id", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"),
    *("--requeue", "--kill-on-bad-exit"),
}
GONE = {  # named where docs/LABEL_FREE.md says what was tried
    *("--igtt_refresh", "--igtt_final_share", "--igtt_tta", "--igtt_patience", "--use_evaluation")
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO_ROOT).as_posix())
def test_flags_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("tells of flags that are gone")
    sources = "".join(path.read_text(encoding="utf-8") for path in module_files().values())
    known = {flag for action in make_parser()._actions for flag in action.option_strings}
    known |= set(re.findall(r'"(--[a-z][a-z0-9_-]+)"', sources)) | ELSEWHERE
    known |= GONE if page.name == "LABEL_FREE.md" else set()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", page.read_text(encoding="utf-8")))
    assert named - known == set()
