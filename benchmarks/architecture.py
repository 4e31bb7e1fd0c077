"""The project's imports, read from its files, and the picture of them in docs/ARCHITECTURE.md.

python benchmarks/architecture.py
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder

import ast
from collections.abc import Iterator
from functools import cache

from benchmarks.grid import write_tables
from utils.cli import run_command
from utils.run_folder import REPO_ROOT

FLOORS = ("main", "benchmarks"), ("training",), ("evaluation",), ("datasets", "models"), ("utils",)
PACKAGES = tuple(name for floor in FLOORS for name in floor)
PAGE = "docs/ARCHITECTURE.md"

Imports = dict[str, set[str]]  # module → the project's modules that it imports, anywhere in its file


def module_files(root: Path = REPO_ROOT) -> dict[str, Path]:
    """Every module of the project, tests aside, by its name; a package is its ``__init__``."""
    paths = [root / "main.py", *(path for name in PACKAGES for path in sorted((root / name).rglob("*.py")))]
    parts = {path: path.relative_to(root).with_suffix("").parts for path in paths}
    return {".".join(part for part in names if part != "__init__"): path for path, names in parts.items()}


def read_imports(root: Path = REPO_ROOT) -> Imports:
    """The import statements of every module, those in functions and for type checkers among them."""
    files = module_files(root)
    return {name: set(imported(path, files)) - {name} for name, path in files.items()}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The known modules that a file names in import statements."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                if module in known or node.module in known:
                    yield module if module in known else node.module


def is_command(path: Path) -> bool:
    """Whether a file is run: it asks for the name of its module."""
    return 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def longest_chain(imports: Imports, start: str) -> list[str]:
    """The longest chain of imports from a module on.

    Raises:
        ValueError: the imports hold a circle; its modules in order.
    """
    active: list[str] = []

    @cache
    def below(module: str) -> tuple[str, ...]:
        if module in active:
            raise ValueError(" → ".join([*active[active.index(module) :], module]))
        active.append(module)
        chain = max((below(name) for name in sorted(imports[module])), key=len, default=())
        active.pop()
        return (module, *chain)

    return list(below(start))


def package_of(module: str) -> str:
    """The first part of a module's name."""
    return module.partition(".")[0]


def draw(imports: Imports, files: dict[str, Path]) -> str:
    """The packages and the arrows between them as a Mermaid graph; commands, which stand above all, are left out."""
    arrows = {
        (package_of(module), package_of(name))
        for module, names in imports.items()
        if module == "main" or not is_command(files[module])
        for name in names
    }
    lines = ["```mermaid", "graph TD"]
    for package in PACKAGES:
        parts = sorted(
            {name.split(".")[1] for name in imports if name.startswith(f"{package}.") and name.count(".") > 1}
        )
        lines.append(f'    {package}["<b>{package}</b>{"".join("<br>" + part for part in parts)}"]')
    lines += [f"    {above} --> {below}" for above, below in sorted(arrows, key=_place) if above != below]
    return "\n".join([*lines, "```"])


def _place(arrow: tuple[str, str]) -> tuple[int, int]:
    return PACKAGES.index(arrow[0]), PACKAGES.index(arrow[1])


def main() -> None:
    """Put the picture into its page and print the longest chain of imports."""
    imports = read_imports()
    write_tables(REPO_ROOT / PAGE, {"arrows": draw(imports, module_files())})
    print(f"{len(imports)} modules; longest chain of imports:")
    print(*longest_chain(imports, "main"), sep="\n")


if __name__ == "__main__":
    run_command(main)
