"""Recipes of several folders: which is taken, what it extends, and what it is used instead of."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RecipeExtendsError, RecipeUnknownError
from orchestrator.recipe.load import RecipeBook

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "recipes"
TINY = "tiny-llama-w4a16-nvfp4"


@pytest.fixture
def book(tmp_path: Path) -> RecipeBook:
    return RecipeBook(tmp_path / "recipes", (SHIPPED,))


def write(book: RecipeBook, name: str, text: str) -> Path:
    file = book.folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_recipes_of_both_folders_are_listed_once(book: RecipeBook) -> None:
    write(book, "mine", f"name: mine\nextends: {TINY}\n")
    write(book, TINY, f"name: {TINY}\nextends: {TINY}\n")
    assert set(book.names) == {*RecipeBook(SHIPPED).names, "mine"}
    assert len(book.names) == len(set(book.names))


@pytest.mark.parametrize("base", [TINY, "llama3-70b-nvfp4", "qwen3-8b-nvfp4"])
def test_a_recipe_extends_one_of_a_folder_below(book: RecipeBook, base: str) -> None:
    write(book, "mine", f"name: mine\ndescription: Ours\nextends: {base}\nserve: {{port: 9000}}\n")
    found = book.load("mine")
    assert found.recipe.serve.port == 9000
    assert found.recipe.model == RecipeBook(SHIPPED).load(base).recipe.model
    assert found.shadows == {}


def test_a_recipe_may_change_the_one_of_its_own_name(book: RecipeBook) -> None:
    file = write(book, TINY, f"name: {TINY}\ndescription: Ours\nextends: {TINY}\nserve: {{port: 9000}}\n")
    found = book.load(TINY)
    assert found.recipe.serve.port == 9000
    assert found.shadows == {file: SHIPPED / f"{TINY}.yaml"}
    assert found.origins["serve", "port"] == f"{file}:4"
    assert found.origins["target",].startswith(str(SHIPPED))


def test_a_recipe_that_is_the_same_shadows_nothing(book: RecipeBook) -> None:
    write(book, TINY, (SHIPPED / f"{TINY}.yaml").read_text(encoding="utf-8"))
    assert book.load(TINY).shadows == {}


def test_a_base_is_used_by_recipes_of_its_folder_and_not_by_those_below(book: RecipeBook) -> None:
    base = write(book, "bases/onepass", "extends: onepass\nserve: {port: 9000}\n")
    heir = "llama3-8b-w4a16-nvfp4"
    write(book, "mine", (SHIPPED / f"{heir}.yaml").read_text(encoding="utf-8").replace(f"name: {heir}", "name: mine"))
    assert book.load("mine").recipe.serve.port == 9000
    assert book.load("mine").shadows == {base: SHIPPED / "bases" / "onepass.yaml"}
    assert book.load(heir).recipe == RecipeBook(SHIPPED).load(heir).recipe


def test_a_recipe_without_another_of_its_name_cannot_extend_itself(book: RecipeBook) -> None:
    write(book, "mine", "name: mine\nextends: mine\n")
    with pytest.raises(RecipeExtendsError, match="does not end: mine → mine"):
        book.load("mine")


def test_a_base_that_is_nowhere_is_looked_for_in_both_folders(book: RecipeBook) -> None:
    write(book, "mine", "name: mine\nextends: onepas\n")
    with pytest.raises(RecipeExtendsError, match="there is neither") as caught:
        book.load("mine")
    assert all(str(folder) in caught.value.message for folder in book.folders)
    assert caught.value.hint == "did you mean `onepass`?"


def test_a_file_extends_what_lies_beside_it_and_what_has_a_name(book: RecipeBook, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "near.yaml").write_text(f"name: near\nextends: {TINY}\nserve: {{port: 9000}}\n")
    (elsewhere / "mine.yaml").write_text("name: mine\ndescription: Ours\nextends: near\n")
    found = book.load_file(elsewhere / "mine.yaml")
    assert (found.recipe.name, found.recipe.serve.port, found.recipe.target) == ("mine", 9000, "cpu")


def test_a_file_beside_the_folder_of_recipes_does_not_change_these(book: RecipeBook, tmp_path: Path) -> None:
    write(book, "team", f"name: team\ndescription: Ours\nextends: {TINY}\n")
    (tmp_path / f"{TINY}.yaml").write_text(f"name: {TINY}\nextends: {TINY}\nserve: {{port: 9000}}\n")
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: Ours\nextends: team\n")
    assert book.load_file(tmp_path / "mine.yaml").recipe.serve.port != 9000


@pytest.mark.parametrize("name", ["missing.yaml", "recipes", "recipes/mine"])
def test_a_path_that_is_no_recipe_file_is_refused(book: RecipeBook, tmp_path: Path, name: str) -> None:
    file = write(book, "mine", f"name: mine\nextends: {TINY}\n")
    with pytest.raises(RecipeUnknownError, match="there is no recipe file") as caught:
        book.load_file(tmp_path / name)
    assert (str(file) in caught.value.hint) == name.endswith("/mine")
