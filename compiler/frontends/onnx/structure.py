"""Names and order: what is defined twice, used without being defined, or depends on itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

from intaglio.compiler.frontends.onnx.bodies import at, domain_of, subgraphs

Content = onnx.GraphProto | onnx.FunctionProto
FunctionKey = tuple[str, str, str]


def structure_problems(model: onnx.ModelProto) -> Iterator[str]:
    """Sentences for duplicate names, undefined values, cycles, and functions that call themselves."""
    yield from _body_problems("graph", model.graph, frozenset())
    for function in model.functions:
        place = f"function {function.domain}.{function.name}"
        yield from _body_problems(place, function, frozenset())
    yield from _function_problems(model)


def function_key(holder: onnx.NodeProto | onnx.FunctionProto) -> FunctionKey:
    """What identifies a function, and the function that a node would call."""
    name = holder.op_type if isinstance(holder, onnx.NodeProto) else holder.name
    return domain_of(holder), name, holder.overload


def _body_problems(place: str, body: Content, outer: frozenset[str]) -> Iterator[str]:
    given, made = _given(body), [name for node in body.node for name in node.output if name]
    yield from _repeated_names(place, body, made)
    local = frozenset(given) | frozenset(made)
    known = outer | local
    for node in body.node:
        missing = [name for name in node.input if name and name not in known]
        yield from (f"{place}: {at(node)} uses {name!r}, which is not defined" for name in missing)
        for graph in subgraphs(node):
            yield from _body_problems(f"{place} / {at(node)}", graph, known - set(node.output))
    for name in _output_names(body):
        if name not in local:
            yield f"{place}: nothing produces output {name!r}"
    if cycle := _cycle(body):
        yield f"{place}: a cycle: {' → '.join(cycle)}"


def _given(body: Content) -> list[str]:
    """Names of inputs and initialisers; an initialiser may give an input its default value."""
    if isinstance(body, onnx.FunctionProto):
        return list(body.input)
    inputs = [one.name for one in body.input]
    stored = [one.name for one in body.initializer] + [one.values.name for one in body.sparse_initializer]
    return list(dict.fromkeys([*inputs, *stored]))


def _output_names(body: Content) -> list[str]:
    if isinstance(body, onnx.FunctionProto):
        return list(body.output)
    return [one.name for one in body.output]


def _repeated_names(place: str, body: Content, made: list[str]) -> Iterator[str]:
    kinds = {"value": [*_given(body), *made], "output": _output_names(body)}
    if isinstance(body, onnx.FunctionProto):
        kinds["input"] = list(body.input)
    else:
        kinds["input"] = [one.name for one in body.input]
        kinds["initialiser"] = [one.name for one in body.initializer]
    for kind, names in kinds.items():
        counts = Counter(names)
        if counts.pop("", 0):
            yield f"{place}: an {kind} has no name"
        # An output may be listed twice; the other names must tell values apart.
        repeated = [name for name, count in counts.items() if count > 1 and kind != "output"]
        yield from (f"{place}: {counts[name]} {kind}s are named {name!r}" for name in repeated)


def _needs(node: onnx.NodeProto) -> set[str]:
    """Names that must be there before `node` runs: its inputs, and what its graphs take from outside."""
    needed = set(node.input)
    for graph in subgraphs(node):
        own = {*_given(graph), *(name for inner in graph.node for name in inner.output)}
        needed |= {name for inner in graph.node for name in _needs(inner)} - own
    return needed


def _cycle(body: Content) -> list[str]:
    """The nodes of one cycle, the first of them named again at the end; nothing where there is none."""
    makers = {name: index for index, node in enumerate(body.node) for name in node.output if name}
    before = {
        index: {makers[name] for name in _needs(node) if name in makers}
        for index, node in enumerate(body.node)
    }
    after: dict[int, list[int]] = {index: [] for index in before}
    for index, earlier in before.items():
        for one in earlier:
            after[one].append(index)
    waiting = {index: len(earlier) for index, earlier in before.items()}
    ready = [index for index, count in waiting.items() if not count]
    while ready:
        done = ready.pop()
        del waiting[done]
        for one in after[done]:
            waiting[one] -= 1
            if not waiting[one]:
                ready.append(one)
    return [at(body.node[index]) for index in _walk(before, waiting)]


def _walk(before: dict[int, set[int]], stuck: dict[int, int]) -> list[int]:
    """One cycle among the nodes that can never run, in the order in which values flow."""
    if not stuck:
        return []
    path = [min(stuck)]
    while (earlier := min(before[path[-1]] & stuck.keys())) not in path:
        path.append(earlier)
    return [earlier, *reversed(path[path.index(earlier) :])]


def _function_problems(model: onnx.ModelProto) -> Iterator[str]:
    functions = {function_key(one): one for one in model.functions}
    for key, count in Counter(function_key(one) for one in model.functions).items():
        if count > 1:
            yield f"{count} functions are named {'.'.join(key[:2])}"
    calls = {key: _called(one) & functions.keys() for key, one in functions.items()}
    for key in functions:
        if key in _reachable(key, calls):
            yield f"function {'.'.join(key[:2])} calls itself"


def _called(body: Content) -> set[FunctionKey]:
    found = {function_key(node) for node in body.node}
    for node in body.node:
        for graph in subgraphs(node):
            found |= _called(graph)
    return found


def _reachable(start: FunctionKey, calls: dict[FunctionKey, set[FunctionKey]]) -> set[FunctionKey]:
    reached: set[FunctionKey] = set()
    pending = list(calls[start])
    while pending:
        key = pending.pop()
        if key not in reached:
            reached.add(key)
            pending += calls[key]
    return reached
