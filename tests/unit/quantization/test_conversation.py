"""Models that cannot answer: tokens that are no rows of the embedding, and chat templates that do not work."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CheckFailedError
from orchestrator.quantization import chat_template, token_ids
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.quality import Report, examine

ROWS = 261
"""Of the embedding of the tiny model."""
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def _edit(folder: Path, name: str, change: Edit) -> Path:
    document = read_json(folder / name) if (folder / name).is_file() else {}
    change(document)
    write_json(folder / name, document)
    return folder


def _failures(report: Report) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.passed}


def _ids(name: str, value: object) -> Edit:
    return lambda document: document.update({name: value})


def _add_token(number: object, content: object = "<|new|>") -> Edit:
    return lambda document: document["added_tokens"].append(
        {**document["added_tokens"][-1], "id": number, "content": content}
    )


def _grow(document: dict[str, Any]) -> None:
    document["model"]["vocab"]["word"] = ROWS


def _end_with(token: str | None) -> Edit:
    return lambda document: document.update(eos_token=token)


WRONG_IDS = {
    "an end outside": ("config.json", _ids("eos_token_id", ROWS), "config.json: eos_token_id: found the id 261"),
    "one of several ends outside": ("config.json", _ids("eos_token_id", [4, 128009]), "found the id 128009"),
    "an end below zero": ("config.json", _ids("eos_token_id", -1), "found the id -1"),
    "an end outside, for generation": (
        "generation_config.json",
        _ids("eos_token_id", [4, 999]),
        "generation_config.json: eos_token_id: found the id 999",
    ),
    "an end in words": ("config.json", _ids("eos_token_id", "</s>"), "expected a whole number or a list"),
    "an end that is true": ("generation_config.json", _ids("eos_token_id", True), "expected a whole number"),
    "an end with a fraction": ("config.json", _ids("eos_token_id", 2.5), "expected a whole number"),
    "no end in a list": ("config.json", _ids("eos_token_id", []), "expected a whole number or a list"),
    "a list in a list": ("config.json", _ids("eos_token_id", [[2]]), "expected a whole number or a list"),
    "a beginning outside": ("config.json", _ids("bos_token_id", ROWS), "bos_token_id: found the id 261"),
    "padding outside": ("generation_config.json", _ids("pad_token_id", ROWS + 5), "pad_token_id: found the id 266"),
    "an end outside, of the language model": (
        "config.json",
        _ids("text_config", {"eos_token_id": 5000}),
        "text_config: eos_token_id: found the id 5000",
    ),
    "an added token outside": ("tokenizer.json", _add_token(ROWS), "token '<|new|>': found the id 261"),
    "an added token without id": ("tokenizer.json", _add_token(None), "expected an object with id and content"),
    "an added token without text": ("tokenizer.json", _add_token(7, None), "expected an object with id and content"),
    "an added token with the id of another": ("tokenizer.json", _add_token(0), "with the id 0"),
    "an added token outside, in the other file": (
        "tokenizer_config.json",
        lambda document: document["added_tokens_decoder"].update({"300": {"content": "<|new|>"}}),
        "found the id 300",
    ),
    "an added token whose id is a word": (
        "tokenizer_config.json",
        lambda document: document["added_tokens_decoder"].update({"last": {"content": "<|new|>"}}),
        "expected an object with id and content",
    ),
    "a tokenizer of a larger model": ("tokenizer.json", _grow, "token 'word': found the id 261"),
    "an end that the tokenizer lacks": (
        "tokenizer_config.json",
        _end_with("<|im_end|>"),
        "eos_token: found '<|im_end|>', which tokenizer.json does not have",
    ),
}


@pytest.mark.parametrize(("name", "change", "expected"), WRONG_IDS.values(), ids=WRONG_IDS)
def test_ids_of_tokens_that_are_no_rows_of_the_embedding_fail(
    model: Path, name: str, change: Edit, expected: str
) -> None:
    failures = _failures(examine(_edit(model, name, change)))
    assert expected in " ".join(failures.get(check, "") for check in ("tokenizer", "token_ids"))
    assert failures.keys() <= {"tokenizer", "token_ids", "tensors"}


RIGHT_IDS = {
    "several ends": ("config.json", _ids("eos_token_id", [1, 4])),
    "no end in this file": ("config.json", _ids("eos_token_id", None)),
    "no padding, as old files write it": ("config.json", _ids("pad_token_id", -1)),
    "a picture in a model without towers": ("tokenizer.json", _add_token(ROWS, "<image_soft_token>")),
}


@pytest.mark.parametrize(("name", "change"), RIGHT_IDS.values(), ids=RIGHT_IDS)
def test_what_published_models_have_passes(model: Path, name: str, change: Edit) -> None:
    assert _failures(examine(_edit(model, name, change))) == {}


def _without_end(model: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (model / name).is_file():
            _edit(model, name, lambda document: [document.pop(key, None) for key in ("eos_token_id", "eos_token")])


def test_a_model_whose_answers_never_end_fails(model: Path) -> None:
    _without_end(model)
    assert "no file says which token ends an answer" in _failures(examine(model))["token_ids"]


def test_an_end_that_is_a_row_but_no_token_fails(model: Path) -> None:
    tokenizer = read_json(model / "tokenizer.json")
    unused = max(tokenizer["model"]["vocab"].values())
    tokenizer["model"]["vocab"] = {
        token: number for token, number in tokenizer["model"]["vocab"].items() if number != unused
    }
    write_json(model / "tokenizer.json", tokenizer)
    _edit(model, "config.json", _ids("eos_token_id", unused))
    for name in ("generation_config.json", "tokenizer_config.json"):
        _edit(model, name, lambda document: document.pop("eos_token_id", None))
    assert "so no answer ends" in _failures(examine(model))["token_ids"]


_CHAT = "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content }}{{ END }}{% endfor %}"
ENDINGS = {
    "the end of sequence": ("{{ eos_token }}", True),
    "one of several ends": ("<|turn|>", True),
    "the end, behind a line break": ("\\n{{ eos_token }}\\n", True),
    "a token that ends nothing": ("<|other|>", False),
    "a token that ends nothing, then the end of sequence": ("<|other|>{{ eos_token }}", False),
    "no special token": ("\\n\\n", True),
}


@pytest.mark.parametrize(("written", "known"), ENDINGS.values(), ids=ENDINGS)
def test_a_template_that_ends_answers_by_a_token_that_ends_none_is_cautioned(
    model: Path, written: str, known: bool
) -> None:
    _edit(model, "tokenizer.json", lambda document: _rename(document, {"a": "<|turn|>", "b": "<|other|>"}))
    turn = read_json(model / "tokenizer.json")["model"]["vocab"]["<|turn|>"]
    _edit(model, "generation_config.json", _ids("eos_token_id", [4, turn]))
    inside = " + eos_token + ".join(f"'{part}'" for part in written.split("{{ eos_token }}"))
    (model / "chat_template.jinja").write_text(_CHAT.replace("END", inside))
    found = {check.name: check for check in examine(model).checks}["token_ids"]
    assert found.passed
    assert ("'<|other|>', which is not among eos_token_id" in found.detail) is not known


def _rename(document: dict[str, Any], names: dict[str, str]) -> None:
    vocabulary = document["model"]["vocab"]
    for old, new in names.items():
        vocabulary[new] = vocabulary.pop(old)
        _add_token(vocabulary[new], new)(document)


def test_a_template_that_knows_no_answers_is_not_asked_for_their_end(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% if messages[1] %}{{ raise_exception('no') }}{% endif %}Hello")
    assert "caution" not in {check.name: check for check in examine(model).checks}["token_ids"].detail


def test_a_tokenizer_that_its_library_cannot_load_fails(model: Path) -> None:
    _edit(model, "tokenizer.json", lambda document: document["model"].update(type="Words"))
    assert "the library tokenizers cannot load it" in _failures(examine(model))["tokenizer"]


def _of_words(folder: Path, numbers: dict[str, int]) -> Path:
    words = {"type": "WordLevel", "vocab": numbers, "unk_token": "?"}
    letters = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    document = {"version": "1.0", "added_tokens": [], "pre_tokenizer": letters, "model": words}
    write_json(folder / "tokenizer.json", document)
    return folder


def test_a_word_is_lost_only_where_the_vocabulary_has_its_letters(tmp_path: Path) -> None:
    token_ids.load(_of_words(tmp_path, {letter: number for number, letter in enumerate("?ACDEFGHIKLMNPQRSTVWY")}))
    token_ids.load(_of_words(tmp_path, {letter: number for number, letter in enumerate("?abcdefghijklmnop")}))
    with pytest.raises(CheckFailedError, match=r"cannot use it: .*UNK"):
        token_ids.load(_of_words(tmp_path, {}))
    for broken in (dict.fromkeys("?ehlo", 0), {"?": 0, "e": 1, "h": 2, "l": 1, "o": 3}):
        with pytest.raises(CheckFailedError, match="'hello' becomes"):
            token_ids.load(_of_words(tmp_path, broken))


def test_a_message_is_rendered_and_tokenized(model: Path) -> None:
    found = {check.name: check.detail for check in examine(model).checks}
    assert found["chat_template"] == "a message becomes 121 characters and 28 tokens"


WORKING = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
ANSWER = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% break %}{% endfor %}"
PARTS = "{% for m in messages %}{% for p in m.content %}{{ p['text'] }}{% endfor %}{% endfor %}"
WRONG_TEMPLATES: dict[str, tuple[object, str]] = {
    "empty": ("", "the chat template default is empty"),
    "only spaces": (" \n\t", "the chat template default is empty"),
    "a block without end": ("{% for m in messages %}{{ m.content }}", "does not parse: line 1"),
    "a block without expression": ("{% for %}", "does not parse: line 1"),
    "an unknown filter": ("{{ messages | to_markdown }}", "does not parse: line 1: No filter named"),
    "an unknown tag": ("{% raise 'no' %}", "does not parse: line 1"),
    "nested without end": ("{{ " + "(" * 50_000 + " }}", "does not parse"),
    "an error of its own": ("{{ raise_exception('only tools') }}", "cannot render a message: only tools"),
    "a name that is not there": ("{{ history[0].content }}", "cannot render a message: 'history' is undefined"),
    "another file": ("{% include 'other.jinja' %}", "cannot render a message"),
    "a way out of the sandbox": ("{{ ''.__class__.__mro__ }}", "cannot render a message: access to attribute"),
    "a change of the messages": ("{{ messages.append(1) }}", "cannot render a message: access to attribute"),
    "the message lost": ("You are helpful.", "which does not contain it"),
    "a recursion without end": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "maximum recursion"),
    "a power that fills the memory": ("{{ 9 ** 9 ** 9 }}", "is not calculated here"),
    "a text that fills the memory": ("{{ 'a' * 1000000000000 }}", "is not calculated here"),
    "a column that fills the memory": ("{{ 'a' | center(1000000000000) }}", "MiB of memory"),
    "a column that takes more than its share": ("{{ 'a' | center(1500000000) }}", "MiB of memory"),
    "an answer without measure": (
        "{% for i in range(99999) %}{{ messages[0].content }} and again{% endfor %}",
        "renders a message of 5 letters as",
    ),
    "a list without default": ([{"name": "tool_use", "template": WORKING}], "expected one with the name default"),
    "an empty list": ([], "found no chat_template"),
    "an object without default": ({"rag": WORKING}, "expected one with the name default"),
    "a list with an empty default": ([{"name": "default", "template": ""}], "the chat template default is empty"),
    "a list whose other template does not parse": (
        [{"name": "default", "template": WORKING}, {"name": "tool_use", "template": "{% if %}"}],
        "tool_use: the chat template does not parse",
    ),
    "a list without templates": ([{"name": "default"}], "expected text, or a list of objects with name and template"),
    "a list of texts": ([WORKING], "expected text, or a list of objects with name and template"),
    "a number": (7, "expected text, or a list of objects with name and template"),
}


@pytest.mark.parametrize(("template", "expected"), WRONG_TEMPLATES.values(), ids=WRONG_TEMPLATES)
def test_a_template_that_cannot_be_used_fails(model: Path, template: object, expected: str) -> None:
    report = examine(_edit(model, "tokenizer_config.json", lambda document: document.update(chat_template=template)))
    failures = _failures(report)
    assert failures.keys() == {"chat_template"}
    assert expected in failures["chat_template"]
    with pytest.raises(CheckFailedError):
        report.require()


def test_a_template_that_computes_without_end_is_stopped(model: Path) -> None:
    template = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(CheckFailedError, match=r"needs more than 0\.2 seconds"):
        chat_template.render(model, {"default": template}, seconds=0.2)
    assert chat_template.render(model, {"default": WORKING}) == "<|begin_of_text|>Hello"


@pytest.mark.parametrize(
    "template",
    [
        WORKING,
        ANSWER,
        PARTS,
        [{"name": "tool_use", "template": WORKING}, {"name": "default", "template": WORKING}],
        "{% if tools is not none or documents is not none %}{{ raise_exception('none was given') }}{% endif %}"
        + WORKING,
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}{{ messages | tojson }}",
    ],
)
def test_templates_as_published_models_have_them_pass(model: Path, template: object) -> None:
    changed = _edit(model, "tokenizer_config.json", lambda document: document.update(chat_template=template))
    assert _failures(examine(changed)) == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", "{% if %}"),
        ("chat_template.jinja", ""),
        ("additional_chat_templates/tool_use.jinja", WORKING),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
)
def test_a_file_is_preferred_to_the_configuration(model: Path, name: str, content: str | bytes) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert _failures(examine(model)).keys() == {"chat_template"}


def test_a_file_repairs_what_the_configuration_has(model: Path) -> None:
    _edit(model, "tokenizer_config.json", lambda document: document.update(chat_template="{% if %}"))
    (model / "chat_template.jinja").write_text(WORKING)
    assert _failures(examine(model)) == {}


def test_a_processors_template_is_one_too(model: Path) -> None:
    _edit(model, "tokenizer_config.json", lambda document: document.pop("chat_template"))
    (model / "chat_template.json").write_text(json.dumps({"chat_template": "{% if %}"}))
    assert "does not parse" in _failures(examine(model))["chat_template"]


def test_a_base_model_without_template_says_so(model: Path) -> None:
    _edit(model, "tokenizer_config.json", lambda document: document.pop("chat_template"))
    report = examine(model, reference=model)
    assert report.passed
    (skipped,) = [one for one in report.skipped if one.name == "chat_template"]
    assert "a base model" in skipped.reason


def test_without_its_libraries_a_check_says_what_it_did_not_do(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = {check.name: check.detail for check in examine(model).checks}
    assert "tokenizers is not installed here" in found["tokenizer"]
    assert "not tokenized here" in found["chat_template"]
    monkeypatch.setitem(sys.modules, "jinja2", None)
    report = examine(model)
    assert report.passed
    assert "jinja2" in {one.name: one.reason for one in report.skipped}["chat_template"]
