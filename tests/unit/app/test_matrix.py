"""Recipes that are derived from a recipe by values."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app.matrix import derived_recipes, read_axes
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import BadInputError, OverrideError

_BASE = RecipeName("qwen3-8b-nvfp4")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "recipes").mkdir()
    return Settings({}, tmp_path, tmp_path / "store")


def derived(settings: Settings, *texts: str, base: RecipeName = _BASE) -> list[str]:
    return [str(name) for name in derived_recipes(settings, base, read_axes(texts))]


def test_a_recipe_of_the_catalogue_with_these_values_is_taken(settings: Settings) -> None:
    assert derived(settings, "format=fp8,nvfp4") == ["qwen3-8b-fp8", "qwen3-8b-nvfp4"]
    assert not list(settings.project.recipes.iterdir())


def test_others_are_written_into_the_project_and_are_known_there(settings: Settings) -> None:
    axes = ("quantization.scale_search=max,mse", "target=dgx-spark,h100")
    assert derived(settings, *axes, base=RecipeName("qwen3-32b-nvfp4")) == [
        "qwen3-32b-nvfp4-max-dgx-spark",
        "qwen3-32b-nvfp4-max-h100",
        "qwen3-32b-nvfp4-mse-dgx-spark",
        "qwen3-32b-nvfp4-mse-h100",
    ]
    again = Settings({}, settings.project.root)
    recipe = again.load(RecipeName("qwen3-32b-nvfp4-mse-h100")).recipe
    base = again.load(RecipeName("qwen3-32b-nvfp4")).recipe
    assert (recipe.target, recipe.quantization.scale_search) == ("h100", "mse")
    assert (recipe.model, recipe.image) == (base.model, base.image)


def test_a_second_time_the_same_recipes_are_taken_and_not_written_again(settings: Settings) -> None:
    first = derived(settings, "target=h100")
    (file,) = settings.project.recipes.iterdir()
    file.write_text(file.read_text().replace("description: ", "description: Mine: ").replace("Mine: ", "Mine, "))
    assert derived(Settings({}, settings.project.root), "target=h100") == first
    assert "Mine, " in file.read_text()


def test_another_recipe_of_the_name_is_refused(settings: Settings) -> None:
    text = "name: qwen3-8b-nvfp4-h100\ndescription: x\nextends: qwen3-14b-nvfp4\ntarget: h100\n"
    (settings.project.recipes / "qwen3-8b-nvfp4-h100.yaml").write_text(text)
    with pytest.raises(OverrideError, match="exists, and has another target or model"):
        derived(settings, "target=h100")


def test_recipes_that_are_named_by_a_file_are_written_beside_it(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("name: mine\ndescription: x\nextends: qwen3-8b-nvfp4\n")
    (name,) = derived_recipes(settings, RecipeName("mine", file), read_axes(["target=h100"]))
    assert name.file == file.with_name("mine-h100.yaml")
    assert settings.load(name).recipe.target == "h100"


@pytest.mark.parametrize(
    "texts",
    [
        ["format"],
        ["format="],
        ["format=fp8,"],
        ["=fp8"],
        ["format=fp8", "quantization.format=nvfp4"],
        ["model.repo=a/b"],
    ],
)
def test_what_is_no_axis_is_refused(texts: list[str]) -> None:
    with pytest.raises(OverrideError, match="--matrix"):
        read_axes(texts)


@pytest.mark.parametrize(
    "text", ["format=fp9", "quantization.no_such_key=1", "target=no-such-machine", "name=x", "format=[", "a..b=1"]
)
def test_a_value_that_no_recipe_can_have_is_refused_before_a_file_is_written(settings: Settings, text: str) -> None:
    with pytest.raises(BadInputError, match=r"format|no_such_key|no-such-machine|--matrix") as raised:
        derived(settings, text)
    assert "--set" not in raised.value.message + raised.value.hint
    assert not list(settings.project.recipes.iterdir())
