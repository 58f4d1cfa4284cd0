"""Recipes by name: inheritance, overrides, and where each value came from."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path

import pytest

from orchestrator.errors import (
    BadInputError,
    DocumentSyntaxError,
    OverrideError,
    PathEscapesError,
    RecipeExtendsError,
    RecipeInvalidError,
    RecipeUnknownError,
)
from orchestrator.recipe.load import LoadedRecipe, RecipeBook, resolve_inside
from orchestrator.recipe.model import GeneratedModel

ROOT = Path(__file__).resolve().parents[3]

BASE = """\
schema_version: 1
name: base-of-all
description: What many share
target: cpu
image: some-image
model: {generate: {seed: 1, num_hidden_layers: 2}}
quantization: {format: w4a16_nvfp4, method: onepass, exclude: [a, b]}
serve: {port: 9000, environment: {A: one, B: two}}
expected_refusals: [SOMETHING]
"""
HEIR = """\
extends: shared
name: heir
description: Takes from shared
"""


class Book:
    """A folder of recipes that a test fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bases").mkdir()
        self.write("bases/shared", BASE)

    def write(self, name: str, text: str) -> None:
        (self.folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    def load(self, name: str = "heir", *overrides: str) -> LoadedRecipe:
        return RecipeBook(self.folder).load(name, overrides)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(tmp_path)
    book.write("heir", HEIR)
    return book


def origin(loaded: LoadedRecipe, path: str) -> str | None:
    return {".".join(str(part) for part in key): where for key, where in loaded.origins.items()}.get(path)


def test_an_heir_has_what_its_base_says(book: Book) -> None:
    recipe = book.load().recipe
    assert (recipe.name, recipe.target, recipe.serve.port) == ("heir", "cpu", 9000)


def test_what_a_base_says_of_itself_is_not_inherited(book: Book) -> None:
    assert book.load().recipe.expected_refusals == ()
    book.write("heir", "extends: shared\nname: heir\n")
    with pytest.raises(RecipeInvalidError, match="`description` is missing"):
        book.load()


def test_mappings_merge_and_everything_else_replaces(book: Book) -> None:
    book.write(
        "heir", HEIR + "quantization: {exclude: [c]}\nserve: {environment: {B: three, C: four}}\nbenchmark: null\n"
    )
    recipe = book.load().recipe
    assert recipe.quantization.exclude == ("c",)
    assert recipe.quantization.format == "w4a16_nvfp4"
    assert recipe.serve.environment == {"A": "one", "B": "three", "C": "four"}
    assert recipe.serve.port == 9000
    assert recipe.benchmark is None


def test_a_mapping_comes_back_where_a_base_said_null(book: Book) -> None:
    book.write("middle", "extends: shared\nbenchmark: null\n")
    book.write("heir", "extends: middle\nname: heir\ndescription: x\nbenchmark: {requests: 3}\n")
    benchmark = book.load().recipe.benchmark
    assert benchmark is not None
    assert benchmark.requests == 3


def test_the_nearest_of_a_chain_wins(book: Book) -> None:
    book.write("bases/middle", "extends: shared\nserve: {port: 9001}\ntarget: h200\n")
    book.write("heir", "extends: middle\nname: heir\ndescription: x\nserve: {port: 9002}\n")
    recipe = book.load().recipe
    assert (recipe.serve.port, recipe.target, recipe.image) == (9002, "h200", "some-image")


def test_a_recipe_extends_another_recipe(book: Book) -> None:
    book.write("grandchild", "extends: heir\nname: grandchild\ndescription: x\n")
    assert book.load("grandchild").recipe.serve.port == 9000


def test_each_value_names_the_file_and_line_that_set_it(book: Book) -> None:
    book.write("heir", HEIR + "serve: {environment: {B: three}}\n")
    loaded = book.load("heir", "serve.port=1234")
    assert origin(loaded, "name") == "heir.yaml:2"
    assert origin(loaded, "target") == "shared.yaml:4"
    assert origin(loaded, "serve.environment.A") == "shared.yaml:8"
    assert origin(loaded, "serve.environment.B") == "heir.yaml:4"
    assert origin(loaded, "serve.port") == "--set"
    assert origin(loaded, "checks.serve") is None  # a default


def test_a_value_that_was_replaced_leaves_no_origin_behind(book: Book) -> None:
    book.write("heir", HEIR + "quantization: {exclude: []}\n")
    loaded = book.load()
    assert origin(loaded, "quantization.exclude") == "heir.yaml:4"
    assert origin(loaded, "quantization.exclude.0") is None


def test_a_fault_in_a_base_is_named_in_the_base(book: Book) -> None:
    book.write("bases/shared", BASE + "tarjet: x\n")
    with pytest.raises(RecipeInvalidError, match=r"bases/shared\.yaml:10:1: unknown key `tarjet`"):
        book.load()


def test_a_base_that_is_not_there_is_named_with_the_likely_one(book: Book) -> None:
    book.write("heir", "extends: shraed\nname: heir\n")
    with pytest.raises(RecipeExtendsError, match=r"heir\.yaml:1:1: extends `shraed`") as caught:
        book.load()
    assert caught.value.hint == "did you mean `shared`?"


@pytest.mark.parametrize(
    "base", ["../x", "/etc/passwd", "a/b", "..", "x.yaml/", "'a\n'", "[shared]", "8", "null", "{}", "''"]
)
def test_a_base_is_a_name_and_never_a_path(book: Book, base: str) -> None:
    (book.folder.parent / "x.yaml").write_text(BASE, encoding="utf-8")
    book.write("heir", f"extends: {base}\nname: heir\n")
    with pytest.raises(BadInputError, match=r"extends|heir\.yaml"):
        book.load()


@pytest.mark.parametrize(
    ("files", "chain"),
    [
        ({"heir": "extends: heir\n"}, "heir → heir"),
        ({"heir": "extends: b\n", "b": "extends: heir\n"}, "heir → b → heir"),
        ({"heir": "extends: bases-b\n", "bases/bases-b": "extends: bases-b\n"}, "heir → bases-b → bases-b"),
    ],
)
def test_a_chain_that_does_not_end_is_shown(book: Book, files: dict[str, str], chain: str) -> None:
    for name, text in files.items():
        book.write(name, text)
    with pytest.raises(RecipeExtendsError, match=f"does not end: {chain}"):
        book.load()


def test_a_chain_that_is_too_long_is_refused(book: Book) -> None:
    for number in range(20):
        book.write(f"bases/b{number}", f"extends: b{number + 1}\n")
    book.write("heir", "extends: b0\n")
    with pytest.raises(RecipeExtendsError, match="does not end"):
        book.load()


def test_a_recipe_must_be_called_like_its_file(book: Book) -> None:
    book.write("other", HEIR)
    with pytest.raises(RecipeInvalidError, match=r"other\.yaml:2:1: the recipe is called `heir`"):
        book.load("other")


@pytest.mark.parametrize(
    "name",
    [
        "../heir",
        "bases/shared",
        "/etc/passwd",
        "",
        ".",
        "..",
        "-rf",
        "Heir",
        "heir\n",
        "hëir",
        "a" * 65,
        "heir.",
        "a\0b",
    ],
)
def test_a_name_is_never_a_path(book: Book, name: str) -> None:
    with pytest.raises(RecipeUnknownError, match="no recipe name"):
        book.load(name)


@pytest.mark.parametrize("name", ["a", "0", "a..b", "llama3-70b_nvfp4.v2", "a" * 64])
def test_a_good_name_that_is_no_recipe_is_unknown(book: Book, name: str) -> None:
    with pytest.raises(RecipeUnknownError, match="no recipe is called"):
        book.load(name)


def test_an_unknown_recipe_brings_the_nearest_name(book: Book) -> None:
    with pytest.raises(RecipeUnknownError) as caught:
        book.load("hier")
    assert caught.value.hint == "did you mean `heir`?"


def test_an_earlier_name_is_answered_with_the_new_one(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    text = (recipes / "tiny-llama-fp8.yaml").read_text()
    (recipes / "broken.yaml").write_text("formerly: [old-name\n")
    (recipes / "renamed-fp8.yaml").write_text(
        text.replace("name: tiny-llama-fp8", "name: renamed-fp8\nformerly: [older-name, old-name]")
    )
    for name in ("old-name", "older-name"):
        with pytest.raises(RecipeUnknownError, match=f"`{name}` is called `renamed-fp8` now") as caught:
            RecipeBook(recipes).load(name)
        assert f"dist/{name}" in caught.value.hint
    heir = recipes / "heir-fp8.yaml"
    heir.write_text("name: heir-fp8\ndescription: An heir.\nextends: renamed-fp8\n")
    assert RecipeBook(recipes).load("heir-fp8").recipe.formerly == (), "a name is not inherited"


def test_bases_are_not_listed_as_recipes(book: Book) -> None:
    assert RecipeBook(book.folder).names == ("heir",)


def test_what_is_no_yaml_is_named_with_its_place(book: Book) -> None:
    book.write("heir", "name: [\n")
    with pytest.raises(DocumentSyntaxError, match=r"heir\.yaml:2:1"):
        book.load()


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("quantization.format=fp8", ("quantization", "format"), "fp8"),
        ("serve.port=1", ("serve", "port"), 1),
        ("serve.max_seq_len=null", ("serve", "max_seq_len"), None),
        ("serve.max_seq_len=", ("serve", "max_seq_len"), None),
        ("checks.serve=false", ("checks", "serve"), False),
        ("quantization.exclude=[x, y]", ("quantization", "exclude"), ["x", "y"]),
        ("model.generate.seed=7", ("model", "generate", "seed"), 7),
        ("serve.environment.NEW=a=b", ("serve", "environment", "NEW"), "a=b"),
        ("serve.speculative={type: mtp}", ("serve", "speculative", "type"), "mtp"),
        ("benchmark=null", ("benchmark",), None),
    ],
)
def test_one_value_is_overridden(book: Book, override: str, path: tuple[str, ...], value: object) -> None:
    loaded = book.load("heir", override)
    found = loaded.recipe.model_dump(mode="json")
    for part in path:
        found = found[part]
    assert found == value
    assert loaded.origins[path] == "--set"


