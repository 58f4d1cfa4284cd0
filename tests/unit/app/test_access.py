"""A gated model: what an account needs is said in the plan, and checked before a byte is requested."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app import RecipeName, Settings, build
from orchestrator.app.access import gated_model, require_token, token_is_there
from orchestrator.app.planning import plan
from orchestrator.errors import HubAccessError

ROOT = Path(__file__).resolve().parents[3]
FLAGSHIP = RecipeName("llama3-70b-nvfp4")


def settings_of(tmp_path: Path, **environment: str) -> Settings:
    return Settings({"HOME": str(tmp_path), **environment}, ROOT, tmp_path / "store", tmp_path / "dist")


@pytest.mark.parametrize("name", ["llama3-70b-nvfp4", "llama3-70b-bf16", "llama3-8b-nvfp4"])
def test_a_plan_names_the_page_of_the_licence_and_the_twin(tmp_path: Path, name: str) -> None:
    settings = settings_of(tmp_path)
    recipe = settings.load(RecipeName(name)).recipe
    words = str(gated_model(recipe, settings.book))
    assert f"https://huggingface.co/{recipe.model.repo}" in words  # type: ignore[union-attr]
    assert ("llama3-70b-nvfp4-published needs no account" in words) == (name == "llama3-70b-nvfp4")


@pytest.mark.parametrize("name", ["llama3-70b-nvfp4-published", "tiny-llama-w4a16-nvfp4", "qwen3-8b-auto"])
def test_an_open_or_made_model_needs_no_account(tmp_path: Path, name: str) -> None:
    settings = settings_of(tmp_path)
    assert gated_model(settings.load(RecipeName(name)).recipe, settings.book) is None
    require_token(settings, plan(settings, RecipeName(name)).plan)


def test_a_build_without_a_token_asks_the_hub_nothing_and_offers_the_twin(tmp_path: Path) -> None:
    with pytest.raises(HubAccessError, match="is gated, and this machine has no token") as caught:
        build(settings_of(tmp_path), FLAGSHIP)
    assert "https://huggingface.co/meta-llama/Llama-3.3-70B-Instruct" in caught.value.hint
    assert "build llama3-70b-nvfp4-published" in caught.value.hint
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"])
def test_a_token_or_a_mirror_is_enough_to_begin(tmp_path: Path, variable: str) -> None:
    settings = settings_of(tmp_path, **{variable: "http://value"})
    require_token(settings, plan(settings, FLAGSHIP).plan)


@pytest.mark.parametrize(("variable", "file"), [
    ("HF_TOKEN_PATH", "mine"),
    ("HF_HOME", "mine/token"),
    ("XDG_CACHE_HOME", "mine/huggingface/token"),
    ("", ".cache/huggingface/token"),
])  # fmt: skip
def test_a_token_is_found_where_the_client_keeps_it(tmp_path: Path, variable: str, file: str) -> None:
    environment = {variable: str(tmp_path / "mine")} if variable else {}
    assert not token_is_there(environment, tmp_path)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("hf_canary")
    assert token_is_there(environment, tmp_path)
