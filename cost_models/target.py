"""What the compiler knows of the hardware it compiles for."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from intaglio.compiler.errors import TargetError

# What LLVM and the C compiler may use of x86-64-v3, of x86-64-v4 and beyond, by the names in /proc/cpuinfo.
_AVX2_FEATURES = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
_AVX512_FEATURES = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", *_AVX2_FEATURES)
_VNNI_FEATURES = (*_AVX512_FEATURES, "avx512_vnni")
_BF16_FEATURES = (*_VNNI_FEATURES, "avx512_bf16")
_AMX_FEATURES = (*_BF16_FEATURES, "amx_tile", "amx_int8", "amx_bf16")
_X86, _ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

# The families that kernels distinguish: `intaglio.kernels.instructions` says what each of them has.
INSTRUCTIONS = (
    *("plain", "avx2", "avx-vnni", "avx512", "avx512-vnni", "avx512-bf16", "amx"),
    *("neon", "arm-dot", "arm-i8mm", "arm-bf16"),
)
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
    llvm_features: tuple[str, ...] = ()  # beyond those of `cpu`, by LLVM's names, such as "+dotprod"

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
        lists = {key: getattr(self, key) for key in ("features", "c_flags", "llvm_features")}
        wrong += [f"{key} must be a list of texts" for key, value in lists.items() if not _are_texts(value)]
        if self.instructions not in INSTRUCTIONS:
            wrong.append(f"instructions {self.instructions!r} are not among {', '.join(INSTRUCTIONS)}")
        return wrong


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


def _x86(name: str, cpu: str, features: tuple[str, ...], instructions: str, *extensions: str) -> Target:
    """`cpu` and some extensions, by the names that LLVM and C compilers share."""
    flags = (f"-march={cpu}", *(f"-m{one}" for one in extensions))
    return Target(
        f"cpu:{name}", cpu, _X86, features, instructions, flags, tuple(f"+{one}" for one in extensions)
    )


def _arm(name: str, features: tuple[str, ...], instructions: str, *extensions: str) -> Target:
    """Armv8.2 and some extensions, by the names that LLVM and C compilers share; without, any Armv8."""
    flags = (f"-march=armv8.2-a+{'+'.join(extensions)}",) if extensions else ()
    llvm = tuple(f"+{one}" for one in extensions)
    return Target(f"cpu:{name}", "generic", _ARM, features, instructions, flags, llvm)


# From the narrowest to the widest of each architecture: a machine's own target is the last that it runs.
NAMED_TARGETS = (
    _x86("x86-64-v3", "x86-64-v3", _AVX2_FEATURES, "avx2"),
    _x86("avx-vnni", "x86-64-v3", (*_AVX2_FEATURES, "avx_vnni"), "avx-vnni", "avxvnni"),
    _x86("avx512", "x86-64-v4", _AVX512_FEATURES, "avx512"),
    _x86("avx512-vnni", "cascadelake", _VNNI_FEATURES, "avx512-vnni"),
    _x86("avx512-bf16", "cooperlake", _BF16_FEATURES, "avx512-bf16"),
    _x86("amx", "cooperlake", _AMX_FEATURES, "amx", "amx-tile", "amx-int8", "amx-bf16"),
    _arm("aarch64", (), "neon"),
    _arm("aarch64-dotprod", ("asimddp",), "arm-dot", "dotprod"),
    _arm("aarch64-i8mm", ("asimddp", "i8mm"), "arm-i8mm", "dotprod", "i8mm"),
    _arm("aarch64-bf16", ("asimddp", "i8mm", "bf16"), "arm-bf16", "dotprod", "i8mm", "bf16"),
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
    for target in reversed(NAMED_TARGETS):
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
