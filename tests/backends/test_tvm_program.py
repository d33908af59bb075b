"""Programs as JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from intaglio.backends.tvm import Program
from intaglio.backends.tvm.program import Buffer, KernelCode, Stage, StageTable
from intaglio.compiler.errors import ArtifactError

PROGRAM = Program(
    capacity=8,
    vocabulary=3,
    kernels=(KernelCode("RowProgram", {"columns": 4, "epsilon": 1e-5}),),
    buffers=(Buffer("x", "workspace", 40), Buffer("y", "workspace", 8, 64), Buffer("z", "private", 4)),
    tables=(StageTable("decode", 1, (Stage(0, (0, 1), True, "norm"), Stage(0, (1,), False, "norm"))),),
    weight_bytes=128,
    bytes_per_token=100,
    cache_bytes_per_position=32,
    multiply_adds_per_token=12,
)


def test_round_trip():
    assert Program.from_json(PROGRAM.to_json()) == PROGRAM


def test_a_real_program_keeps_its_kernels(tiny_decoder):
    program = tiny_decoder(quantization="Q4_0").program
    assert Program.from_json(program.to_json()) == program
    assert [table.name for table in program.tables] == ["decode", "prefill", "score"]
    assert len({json.dumps(dataclasses.asdict(one), sort_keys=True) for one in program.kernels}) == len(
        program.kernels
    )


def test_spaces():
    assert [PROGRAM.space_bytes(space) for space in ("workspace", "private", "state")] == [72, 4, 0]


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Program)])
def test_a_missing_key(key):
    values = json.loads(PROGRAM.to_json())
    del values[key]
    with pytest.raises(ArtifactError, match="not a program of this version"):
        Program.from_json(json.dumps(values))


@pytest.mark.parametrize(
    "change",
    [
        {"surplus": 1},
        {"kernels": [{"name": "RowProgram"}]},
        {"kernels": 3},
        {"buffers": [["x"]]},
        {"tables": [{"name": "decode"}]},
        {"tables": [{"name": "decode", "tokens": 1, "stages": [{"kernel": 0}]}]},
    ],
)
def test_other_contents(change):
    with pytest.raises(ArtifactError, match="not a program of this version"):
        Program.from_json(json.dumps(json.loads(PROGRAM.to_json()) | change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"text"'])
def test_garbage(text):
    with pytest.raises(ArtifactError, match="compile again"):
        Program.from_json(text)
