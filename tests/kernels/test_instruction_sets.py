"""Every instruction family: what its code contains, that its products are exact, and whom it is refused to.

Families that this machine lacks are run as well, with functions in C in place of their instructions.
"""

from __future__ import annotations

import dataclasses
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from intaglio.backends.tvm import codegen
from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.program import POINTERS, ROW, KernelCode
from intaglio.cost_models import NAMED_TARGETS, Target, resolve_target
from intaglio.cost_models import target as target_module
from intaglio.kernels import instructions as families
from intaglio.kernels import tir
from intaglio.kernels.ceilings.kernel import MultiplyInCache
from intaglio.kernels.ceilings.sizes import PARTS, STEPS, TOKENS
from intaglio.kernels.instructions import Instructions, instructions_named
from intaglio.kernels.linear import layout, reference
from intaglio.kernels.linear.floating import FloatLinear
from intaglio.kernels.linear.matrix_matrix import PADDING, QuantizedMatrixMatrix
from intaglio.kernels.linear.matrix_vector import QuantizedMatrixVector

V3 = resolve_target("cpu:x86-64-v3")
WIDE = resolve_target("cpu:avx512-bf16")
VNNI = resolve_target("cpu:avx512-vnni")
HERE = {  # families that no other kernel test runs, and the processor whose code they become
    "plain": V3,
    "avx2": V3,
    "avx-vnni": VNNI,  # AVX-512 VNNI has its 256-bit instructions too
    "avx512": resolve_target("cpu:avx512"),
    "avx512-vnni": VNNI,
    "avx512-bf16": WIDE,
}
EMULATED = ("amx", "neon", "arm-dot", "arm-i8mm", "arm-bf16")
MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of ELF
SMALL = layout.QuantizedWeight(32, 64, 4, 32, 8, "", "float16")
# What the products of one token, and of many, must be made of.
EXPECTED = {
    "avx2": ("vpmaddubsw", "vpmaddubsw"),
    "avx-vnni": (r"vpdpbusd\s.*%ymm", r"vpdpbusd\s.*%ymm"),
    "avx512": (r"vpmaddubsw\s.*%zmm", r"vpmaddubsw\s.*%zmm"),
    "avx512-vnni": (r"vpdpbusd\s.*%zmm", r"vpdpbusd\s.*%zmm"),
    "avx512-bf16": (r"vpdpbusd\s.*%zmm", r"vpdpbusd\s.*%zmm"),
    "amx": (r"vpdpbusd\s.*%zmm", r"(?s)ldtilecfg.*tileloadd.*tdpbsud.*tilestored.*tilerelease"),
    "neon": ("smull", "smull"),
    "arm-dot": (r"\ssdot", r"\ssdot"),
    "arm-i8mm": ("usdot", "usmmla"),
    "arm-bf16": ("usdot", "usmmla"),
}


def code(kernel: Any) -> KernelCode:
    return KernelCode(type(kernel).__name__, dataclasses.asdict(kernel))


def products(weight: layout.QuantizedWeight) -> tuple[KernelCode, KernelCode]:
    """The kernels of one token and of many."""
    many = QuantizedMatrixMatrix(weight, 32, "store", weight.blocks * 16)
    return code(QuantizedMatrixVector(weight, 32, "store")), code(many)


@pytest.mark.parametrize("target", NAMED_TARGETS, ids=lambda one: one.name)
def test_what_the_code_contains(target):
    """All of it is inlined, too: no call of ours is left."""
    for kernel, pattern in zip(products(SMALL), EXPECTED[target.instructions], strict=True):
        module = codegen.compiled([kernel], target, instructions_named(target.instructions))
        text = module.inspect_source("s")
        assert re.search(pattern, text), f"{kernel.name}: no {pattern}"
        assert "intaglio_" not in text


@pytest.mark.parametrize("name", ["cpu:amx", "cpu:aarch64", "cpu:aarch64-dotprod", "cpu:aarch64-bf16"])
def test_code_for_other_machines_is_assembled(name, tmp_path):
    target = resolve_target(name)
    codegen.generate(products(SMALL), target, tmp_path / "kernels.o")
    header = (tmp_path / "kernels.o").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == MACHINES[target.triple.split("-")[0]]


def test_every_family_has_a_target():
    named = {target.instructions for target in NAMED_TARGETS}
    assert named | {"plain"} == {one.name for one in families.FAMILIES}
    assert set(HERE) | set(EMULATED) == named | {"plain"}


