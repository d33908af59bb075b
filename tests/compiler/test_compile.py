"""The whole way, on a tiny random llama: compile, run, save, load, refuse."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.artifact import read_manifest, write_manifest
from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.continuation import GenerationOptions
from intaglio.compiler.export import settings_of
from intaglio.compiler.manifest import MANIFEST, REQUIRED
from intaglio.compiler.preview import treated_graph
from intaglio.compiler.reference_session import GraphSession

WORKLOAD = intaglio.Workload(20, 10)
TOKENS = np.random.default_rng(0).integers(3, 300, size=41).tolist()


@pytest.fixture(scope="module")
def expected(artifact: Any) -> np.ndarray:
    """Logits of the treated graph, interpreted: what the compiled model must compute."""
    _, model, _ = treated_graph(settings_of(read_manifest(artifact.folder), artifact.source))
    return GraphSession(model, ReferenceSession(model)).score(TOKENS)


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_the_logits_are_those_of_the_graph(compiled: CompiledModel, expected: np.ndarray) -> None:
    # Sums in another order move an activation over a rounding bound now and then: one code of 127; and
    # attention may round queries and weights to the cache's bfloat16.
    assert relative_error(compiled(TOKENS), expected) < 4e-2


def test_chunks_and_steps_give_the_same(compiled: CompiledModel, expected: np.ndarray) -> None:
    session = compiled.session
    session.reset()
    assert relative_error(session.extend(TOKENS[:37]), expected[36]) < 4e-2  # two chunks of at most 20
    for place in range(37, 41):
        assert relative_error(session.extend(TOKENS[place : place + 1]), expected[place]) < 4e-2


def test_threads_make_no_difference(artifact: Any) -> None:
    results = []
    for threads in (1, None):
        with intaglio.load(artifact.folder, threads=threads) as model:
            results.append(model(TOKENS))
    assert relative_error(results[0], results[1]) < 5e-3


def test_what_compile_prints(artifact: Any) -> None:
    printed = artifact.printed
    assert 0 < printed["seconds"] < 120
    assert printed["artifact_bytes"] == sum(one.stat().st_size for one in artifact.folder.iterdir())
    assert printed["peak_memory_bytes"] > 0
    sites = [one["site"] for one in printed["sites"]]
    assert {"embed_tokens", "layers.1.mlp.down_proj", "lm_head"} <= set(sites)
    assert printed["bytes_per_token"] == sum(one["bytes"] for one in printed["sites"])


def test_text_is_generated_and_streamed(compiled: CompiledModel) -> None:
    pieces: list[str] = []
    result = compiled.generate("the cat", 24, stream=pieces.append)
    assert "".join(pieces) == result.text
    assert len(result.tokens) == 24 or result.reason == "end"
    stream = compiled.stream("the cat", GenerationOptions(24))
    assert "".join(stream) == stream.result.text == result.text


def test_greedy_tokens_are_the_graph_s(compiled: CompiledModel) -> None:
    tokens = compiled.generate(TOKENS[:5], 6).tokens
    logits = compiled([*TOKENS[:5], *tokens])
    assert tokens == tuple(int(one) for one in logits[4:10].argmax(-1))


def test_sampling_repeats_with_its_seed(compiled: CompiledModel) -> None:
    options = {"temperature": 1.5, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1}
    texts = [compiled.generate("once", 16, seed=seed, **options).tokens for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_chat_goes_through_the_template(compiled: CompiledModel) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert compiled.tokenizer is not None
    written = compiled.tokenizer.chat(messages)
    assert "<|im_start|>user\nhi<|im_end|>" in written
    assert compiled.generate(messages, 4).tokens == compiled.generate(written, 4).tokens


def test_the_context_is_the_limit(compiled: CompiledModel) -> None:
    assert compiled.manifest.context == 128
    assert len(compiled([5] * 128)) == 128
    for call in (lambda: compiled([5] * 129), lambda: compiled.generate([5] * 128)):
        with pytest.raises(intaglio.ContextLengthError, match="128"):
            call()


def test_another_call_ends_a_stream(compiled: CompiledModel) -> None:
    stream = compiled.stream([5], GenerationOptions(100))
    next(stream)
    compiled.generate("x", 1)
    with pytest.raises(intaglio.OptionError, match="another call"):
        list(stream)


def test_unknown_keywords_are_type_errors(compiled: CompiledModel) -> None:
    with pytest.raises(TypeError, match="beams"):
        compiled.generate("x", beams=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="budget"):
        intaglio.compile("m.gguf", budget=None)  # type: ignore[call-arg]


def test_every_site_is_explained(compiled: CompiledModel) -> None:
    for site in compiled.sites:
        assert compiled.explain(site).sites


def test_every_node_is_explained(compiled: CompiledModel, artifact: Any) -> None:
    _, model, _ = treated_graph(settings_of(compiled.manifest, artifact.source))
    sites = {node.name: compiled.explain(str(node.name)).sites for node in model.graph}
    assert sites["layers.1.post_attention_layernorm"][0]["site"] == "layers.1.mlp.gate_up_proj"
    left = [name for name, found in sites.items() if not found]
    assert len(left) < 10  # index arithmetic


def test_a_merged_layer_is_explained(compiled: CompiledModel) -> None:
    found = compiled.explain("layers.1.self_attn.k_proj")
    assert "layers.1.self_attn.qkv_proj" in found.to_text()


def test_the_report_has_times_for_what_runs(compiled: CompiledModel) -> None:
    report = compiled.report
    assert sum(one.decode_seconds for one in report.sites) > 0
    assert report.bytes_per_token == sum(one.bytes for one in report.sites)
    assert set(report.seconds) == {"trace", "normalize", "quantize", "fuse", "lower", "weights", "code"}


def test_the_benchmark_is_of_the_workload(compiled: CompiledModel) -> None:
    found = compiled.bench(rounds=1)
    assert (found.options.prefill, found.options.decode) == (20, 10)
    assert found.bandwidth_fraction > 0
    assert 0 < found.compute_fraction < 1
    with pytest.raises(intaglio.OptionError, match="prefill=0"):
        compiled.bench(prefill=0)


def test_evaluation_is_near_the_original(compiled: CompiledModel) -> None:
    found = compiled.evaluate(tokens=200)
    assert found.windows == 8
    # Activations rounded to 8 bits move the logits of this random model by about a percent.
    assert 0 < found.kl < 0.05
    assert found.kl_interval[0] <= found.kl <= found.kl_interval[1]
    assert found.top1_agreement > 0.85


def test_evaluation_takes_a_text_and_a_model(
    compiled: CompiledModel, artifact: Any, tiny_gguf: Callable[..., Path]
) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 4
    same = compiled.evaluate(text, against=artifact.source)
    other = compiled.evaluate(text, against=tiny_gguf(seed=1))
    assert other.kl > 10 * same.kl
    with pytest.raises(intaglio.OptionError, match="same model"):
        compiled.evaluate(text, against=tiny_gguf(vocabulary=301))
    with pytest.raises(intaglio.OptionError, match="too few"):
        compiled.evaluate("short")
    with pytest.raises(intaglio.OptionError, match="tokens=-5"):
        compiled.evaluate(text, tokens=-5)


def test_a_saved_model_computes_the_same(compiled: CompiledModel, tmp_path: Path) -> None:
    path = compiled.save(tmp_path / "deep" / "copy")
    start = time.perf_counter()
    with intaglio.load(path, threads=1) as loaded:
        assert time.perf_counter() - start < 1
        np.testing.assert_array_equal(loaded(TOKENS), compiled(TOKENS))
        assert loaded.manifest == compiled.manifest


def test_a_model_outlives_the_folder_it_replaces(compiled: CompiledModel, tmp_path: Path) -> None:
    path = compiled.save(tmp_path / "copy")
    with intaglio.load(path, threads=1) as loaded:
        before = loaded(TOKENS)
        loaded.save(path)
        np.testing.assert_array_equal(loaded(TOKENS), before)


def test_a_tampered_model_is_refused(artifact: Any, tmp_path: Path) -> None:
    path = shutil.copytree(artifact.folder, tmp_path / "copy")
    with (path / "weights.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff")
    with pytest.raises(intaglio.TamperedArtifactError, match=r"weights\.bin"):
        intaglio.load(path)
    with pytest.raises(intaglio.TamperedArtifactError, match=r"weights\.bin"):
        intaglio.load(path, recompile=True)


@pytest.fixture
def foreign(artifact: Any, tmp_path: Path) -> Path:
    """As if compiled for a machine with a feature that none has; its code is not even a library."""
    path = Path(shutil.copytree(artifact.folder, tmp_path / "foreign"))
    (path / "program.so").write_bytes(b"for another machine")
    manifest = read_manifest(path)
    target = {**manifest.target, "features": ["avx4096"]}
    write_manifest(path, dataclasses.replace(manifest, target=target))
    return path


def test_fewer_cpus_than_planned_are_an_error_that_says_what_to_do(artifact: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(artifact.folder, tmp_path / "planned"))
    write_manifest(path, dataclasses.replace(read_manifest(path), threads=1000))
    with pytest.raises(intaglio.OptionError, match=r"compiled for 1000 threads.*threads=\d+ or fewer"):
        intaglio.load(path)
    with intaglio.load(path, threads=1) as model:
        assert model.threads == 1


def test_left_out_the_threads_are_those_planned(artifact: Any) -> None:
    planned = read_manifest(artifact.folder).threads
    assert planned >= 1
    with intaglio.load(artifact.folder) as model:
        assert model.threads == model.report.threads == planned  # type: ignore[attr-defined]


def test_a_foreign_model_is_refused(foreign: Path) -> None:
    with pytest.raises(intaglio.ForeignArtifactError, match=r"avx4096.*recompile=True"):
        intaglio.load(foreign)


def test_a_foreign_model_is_recompiled(
    foreign: Path, compiled: CompiledModel, built_before: list[Path], tmp_path: Path
) -> None:
    with intaglio.load(foreign, recompile=True, threads=1) as loaded:
        np.testing.assert_array_equal(loaded(TOKENS), compiled(TOKENS))
        path = loaded.save(tmp_path / "here")
    assert len(built_before) == 1
    assert not built_before[0].exists()  # it was temporary
    assert (foreign / "program.so").read_bytes() == b"for another machine"
    assert not any(one.is_symlink() for one in path.iterdir())
    intaglio.load(path, threads=1).close()


def test_compile_tells_dumps_and_cleans_up(
    artifact: Any, built_before: list[Path], compiled: CompiledModel, tmp_path: Path
) -> None:
    told: list[str] = []
    with intaglio.compile(
        artifact.source,
        workload=WORKLOAD,
        threads=1,
        dump=tmp_path / "dump",
        progress=lambda phase, index, total: told.append(phase),
    ) as model:
        np.testing.assert_array_equal(model(TOKENS), compiled(TOKENS))
        folder = model.folder
        assert folder.exists()
    assert not folder.exists()
    assert told == ["trace", "normalize", "quantize", "fuse", "lower", "weights", "code", "done"]
    dumped = sorted(one.name for one in (tmp_path / "dump").iterdir())
    assert dumped == ["00-trace.txt", "01-normalize.txt", "02-quantize.txt", "03-fuse.txt"]


def test_the_same_model_gives_the_same_files(artifact: Any, built_before: list[Path], tmp_path: Path) -> None:
    with intaglio.compile(artifact.source, workload=WORKLOAD, threads=1) as model:
        path = model.save(tmp_path / "again")
    for name in ("weights.bin", "program.json", "tokenizer.json"):
        assert (path / name).read_bytes() == (artifact.folder / name).read_bytes()


@pytest.mark.parametrize("step", ["weights", "folder"])
def test_a_full_disk_while_compiling_leaves_nothing(
    artifact: Any, built_before: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*arguments: Any, **options: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if step == "weights":
        monkeypatch.setattr("intaglio.backends.tvm.lower.Lowered.write_weights", full)
    else:
        monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(intaglio.ArtifactError, match="No space left"):
        intaglio.compile(artifact.source, workload=WORKLOAD)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_compiled_is_refused(artifact: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(artifact.source.read_bytes()[:5000])
    with pytest.raises(intaglio.ModelFileError):
        intaglio.compile(broken)
    with pytest.raises(intaglio.OptionError, match="exceeds a context of 128"):
        intaglio.compile(artifact.source, workload=intaglio.Workload())
    with pytest.raises(intaglio.TargetError, match="this machine lacks"):
        intaglio.compile(artifact.source, target="cpu:aarch64")
    with pytest.raises(intaglio.OptionError, match="threads"):
        intaglio.compile(artifact.source, workload=WORKLOAD, threads=10_000)


def test_a_model_without_tokenizer_runs_on_ids(
    built_before: list[Path], tiny_gguf: Callable[..., Path]
) -> None:
    with intaglio.compile(tiny_gguf(tokenizer=False), workload=WORKLOAD, threads=1) as model:
        result = model.generate([5, 6, 7], 4)
        assert (result.text, len(result.tokens)) == ("", 4)
        with pytest.raises(intaglio.IntaglioError, match="token ids instead of text"):
            model.generate("hello")


def test_the_manifest_is_plain_json(artifact: Any) -> None:
    values = json.loads((artifact.folder / "artifact.json").read_text())
    assert values["source"]["bytes"] == artifact.source.stat().st_size
    assert {one.name for one in artifact.folder.iterdir()} == {MANIFEST, *REQUIRED["decoder"]}
