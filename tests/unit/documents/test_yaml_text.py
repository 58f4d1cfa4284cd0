"""Strict YAML: what is read, and the clear refusal of everything that recipes do not use."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator.documents import yaml_text
from orchestrator.documents.files import read_document
from orchestrator.documents.yaml_text import MAX_BYTES, MAX_DEPTH, Data, Document, parse, scalar
from orchestrator.errors import DocumentSyntaxError, RecipeUnknownError

FILE = Path("a.yaml")


def value_of(text: str) -> Data:
    return parse(f"key: {text}\n".encode(), FILE).data["key"]


def refusal(text: str | bytes) -> str:
    with pytest.raises(DocumentSyntaxError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), FILE)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("8", 8),
        ("-8", -8),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5E3", 500.0),
        ("'8'", "8"),
        ("[1, two]", [1, "two"]),
        ("{a: {b: c}}", {"a": {"b": "c"}}),
        ("a text", "a text"),
        ("'été 模型 🙂'", "été 模型 🙂"),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Data) -> None:
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "y", "n", "Yes", "NO"])
def test_only_true_and_false_are_booleans(text: str) -> None:
    assert value_of(text) == text


_WHERE_RUAMEL_DIFFERS = re.compile(r"[-+]0[xo]|[0-9]_|^0b|^[-+]?\.[0-9]+[eE][0-9]")
"""From the core schema: it reads signed and binary whole numbers and those with `_`, and takes `.5e3` for text."""


@settings(max_examples=500, deadline=None)
@given(st.text("0123456789+-.eExoabfnulNUtrsyYTRF~:i ", min_size=1, max_size=8))
@example("0o17")
@example("-0x1F")
@example("1.")
@example(".5e-3")
@example("+.5")
@example("1e5")
@example("~~")
def test_plain_scalars_are_what_another_reader_of_yaml_1_2_makes_of_them(text: str) -> None:
    try:
        theirs = YAML(typ="safe", pure=True).load(f"key: {text}\n")
    except (YAMLError, ValueError):
        theirs = None
    if not isinstance(theirs, dict) or _WHERE_RUAMEL_DIFFERS.search(text.strip()):
        return
    if isinstance(theirs["key"], float) and not math.isfinite(theirs["key"]):
        return
    ours = value_of(text)
    assert (ours, type(ours)) == (theirs["key"], type(theirs["key"]))


def test_a_leading_zero_is_no_octal_number() -> None:
    assert value_of("022") == 22


@pytest.mark.parametrize("text", ["12:30:45", "1.2.1", "1.3.0rc24"])
def test_a_time_or_version_stays_text(text: str) -> None:
    assert value_of(text) == text


@pytest.mark.parametrize("text", ["2026-08-01", "2026-08-01T12:30:45Z", "2026-08-01 12:30:45"])
def test_a_date_stays_text(text: str) -> None:
    assert value_of(text) == text


def test_template_syntax_is_only_text() -> None:
    assert (
        value_of("'{{ cycler.__init__.__globals__ }} ${HOME} $(id)'")
        == "{{ cycler.__init__.__globals__ }} ${HOME} $(id)"
    )


def test_positions_count_from_one() -> None:
    document = parse(b"first: 1\nsecond:\n  - a\n  - {deep: 2}\n", FILE)
    assert str(document.positions[("second",)]) == "a.yaml:2:1"
    assert str(document.positions[("second", 0)]) == "a.yaml:3:5"
    assert str(document.positions[("second", 1, "deep")]) == "a.yaml:4:6"


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("a: &x 1\nb: *x\n", "a.yaml:1:4", "anchors and aliases"),
        ("a: *x\n", "a.yaml:1:4", "anchors and aliases"),
        ("a: &x [*x]\n", "a.yaml:1:4", "anchors and aliases"),
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3:1", "`a` occurs a second time"),
        ("a: {b: 1, b: 2}\n", "a.yaml:1:11", "`b` occurs a second time"),
        ("a: !!python/object/apply:os.system [id]\n", "a.yaml:1:4", "tag"),
        ("a: !secret x\n", "a.yaml:1:4", "tag"),
        ("!!map\na: 1\n", "a.yaml:1:1", "tag"),
        ("%YAML 1.1\n---\na: 1\n", "a.yaml:1:1", "%YAML"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2:1", "second document"),
        ("a: .nan\n", "a.yaml:1:4", "not a finite number"),
        ("a: -.inf\n", "a.yaml:1:4", "not a finite number"),
        ("a: 1e999\n", "a.yaml:1:4", "not a finite number"),
        (f"a: {'9' * 5000}\n", "a.yaml:1:4", "number"),
        (f"a: 0x{'f' * 5000}\n", "a.yaml:1:4", "too large a number"),
        ("1: a\n", "a.yaml:1:1", "a key must be plain text"),
        ("true: a\n", "a.yaml:1:1", "a key must be plain text"),
        ("[a]: b\n", "a.yaml:1:1", "a key must be plain text"),
        ("? {a: b}\n: c\n", "a.yaml:1:3", "a key must be plain text"),
        ("<<: {a: b}\n", "a.yaml:1:1", "merge keys"),
        ('a: "\\0"\n', "a.yaml:1:4", "U+0000"),
        ('a: "\\x1b[31m"\n', "a.yaml:1:4", "U+001B"),
        ('a: "\\ud800"\n', "a.yaml:1:", "Unicode character"),
        ('"\\x07": a\n', "a.yaml:1:1", "U+0007"),
        ('a: "\\u202e"\n', "a.yaml:1:4", "U+202E"),
        ("a: b\u2066c\n", "a.yaml:1:4", "U+2066"),
        ("a: [1\n", "a.yaml:2:1", ""),
        ("a: b: c\n", "a.yaml:1:5", ""),
        ("a:\n\t- b\n", "a.yaml:2:1", ""),
        ("a: 1\n b: 2\n", "a.yaml:2:", ""),
        ("a: @b\n", "a.yaml:1:4", ""),
    ],
)
def test_what_recipes_do_not_use_is_refused_where_it_stands(text: str, where: str, reason: str) -> None:
    message = refusal(text)
    assert message.startswith(where)
    assert reason in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "found nothing"),
        ("# only a comment\n", "found nothing"),
        ("- a\n- b\n", "found a list"),
        ("text\n", "found a single value"),
    ],
)
def test_the_top_must_be_a_mapping(text: str, reason: str) -> None:
    assert reason in refusal(text)


def test_bytes_that_are_no_text_are_refused_by_their_place() -> None:
    assert "not UTF-8 at byte 3" in refusal(b"a: \xff\n")


def test_a_raw_nul_is_refused() -> None:
    assert "a.yaml" in refusal(b"a: x\x00y\n")


def test_a_file_larger_than_allowed_is_refused_before_it_is_parsed() -> None:
    assert str(MAX_BYTES) in refusal(b"a" * (MAX_BYTES + 1))


@dataclass(frozen=True)
class Nesting:
    """A kind of nesting."""

    document: Callable[[int], str]
    """A document of so many levels; the mapping at the top is the first."""
    too_deep: str
    """Line and column where the first level that is too deep begins."""
    deepest: int
    """The most levels that fit into a file, more or less."""


def _indented(levels: int) -> str:
    return "".join(f"{' ' * level}a:\n" for level in range(levels))


def _brackets(levels: int) -> str:
    return "[" * levels + "]" * levels


NESTINGS = {
    "lists in brackets": Nesting(lambda n: f"a: {_brackets(n - 1)}", "1:27", 130_000),
    "lists in brackets, one a line": Nesting(lambda n: "a:\n" + " [\n" * (n - 1) + " " + "]" * (n - 1), "25:2", 60_000),
    "mappings in braces": Nesting(lambda n: "{a: " * n + "1" + "}" * n, "1:97", 52_000),
    "mappings with quoted keys": Nesting(lambda n: '{"a":' * n + "1" + "}" * n, "1:121", 43_000),
    "mappings in lists": Nesting(lambda n: "{a: [" * (n // 2) + "{}" * (n % 2) + "]}" * (n // 2), "1:61", 70_000),
    "mappings by indentation": Nesting(_indented, "25:25", 700),
    "lists by indentation": Nesting(lambda n: f"a:\n{'- ' * (n - 1)}1", "2:47", 130_000),
    "brackets below indentation": Nesting(lambda n: f"{_indented(12)}{' ' * 12}{_brackets(n - 12)}", "13:25", 130_000),
}
_PARSERS = ("SafeLoader", "CSafeLoader")
"""Both of PyYAML; each has other limits of its own, or none."""


@pytest.mark.parametrize("parser", _PARSERS)
@pytest.mark.parametrize("kind", NESTINGS)
def test_the_deepest_allowed_document_is_read(kind: str, parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "_LOADER", yaml_text.loader_on(getattr(yaml, parser)))
    assert parse(NESTINGS[kind].document(MAX_DEPTH).encode(), FILE).data


@pytest.mark.timeout(20)
@pytest.mark.parametrize("parser", _PARSERS)
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, MAX_DEPTH + 2, 600, None], ids=str)
@pytest.mark.parametrize("kind", NESTINGS)
def test_deeper_documents_are_refused_where_they_get_too_deep(
    kind: str, levels: int | None, parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_text, "_LOADER", yaml_text.loader_on(getattr(yaml, parser)))
    nesting = NESTINGS[kind]
    text = nesting.document(levels or nesting.deepest)
    assert refusal(text) == f"a.yaml:{nesting.too_deep}: nested more than {MAX_DEPTH} levels deep"


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "{a: " * 50_000, "a:\n" + "- " * 100_000])
def test_brackets_that_nothing_closes_are_refused_by_their_depth(text: str) -> None:
    assert f"nested more than {MAX_DEPTH} levels deep" in refusal(text)


def test_mappings_as_keys_are_refused_as_keys_however_deep_they_are() -> None:
    assert refusal("a: " + "{" * 100_000) == "a.yaml:1:5: a key must be plain text"


def test_too_deep_a_document_takes_no_more_memory_than_its_text() -> None:
    text = NESTINGS["lists in brackets"].document(130_000)
    tracemalloc.start()
    try:
        refusal(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BYTES


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"a: 0b")
@example(b"a: 0x_")
@example(b"a: -_")
@example(b"a: =")
@example(b"? \n: \n")
@example(b"\xef\xbb\xbfa: 1")
@example(b"%TAG ! tag:x,2000:\n---\na: 1")
@example(b"a: !<tag:yaml.org,2002:int> x")
def test_any_bytes_are_a_document_or_refused(text: bytes) -> None:
    with suppress(DocumentSyntaxError):
        assert isinstance(parse(text, FILE), Document)


YAML_PIECES = st.sampled_from(
    ["a", "b: ", ": ", "- ", "? ", "\n", "\n  ", "[", "]", "{", "}", ",", "'", '"', "|", ">", "#", "&x", "*x", ".",
     "!!int ", "!", "%", "@", "`", "---", "...", "\t", "0x", "0b", "0o", "_", "+", "-", "1", "e", ".inf", "<<", "=",
     "\\u",
     "~", "2026-08-01", "12:30", "\r", "\ufeff", "\x85", "\u2028"]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(YAML_PIECES, max_size=30).map("".join))
def test_anything_that_looks_like_yaml_is_a_document_or_refused(text: str) -> None:
    with suppress(DocumentSyntaxError):
        assert isinstance(parse(text.encode(), FILE), Document)


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("true", True), ("[a, b]", ["a", "b"]), ("", None), ("fp8", "fp8"), ("'8'", "8")]
)
def test_one_value_is_read_as_in_a_file(text: str, value: Data) -> None:
    assert scalar(text) == value


@pytest.mark.parametrize("text", ["1\nother: 2", "a: b", "[", "&x 1", "\udcff"])
def test_what_is_not_one_value_is_refused(text: str) -> None:
    with pytest.raises(DocumentSyntaxError):
        scalar(text)


def test_a_parser_without_libyaml_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(__file__).parents[3].joinpath("docker", "images.yaml").read_bytes()
    compiled = parse(text, FILE)
    monkeypatch.setattr(yaml_text, "_LOADER", yaml_text.loader_on(yaml.SafeLoader))
    assert parse(text, FILE) == compiled


def test_a_file_that_is_not_there_raises_what_the_caller_wants(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a: 1\n")
    for missing in (tmp_path / "none.yaml", tmp_path / "none" / "a.yaml", tmp_path / "file" / "a.yaml"):
        with pytest.raises(RecipeUnknownError, match="no such file"):
            read_document(missing, RecipeUnknownError)


def test_a_folder_is_not_a_document(tmp_path: Path) -> None:
    with pytest.raises(RecipeUnknownError, match="not an ordinary file but a folder"):
        read_document(tmp_path, RecipeUnknownError)


def test_an_endless_file_is_not_read() -> None:
    with pytest.raises(RecipeUnknownError, match="not an ordinary file"):
        read_document(Path("/dev/zero"), RecipeUnknownError)
