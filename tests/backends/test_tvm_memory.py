"""Memory for programs: aligned, zeroed, guarded, and of a kind that can have huge pages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from intaglio.backends.tvm import memory
from intaglio.backends.tvm.memory import GUARD, HUGE, allocate, read_weights
from intaglio.compiler.errors import ArtifactError


@pytest.mark.parametrize("size", [0, 1, 100_000, HUGE - GUARD, HUGE, 3 * HUGE + 5])
def test_memory_is_aligned_zeroed_and_guarded(size):
    space = allocate(size)
    assert space.ctypes.data % (HUGE if size >= HUGE else 4096) == 0
    assert len(space) >= size + GUARD
    assert not space.any()
    space[-1] = 1


def flags_of(address):
    """What the system says of the mapping at `address`, in its two-letter codes."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(one, 16) for one in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"no mapping at {address:#x}")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_large_memory_is_private_so_that_it_can_have_huge_pages():
    """Shared anonymous memory is a file to Linux, and its pages are small by default."""
    space = allocate(4 * HUGE)
    flags = flags_of(space.ctypes.data)
    assert "sh" not in flags
    if Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        assert "hg" in flags


@pytest.mark.parametrize("most", [memory.MOST, 0.0], ids=["read", "mapped"])
def test_weights_are_read_or_mapped(tmp_path, most, monkeypatch, random_bytes):
    """In pieces that do not divide the file."""
    monkeypatch.setattr(memory, "MOST", most)
    monkeypatch.setattr(memory, "PIECE", 1000)
    path = tmp_path / "weights.bin"
    path.write_bytes(random_bytes)
    assert read_weights(path, len(random_bytes))[: len(random_bytes)].tobytes() == random_bytes


@pytest.fixture
def random_bytes():
    return bytes((i * i + i // 256) % 256 for i in range(2 * HUGE + 128))


def test_weights_that_are_not_there_or_of_another_size(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_weights(tmp_path / "none", 64)
    (tmp_path / "short").write_bytes(bytes(64))
    with pytest.raises(ArtifactError, match="has 64 bytes, the program wants 128"):
        read_weights(tmp_path / "short", 128)
