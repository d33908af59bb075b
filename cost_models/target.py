"""What the compiler knows of the hardware it compiles for."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from intaglio.compiler.errors import TargetError

# What LLVM and the C compiler may use of x86-64-v3 and of Cascade Lake, by the names in /proc/cpuinfo.
_AVX2_FEATURES = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
_VNNI_FEATURES = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni")
_X86, _ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

INSTRUCTIONS = ("plain", "avx512", "avx512-vnni", "avx512-bf16")  # the families that kernels distinguish
_DESCRIPTION_HELP = "`intaglio doctor --json` prints that of this machine"


@dataclass(frozen=True)
class Target:
    """A CPU to compile for; `features` must all be there to run the code."""

    name: str
    cpu: str  # LLVM's name of the processor
    triple: str
    features: tuple[str, ...]  # as in /proc/cpuinfo
    instructions: str  # the kernels' family, one of `INSTRUCTIONS`
    c_flags: tuple[str, ...]  # for the C runtime

    def missing_on(self, features: frozenset[str], machine: str) -> tuple[str, ...]:
        """What a machine lacks to run code for this target."""
        architecture = self.triple.split("-")[0]
        foreign = () if machine == architecture else (architecture,)
        return foreign + tuple(feature for feature in self.features if feature not in features)

    def missing_here(self) -> tuple[str, ...]:
        """What this machine lacks to run code for this target."""
        return self.missing_on(host_features(), platform.machine())

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Target:
        """From JSON text; raises `TargetError` for anything else."""
        try:
            values = json.loads(text)
            lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
            target = cls(**{**values, **lists})
        except (ValueError, TypeError, AttributeError) as error:
            raise TargetError(f"target: not a target description ({error}); {_DESCRIPTION_HELP}") from error
        if problems := target._problems():
            raise TargetError(f"target: {', '.join(problems)}; {_DESCRIPTION_HELP}")
        return target

    def _problems(self) -> list[str]:
        """What is wrong with values that came from outside."""
        texts = ("name", "cpu", "triple", "instructions")
        wrong = [f"{key} must be a text" for key in texts if not isinstance(getattr(self, key), str)]
        lists = {"features": self.features, "c_flags": self.c_flags}
        wrong += [f"{key} must be a list of texts" for key, value in lists.items() if not _are_texts(value)]
        if self.instructions not in INSTRUCTIONS:
            wrong.append(f"instructions {self.instructions!r} are not among {', '.join(INSTRUCTIONS)}")
        return wrong


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


NAMED_TARGETS = (
    Target("cpu:x86-64-v3", "x86-64-v3", _X86, _AVX2_FEATURES, "plain", ("-march=x86-64-v3",)),
    Target(
        "cpu:avx512-vnni",
        "cascadelake",
        _X86,
        _VNNI_FEATURES + _AVX2_FEATURES,
        "avx512-vnni",
        ("-march=cascadelake",),
    ),
    Target(
        "cpu:avx512-bf16",
        "cooperlake",
        _X86,
        (*_VNNI_FEATURES, "avx512_bf16", *_AVX2_FEATURES),
        "avx512-bf16",
        ("-march=cooperlake",),
    ),
    Target("cpu:aarch64", "generic", _ARM, (), "plain", ()),
)


@cache
def host_features() -> frozenset[str]:
    """The instruction-set features of this machine, by the names in /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def host_target() -> Target:
    """The widest target that this machine runs; raises `TargetError` on machines we have no kernels for."""
    machine, features = platform.machine(), host_features()
    if machine == "aarch64":
        return dataclasses.replace(NAMED_TARGETS[3], name="cpu")
    for target in (NAMED_TARGETS[2], NAMED_TARGETS[1], NAMED_TARGETS[0]):
        if not target.missing_on(features, machine):
            return dataclasses.replace(target, name="cpu")
    needed = ", ".join(_AVX2_FEATURES)
    raise TargetError(
        f"target: this {machine} CPU lacks what kernels need ({needed}, or aarch64); use another machine"
    )


def resolve_target(target: str | Path | Target) -> Target:
    """The target called `target`: "cpu" (this machine), a name in `NAMED_TARGETS`, or a JSON file's path.

    Raises:
        TargetError: for anything else; the message lists what there is.
    """
    if isinstance(target, Target):
        return target
    if str(target) == "cpu":
        return host_target()
    for named in NAMED_TARGETS:
        if named.name == str(target):
            return named
    if str(target).endswith(".json") and Path(target).is_file():
        return Target.from_json(_text_of(Path(target)))
    known = ", ".join(["cpu", *(named.name for named in NAMED_TARGETS)])
    raise TargetError(
        f"target: {str(target)!r} is unknown; choose one of {known}, or give the path of a .json description"
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"target: {path} cannot be read ({error}); {_DESCRIPTION_HELP}") from error
