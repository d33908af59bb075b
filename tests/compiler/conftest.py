"""A scripted decoder and a tokenizer of bytes, for what stands around a session; a tiny compiled llama."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import intaglio
from intaglio.compiler.cli import main
from intaglio.compiler.compiled_graph import CompiledGraph
from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.errors import ContextLengthError
from intaglio.compiler.ir import GraphBuilder
from intaglio.cost_models import Target

END = 256


class Artifact(NamedTuple):
    folder: Path
    source: Path
    printed: dict[str, Any]  # by `compile --json`


class ScriptedSession:
    """After n tokens, likes `script[n - prompt]` best; everything else follows from the tokens' sum."""

    vocabulary = 257

    def __init__(self, script: Sequence[int], prompt: int, capacity: int = 64) -> None:
        self.script, self.prompt, self.capacity = list(script), prompt, capacity
        self.tokens: list[int] = []
        self.calls: list[int] = []  # lengths of the calls
        self.wanted: list[int] = []  # how many of the likeliest tokens were asked for

    @property
    def position(self) -> int:
        return len(self.tokens)

    def reset(self, position: int = 0) -> None:
        del self.tokens[position:]

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self.score(tokens)[-1]

    def best(self, tokens: Sequence[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        self.wanted.append(count)
        logits = self.extend(tokens)
        found = np.argsort(-logits, kind="stable")[:count]
        return found, logits[found]

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if self.position + len(tokens) > self.capacity:
            raise ContextLengthError("scripted: full")
        self.calls.append(len(tokens))
        rows = []
        for token in tokens:
            self.tokens.append(token)
            rows.append(self._logits())
        return np.stack(rows)

    def _logits(self) -> NDArray[np.float32]:
        logits = np.random.default_rng(sum(self.tokens)).normal(size=self.vocabulary).astype(np.float32)
        step = len(self.tokens) - self.prompt
        if 0 <= step < len(self.script):
            logits[self.script[step]] = 20
        return logits


class ByteTokenizer:
    """One token per byte of UTF-8, and an end token."""

    end_tokens = frozenset({END})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < END).decode(errors="replace")

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"<{one['role']}>{one['content']}" for one in messages)

    def to_json(self) -> str:
        return "{}"


@pytest.fixture(autouse=True)
def _quick_native(monkeypatch: pytest.MonkeyPatch, quick_build: Callable[..., None]) -> None:
    """Programs of graphs share the kernels that are built in this process."""
    monkeypatch.setattr("intaglio.compiler.native_graph.build_library", quick_build)


@pytest.fixture
def scripted() -> Callable[..., ScriptedSession]:
    return ScriptedSession


@pytest.fixture
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def artifact(tiny_gguf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny llama, compiled once by the command line: building code takes seconds."""
    folder, printed = tmp_path_factory.mktemp("compiled") / "tiny", io.StringIO()
    arguments = [
        "compile",
        str(tiny_gguf()),
        "-o",
        str(folder),
        "--prefill",
        "20",
        "--decode",
        "10",
        "--json",
    ]
    with contextlib.redirect_stdout(printed):
        assert main(arguments) == 0
    return Artifact(folder, tiny_gguf(), json.loads(printed.getvalue()))


@pytest.fixture
def compiled(artifact: Artifact) -> Iterator[CompiledModel]:
    with intaglio.load(artifact.folder, threads=1) as model:
        yield model


@pytest.fixture(scope="session")
def make_net() -> Callable[..., ir.Model]:
    """`make_net(dtype, width)`: a lookup added to `x`, then three linear layers `layers.{i}.dense`.

    Inputs `x` `[batch, 64]` and `ids` `[batch]`; outputs `y` `[batch, 33]` and `hidden` `[batch, 160]`.
    """

    def make(dtype: Any = np.float32, width: int = 160) -> ir.Model:
        random, kind = np.random.default_rng(0), ir.DataType.from_numpy(np.dtype(dtype))
        builder = GraphBuilder("net")
        x = builder.input("x", kind, ["batch", 64])
        ids = builder.input("ids", ir.DataType.INT64, ["batch"])
        table = builder.initializer("table", random.standard_normal((50, 64)).astype(dtype))
        value = builder.node("Add", [x, builder.node("Gather", [table, ids], name="lookup")], name="sum")
        for index, (rows, columns) in enumerate(((width, 64), (width, width), (33, width))):
            weight = random.standard_normal((rows, columns)) / np.sqrt(columns)
            stored = builder.initializer(f"layers.{index}.dense.weight", weight.astype(dtype))
            transposed = builder.node("Transpose", [stored], {"perm": [1, 0]})
            name, shape = f"layers.{index}.dense", ["batch", rows]
            value = builder.node("MatMul", [value, transposed], name=name, dtype=kind, shape=shape)
            if index < 2:
                value = builder.node("Relu", [value], name=f"layers.{index}.relu", dtype=kind, shape=shape)
            if index == 1:
                hidden = value
        value.name, hidden.name = "y", "hidden"
        builder.output(value)
        builder.output(hidden)
        return builder.model()

    return make


@pytest.fixture(scope="session")
def net_folder(make_net: Callable[..., ir.Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled `make_net()`, int8; compiled from a file."""
    folder = tmp_path_factory.mktemp("graph")
    ir.save(make_net(), folder / "net.onnx")
    with intaglio.compile(folder / "net.onnx", plan="int8-g32", threads=1) as compiled:
        return compiled.save(folder / "compiled")


@pytest.fixture
def net(net_folder: Path) -> Iterator[CompiledGraph]:
    with intaglio.load(net_folder, threads=1) as model:
        assert isinstance(model, CompiledGraph)
        yield model


@pytest.fixture
def built_before(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Whoever builds the library of the tiny llama gets a copy of the one built; where to, is noted."""
    from intaglio.backends.tvm import Program

    places: list[Path] = []

    def copy(program: Program, target: Target, path: Path) -> None:
        assert program.kernels == Program.from_json((artifact.folder / "program.json").read_text()).kernels
        shutil.copyfile(artifact.folder / "program.so", path)
        places.append(path)

    monkeypatch.setattr("intaglio.compiler.pipeline.build_library", copy)
    monkeypatch.setattr("intaglio.backends.tvm.build_library", copy)
    return places
