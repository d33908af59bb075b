"""The reader gives what the gguf package gives, and refuses broken files before it allocates for them."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from intaglio.compiler.errors import ModelError, ModelFileError, UnsupportedModelError
from intaglio.compiler.frontends.gguf.reader import open_gguf
from intaglio.compiler.frontends.gguf.types import TENSOR_TYPES

TinyGguf = Callable[..., Path]
UINT8, UINT32, BOOL, STRING, ARRAY = 0, 4, 7, 8, 9
F32, Q4_0 = 0, 2


def text(content: str | bytes) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


def tensor(name: str, shape: list[int], kind: int = F32, offset: int = 0) -> bytes:
    inverted = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    return text(name) + struct.pack("<I", len(shape)) + inverted + struct.pack("<IQ", kind, offset)


def gguf_bytes(
    pairs: list[bytes], tensors: list[bytes], data: int = 0, *, version: int = 3, alignment: int = 32
) -> bytes:
    """A file with `data` zero bytes of tensor data."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join([*pairs, *tensors])
    return head + bytes(-len(head) % alignment) + bytes(data)


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[bytes], str]:
    """The message with which a file of these bytes is refused; refusing must take next to no memory."""

    def refuse(content: bytes) -> str:
        path = tmp_path / "broken.gguf"
        path.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ModelFileError) as caught:
            open_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 200_000 + 20 * len(content)
        tracemalloc.stop()
        return str(caught.value)

    return refuse


def test_tensor_types_are_those_of_the_gguf_package() -> None:
    ours = {kind: (one.name, one.elements, one.size) for kind, one in TENSOR_TYPES.items()}

    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        assert ours[int(kind)] == (kind.name, *sizes)


@pytest.mark.parametrize("quantization", ["Q4_1", "Q5_0", "F16"])
def test_reads_what_the_gguf_package_reads(tiny_gguf: TinyGguf, quantization: str) -> None:
    path = tiny_gguf(quantization=quantization, metadata={"general.name": "naïve 🤖", "general.flag": True})
    theirs, ours = gguf.GGUFReader(path), open_gguf(path)

    wanted = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    read = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in ours.metadata.items()
    }
    assert read == wanted
    assert list(ours.tensors) == [one.name for one in theirs.tensors]
    for one in theirs.tensors:
        assert ours.tensors[one.name].shape == tuple(one.shape[::-1])
        assert ours.blocks(one.name).tobytes() == one.data.tobytes()


def test_version_2_and_other_alignments_are_read(tmp_path: Path) -> None:
    path = tmp_path / "two.gguf"
    pairs = [pair("general.alignment", UINT32, struct.pack("<I", 64))]
    path.write_bytes(
        gguf_bytes(pairs, [tensor("a", [3]), tensor("b", [2, 32], Q4_0, 64)], 100, version=2, alignment=64)
    )

    file = open_gguf(path)

    assert file.blocks("a").shape == (1, 3, 4)
    assert file.blocks("b").shape == (2, 1, 18)
    assert file.tensors["b"].offset % 64 == 0


def test_data_stays_in_the_file(tiny_gguf: TinyGguf) -> None:
    blocks = open_gguf(tiny_gguf()).blocks("token_embd.weight")

    assert not blocks.flags.owndata
    assert not blocks.flags.writeable