class Runner:
    """Builds kernels for a family, each once, and runs them."""

    def __init__(self, folder: Path, emulator: ModuleType) -> None:
        self.folder, self.emulator = folder, emulator
        self.runtime = folder / "runtime.o"
        codegen.build_runtime(V3, self.runtime)
        self.libraries: dict[Any, Path] = {}

    def library(self, kernel: Any, family: Instructions) -> Path:
        if (kernel, family) not in self.libraries:
            path = self.folder / f"kernel{len(self.libraries)}.so"
            objects = [path.with_suffix(".o"), self.runtime]
            if family.name in EMULATED:
                objects.append(self.emulated(kernel, family, objects[0]))
            else:
                codegen.compiled([code(kernel)], HERE[family.name], family).write_to_file(str(objects[0]))
            codegen.link(objects, codegen.symbols([code(kernel)]), path)
            self.libraries[kernel, family] = path
        return self.libraries[kernel, family]

    def emulated(self, kernel: Any, family: Instructions, path: Path) -> Path:
        """Code for `kernel` into the object file `path`; the object with what it calls."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tir.llvm_functions, "text_of", self.emulator.text_of)
            family = self.emulator.emulated(family)
            codegen.compiled([code(kernel)], V3, family).write_to_file(str(path))
        functions: Path = self.emulator.build(self.folder / "emulated.o")
        return functions

    def run(
        self, kernel: Any, family: Instructions, buffers: dict[str, np.ndarray], count: int, workers: int
    ) -> np.ndarray:
        """The result."""
        arrays = [aligned(buffers[name]) for name in kernel.pointers]
        table = np.zeros((1, ROW), np.int64)
        table[0, POINTERS : POINTERS + len(arrays)] = [array.ctypes.data for array in arrays]
        library = Library(self.library(kernel, family), workers)
        library.run(table, count, 0)
        library.close()
        return arrays[list(kernel.pointers).index("result")]


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy whose data start at a multiple of 64 bytes."""
    memory = np.zeros(array.nbytes + 8192, np.uint8)  # room for prefetches
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, emulator: ModuleType) -> Runner:
    return Runner(tmp_path_factory.mktemp("families"), emulator)


# The two with VNNI share their products of bytes.
@pytest.fixture(params=[name for name in (*HERE, *EMULATED) if name != "avx512-vnni"])
def family(request: pytest.FixtureRequest) -> Instructions:
    target = HERE.get(request.param, V3)
    if missing := target.missing_here():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    return instructions_named(request.param)


WEIGHTS = {
    "int4-minimum": layout.QuantizedWeight(50, 96, 4, 32, 0, "float16", "float16"),
    "int4-offset": layout.QuantizedWeight(37, 128, 4, 64, 8, "", "float32"),
    "int8-offset": layout.QuantizedWeight(50, 96, 8, 96, 128, "", "float32"),
    "int8-narrow": layout.QuantizedWeight(16, 60, 8, 20, 0, "float32", "float32"),
}


@dataclass
class Case:
    """A product of whole numbers, and the buffers that its kernel reads."""

    weight: layout.QuantizedWeight
    buffers: dict[str, np.ndarray]
    expected: np.ndarray


