"""From kernels to object files and libraries: other machines, missing tools, errors with reasons."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from intaglio.backends.tvm import codegen
from intaglio.backends.tvm.program import KernelCode
from intaglio.compiler.errors import CodegenError, TargetError
from intaglio.cost_models import Target, host_target, resolve_target
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.linear.layout import QuantizedWeight
from intaglio.kernels.linear.matrix_vector import QuantizedMatrixVector
from intaglio.kernels.row_program.program import RowInput, RowProgram, Step

AARCH64 = 183  # e_machine of ELF


def code(kernel) -> KernelCode:
    return KernelCode(type(kernel).__name__, dataclasses.asdict(kernel))


KERNELS = (
    code(
        RowProgram(
            48, (RowInput(48, "all"),), 0, (Step("input"), Step("rms_norm", (0,), number=1e-5)), 48, "all"
        )
    ),
    code(QuantizedMatrixVector(QuantizedWeight(32, 64, 4, 32, 8, "", "float16"), 32, "store")),
)


def test_code_for_another_machine(tmp_path):
    """In a process of its own; only running it needs that machine."""
    path = tmp_path / "program.o"
    codegen.build_object(KERNELS, resolve_target("cpu:aarch64"), path)
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == AARCH64
    assert all(name.encode() in path.read_bytes() for name in codegen.symbols(KERNELS))


def test_an_instruction_that_the_target_lacks(tmp_path):
    """LLVM aborts: the process that dies is not this one."""
    lacking: Target = dataclasses.replace(resolve_target("cpu:x86-64-v3"), instructions="avx512-vnni")
    with pytest.raises(CodegenError, match=r"(?s)no code for target cpu:x86-64-v3: .*"):
        codegen.build_object(KERNELS, lacking, tmp_path / "program.o")


def test_kernels_of_another_version():
    with pytest.raises(KeyError, match="Forgotten"):
        kernel_from_json("Forgotten", {})
    with pytest.raises((KeyError, TypeError), match="strides"):
        kernel_from_json("RowProgram", {"strides": 16})


def test_kernels_come_back_from_json():
    for kernel in KERNELS:
        built = kernel_from_json(kernel.name, json.loads(json.dumps(kernel.parameters)))
        assert code(built) == kernel


def test_no_c_compiler(tiny_decoder, tmp_path, monkeypatch):
    program = tiny_decoder(quantization="Q4_0").program
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TargetError, match="no C compiler"):
        codegen.build_library(program, host_target(), tmp_path / "program.so")
    assert not (tmp_path / "program.so").exists()


def test_the_c_compiler_of_the_environment(tmp_path, monkeypatch):
    mine = tmp_path / "mycc"
    mine.symlink_to(shutil.which("true") or "/bin/true")
    monkeypatch.setenv("CC", str(mine))
    assert codegen.c_compiler() == str(mine)


def test_what_the_c_compiler_says(tmp_path):
    wrong = dataclasses.replace(host_target(), c_flags=("-march=nonsense",))
    with pytest.raises(CodegenError, match=r"-march=nonsense.*failed: .*nonsense"):
        codegen.build_runtime(wrong, tmp_path / "runtime.o")
    with pytest.raises(CodegenError, match="failed: "):
        codegen.link([tmp_path / "missing.o"], [], tmp_path / "program.so")
