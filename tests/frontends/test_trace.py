"""`trace` finds the front end for a path, and says what it accepts where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from intaglio.compiler.errors import IntaglioError, ModelFileError, OptionError
from intaglio.compiler.frontends.traced import Source
from intaglio.compiler.frontends.tracing import FRONTENDS, trace

TinyGguf = Callable[..., Path]


def test_strings_and_paths_are_accepted(tiny_gguf: TinyGguf) -> None:
    path = tiny_gguf()

    assert (
        trace(str(path)).source
        == trace(path).source
        == Source(str(path.resolve()), path.stat().st_size, path)
    )


def test_a_gguf_file_of_another_name_is_recognised_by_its_content(
    tiny_gguf: TinyGguf, tmp_path: Path
) -> None:
    renamed = tmp_path / "model.bin"
    renamed.write_bytes(tiny_gguf().read_bytes())

    assert trace(renamed).architecture == trace(tiny_gguf()).architecture


def test_a_mislabelled_file_is_refused_as_what_it_calls_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.GGUF"
    path.write_bytes(b"PK\x03\x04 nothing of the kind")

    with pytest.raises(ModelFileError, match="it is no GGUF file"):
        trace(path)


def test_unknown_kinds_are_refused_with_what_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"12345678")

    empty = tmp_path / "empty"
    empty.mkdir()
    for place in (path, empty):
        with pytest.raises(OptionError, match=r"no model of a known kind: give a \.gguf file"):
            trace(place)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no"):
        trace(tmp_path / "missing.gguf")


def test_claims_is_cheap_and_never_raises(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()

    for frontend in FRONTENDS:
        assert not frontend.claims(empty)
        assert not frontend.claims(tmp_path)
        assert not frontend.claims(tmp_path / "missing")


def test_front_ends_load_nothing_heavy() -> None:
    code = (
        "import sys, intaglio.compiler.frontends; print({'torch', 'tvm', 'transformers'} & set(sys.modules))"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout == "set()\n"


def test_flipped_bytes_anywhere_give_our_errors_or_a_model(tiny_gguf: TinyGguf, tmp_path: Path) -> None:
    content = tiny_gguf().read_bytes()
    end = content.index(b"output_norm")
    random = np.random.default_rng(11)
    path = tmp_path / "flipped.gguf"
    outcomes = {"traced": 0, "refused": 0}
    for position in random.integers(0, end, 200):
        flipped = bytearray(content)
        flipped[position] ^= random.integers(1, 256)
        path.write_bytes(flipped)
        try:
            tokenizer = trace(path).tokenizer
            if tokenizer is not None:
                tokenizer.decode(tokenizer.encode("the <|im_start|> 12"))
                tokenizer.chat([{"role": "user", "content": "hi"}])
            outcomes["traced"] += 1
        except IntaglioError:
            outcomes["refused"] += 1

    assert min(outcomes.values()) > 5
