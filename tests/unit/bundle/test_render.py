"""A deployment's files: complete, checked, linked, quoted, and never half there."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.bundle import targets
from orchestrator.bundle.render import Bundle, render
from orchestrator.bundle.targets import Target
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import BundleTargetError, NoPermissionError
from orchestrator.events import Event, Warned
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.lock import LockedImage
from orchestrator.store.artifact import Artifact
from orchestrator.store.store import Store
from tests.support.checked import compared

ROOT = Path(__file__).resolve().parents[3]
CATALOG = Catalog(Project(ROOT))
NAME = "tiny-llama-w4a16-nvfp4"
QUALITY: dict[str, Any] = {
    "passed": True,
    "checks": [{"name": "tensors", "passed": True, "warning": False}],
    "advice": "",
    "snr_db": {"min": 20.25, "mean": 21.0},
    "divergence": None,
}
LEVEL = {
    "concurrency": 1,
    "output_tokens_per_second": 51.25,
    "output_tokens_per_second_per_user": None,
    "time_to_first_token_ms": None,
}


class World:
    """A store with the results that a bundle is made of."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store")
        self.dist = root / "dist"
        self.artifacts: dict[str, Artifact] = {}
        self.warnings: list[str] = []
        self.leave("quantize", {"config.json": "{}", "model.safetensors": "weights"})
        self.leave("verify", {"quality.json": json.dumps(QUALITY)})

    def leave(self, step: str, files: Mapping[str, str]) -> None:
        key = hashlib.sha256(json.dumps([step, files]).encode()).hexdigest()
        attempt = self.store.attempt(key)
        for name, text in files.items():
            (attempt.out / name).write_text(text)
        self.artifacts[step] = self.store.publish(attempt, key, step)

    def render(
        self,
        *overrides: str,
        name: str = NAME,
        images: Mapping[str, LockedImage] | None = None,
        targets: Sequence[str] = (),
    ) -> Bundle:
        recipe = RecipeBook(ROOT / "recipes").load(name, overrides).recipe
        return render(
            recipe,
            CATALOG,
            self.artifacts,
            images=images or {},
            store=self.store,
            dist=self.dist,
            targets=targets,
            observer=self.hear,
        )

    def hear(self, event: Event) -> None:
        assert isinstance(event, Warned)
        self.warnings.append(event.message)

    def compose(self, *overrides: str) -> dict[str, Any]:
        folder = self.render(*overrides).folder
        document: dict[str, Any] = YAML(typ="safe", pure=True).load((folder / "compose.yaml").read_text("utf-8"))
        return document


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def fails(bundle: Bundle, besides: frozenset[str] = frozenset()) -> list[str]:
    """Name the files that `sha256sum --check` would complain of."""
    lines = (bundle.folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = {path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file()}
    assert set(sums) == files - {"SHA256SUMS"} - besides
    return [name for name in sums if hashlib.sha256((bundle.folder / name).read_bytes()).hexdigest() != sums[name]]


def test_a_bundle_holds_the_checkpoint_what_serves_it_and_what_was_measured(world: World) -> None:
    bundle = world.render()
    assert bundle.folder == world.dist / NAME
    assert not bundle.reused
    found = {path.name for path in bundle.folder.iterdir()}
    assert found >= {"model", "compose.yaml", "trtllm_config.yaml", "README.md", "SHA256SUMS", "quality.json"}
    assert json.loads((bundle.folder / "quality.json").read_text()) == QUALITY


def test_what_was_predicted_lies_beside_what_was_measured(world: World) -> None:
    prediction = json.loads((world.render().folder / "prediction.json").read_text())
    assert prediction["recipe"] == NAME
    assert prediction["weights_bytes"] > 0


def test_every_file_of_a_bundle_has_its_sum(world: World) -> None:
    assert fails(world.render()) == []


def test_the_checkpoint_is_linked_and_takes_no_room_of_its_own(world: World) -> None:
    linked = world.render().folder / "model" / "model.safetensors"
    assert linked.samefile(world.artifacts["quantize"].folder / "model.safetensors")


def test_linking_is_no_change_to_what_is_in_the_store(world: World) -> None:
    world.render()
    artifact = world.artifacts["quantize"]
    assert world.store.find(artifact.key) == artifact


def test_compose_serves_on_loopback_only_with_everything_mounted_read_only(world: World) -> None:
    server = world.compose("serve.port=9123")["services"]["server"]
    assert server["ports"] == ["${BIND_ADDRESS:-127.0.0.1}:${PORT:-9123}:8000"]
    mounted = {volume["source"]: volume.get("read_only", False) for volume in server["volumes"]}
    assert mounted == {"./model": True, "./secrets": True, "cache": False}
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]


