"""Chat templates: programs in Jinja that come with a model file, and so from strangers.

They run in Jinja's immutable sandbox, see plain data only, and cannot blow up memory by multiplication.
Layout and helpers are those that templates are written for: `trim_blocks`, `lstrip_blocks`, loop controls,
`raise_exception`, `strftime_now`, and a `tojson` that leaves HTML characters alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from intaglio.compiler.errors import OptionError, UnsupportedModelError

LARGEST_PRODUCT = 10**6  # characters, elements, or the value of a number, that `*` and `**` may make
FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


class TemplateRefusal(TemplateError):
    """The template called `raise_exception`: it does not like the messages."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with `*` and `**` kept small."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`; raises `SecurityError` where the result could be huge."""
        sizes = [len(one) if hasattr(one, "__len__") else abs(one) for one in (left, right)]
        grows = sizes[0] ** min(sizes[1], 64) if operator == "**" else sizes[0] * sizes[1]
        if grows > LARGEST_PRODUCT:
            raise SecurityError(f"the result of {operator!r} is larger than {LARGEST_PRODUCT}")
        return super().call_binop(context, operator, left, right)


def render_chat(
    template: str, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, str]
) -> str:
    """The prompt that asks for the next message after `messages` (dicts with `role` and `content`).

    `special_tokens` are names that the template may use, such as `bos_token`. Raises `OptionError` where the
    template refuses the messages, and `UnsupportedModelError` where the template itself does not work.
    """
    plain = _plain(messages)
    try:
        compiled = _environment().from_string(template)
        return compiled.render(messages=plain, add_generation_prompt=True, **special_tokens)
    except TemplateRefusal as error:
        raise OptionError(f"chat: the model's template refuses the messages: {error.message}") from error
    except FAILURES as error:
        raise UnsupportedModelError(
            f"chat: the model's template failed: {error}; pass plain text."
        ) from error


def _plain(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Copies that hold nothing but JSON data, so that the template gets no objects to play with."""
    if isinstance(messages, str | Mapping) or not messages:
        raise OptionError(f"chat: messages must be a list of dicts with role and content, not {messages!r}.")
    try:
        copies: list[dict[str, str]] = json.loads(json.dumps([dict(one) for one in messages]))
    except (TypeError, ValueError) as error:
        raise OptionError(f"chat: messages must hold plain text: {error}.") from error
    for index, one in enumerate(copies):
        if missing := {"role", "content"} - one.keys():
            raise OptionError(f"chat: message {index} lacks {' and '.join(sorted(missing))}.")
    return copies


def _environment() -> TemplateEnvironment:
    environment = TemplateEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
