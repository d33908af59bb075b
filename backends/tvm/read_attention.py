"""Reading a `CachedAttention` call: from the projections to the joined heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.backends.tvm.function_values import Body, Unreadable
from intaglio.backends.tvm.positions import Positions
from intaglio.backends.tvm.read_cache import read_stored
from intaglio.backends.tvm.regions import AttentionRegion, Norm, Rotation, RowOperand
from intaglio.compiler.ir import producer_of

HEADS_FIRST = (0, 2, 1, 3)
LENGTHS = 6  # input of Attention
UNKNOWN_INPUTS = {3: "a mask", 4: "a past", 5: "a past"}


@dataclass
class Path:
    """What happens to a query, key or value between its projection and the attention."""

    projection: ir.Value  # of the call
    part: int | None = None  # of the joint projection; none: it is a projection of its own
    sizes: tuple[int, ...] = ()  # of the joint projection's parts
    bias: ir.Value | None = None
    joint_bias: ir.Value | None = None
    norm: Norm | None = None
    rotation: Rotation | None = None
    factor: float = 1.0
    heads: int | None = None
    head_dim: int | None = None


def read_attention(body: Body, positions: Positions) -> AttentionRegion:
    """The attention that the call asks for; raises `Unreadable` with all reasons."""
    attention = body.only("Attention")
    scatters = [producer_of(value, "TensorScatter") for value in attention.inputs[1:3]]
    if None in scatters:
        raise Unreadable("its keys or values do not come from TensorScatter")
    key_cache, value_cache = (body.fed(one.inputs[0]) for one in scatters if one is not None)
    query = _Reader(body, positions).read(attention.inputs[0])
    stored = [read_stored(one.inputs[1]) for one in scatters if one is not None]
    key, value = (_Reader(body, positions).read(heads) for _, heads in stored)
    caches = sorted({cache for cache, _ in stored})
    _, kv_heads, _, head_dim = _cache_shape(key_cache)
    problems = [
        *_attention_problems(attention),
        *_clock_problems(body, positions, attention, scatters),
        *_path_problems(query, key, value, kv_heads, head_dim),
        *([f"caches of {' and '.join(caches)}"] if len(caches) > 1 else []),
    ]
    if problems:
        raise Unreadable(f"attention has no kernel with {', '.join(problems)}")
    given = attention.attributes.get_float("scale", 0.0) or head_dim**-0.5
    joint = (query.joint_bias,) if query.joint_bias is not None else (query.bias, key.bias, value.bias)
    return AttentionRegion(
        site=body.site,
        projections=_projections(query, key, value),
        heads=_columns(query) // head_dim,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=given * query.factor * key.factor,
        softcap=attention.attributes.get_float("softcap", 0.0),
        window=attention.attributes.get_int("left_window_size", -1),
        rotation=query.rotation,
        bias=joint if any(one is not None for one in joint) else (),
        query_norm=query.norm,
        key_norm=key.norm,
        key_cache=key_cache,
        value_cache=value_cache,
        output=body.call.outputs[0],
        cache=caches[0],
    )


@dataclass
class _Reader:
    """Walks from the attention back to a projection."""

    body: Body
    positions: Positions
    problems: list[str] = field(default_factory=list)

    def read(self, value: ir.Value | None) -> Path:
        path = Path(projection=self.body.call.outputs[0])
        steps = {
            "RotaryEmbedding": self._rotary,
            "RMSNormalization": self._norm,
            "Transpose": self._transpose,
            "Reshape": self._reshape,
            "Mul": self._scaled,
            "Add": self._bias,
            "Split": self._split,
        }
        while value is not None and (node := value.producer()) is not None:
            step = steps.get(node.op_type)
            if step is None or node.domain:
                raise Unreadable(f"attention has no kernel with {node.op_type} before it")
            value = step(node, value, path)
        path.projection = self.body.fed(value)
        return path

    def _rotary(self, node: ir.Node, value: ir.Value, path: Path) -> ir.Value | None:
        offset = self.positions.offset_of(self.body.fed(node.inputs[3] if len(node.inputs) > 3 else None))
        known = path.rotation is None and path.norm is None and len(value.shape or ()) == len(HEADS_FIRST)
        if offset != 0 or not known:
            raise Unreadable("attention has no kernel with a rotary embedding of other positions or shapes")
        cosine, sine = (self.body.stored(one) for one in node.inputs[1:3])
        components = node.attributes.get_int("rotary_embedding_dim", 0) or 2 * _last(cosine)
        interleaved = bool(node.attributes.get_int("interleaved", 0))
        path.rotation = Rotation(cosine, sine, components, interleaved)
        return node.inputs[0]

    def _norm(self, node: ir.Node, value: ir.Value, path: Path) -> ir.Value | None:
        last = node.attributes.get_int("axis", -1) in (-1, len(HEADS_FIRST) - 1)
        if path.norm is not None or path.bias is not None or not last:
            raise Unreadable("attention has no kernel with a norm other than of heads, before the rotation")
        path.norm = Norm(self.body.stored(node.inputs[1]), node.attributes.get_float("epsilon", 1e-5))
        path.head_dim = _last(value)
        return node.inputs[0]

    def _transpose(self, node: ir.Node, _value: ir.Value, _path: Path) -> ir.Value | None:
        if tuple(node.attributes.get_ints("perm", ())) != HEADS_FIRST:
            raise Unreadable("attention has no kernel with heads turned otherwise than by 0, 2, 1, 3")
        return node.inputs[0]

    def _reshape(self, node: ir.Node, value: ir.Value, path: Path) -> ir.Value | None:
        sizes = list(value.shape or ())
        if len(sizes) == len(HEADS_FIRST):
            path.heads, path.head_dim = (one if isinstance(one, int) else None for one in sizes[2:])
        return node.inputs[0]

    def _scaled(self, node: ir.Node, _value: ir.Value, path: Path) -> ir.Value | None:
        linear = path.norm is None and path.bias is None and path.joint_bias is None
        for index, one in enumerate(node.inputs):
            if linear and (factor := self.body.number(one)) is not None:
                path.factor *= factor
                return node.inputs[1 - index]
        raise Unreadable("attention has no kernel with products of queries or keys")

    def _bias(self, node: ir.Node, _value: ir.Value, path: Path) -> ir.Value | None:
        first = path.bias is None and path.joint_bias is None
        for index, one in enumerate(node.inputs):
            if first and self.body.constant(_uncast(one)) is not None:
                stored = self.body.stored(one)
                if path.part is None:
                    path.bias = stored
                else:
                    path.joint_bias = stored
                return node.inputs[1 - index]
        raise Unreadable("attention has no kernel with sums before it other than a bias")

    def _split(self, node: ir.Node, value: ir.Value, path: Path) -> ir.Value | None:
        path.part = node.outputs.index(value)
        sizes = self.body.integers(node.inputs[1] if len(node.inputs) > 1 else None)
        widths = sizes or [_last(one) for one in node.outputs]
        path.sizes = tuple(widths)
        return node.inputs[0]


def _uncast(value: ir.Value | None) -> ir.Value | None:
    cast = producer_of(value, "Cast")
    return value if cast is None else cast.inputs[0]


def _last(value: ir.Value) -> int:
    last = None if value.shape is None else value.shape[-1]
    if not isinstance(last, int):
        raise Unreadable(f"{value.name} has no fixed number of columns")
    return last


def _columns(path: Path) -> int:
    return path.sizes[path.part] if path.part is not None else _last(path.projection)


def _projections(query: Path, key: Path, value: Path) -> tuple[RowOperand, ...]:
    parts = tuple(RowOperand(one.projection, sum(one.sizes[: one.part or 0])) for one in (query, key, value))
    places = [_columns(query), _columns(query) + _columns(key)]
    joint = [RowOperand(query.projection, one) for one in (0, *places)]
    return parts[:1] if list(parts) == joint else parts


def _cache_shape(cache: ir.Value) -> list[int]:
    return [one if isinstance(one, int) else 0 for one in cache.shape or ()]


def _attention_problems(attention: ir.Node) -> Iterator[str]:
    if attention.attributes.get_int("is_causal", 0) != 1:
        yield "no causality"
    for name in ("qk_matmul_output_mode", "softmax_precision"):
        if (value := attention.attributes.get_int(name, 0)) not in (0, ir.DataType.FLOAT):
            yield f"{name} {value}"
    if (right := attention.attributes.get_int("right_window_size", -1)) not in (-1, 0):
        yield f"right_window_size {right}"
    for index, what in UNKNOWN_INPUTS.items():
        if index < len(attention.inputs) and attention.inputs[index] is not None:
            yield what


def _clock_problems(
    body: Body, positions: Positions, attention: ir.Node, scatters: list[ir.Node | None]
) -> Iterator[str]:
    length = attention.inputs[LENGTHS] if len(attention.inputs) > LENGTHS else None
    if length is None or not positions.is_length(body.fed(length)):
        yield "another length than the tokens so far"
    for scatter in scatters:
        at = scatter.inputs[2] if scatter is not None and len(scatter.inputs) > 2 else None
        if at is None or not positions.is_position(body.fed(at)):
            yield "a cache that is not written where the tokens end"


def _path_problems(query: Path, key: Path, value: Path, kv_heads: int, head_dim: int) -> Iterator[str]:
    paths = (query, key, value)
    widths = [_columns(one) for one in paths]
    if widths[1:] != [kv_heads * head_dim] * 2 or widths[0] % head_dim or widths[0] // head_dim % kv_heads:
        yield f"projections of {widths} columns for {kv_heads} key heads of {head_dim}"
    if query.rotation != key.rotation or value.rotation is not None:
        yield "different rotations of queries and keys"
    if value.norm is not None or value.factor != 1.0:
        yield "a norm or a factor of the values"
    if any(one.joint_bias is not query.joint_bias for one in paths) or (
        query.joint_bias is not None and [one.part for one in paths] != [0, 1, 2]
    ):
        yield "a bias of some parts only"
    if any(one.norm is not None and one.head_dim != head_dim for one in paths):
        yield "norms over more than a head"