def case(weight: layout.QuantizedWeight, tokens: int, random: np.random.Generator) -> Case:
    """Extremes among the codes and activations, and sums that float32 holds exactly."""
    groups = (weight.rows, weight.columns // weight.group)
    codes = extremes(random, (weight.rows, weight.columns), 0, weight.largest_code)
    activation = extremes(random, (tokens, weight.columns), -128, 127)
    scales = random.integers(1, 3, groups)
    minima = random.integers(-4, 4, groups) if weight.minimum else np.zeros(groups, np.int64)
    dense = scales.repeat(weight.group, 1) * (codes - weight.offset) + minima.repeat(weight.group, 1)
    expected = activation @ dense.T
    assert np.abs(expected).max() < 2**24
    held = np.zeros((tokens + PADDING, weight.columns), np.int8)
    held[:tokens] = activation
    each = held.reshape(len(held), -1, weight.group)
    buffers = {
        "codes": layout.pack_codes(codes.astype(np.uint8), weight).view(np.int32),
        "scales": layout.pack_groups(scales.astype(float), weight, weight.scale_dtype),
        "minima": layout.pack_groups(minima.astype(float), weight, weight.minimum or "float32"),
        "activation": held.view(np.int32),
        "activation_scales": np.ones(each.shape[:2], np.float32),
        "activation_sums": each.sum(2, dtype=np.int32),
        "panel": np.full(weight.columns * 8, -1, np.int32),
        "result": np.full((len(held), weight.blocks * 16), np.nan, np.float32),
    }
    return Case(weight, buffers, expected)


def extremes(random: np.random.Generator, shape: tuple[int, int], low: int, high: int) -> np.ndarray:
    """Integers from `low` to `high`, many of them at the ends."""
    values = random.integers(low, high + 1, shape)
    ends = random.choice([low, high], shape)
    return np.where(random.random(shape) < 0.7, ends, values)


@pytest.mark.parametrize("name", WEIGHTS)
def test_products_of_one_token_are_exact(name, family, runner, random):
    one = case(WEIGHTS[name], 1, random)
    kernel = QuantizedMatrixVector(one.weight, one.weight.group, "store")
    found = runner.run(kernel, family, one.buffers, 1, 1)
    np.testing.assert_array_equal(found[0, : one.weight.rows], one.expected[0])


@pytest.mark.parametrize("name", WEIGHTS)
def test_products_of_many_tokens_are_exact(name, family, runner, random):
    many = case(WEIGHTS[name], 11, random)
    kernel = QuantizedMatrixMatrix(many.weight, many.weight.group, "store", many.weight.blocks * 16)
    found = runner.run(kernel, family, many.buffers, 11, 1)
    np.testing.assert_array_equal(found[:11, : many.weight.rows], many.expected)


def bfloat16(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut to bfloat16: neighbours in pairs as int32, and the numbers they stand for."""
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return (bits >> 16).astype(np.uint16).view(np.int32), bits.view(np.float32).astype(np.float64)


@pytest.mark.parametrize("name", ["plain", "avx512-bf16", "arm-bf16"])
def test_products_of_bfloat16(name, runner, random):
    """Sums of float32 products, each rounded."""
    if missing := HERE.get(name, V3).missing_here():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    vectors, exact = bfloat16(random.normal(size=(STEPS, PARTS, 16, 2)))
    factors, scale = bfloat16(random.normal(size=(STEPS, TOKENS, 2)))
    buffers = {"vectors": vectors, "factors": factors, "result": np.zeros((1, TOKENS, PARTS, 16), np.float32)}
    found = runner.run(MultiplyInCache("bfloat16"), instructions_named(name), buffers, 1, 1)[0]
    expected = np.einsum("splk,stk->tpl", exact, scale)
    np.testing.assert_allclose(found, expected, rtol=0, atol=STEPS * 2e-6)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("cpu:avx512-bf16", "vdpbf16ps"), ("cpu:aarch64-bf16", "bfdot"), ("cpu:amx", "tdpbf16ps")],
)
def test_what_the_code_of_bfloat16_contains(name, pattern):
    target = resolve_target(name)
    linear = FloatLinear(layout.FloatWeight(32, 64, "bfloat16"), "store", 64, 32, "all")
    kernel = code(linear if name == "cpu:amx" else MultiplyInCache("bfloat16"))
    module = codegen.compiled([kernel], target, instructions_named(target.instructions))
    assert re.search(pattern, module.inspect_source("s"))


@pytest.mark.parametrize(("columns", "epilogue"), [(21, "store"), (96, "add"), (34, "swiglu")])
def test_float_tokens_times_bfloat16_weights_on_tiles(columns, epilogue, runner, random):
    """Three parts of each number, and nothing is rounded but the sums."""
    weight = layout.FloatWeight(72, columns, "bfloat16", 2 if epilogue == "swiglu" else 1)
    source, dense = bfloat16(random.normal(size=(72, columns + columns % 2)))
    halves = source.view(np.uint16).reshape(72, -1)[:, :columns]
    x = np.zeros((11 + PADDING, 112), np.float32)
    x[:11, :columns] = random.normal(size=(11, columns)) * 3
    stride = weight.blocks // weight.interleave * 16
    before = random.normal(size=(11 + PADDING, stride)).astype(np.float32)
    buffers = {"weight": layout.pack_float(halves, weight).view(np.uint32), "activation": x, "result": before}
    kernel = FloatLinear(weight, epilogue, 112, stride, "all")
    found = runner.run(kernel, families.AMX, buffers, 11, 1)[:11]
    exact = x[:11, :columns].astype(np.float64), dense[:, :columns]
    expected = reference.linear(*exact) if epilogue != "swiglu" else reference.linear_gated(*exact, epilogue)
    if epilogue == "add":
        expected = expected + before[:11, :72]
    found = found[:, : expected.shape[1]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


@pytest.mark.parametrize("target", NAMED_TARGETS, ids=lambda one: one.name)
def test_what_a_bare_machine_lacks(target: Target, monkeypatch):
    """Of another architecture, the architecture; of the same, every feature that the code may use."""
    monkeypatch.setattr(target_module, "host_features", lambda: frozenset())
    for machine in MACHINES:
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        foreign = () if target.triple.startswith(machine) else (target.triple.split("-")[0],)
        assert target.missing_here() == foreign + target.features
