"""Chains as data: steps that a value goes through, one after the other. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass

PLAIN = (
    *("negate", "absolute", "exp", "log", "tanh", "logistic", "erf", "sqrt", "reciprocal", "square"),
    *("relu", "gelu_erf", "gelu_tanh", "silu", "hard_swish"),
)  # as in row programs; hard_swish(x) = x · min(max(x / 6 + ½, 0), 1)
NUMBERED = ("affine", "clip", "hard_sigmoid", "leaky_relu", "power")
OPERANDS = ("add", "subtract", "multiply", "maximum", "minimum")
KEEP_ZERO = (
    *("negate", "absolute", "tanh", "erf", "sqrt", "square", "relu", "gelu_erf", "gelu_tanh", "silu"),
    *("hard_swish", "leaky_relu", "multiply"),
)  # steps that leave zero as it is, if their operand's padding is finite


@dataclass(frozen=True)
class ChainStep:
    """One step: `value = op(value)`, or `op(value, operand)`.

    Ops: those of `PLAIN`; "affine", `a · value + b`; "clip" to `a` … `b`; "hard_sigmoid", `a · value + b`
    clipped to 0 … 1; "leaky_relu" with slope `a`; "power", `value ** a`; those of `OPERANDS`, with an operand
    in memory.
    """

    op: str
    a: float = 0.0
    b: float = 0.0
    over: str = (
        "pixels"  # an operand's extent: "pixels", one vector for each; "image", one for all of an image
    )
    stride: int = 0  # floats of the operand from pixel to pixel (image to image); 0: as the result
    offset: int = 0  # floats, of the operand's first channel

    @property
    def has_operand(self) -> bool:
        """Whether the step reads memory."""
        return self.op in OPERANDS

    @property
    def keeps_zero(self) -> bool:
        """Whether zero goes through unchanged."""
        between = self.op == "clip" and self.a <= 0.0 <= self.b
        scaled = self.op == "affine" and self.b == 0.0
        return self.op in KEEP_ZERO or between or scaled


def find_problems(chain: tuple[ChainStep, ...]) -> list[str]:
    """Everything that is wrong with a chain, in words; empty if nothing is."""
    known = (*PLAIN, *NUMBERED, *OPERANDS)
    problems = [f"there is no step {step.op!r}" for step in chain if step.op not in known]
    return problems + [
        f"step {step.op!r} has an operand over {step.over!r}, which is neither pixels nor image"
        for step in chain
        if step.over not in ("pixels", "image")
    ]


def operands_of(chain: tuple[ChainStep, ...]) -> tuple[ChainStep, ...]:
    """The steps with operands, in order: operand `i` belongs to the i-th of them."""
    return tuple(step for step in chain if step.has_operand)


def folded(chain: tuple[ChainStep, ...]) -> tuple[ChainStep, ...]:
    """The chain with neighbouring affine steps as one."""
    found: list[ChainStep] = []
    for step in chain:
        if found and step.op == found[-1].op == "affine":
            before = found.pop()
            step = ChainStep("affine", before.a * step.a, before.b * step.a + step.b)
        found.append(step)
    return tuple(found)
