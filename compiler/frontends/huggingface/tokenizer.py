"""The tokenizer of a Hugging Face folder: `tokenizer.json`, with what other files say of ends and chats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from intaglio.compiler.errors import ModelFileError
from intaglio.compiler.frontends.tokenizer import RefusedTokenizer, TextTokenizer
from intaglio.compiler.frontends.traced import Tokenizer

LIBRARY = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
NAMES = "special_tokens_map.json"
GENERATION = "generation_config.json"
CONFIG = "config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_DATA = "chat_template.json"
OTHERS = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
DEFAULT = "default"  # the template that is used where a folder has several

_PROBE = "a"  # a text of at least one token in any vocabulary


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of `folder`; none where it has no file of one.

    One that cannot be read, because it is not in `tokenizer.json`, needs code of the folder's own or parts
    that the installed `tokenizers` lacks, is there all the same and refuses text: the model runs on ids.
    Raises `ModelFileError` that lists all files that are broken.
    """
    files = _read(folder)
    problems = [*files.problems, *_bad_end_tokens(files)]
    if problems:
        raise ModelFileError("\n  - ".join([f"tokenizer: {folder} is broken:", *problems]))
    library = files.data.get(LIBRARY)
    if library is None:
        return _absent(folder, files)
    if classes := _own_code(files.data.get(SETTINGS, {})):
        return _refused(files, f"it needs code of the folder's own ({classes}), which is never run")
    try:
        return _finished(files, Library.from_str(json.dumps(library)))
    except Exception as error:  # the library raises plain exceptions
        return _refused(files, f"the installed tokenizers library does not read {LIBRARY} ({error})")


@dataclass(frozen=True)
class _Files:
    """What stands in the files around a tokenizer."""

    data: Mapping[str, Any]
    template: str | None
    problems: tuple[str, ...]


def _read(folder: Path) -> _Files:
    data: dict[str, Any] = {}
    problems = []
    for name in (LIBRARY, SETTINGS, NAMES, GENERATION, CONFIG, TEMPLATE_DATA):
        if (folder / name).is_file():
            try:
                data[name] = _object(folder / name)
            except (OSError, ValueError, RecursionError) as error:
                problems.append(f"{name} is no JSON object: {error}")
    template = _template(data)
    if (folder / TEMPLATE).is_file():
        try:
            template = (folder / TEMPLATE).read_text("utf-8")
        except (OSError, ValueError) as error:
            problems.append(f"{TEMPLATE} is no text: {error}")
    return _Files(data, template, tuple(problems))


def _object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}")
    return content


def _template(data: Mapping[str, Any]) -> str | None:
    """The chat template inside JSON files: text, or a list of named ones."""
    for name in (TEMPLATE_DATA, SETTINGS):
        template = data.get(name, {}).get("chat_template")
        if isinstance(template, list):
            named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
            template = named.get(DEFAULT)
        if isinstance(template, str):
            return template
    return None


def _finished(files: _Files, library: Library) -> TextTokenizer:
    # Lengths that one use of the model wanted, such as 128 tokens for sentences.
    library.no_padding()
    library.no_truncation()
    bare, framed = (library.encode(_PROBE, add_special_tokens=one).ids for one in (False, True))
    begin = framed[0] if framed[1:] == bare else None
    special = _special_tokens(files)
    return TextTokenizer(
        library,
        end_tokens=_end_tokens(files, library),
        begin_token=begin,
        chat_template=files.template,
        special_tokens=special,
        framed=framed != bare and begin is None,
    )


def _special_tokens(files: _Files) -> dict[str, str]:
    """Tokens by the names that templates use, such as `bos_token`."""
    found = {}
    for name in (NAMES, SETTINGS):
        for key, value in files.data.get(name, {}).items():
            text = value.get("content") if isinstance(value, Mapping) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def _end_tokens(files: _Files, library: Library | None = None) -> frozenset[int]:
    ids = {
        one for name in (GENERATION, CONFIG) for one in _as_list(files.data.get(name, {}).get("eos_token_id"))
    }
    text = _special_tokens(files).get("eos_token")
    by_name = None if library is None or text is None else library.token_to_id(text)
    return frozenset(ids if by_name is None else ids | {by_name})


def _bad_end_tokens(files: _Files) -> Iterable[str]:
    for name in (GENERATION, CONFIG):
        for one in _as_list(files.data.get(name, {}).get("eos_token_id")):
            if not isinstance(one, int) or isinstance(one, bool) or one < 0:
                yield f"{name}: eos_token_id holds {one!r}, which is no id"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _own_code(settings: Mapping[str, Any]) -> str:
    """Classes that the folder brings along as code."""
    classes = settings.get("auto_map")
    named = classes.get("AutoTokenizer") if isinstance(classes, Mapping) else None
    return ", ".join(one for one in _as_list(named) if isinstance(one, str))


def _absent(folder: Path, files: _Files) -> Tokenizer | None:
    found = [name for name in OTHERS if (folder / name).is_file()]
    if not found:
        return None
    return _refused(
        files,
        f"the folder has no {LIBRARY}, only {', '.join(found)}: write one with transformers' "
        "AutoTokenizer.from_pretrained(…).save_pretrained(…)",
    )


def _refused(files: _Files, reason: str) -> RefusedTokenizer:
    return RefusedTokenizer(reason, _end_tokens(files))
