"""Rounding what goes into the caches: the graph, the certificates, the numbers, and what is declined."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.reference.session import ReferenceSession
from intaglio.compiler.errors import OptionError
from intaglio.kernels.attention import heads
from intaglio.kernels.attention.reference_cache import round_cached
from intaglio.passes.quantize import StoreCache
from intaglio.passes.quantize.formats import CACHE_FORMATS

GRAPH = """g (float[1,2,3,6] k, int64[1] position, float[1,2,9,6] key_cache_0, float[1,2,9,6] value_cache_0)
  => (float[1,2,9,6] keys, float[1,2,9,6] values) {
    keys = TensorScatter <axis = 2> (key_cache_0, k, position)
    values = TensorScatter <axis = 2> (value_cache_0, k, position)
}"""
UNFILLED = "g (float[1,2,9,6] key_cache_0) => (float[1,2,9,6] y) { y = Identity (key_cache_0) }"
NODES = {
    "fp32": ["TensorScatter"] * 2,
    "fp16": ["Cast", "Cast", "TensorScatter"] * 2,
    "bf16": ["Cast", "Cast", "TensorScatter"] * 2,
    "int8": ["QuantizeActivation", "TensorScatter"] * 2,
}


@pytest.fixture
def decoder(parse: Any) -> Any:
    """`decoder(text)`: a graph whose caches are named as those of decoders; the text form has no dots."""

    def make(text: str = GRAPH) -> ir.Model:
        model: ir.Model = parse(text)
        for one in model.graph.inputs:
            one.name = str(one.name).replace("_cache_", "_cache.")
        return model

    return make


def test_kernels_and_passes_know_the_same_formats() -> None:
    assert heads.CACHES == CACHE_FORMATS


@pytest.mark.parametrize("cache", CACHE_FORMATS)
def test_what_is_stored_is_rounded(decoder: Any, cache: Any) -> None:
    model = decoder()
    result = StoreCache(cache)(model)
    assert [node.op_type for node in model.graph] == NODES[cache]
    assert result.declined == ()
    assert [one.site for one in result.applied] == ["key_cache.0", "value_cache.0"] * (cache != "fp32")
    k = np.random.default_rng(3).normal(size=(1, 2, 3, 6)).astype(np.float32)
    k[0, 1, 2] = 0.0  # a head of zeros
    empty = np.zeros((1, 2, 9, 6), np.float32)
    given = {"k": k, "position": np.array([4]), "key_cache.0": empty, "value_cache.0": empty}
    found = ReferenceSession(model).run(given)
    for name in ("keys", "values"):
        stored = np.asarray(found[name])[0]
        np.testing.assert_allclose(stored[:, 4:7], round_cached(k[0].astype(np.float64), cache), rtol=1e-6)
        assert not stored[:, :4].any()


@pytest.mark.parametrize(("cache", "largest"), [("fp16", 4e-4), ("bf16", 4e-3), ("int8", 0.02)])
def test_certificates_say_how_much_is_lost(decoder: Any, cache: Any, largest: float) -> None:
    for one in StoreCache(cache)(decoder()).applied:
        assert one.certificate is not None
        assert one.certificate.holds
        assert largest / 10 < one.certificate.error < largest


def test_a_cache_that_nothing_fills_is_declined(decoder: Any) -> None:
    (declined,) = StoreCache("bf16")(decoder(UNFILLED)).declined
    assert declined.site == "key_cache.0"
    assert "TensorScatter" in declined.reason


def test_other_formats_are_refused() -> None:
    with pytest.raises(OptionError, match=r"store_cache: 'int4' is not one of fp32, fp16"):
        StoreCache("int4")  # type: ignore[arg-type]


def test_a_graph_without_caches_stays(parse: Any) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Neg (x) }")
    assert StoreCache("int8")(model).applied == ()
    assert [node.op_type for node in model.graph] == ["Neg"]
    assert isinstance(model, ir.Model)
