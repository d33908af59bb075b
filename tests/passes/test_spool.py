"""Tensors that passes make lie in a temporary file, and are what was put in."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.errors import PassError
from intaglio.passes.spool import Spool


def test_what_is_stored_is_read_again_whatever_comes_after() -> None:
    spool, random = Spool(), np.random.default_rng(0)
    codes = random.integers(-8, 8, (5, 6))
    scale = random.standard_normal((5, 3)).astype(np.float16)
    first = spool.store([codes[:2], codes[2:4], codes[4:]], ir.DataType.INT4, (5, 6))
    np.testing.assert_array_equal(first.numpy().astype(np.int64), codes)
    second = spool.store([scale], ir.DataType.FLOAT16, (5, 3))
    np.testing.assert_array_equal(second.numpy(), scale)
    np.testing.assert_array_equal(first.numpy().astype(np.int64), codes)
    assert (first.dtype, second.dtype, spool.size) == (ir.DataType.INT4, ir.DataType.FLOAT16, 15 + 30)


def test_an_odd_number_of_codes_ends_in_half_a_byte() -> None:
    codes = np.array([[1, 15, 7]], np.uint8)
    tensor = Spool().store([codes], ir.DataType.UINT4, (1, 3))
    assert tensor.numpy().astype(np.int64).tolist() == [[1, 15, 7]]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full.open("wb", buffering=0))
    with pytest.raises(PassError, match="make room there"):
        Spool().store([np.zeros(4, np.int8)], ir.DataType.INT8, (4,))
