"""Chat templates: what they may use, and what they must not get."""

from __future__ import annotations

from datetime import datetime

import pytest

from intaglio.compiler.errors import IntaglioError, OptionError, UnsupportedModelError
from intaglio.compiler.frontends.chat import render_chat

MESSAGES = [{"role": "user", "content": "Hi <b>"}]


def render(template: str, messages: list[dict[str, str]] | None = None) -> str:
    return render_chat(template, messages or MESSAGES, {"bos_token": "<s>"})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>Hi <b>"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "Hi <b>"}]'),
        ("{% if add_generation_prompt %}\n  {% set x = 1 %}\nok{% endif %}", "ok"),
        ("{% for one in range(9) %}{% if one == 2 %}{% break %}{% endif %}{{ one }}{% endfor %}", "01"),
        ("{% set box = namespace(n=1) %}{% set box.n = box.n * 3 %}{{ box.n }}{{ 'ab' * 2 }}", "3abab"),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
        ("{{ messages[0]['content'].upper().strip()[:2] }}", "HI"),
    ],
)
def test_templates_get_what_they_are_written_for(template: str, text: str) -> None:
    assert render(template) == text


def test_a_template_may_refuse_the_messages() -> None:
    with pytest.raises(OptionError, match="refuses the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ strftime_now.__globals__['sys'].modules }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ ('{0.__cl' ~ 'ass__}').format_map({'0': 1}) }}",
        "{{ (messages | attr('__class__')).__name__ }}",
        "{{ ({}).__class__.fromkeys([1]).__class__.mro() }}",
        "{% set x = messages.append({'role': 'x', 'content': 'y'}) %}",
        "{% set x = messages[0].update({'role': 'x'}) %}",
        "{% for one in range(10 ** 9) %}{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'a' }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ [0] * 99999999 }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ undefined_thing.attribute }}",
        "{% for x in messages %}",
        "{{ 1 / 0 }}",
        "{{ 'a' ** 'b' }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_hostile_and_broken_templates_fail_with_our_error(template: str) -> None:
    with pytest.raises(UnsupportedModelError, match="the model's template failed"):
        render(template)


def test_private_attributes_show_nothing() -> None:
    assert render("[{{ raise_exception.__globals__ }}{{ messages.__class__ }}]") == "[]"


def test_messages_are_not_changed_by_templates() -> None:
    messages = [{"role": "user", "content": "Hi"}]

    with pytest.raises(IntaglioError):
        render("{% set x = messages[0].clear() %}", messages)

    assert messages == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "must be a list of dicts"),
        ("Hi", "must be a list of dicts"),
        ({"role": "user"}, "must be a list of dicts"),
        (["Hi"], "must hold plain text"),
        ([{"role": "user"}], "message 0 lacks content"),
        ([{"role": "user", "content": "x"}, {}], "message 1 lacks content and role"),
        ([{"role": "user", "content": object()}], "must hold plain text"),
    ],
)
def test_ill_formed_messages_are_refused(messages: list[dict[str, str]], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        render_chat("{{ messages }}", messages, {})
