"""External data: where a tensor's bytes lie, which must be a file beside the model that is long enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir


@dataclass(frozen=True)
class ExternalBytes:
    """A range of bytes of a file, as the model gives it."""

    location: str
    offset: int
    length: int | None  # none: as many as the tensor needs

    @classmethod
    def of(cls, tensor: onnx.TensorProto) -> ExternalBytes:
        """What `tensor` says. Raises `ValueError` for numbers that are none."""
        entries = {one.key: one.value for one in tensor.external_data}
        length = entries.get("length")
        return cls(
            entries.get("location", ""),
            int(entries.get("offset") or 0),
            None if length is None else int(length),
        )

    def path(self, folder: Path) -> Path:
        """The file, links followed."""
        return (folder / self.location).resolve()


def external_problems(tensor: onnx.TensorProto, nbytes: int, *, model: Path) -> Iterator[str]:
    """What is wrong with the place of a tensor of `nbytes` that belongs to the file `model`.

    Its data lies in the file's folder. Where `model` is a link, as in the caches of model hubs, the data may
    be one to the folder in which the file really lies.
    """
    folder = model.absolute().parent
    try:
        where = ExternalBytes.of(tensor)
    except ValueError as error:
        yield f"lies at a place that is no number ({error})"
        return
    if reason := _outside(where, folder, model.resolve().parent):
        yield f"lies in {where.location!r}, {reason}"
        return
    yield from _range_problems(where, nbytes, folder)


def homeless(tensor: onnx.TensorProto, nbytes: int) -> Iterator[str]:
    """External data of a model that came without a folder."""
    del nbytes
    where = {one.key: one.value for one in tensor.external_data}.get("location", "")
    yield f"lies in {where!r}, and the model came without its folder: give the file's path, or load the data"


def mapped_problems(tensor: ir.ExternalTensor) -> Iterator[str]:
    """What is wrong with the place of a tensor in memory, which names its own folder."""
    where = ExternalBytes(str(tensor.location), tensor.offset or 0, tensor.length)
    if tensor.base_dir and (reason := _outside(where, Path(tensor.base_dir), Path(tensor.base_dir))):
        yield f"initialiser {tensor.name!r} lies in {where.location!r}, {reason}"
        return
    problems = _range_problems(where, tensor.nbytes, Path(tensor.base_dir))
    yield from (f"initialiser {tensor.name!r} {one}" for one in problems)


def external_files(tensors: Iterable[onnx.TensorProto], folder: Path) -> set[Path]:
    """The files in which external tensors lie."""
    external = [one for one in tensors if one.data_location == onnx.TensorProto.EXTERNAL]
    return {ExternalBytes.of(one).path(folder) for one in external}


def _outside(where: ExternalBytes, folder: Path, home: Path) -> str:
    """Why the location, in `folder`, may not be used; empty where it lies in there or in `home`."""
    if not where.location or "\0" in where.location:
        return "which names no file"
    if PurePosixPath(where.location).is_absolute() or PureWindowsPath(where.location).drive:
        return "an absolute path; it must be relative to the model's folder"
    if not any(where.path(folder).is_relative_to(one.resolve()) for one in (folder, home)):
        return f"which leaves the model's folder {folder}"
    return ""


def _range_problems(where: ExternalBytes, nbytes: int, folder: Path) -> Iterator[str]:
    path = where.path(folder)
    if not path.is_file():
        yield f"lies in {where.location!r}, and there is no such file in {folder}"
        return
    size = path.stat().st_size
    if where.length is not None and where.length != nbytes:
        yield f"has {where.length} bytes in {where.location!r}; its shape and type need {nbytes}"
    if where.offset < 0 or where.offset + nbytes > size:
        end = where.offset + nbytes
        yield f"takes bytes {where.offset} to {end} of {where.location!r}, which has {size}"