def test_an_image_is_built_from_the_digest_of_the_lock(world: World) -> None:
    image = RecipeBook(ROOT / "recipes").load(NAME).recipe.image
    bundle = world.render(images={image: LockedImage(reference="nvcr.io/x:1", index="sha256:" + "1" * 64)})
    compose = YAML(typ="safe", pure=True).load((bundle.folder / "compose.yaml").read_text())
    assert compose["services"]["server"]["build"]["args"]["BASE_IMAGE"].endswith("@sha256:" + "1" * 64 + "}")
    assert f"@sha256:{'1' * 64}\nFROM ${{BASE_IMAGE}}\n" in (bundle.folder / "Dockerfile").read_text()
    assert "not pinned" not in (bundle.folder / "README.md").read_text()


def test_an_image_that_no_lock_pins_is_said_to_be_a_tag(world: World) -> None:
    assert "a tag, not pinned by a lock" in (world.render().folder / "README.md").read_text()


HOSTILE = ["it's", 'say "x"', "a: b", "#no", "- x", "{}", "%", "back\\slash", "été 🙂", "&a *a !t", "null", "8"]


@pytest.mark.parametrize("value", HOSTILE)
def test_any_text_reaches_the_server_as_it_was_written(world: World, value: str) -> None:
    server = world.compose(f"serve.environment.ODD={json.dumps(value, ensure_ascii=False)}")["services"]["server"]
    assert server["environment"]["ODD"] == value


@pytest.mark.parametrize("value", ["$HOME", "${HF_TOKEN}", "$(id)", "100$"])
def test_compose_takes_no_dollar_sign_for_a_variable(world: World, value: str) -> None:
    server = world.compose(f"serve.environment.ODD='{value}'")["services"]["server"]
    assert server["environment"]["ODD"] == value.replace("$", "$$")


@pytest.mark.parametrize("name", ["it's", "x'; touch /tmp/owned; '", 'a"b', "$(id)", "a\\b"])
def test_the_question_in_the_readme_can_be_pasted_whatever_the_model_is_called(world: World, name: str) -> None:
    bundle = world.render(f"serve.served_model_name={json.dumps(name)}")
    text = (bundle.folder / "README.md").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if "chat/completions" in line)
    words = shlex.split(line)
    assert json.loads(words[words.index("-d") + 1])["model"] == name
    assert ";" not in words


def test_nothing_is_claimed_that_was_not_measured(world: World) -> None:
    del world.artifacts["verify"]
    bundle = world.render()
    text = (bundle.folder / "MODEL_CARD.md").read_text()
    assert "Quality was not measured" in text
    assert "Speed was not measured" in text
    assert not re.search(r"\d dB|tokens/s", text)
    assert not (bundle.folder / "quality.json").exists()
    assert not (bundle.folder / "performance.json").exists()


def test_what_was_measured_is_shown_and_what_is_missing_is_said(world: World) -> None:
    world.leave("benchmark", {"performance.json": json.dumps({"levels": [LEVEL]})})
    text = (world.render().folder / "MODEL_CARD.md").read_text()
    assert "worst layer | 20.2 dB |" in text
    assert "| 1 | 51.2 | not predicted | not measured |" in text