def test_long_string_arrays_are_read_quickly(tmp_path: Path) -> None:
    path = tmp_path / "strings.gguf"
    words = [f"token {index} ▁" for index in range(49152)]
    path.write_bytes(gguf_bytes([pair("words", ARRAY, array(STRING, 49152, b"".join(map(text, words))))], []))
    start = time.perf_counter()

    file = open_gguf(path)

    assert time.perf_counter() - start < 0.3
    assert file.metadata["words"] == words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "shorter than the four bytes"),
        (b"GG", "shorter than the four bytes"),
        (b"PK\x03\x04 a zip file", "it is no GGUF file"),
        (b"GGUF\x03", "byte 4: the version needs 4 bytes, but 1 are left"),
        (gguf_bytes([], [], version=1), "version 1 is not one of (2, 3)"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0) + bytes(99), f"byte 8: {2**63} tensors cannot fit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + bytes(99), f"byte 16: {2**60} metadata pairs cannot"),
        (
            gguf_bytes([struct.pack("<Q", 2**62) + bytes(99)], []),
            "string 0 of the key of metadata pair 0 runs",
        ),
        (gguf_bytes([pair("k", STRING, struct.pack("<Q", 2**64 - 1))], []), "runs past the end of the file"),
        (gguf_bytes([pair("k", ARRAY, array(STRING, 2**60, bytes(9999)))], []), f"{2**60} strings of 'k'"),
        (gguf_bytes([pair("k", ARRAY, array(UINT8, 2**60, bytes(9999)))], []), f"{2**60} elements of 'k'"),
        (gguf_bytes([pair("k", ARRAY, array(ARRAY, 1, array(UINT8, 0)))], []), "nested arrays"),
        (gguf_bytes([pair("k", ARRAY, array(77, 1, bytes(32)))], []), "elements of the unknown type 77"),
        (gguf_bytes([pair("k", 13, bytes(32))], []), "'k' has the unknown type 13"),
        (gguf_bytes([pair("k", BOOL, b"\x02")], []), "its byte is 2"),
        (
            gguf_bytes([pair(b"\xff\xfe", UINT8, b"\x00")], []),
            "byte 32: the key of metadata pair 0 is not UTF-8",
        ),
        (gguf_bytes([pair("k", UINT8, b"\x01")] * 2, []), "the metadata key 'k' occurs twice"),
        (
            gguf_bytes([pair("general.alignment", UINT32, struct.pack("<I", 48))], []),
            "48, not a power of two",
        ),
        (gguf_bytes([pair("general.alignment", UINT32, bytes(4))], []), "is 0, not a power of two"),
        (gguf_bytes([], [tensor("t", [])]) + bytes(64), "the tensor 't' has rank 0"),
        (gguf_bytes([], [tensor("t", [1] * 5)]) + bytes(64), "the tensor 't' has rank 5"),
        (gguf_bytes([], [tensor("t", [0, 32])]) + bytes(64), "has the shape [0, 32]"),
        (gguf_bytes([], [tensor("t", [2, 33], Q4_0)]) + bytes(64), "rows of 't' are 33 long, no multiple"),
        (gguf_bytes([], [tensor("t", [4], offset=4)], 64), "starts at 4, not aligned to 32"),
        (gguf_bytes([], [tensor("t", [9])], 32), "the tensor 't' ends at byte"),
        (gguf_bytes([], [tensor("t", [2**62, 2**62])], 64), "the tensor 't' ends at byte"),
        (gguf_bytes([], [tensor("t", [4], offset=2**63)], 64), "the tensor 't' ends at byte"),
        (gguf_bytes([], [tensor("t", [4]), tensor("t", [4], offset=32)], 64), "the tensor 't' occurs twice"),
        (gguf_bytes([], [tensor("t", [9]), tensor("u", [4], offset=32)], 64), "'t' and 'u' overlap"),
    ],
)
def test_broken_files_are_refused(refusal: Callable[[bytes], str], content: bytes, words: str) -> None:
    assert words in refusal(content)


def test_all_tensors_of_unknown_types_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(gguf_bytes([], [tensor("a", [4], 4), tensor("b", [4]), tensor("c", [4], 200)], 64))

    with pytest.raises(UnsupportedModelError) as caught:
        open_gguf(path)

    assert caught.value.problems == ("a: type 4", "c: type 200")


def test_a_file_cut_off_anywhere_is_refused(tiny_gguf: TinyGguf, refusal: Callable[[bytes], str]) -> None:
    content = tiny_gguf().read_bytes()
    head = content.index(b"blk.0")

    for end in [*range(0, head, 97), *range(head, len(content), 1009), len(content) - 1]:
        assert "gguf: " in refusal(content[:end])


def test_flipped_bytes_never_crash_or_hang(tiny_gguf: TinyGguf, tmp_path: Path) -> None:
    content = tiny_gguf().read_bytes()
    random = np.random.default_rng(7)
    path = tmp_path / "flipped.gguf"
    refused = 0
    for position in random.integers(0, 9000, 500):
        flipped = bytearray(content)
        flipped[position] ^= random.integers(1, 256)
        path.write_bytes(flipped)
        try:
            open_gguf(path)
        except ModelError:
            refused += 1

    assert refused > 100
