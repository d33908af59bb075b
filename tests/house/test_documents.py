"""What the documents say of the tree is true of the tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import intaglio.compiler.errors as errors

ROOT = Path(__file__).parents[2]
CODE = ("kernels", "compiler", "passes", "cost_models", "backends")
BESIDE = ("tests", "examples", "benchmarks", "src", ".ci")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
BUILT = {"build", "dist"}
COMMANDS = ["make demo", "make test"]
# The way of a model through the house.
DATA_FLOW = ("compiler/frontends", "passes", "cost_models", "kernels", "backends", "compiler")


def section(title: str) -> str:
    """The text of a `##` section of the README."""
    text = (ROOT / "README.md").read_text()
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def folder_map() -> list[str]:
    """The folders in the first column of the README's map."""
    return re.findall(r"^\| `([\w/.]+)/` \|", section("Folder map"), re.MULTILINE)


def test_readme_has_exactly_two_set_up_commands() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", section("Set up"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    assert [line.partition("#")[0].strip() for line in lines] == COMMANDS


def test_the_set_up_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    assert {command.removeprefix("make ") for command in COMMANDS} <= set(targets)


def test_continuous_integration_runs_the_test_command() -> None:
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_folder_map_names_folders_that_exist() -> None:
    assert [folder for folder in folder_map() if not (ROOT / folder).is_dir()] == []


def test_the_folder_map_follows_the_data() -> None:
    rooms = [folder for folder in folder_map() if folder in DATA_FLOW]
    assert rooms == list(DATA_FLOW)


def test_the_folder_map_is_complete() -> None:
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    holding = {folder.name for folder in folders if any(folder.rglob("*"))} - BUILT
    assert holding - {folder.partition("/")[0] for folder in folder_map()} == set()


def test_decisions_are_numbered_without_gaps() -> None:
    names = [file.name for file in DECISIONS]
    assert [name[:4] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]
    assert [name for name in names if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name)] == []


@pytest.mark.parametrize(
    "file", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda file: file.stem
)
def test_a_decision_has_its_parts(file: Path) -> None:
    headings = re.findall(r"^#+ .*$", file.read_text(), re.MULTILINE)
    assert headings[0].startswith(f"# {file.name[:4]} ")
    assert headings[1:] == ["## Context", "## Decision", "## Consequences"]


def test_every_decision_is_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [file.name for file in DECISIONS if f"(decisions/{file.name})" not in index] == []


def test_links_between_the_documents_lead_somewhere() -> None:
    files = list(ROOT.glob("*.md"))
    for folder in ("docs", *CODE, *BESIDE):
        files += (ROOT / folder).rglob("*.md")
    broken = []
    for file in files:
        targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", file.read_text())
        broken += [f"{file.relative_to(ROOT)}: {one}" for one in targets if not (file.parent / one).exists()]
    assert broken == []


def test_every_module_has_a_docstring() -> None:
    files = [file for folder in (*CODE, *BESIDE) for file in (ROOT / folder).rglob("*.py")]
    assert [str(file) for file in files if not ast.get_docstring(ast.parse(file.read_text()))] == []


def drawn_tree(drawing: str) -> dict[str, str]:
    """Error → its parent, read off the drawing; four columns are one level."""
    above: dict[int, str] = {-1: "Exception"}
    parents = {}
    for line in drawing.splitlines():
        if found := re.match(r"(?:    |│   )(?:    |│   |├── |└── )*(\w+Error)\b", line):
            level = found.start(1) // 4 - 1
            parents[found[1]] = above[level - 1]
            above[level] = found[1]
    return parents


def test_the_drawing_of_the_errors_is_the_tree_of_classes() -> None:
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    tree = {one.__name__: one.__bases__[0].__name__ for one in classes}
    assert drawn_tree(errors.__doc__ or "") == tree