def test_an_override_leaves_the_values_beside_it(book: Book) -> None:
    model = book.load("heir", "model.generate.seed=7").recipe.model
    assert isinstance(model, GeneratedModel)
    assert (model.generate.seed, model.generate.num_hidden_layers) == (7, 2)


def test_the_last_of_several_overrides_wins(book: Book) -> None:
    assert book.load("heir", "serve.port=1", "serve.port=2").recipe.serve.port == 2


@pytest.mark.parametrize("override", ["serve.port", "=1", ".a=1", "a.=1", "a..b=1", "", "="])
def test_an_override_is_a_key_and_a_value(book: Book, override: str) -> None:
    with pytest.raises(OverrideError, match="expected key=value"):
        book.load("heir", override)


@pytest.mark.parametrize("key", ["name", "description", "extends", "expected_refusals", "name.x"])
def test_an_override_cannot_change_what_a_recipe_says_of_itself(book: Book, key: str) -> None:
    with pytest.raises(OverrideError, match="cannot be overridden"):
        book.load("heir", f"{key}=x")


@pytest.mark.parametrize("value", ["[", "&x 1", "!!int 3", "a: b", "1\nserve: 2", "\udcff", "{a: 1, a: 2}", "[" * 100])
def test_an_override_is_one_plain_value(book: Book, value: str) -> None:
    with pytest.raises(OverrideError, match="is not a value"):
        book.load("heir", f"serve.options.x={value}")


