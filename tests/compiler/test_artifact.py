"""Artefacts on disk: what is written, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from intaglio.compiler.account import Account, AppliedEntry, CertificateEntry, DeclinedEntry
from intaglio.compiler.artifact import (
    copy_artifact,
    read_manifest,
    refuse_foreign,
    sha256,
    verify,
    write_manifest,
)
from intaglio.compiler.errors import ArtifactError, ForeignArtifactError, TamperedArtifactError
from intaglio.compiler.manifest import MANIFEST as NAME
from intaglio.compiler.manifest import REQUIRED, Manifest, Source

FILES = REQUIRED["decoder"]
ACCOUNT = Account(
    (
        AppliedEntry("round_weights", "lm_head", "int4-g32", CertificateEntry("error", "all", 0.05, None)),
        AppliedEntry("merge_projections", "layers.0.qkv", "q + k + v", None),
    ),
    (DeclinedEntry("fuse_regions", "layers.1.mlp", "no SwiGLU"),),
)
MANIFEST = Manifest(
    source=Source("/models/tïny.gguf", 12, "ab" * 32),
    architecture={"layers": 2, "hidden": 64},
    target={"name": "cpu", "cpu": "skylake"},
    plan={"version": 1, "default": "keep", "sites": {}},
    workload={"prefill": 512, "decode": 128, "batch": 1},
    context=256,
    sites=({"site": "layers.0.qkv", "bytes": 5},),
    account=ACCOUNT,
    seconds={"trace": 0.25},
    peak_memory_bytes=1000,
    files={},
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(name.encode() * 1000)
    write_manifest(folder, MANIFEST)
    return folder


def edit(folder: Path, change: Any) -> None:
    path = folder / "artifact.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_manifest_comes_back(artifact: Path) -> None:
    found = read_manifest(artifact)
    assert found == dataclasses.replace(MANIFEST, files={name: sha256(artifact / name) for name in FILES})
    verify(artifact, found)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(artifact: Path, name: str) -> None:
    content = bytearray((artifact / name).read_bytes())
    content[-1] ^= 1
    (artifact / name).write_bytes(content)
    with pytest.raises(TamperedArtifactError, match=name):
        verify(artifact, read_manifest(artifact))


def test_all_differences_are_listed(artifact: Path) -> None:
    (artifact / "program.so").unlink()
    (artifact / "weights.bin").write_bytes(b"")
    with pytest.raises(TamperedArtifactError) as caught:
        verify(artifact, read_manifest(artifact))
    assert "program.so is missing" in str(caught.value)
    assert "weights.bin: its hash differs" in str(caught.value)


def test_a_changed_manifest_is_found(artifact: Path) -> None:
    edit(artifact, lambda values: values.update(context=100_000))
    with pytest.raises(TamperedArtifactError, match=r"artifact\.json"):
        read_manifest(artifact)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_broken_manifest_is_refused(artifact: Path, text: str) -> None:
    (artifact / "artifact.json").write_text(text)
    with pytest.raises(TamperedArtifactError):
        read_manifest(artifact)


@pytest.mark.parametrize("version", [1, 3, None, "2"])
def test_another_version_is_refused_by_name(artifact: Path, version: Any) -> None:
    edit(artifact, lambda values: values.update(format=version))
    with pytest.raises(ArtifactError, match="compile the model again") as caught:
        read_manifest(artifact)
    assert not isinstance(caught.value, TamperedArtifactError)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match="no compiled model"):
            read_manifest(path)


def test_a_foreign_machine_is_told_what_it_lacks() -> None:
    refuse_foreign(MANIFEST, ())
    with pytest.raises(ForeignArtifactError, match=r"skylake.*avx512f, fma.*recompile=True"):
        refuse_foreign(MANIFEST, ("avx512f", "fma"))


def test_a_copy_is_complete_and_replaces_an_older_one(artifact: Path, tmp_path: Path) -> None:
    copy_artifact(artifact, tmp_path / "copy")
    (tmp_path / "copy" / "weights.bin").write_bytes(b"old")
    copy_artifact(artifact, tmp_path / "copy")
    assert {one.name for one in (tmp_path / "copy").iterdir()} == {NAME, *FILES}
    verify(tmp_path / "copy", read_manifest(tmp_path / "copy"))


def test_an_artefact_can_be_saved_onto_itself(artifact: Path) -> None:
    copy_artifact(artifact, artifact)
    verify(artifact, read_manifest(artifact))


def test_a_full_disk_while_saving_changes_nothing(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_artifact(artifact, tmp_path / "copy")
    before = sorted(tmp_path.iterdir())

    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    for place in ("copy", "elsewhere"):
        with pytest.raises(ArtifactError, match="No space left"):
            copy_artifact(artifact, tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before
    verify(tmp_path / "copy", read_manifest(tmp_path / "copy"))
