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
    tables=tuple(
        StageTable(name, tokens, (Stage(0, (0, 1), True, "norm"), Stage(0, (1, 2), False, "norm")))
        for name, tokens in (("decode", 1), ("prefill", 8), ("score", 4))
    ),
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


def changed(path, value):
    """The program's JSON with what stands at `path` replaced."""
    values = json.loads(PROGRAM.to_json())
    *way, last = path
    place = values
    for key in way:
        place = place[key]
    place[last] = value
    return json.dumps(values)


CALL = {"region": 0, "before": 0, "inputs": [], "outputs": []}
ROWS = {"name": "x", "buffer": 0, "stride": 16, "offset": 0, "shape": [10], "single": True}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tables", 0, "stages", 1, "kernel"), 1, "table decode: stage 1: kernel 1 of 1"),
        (("tables", 0, "stages", 1, "kernel"), -1, "kernel -1 of 1"),
        (("tables", 0, "stages", 1, "kernel"), "0", "kernel '0' of 1"),
        (("tables", 1, "stages", 0, "buffers"), [0, 3], "table prefill: stage 0: buffer 3 of 3"),
        (("tables", 1, "stages", 0, "buffers"), [0, -1], "buffer -1 of 3"),
        (("tables", 1, "stages", 0, "buffers"), [0, 1.0], "buffer 1.0 of 3"),
        (("tables", 1, "stages", 1, "buffers"), [0], "1 buffers, where its kernel has 2"),
        (("tables", 0, "stages", 0, "count"), -1, "a count of -1"),
        (("tables", 0, "stages", 0, "guard"), {"buffer": 3, "offset": 0}, "a guard at float 0 of buffer 3"),
        (("tables", 0, "stages", 0, "guard"), {"buffer": 0, "offset": 10}, "a guard at float 10 of buffer 0"),
        (("tables", 0, "foreign"), [CALL], "region 0 of 0"),
        (("tables", 0, "foreign"), [{**CALL, "before": 3}], "ahead of stage 3, of 0 … 2"),
        (("tables", 0, "foreign"), [{**CALL, "before": 2}, CALL], "ahead of stage 0, of 2 … 2"),
        (("tables", 0, "foreign"), [{**CALL, "inputs": [{**ROWS, "buffer": 9}]}], "buffer 9 of 3"),
        (("tables", 0, "foreign"), [{**CALL, "outputs": [{**ROWS, "stride": -1}]}], "rows of -1 floats"),
        (("tables", 0, "name"), "encode", "no table decode"),
        (("tables", 2, "tokens"), 0, "table score: for 0 tokens"),
        (("buffers", 1, "offset"), 8, "buffer 1: its offset 8 is no multiple of 64"),
        (("buffers", 1, "offset"), -64, "8 bytes at -64"),
        (("buffers", 1, "bytes"), None, "None bytes at 64"),
        (("buffers", 0, "space"), "nowhere", "an unknown space 'nowhere'"),
        (("buffers", 1, "space"), "weights", None),
        (("weight_bytes",), 0, "weight bytes and batch are"),
        (("batch",), 0, "and batch are"),
        (("capacity",), "8", "capacity, vocabulary"),
    ],
)
def test_numbers_that_lead_astray(path, value, message):
    """They are refused when the program is read, before any address is made of them."""
    text = changed(path, value)
    if message is None:  # 8 bytes at 64, of 128
        Program.from_json(text)
        return
    with pytest.raises(ArtifactError, match="corrupt; compile again") as caught:
        Program.from_json(text)
    assert message in str(caught.value)


def test_weights_end_with_their_file():
    with pytest.raises(ArtifactError, match="it ends at 136, beyond the 128 bytes of weights"):
        Program.from_json(
            changed(("buffers", 1), {"name": "y", "space": "weights", "bytes": 8, "offset": 128})
        )


def test_all_that_is_wrong_is_told_at_once():
    values = json.loads(changed(("tables", 0, "stages", 1, "kernel"), 9))
    values["tables"][2]["stages"][0]["buffers"] = [7, 8]
    with pytest.raises(ArtifactError) as caught:
        Program.from_json(json.dumps(values))
    assert str(caught.value).count("\n  - ") == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"text"'])
def test_garbage(text):
    with pytest.raises(ArtifactError, match="compile again"):
        Program.from_json(text)
