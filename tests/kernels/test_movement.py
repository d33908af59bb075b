"""Movements against numpy and against their reference: any rank, every element, everything else untouched."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.movement import shapes
from intaglio.kernels.movement.movement import MovedAxis, Movement
from intaglio.kernels.movement.reference import move

ELEMENTS = ("float32", "int64", "uint8")


def some(element, shape, random):
    """Different values, NaN's bits among the floats."""
    values = random.permutation(int(np.prod(shape))).reshape(shape)
    return (values % 251).astype(element) if element == "uint8" else values.astype(element)


def moved(movement, source, result, run_kernel, workers=2):
    """The result afterwards."""
    buffers = {"source": source, "result": result}
    return run_kernel(movement, buffers, workers=workers)["result"]


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(
    ("shape", "order"),
    [((37, 50), (1, 0)), ((2, 3, 16, 33), (0, 2, 3, 1)), ((5, 7, 9), (2, 0, 1)), ((4, 6, 130), (1, 0, 2))],
)
def test_permuted(element, shape, order, run_kernel, random):
    source = some(element, shape, random)
    movement = shapes.permuted(element, shape, order)
    expected = source.transpose(order)
    found = moved(movement, source, np.full(expected.shape, 99, element), run_kernel)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(
    ("shape", "wanted"), [((1,), (5, 70)), ((3, 1, 5), (2, 3, 66, 5)), ((4, 1), (4, 257)), ((6,), (6,))]
)
def test_expanded(element, shape, wanted, run_kernel, random):
    source = some(element, shape, random)
    found = moved(shapes.expanded(element, shape, wanted), source, np.full(wanted, 99, element), run_kernel)
    np.testing.assert_array_equal(found, np.broadcast_to(source, wanted))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(
    ("starts", "steps", "extents"),
    [
        ((0, 0, 0), (1, 1, 1), (4, 9, 70)),
        ((1, 2, 3), (2, 3, 1), (2, 2, 65)),
        ((3, 0, 69), (-1, 1, -2), (4, 9, 35)),
    ],
)
def test_sliced(element, starts, steps, extents, run_kernel, random):
    source = some(element, (4, 9, 70), random)
    movement = shapes.sliced(element, source.shape, starts, steps, extents)
    index = tuple(
        np.arange(start, start + step * extent, step)
        for start, step, extent in zip(starts, steps, extents, strict=True)
    )
    found = moved(movement, source, np.full(extents, 99, element), run_kernel)
    np.testing.assert_array_equal(found, source[np.ix_(*index)])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_joined(axis, run_kernel, random):
    """Parts of a concatenation, one after the other."""
    parts = []
    for extent in (1, 5, 20):
        shape = [3, 4, 17]
        shape[axis] = extent
        parts.append(some("float32", shape, random))
    expected = np.concatenate(parts, axis)
    result, first = np.full(expected.shape, np.nan, np.float32), 0
    for part in parts:
        result = moved(
            shapes.joined("float32", part.shape, expected.shape, axis, first), part, result, run_kernel
        )
        first += part.shape[axis]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("before", "after"), [((0, 1, 2), (2, 0, 3)), ((1, 0, 0), (0, 0, 40)), ((-1, 2, 0), (1, -2, -5))]
)
@pytest.mark.parametrize("element", ELEMENTS)
def test_padded(element, before, after, run_kernel, random):
    source = some(element, (3, 4, 30), random)
    movement = shapes.padded(element, source.shape, before, after, 7)
    ends = list(zip(before, after, strict=True))
    cut = [slice(max(0, -b), s - max(0, -a)) for (b, a), s in zip(ends, source.shape, strict=True)]
    more = [(max(0, b), max(0, a)) for b, a in ends]
    expected = np.pad(source[tuple(cut)], more, constant_values=7)
    found = moved(movement, source, np.full(expected.shape, 99, element), run_kernel)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "shape", [(1, 3, 8, 9), (2, 40, 5, 7), (1, 1, 20), (2, 16, 3), (1, 24, 1, 1), (3, 64, 4)]
)
@pytest.mark.parametrize("element", ELEMENTS)
def test_layouts(shape, element, run_kernel, random):
    """Channels last and back, with padding that is zero one way and never used the other."""
    plain = some(element, shape, random)
    last = np.moveaxis(plain, 1, -1)
    channels = -(-shape[1] // 16) * 16
    expected = np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, channels - shape[1])])
    there = shapes.to_channels_last(shape, element)
    found = moved(there, plain, np.full(expected.shape, 99, element), run_kernel)
    np.testing.assert_array_equal(found, expected)
    found[..., shape[1] :] = 77
    back = moved(shapes.to_plain(shape, element), found, np.full(shape, 99, element), run_kernel)
    np.testing.assert_array_equal(back, plain)


def test_joined_channels(run_kernel, random):
    """Concatenation of channels-last images."""
    channels, pixels = (24, 3, 33), 35
    images = [some("float32", (pixels, one), random) for one in channels]
    result = np.full((pixels, 64), np.nan, np.float32)
    for part, image in enumerate(images):
        source = np.full((pixels, -(-channels[part] // 16) * 16), 55, np.float32)
        source[:, : channels[part]] = image
        result = moved(shapes.joined_channels(channels, part, pixels), source, result, run_kernel)
    np.testing.assert_array_equal(result[:, :60], np.concatenate(images, -1))
    assert (result[:, 60:] == 0).all()


ODD = (
    Movement("float32", (MovedAxis(3, 2, 100), MovedAxis(20, -5, 4, 1, 2)), 120, 3, 2.5),
    Movement("float32", (MovedAxis(18, 1, 40), MovedAxis(32, 20, 1, after=9)), fill=-1.0),
    Movement("float32", (MovedAxis(33, 1, 64), MovedAxis(32, 40, 1, after=20)), fill=-1.0),
    Movement("int32", (MovedAxis(5000, 1, 1),), 1, 2),
    Movement("int32", (MovedAxis(5, 0, 30), MovedAxis(30, 0, 1, 3, 4)), fill=6),
    Movement("int8", (MovedAxis(7, 0, 9, 7), MovedAxis(9, 1, 1)), fill=-3),
    Movement("uint8", (MovedAxis(1, 1, 1),)),
)


@pytest.mark.parametrize("movement", ODD)
@pytest.mark.parametrize("workers", [1, 2])
def test_odd(movement, workers, run_kernel, random):
    """Reversed, filled, repeated, and nothing beside it written."""
    source = some(movement.element, (8000,), random)
    expected = np.full(8000, 99, movement.element)
    move(movement, source, expected)
    found = moved(movement, source, np.full(8000, 99, movement.element), run_kernel, workers)
    np.testing.assert_array_equal(found, expected)
    assert kernel_from_json("Movement", json.loads(json.dumps(dataclasses.asdict(movement)))) == movement


def test_bad_movements():
    """All that is wrong is said at once."""
    with pytest.raises(CodegenError, match=r"float16.*axis 0.*axis 1 writes"):
        Movement("float16", (MovedAxis(2, 1, 1, 3), MovedAxis(5, 1, 0)))