@pytest.mark.parametrize("snr", [None, {"min": None, "mean": None, "worst": [], "layers": {}}])
def test_a_checkpoint_without_quantized_layers_has_no_signal_to_noise(world: World, snr: object) -> None:
    world.leave("verify", {"quality.json": json.dumps({**QUALITY, "snr_db": snr})})
    text = (world.render().folder / "MODEL_CARD.md").read_text()
    assert "every check passed" in text
    assert "dB" not in text


def test_the_model_card_has_warnings_what_to_try_and_what_the_figures_mean(world: World) -> None:
    checks = [
        {"name": "tensors", "passed": True, "detail": "all", "warning": False},
        {"name": "kl_divergence", "passed": True, "detail": "0.3 nats, which is worse than normal", "warning": True},
    ]
    figures = {"kl_divergence": {"mean": 0.3}, "perplexity": {"original": 8, "quantized": 9}, "meaning": "Much."}
    quality = {**QUALITY, "checks": checks, "advice": "more bits", "divergence": figures}
    world.leave("verify", {"quality.json": json.dumps(quality)})
    text = (world.render().folder / "MODEL_CARD.md").read_text()
    assert "every check passed, 2 of them, 1 with a warning" in text
    assert "\nMuch.\n" in text
    assert "**Warning**, `kl_divergence`: 0.3 nats, which is worse than normal." in text
    assert "What to try: more bits." in text
    assert "| checks | 2 of 2 passed, 1 with a warning |" in text


def test_the_model_card_compares_ways_to_quantize(world: World) -> None:
    world.leave("verify", {"quality.json": json.dumps({**QUALITY, "compared": compared()})})
    text = (world.render().folder / "MODEL_CARD.md").read_text()
    assert "On the same held-out text, 1020 tokens, with intervals of 95 %:" in text
    assert "| weighted+gptq (this model) | 0.252 (0.232 to 0.272) | 0 (0 to 0) | 10.5 | 75.0 % |" in text
    assert "| max | 0.467 (0.447 to 0.487) | 0.215 (0.215 to 0.215) | 10.5 | 75.0 % |" in text


def test_rendering_again_from_the_same_changes_nothing(world: World) -> None:
    first = world.render()
    inode = first.folder.stat().st_ino
    second = world.render()
    assert second.reused
    assert second.folder.stat().st_ino == inode
    assert second.size == first.size


def test_a_changed_recipe_is_rendered_again(world: World) -> None:
    world.render()
    bundle = world.render("serve.port=9000")
    assert not bundle.reused
    assert "${PORT:-9000}" in (bundle.folder / "compose.yaml").read_text()


def test_a_changed_checkpoint_is_rendered_again(world: World) -> None:
    world.render()
    world.leave("quantize", {"config.json": "{}", "model.safetensors": "other weights"})
    bundle = world.render()
    assert (bundle.folder / "model" / "model.safetensors").read_text() == "other weights"
    assert fails(bundle) == []


def drop_weights(folder: Path) -> None:
    (folder / "model").chmod(0o755)
    (folder / "model" / "model.safetensors").unlink()


def drop_compose(folder: Path) -> None:
    (folder / "compose.yaml").unlink()


def drop_sums(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()


def drop_stamp(folder: Path) -> None:
    (folder / "bundle.json").unlink()


def spoil_stamp(folder: Path) -> None:
    (folder / "bundle.json").write_text("{}")


def replace_weights(folder: Path) -> None:
    (folder / "model").chmod(0o755)
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "model.safetensors").write_text("spoiled")  # as long as the right one


@pytest.mark.parametrize("damage", [drop_weights, drop_compose, drop_sums, drop_stamp, spoil_stamp, replace_weights])
def test_a_bundle_with_something_missing_or_spoiled_is_rendered_again(
    world: World, damage: Callable[[Path], None]
) -> None:
    damage(world.render().folder)
    bundle = world.render()
    assert not bundle.reused
    assert fails(bundle) == []
    assert world.render().reused


