"""A native session's bad input, and what it says of itself."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from intaglio.backends.tvm import NativeSession, codegen
from intaglio.backends.tvm import running as running_module
from intaglio.backends.tvm.memory import allocate
from intaglio.backends.tvm.program import ROW
from intaglio.compiler.errors import ArtifactError, CodegenError, ContextLengthError, OptionError
from intaglio.cost_models import resolve_target


@pytest.fixture
def decoder(tiny_decoder):
    return tiny_decoder(quantization="Q4_0")


@pytest.fixture
def session(decoder):
    session = decoder.session()
    yield session
    session.close()


def test_sizes(decoder, session):
    assert (session.vocabulary, session.capacity, session.position) == (300, 72, 0)


@pytest.mark.parametrize("tokens", [[300], [-1], [5, 2**31], [5, -(2**40)]])
def test_token_ids_out_of_range(session, tokens):
    session.extend([1, 2])
    for call in (session.extend, session.score, session.profile):
        with pytest.raises(OptionError, match=rf"id {max(tokens, key=abs)} is outside 0 … 299"):
            call(tokens)
    assert session.position == 2


@pytest.mark.parametrize("tokens", [[], [[1, 2]], [1.5], ["a"]])
def test_what_is_no_sequence_of_tokens(session, tokens):
    with pytest.raises(OptionError, match="a sequence of at least one token id is wanted"):
        session.extend(tokens)


def test_the_context_is_the_limit(decoder, session):
    session.extend(decoder.tokens)
    session.score(decoder.tokens[:32])
    assert session.position == session.capacity
    for call in (session.extend, session.score, session.profile):
        with pytest.raises(ContextLengthError, match=r"72 \+ 1 tokens are more than the 72"):
            call([1])
    session.reset()
    with pytest.raises(ContextLengthError):
        session.extend([1] * 73)
    assert session.position == 0


@pytest.mark.parametrize("position", [-1, 4])
def test_reset_goes_back_only(session, position):
    session.extend([1, 2, 3])
    with pytest.raises(OptionError, match=f"position {position} is outside 0 … 3"):
        session.reset(position)


def test_logits_are_the_callers_own(session):
    first = session.extend([1])
    kept = first.copy()
    session.extend([2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("prompt", [1, 40])
def test_the_likeliest_tokens_are_those_of_all_logits(decoder, threads, prompt):
    """After one token, and after three chunks of a prompt."""
    session, tokens = decoder.session(threads), decoder.tokens[:prompt]
    logits = session.extend(tokens)
    expected = np.argsort(-logits, kind="stable")
    for count in (1, 2, 40, 300):
        session.reset()
        found, values = session.best(tokens, count)
        np.testing.assert_array_equal(found, expected[:count])
        np.testing.assert_array_equal(values, logits[found])
    session.reset()
    assert session.choose(tokens) == logits.argmax()
    assert session.position == prompt
    session.close()


@pytest.mark.parametrize("count", [0, -1, 301])
def test_more_tokens_than_there_are(session, count):
    with pytest.raises(OptionError, match=f"best: {count} is outside 1 … 300"):
        session.best([1], count)
    with pytest.raises(ContextLengthError):
        session.best([1] * 73, 1)
    assert session.position == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_what_the_program_says(decoder, threads, monkeypatch):
    """Every space is allocated once, at its size; huge pages and guards are beyond that."""
    allocated = []
    monkeypatch.setattr(running_module, "allocate", lambda size: allocated.append(size) or allocate(size))
    session, program = decoder.session(threads), decoder.program
    session.close()
    sizes = session.memory
    tables = [len(table.stages) * ROW * 8 for table in program.tables]
    assert sorted(allocated) == sorted(
        [*(size for space, size in sizes.items() if space != "weights"), *tables]
    )
    assert sizes["weights"] == decoder.files["weights"].stat().st_size
    for space in ("workspace", "private"):
        ends = [one.offset + one.bytes for one in program.buffers if one.space == space]
        assert sizes[space] == max(ends) * (threads if space == "private" else 1)
    assert sizes["state"] == 128 * program.cache_bytes_per_position  # whole blocks of 128


def test_what_is_left_in_the_workspace_does_not_matter(decoder):
    """Neither padding nor anything else is read before it is written."""
    session = decoder.session(2)
    before = [session.extend(decoder.tokens), session.extend([3]), session.score(decoder.tokens[:5])]
    session.reset()
    for space in ("workspace", "private", "logits", "maxima"):
        session.running.spaces[space].view(np.float32)[:] = np.nan
    after = [session.extend(decoder.tokens), session.extend([3]), session.score(decoder.tokens[:5])]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    session.close()


def test_workers_that_lose_their_cpu_cost_time_and_nothing_else(decoder):
    """Other processes take turns with both workers, who then find each other at barriers late."""
    session = decoder.session(2)
    expected = [session.extend(decoder.tokens), *(session.extend([token]) for token in range(20))]
    spin = f"import os; os.sched_setaffinity(0, {os.sched_getaffinity(0)}); [None for _ in iter(int, 1)]"
    others = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(4)]
    try:
        session.reset()
        found = [session.extend(decoder.tokens), *(session.extend([token]) for token in range(20))]
    finally:
        for other in others:
            other.kill()
            other.wait()
    for one, another in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, another)
    session.close()


def test_profile_names_the_sites_in_order(decoder, session):
    for tokens in ([7], decoder.tokens[:16]):
        times = session.profile(tokens)
        assert times[0][0] == "embed_tokens"
        assert times[-1][0] == "lm_head"
        assert all(seconds >= 0 for _, seconds in times)
    with pytest.raises(OptionError, match="17 tokens are more than one chunk of 16"):
        session.profile(decoder.tokens[:17])


def test_ceilings_are_positive(session):
    ceilings = session.measure_ceilings()
    assert ceilings.threads == 1
    assert ceilings.read_bytes_per_second > 1e8
    assert ceilings.int8_operations_per_second >= ceilings.fp32_operations_per_second / 2 > 1e8


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_threads_out_of_range(decoder, threads):
    with pytest.raises(OptionError, match=f"threads: {threads} is outside 1 … "):
        decoder.session(threads)


def test_a_closed_session_is_refused(decoder):
    session = decoder.session()
    session.close()
    session.close()
    with pytest.raises(OptionError, match="closed"):
        session.extend([1])
    with pytest.raises(OptionError, match="closed"):
        session.measure_ceilings()


def test_the_callers_cpus_are_restored(decoder, monkeypatch):
    session, before = decoder.session(2), os.sched_getaffinity(0)
    during = []
    run = session.running.library.run

    def failing(*arguments):
        during.append(os.sched_getaffinity(0))
        run(*arguments)
        raise CodegenError("on purpose")

    monkeypatch.setattr(session.running.library, "run", failing)
    with pytest.raises(CodegenError, match="on purpose"):
        session.extend([1])
    assert os.sched_getaffinity(0) == before
    assert [len(cpus) for cpus in during] == [1]
    session.close()


@pytest.mark.slow
def test_code_generated_by_several_processes_is_numbered_as_one(decoder, session, tmp_path):
    """`build_library` deals the kernels to processes; here, tests have built them one by one."""
    assert len(decoder.program.kernels) >= 2 * codegen.WORTHWHILE
    codegen.build_library(decoder.program, resolve_target("cpu"), tmp_path / "program.so")
    other = NativeSession(
        decoder.program, weights=decoder.files["weights"], library=tmp_path / "program.so", threads=1
    )
    for tokens in (decoder.tokens, [3]):
        np.testing.assert_array_equal(other.extend(tokens), session.extend(tokens))
    np.testing.assert_array_equal(other.score([4, 5]), session.score([4, 5]))
    other.close()


def test_weights_of_the_wrong_size(decoder, tmp_path):
    weights = tmp_path / "weights.bin"
    content = decoder.files["weights"].read_bytes()
    for wrong in (content[:-64], content + bytes(64), b""):
        weights.write_bytes(wrong)
        with pytest.raises(ArtifactError, match=f"has {len(wrong)} bytes, the program wants {len(content)}"):
            NativeSession(decoder.program, weights=weights, library=decoder.files["library"], threads=1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        NativeSession(decoder.program, weights=tmp_path / "none", library=decoder.files["library"], threads=1)


@pytest.mark.parametrize("content", [b"no library", None], ids=["text", "missing"])
def test_a_library_that_does_not_load(decoder, tmp_path, content):
    library = tmp_path / "program.so"
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(CodegenError, match="does not load"):
        NativeSession(decoder.program, weights=decoder.files["weights"], library=library, threads=1)


def test_a_library_of_something_else(decoder):
    """It loads, but has none of our functions."""
    import _ctypes

    with pytest.raises(CodegenError, match="does not load"):
        NativeSession(decoder.program, weights=decoder.files["weights"], library=_ctypes.__file__, threads=1)


SCRIPT = """
import sys
from pathlib import Path
from intaglio.backends.tvm import NativeSession, Program

program, weights, library = (Path(one) for one in sys.argv[1:])
session = NativeSession(Program.from_json(program.read_text()), weights=weights, library=library, threads=2)
session.extend([1, 2, 3])
sys.modules["kept until the end"] = session
assert not {"tvm", "torch", "onnx"} & set(sys.modules), "running a program brings its compiler"
"""


def test_sessions_end_quietly(decoder, tmp_path):
    """Left to the garbage collector, or open when the interpreter exits."""
    session = decoder.session(2)
    del session
    gc.collect()
    (tmp_path / "program.json").write_text(decoder.program.to_json())
    arguments = [str(tmp_path / "program.json"), *(str(one) for one in decoder.files.values())]
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