def test_an_override_is_as_strict_as_a_file(book: Book) -> None:
    with pytest.raises(RecipeInvalidError, match=r"--set: `serve\.port`.*found \"80\""):
        book.load("heir", "serve.port='80'")
    with pytest.raises(RecipeInvalidError, match=r"--set: unknown key `serve\.prt`; did you mean `port`"):
        book.load("heir", "serve.prt=80")


def test_a_path_may_begin_with_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    project = tmp_path / "project"
    assert resolve_inside(project, "~/models/one") == Path("/home/ada/models/one")
    assert resolve_inside(project, "~") == Path("/home/ada")
    root = Path(pwd.getpwuid(0).pw_dir)
    assert resolve_inside(project, "~root/text.jsonl") == root.resolve() / "text.jsonl"
    assert resolve_inside(project, "~nobody-has-this-name/x") == project / "~nobody-has-this-name/x"
    assert resolve_inside(project, "models/~/x") == project / "models/~/x"


def test_a_relative_path_stays_inside_its_folder(tmp_path: Path) -> None:
    assert resolve_inside(tmp_path, "a/../b") == tmp_path / "b"
    assert resolve_inside(tmp_path, "/srv/model") == Path("/srv/model")
    (tmp_path / "way-out").symlink_to("/etc")
    for path in ("..", "../x", "a/../../x", "way-out/passwd"):
        with pytest.raises(PathEscapesError, match="leaves"):
            resolve_inside(tmp_path, path)