def test_a_spoiled_link_is_replaced_when_the_store_has_made_it_again(world: World) -> None:
    bundle = world.render()
    file = bundle.folder / "model" / "model.safetensors"
    file.chmod(0o644)
    file.write_text("spoiled")  # and with it, through the link, what is in the store
    artifact = world.artifacts["quantize"]
    world.store.set_aside(artifact.key)
    world.leave("quantize", {"config.json": "{}", "model.safetensors": "weights"})
    assert world.artifacts["quantize"].digest == artifact.digest
    again = world.render()
    assert file.read_text() == "weights"
    assert fails(again) == []


def test_what_a_person_changed_in_a_text_is_theirs_until_something_else_changes(world: World) -> None:
    readme = world.render().folder / "README.md"
    readme.write_text("my own words")
    assert world.render().reused
    assert readme.read_text() == "my own words"


def test_what_a_person_changed_is_set_aside_where_something_else_changes_and_they_are_told(world: World) -> None:
    folder = world.render().folder
    (folder / "kubernetes" / "kustomization.yaml").write_text("newName: registry.example/mine\n")
    (folder / "README.md").unlink()
    again = world.render("serve.port=9000")
    aside = folder / "edited" / "kubernetes" / "kustomization.yaml"
    assert aside.read_text() == "newName: registry.example/mine\n"
    assert [path.name for path in (folder / "edited").rglob("*") if path.is_file()] == ["kustomization.yaml"]
    (warned,) = world.warnings
    assert "kubernetes/kustomization.yaml: overwritten; your changed versions are in edited/" in warned
    assert "registry.example" not in (folder / "kubernetes" / "kustomization.yaml").read_text()
    assert fails(again, besides=frozenset({"edited/kubernetes/kustomization.yaml"})) == []
    world.render("serve.port=9001")
    assert aside.exists(), "until a person removes it"
    assert len(world.warnings) == 1


def test_a_file_that_a_person_changed_to_what_is_written_anyway_is_no_news(world: World) -> None:
    compose = world.render("serve.port=9000").folder / "compose.yaml"
    wanted = compose.read_text()
    world.render("serve.port=9001")
    compose.write_text(wanted)
    world.render("serve.port=9000")
    assert world.warnings == []
    assert not (compose.parent / "edited").exists()


def test_what_a_killed_build_left_beside_a_bundle_is_swept(world: World) -> None:
    world.dist.mkdir()
    for name in (f".{NAME}.0123abcd", f".{NAME}-other.0123abcd", f".{NAME}.note"):
        (world.dist / name).mkdir()
    world.render()
    assert {path.name for path in world.dist.iterdir()} == {NAME, f".{NAME}-other.0123abcd", f".{NAME}.note"}


def test_a_bundle_that_cannot_be_finished_leaves_the_old_one_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.render()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "SHA256SUMS")

    monkeypatch.setattr("orchestrator.bundle.render.replace_folder", refuse)
    with pytest.raises(NoPermissionError, match="SHA256SUMS"):
        world.render("serve.port=9000")
    assert "9000" not in (before.folder / "compose.yaml").read_text()
    assert fails(before) == []
    assert [path.name for path in world.dist.iterdir()] == [NAME]


def test_a_target_that_is_none_is_refused_with_those_that_there_are(world: World) -> None:
    with pytest.raises(BundleTargetError, match="no target `nomad`") as refused:
        world.render(targets=["compose", "nomad"])
    assert "compose" in refused.value.hint


def test_a_program_among_the_rendered_files_can_be_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(targets)["TARGETS"], "compose", Target(lambda _: {"deep/run.sh": "#!/bin/sh\n"}))
    program = world.render().folder / "deep" / "run.sh"
    assert program.stat().st_mode & 0o111 == 0o111
    assert fails(world.render()) == []


def test_a_place_that_can_hold_no_folder_is_refused(world: World) -> None:
    world.dist = world.dist / "file" / "dist"
    world.dist.parents[1].mkdir(parents=True, exist_ok=True)
    world.dist.parent.write_text("no folder")
    with pytest.raises(NoPermissionError, match="cannot create the folder"):
        world.render()
