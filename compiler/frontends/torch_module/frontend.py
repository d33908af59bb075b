"""The front end for PyTorch modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intaglio.compiler.errors import OptionError, UnsupportedModelError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.traced import Source, Traced


class TorchModuleFrontend:
    """Traces any `torch.nn.Module` that `torch.export` can capture, in eval mode, without changing it."""

    name = "torch.nn.Module"
    accepts = "a torch.nn.Module with example_inputs"
    options = frozenset({"example_inputs", "dynamic_shapes"})

    def claims(self, model: object) -> bool:
        """Whether `model` is a `torch.nn.Module`; PyTorch is not imported to find out."""
        bases = type(model).__mro__
        return any(one.__name__ == "Module" and one.__module__ == "torch.nn.modules.module" for one in bases)

    def trace(self, model: Any, options: TraceOptions) -> Traced:
        """The module as a graph, of the examples' sizes except where `dynamic_shapes` names them.

        Raises `OptionError` without fitting examples, and `UnsupportedModelError` that lists what cannot be
        converted.
        """
        from intaglio.compiler.frontends.torch_module.capture import capture
        from intaglio.compiler.frontends.torch_module.export import translate
        from intaglio.compiler.frontends.torch_module.signature import name_ports

        _check(model)
        captured = capture(model, *_call(model, options.example_inputs), options.dynamic_shapes)
        graph = translate(captured, model)
        call = name_ports(graph, captured, model)
        return Traced(graph, None, None, _source(model), call=call)


def _check(module: Any) -> None:
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"trace: {type(module).__name__} is TorchScript, which is not read: give the module it is of."
        )


def _call(module: Any, examples: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the example call."""
    if isinstance(examples, Mapping):
        return (), dict(examples)
    if isinstance(examples, list | tuple):
        return tuple(examples), {}
    got = "" if examples is None else f", not {type(examples).__name__}"
    raise OptionError(
        f"trace: {type(module).__qualname__} needs example_inputs{got}: give a tuple of arguments or a dict "
        f"of keyword arguments for forward{_signature(module)}, and dynamic_shapes such as "
        '{"x": {0: "batch"}} for sizes that may change.'
    )


def _signature(module: Any) -> str:
    import inspect

    return str(inspect.signature(module.forward))


def _source(module: Any) -> Source:
    sizes = {id(one): one.nbytes for one in (*module.parameters(), *module.buffers())}
    return Source(f"torch.nn.Module {type(module).__qualname__}", sum(sizes.values()))
