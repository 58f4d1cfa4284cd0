"""Locks: what they pin, and which ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import LockDriftError, LockInvalidError
from orchestrator.recipe.lock import (
    Lock,
    LockedFile,
    LockedImage,
    LockedRepository,
    check_lock,
    hub_models,
    lock_text,
    moved,
    pin,
    pin_calibration,
    pin_commits,
    read_lock,
    recipe_digest,
)
from orchestrator.recipe.model import DraftTarget, HubModel, Recipe

COMMIT, DRAFT_COMMIT = "1" * 40, "2" * 40
INDEX = "sha256:" + "d" * 64
FILES = (
    LockedFile(path="model.safetensors", size=10, sha256="a" * 64, git_sha1="b" * 40),
    LockedFile(path="config.json", size=2, git_sha1="c" * 40),
)
LOCK = Lock(
    recipe="one",
    repositories=(
        LockedRepository(repo="owner/model", revision="main", commit=COMMIT, files=FILES),
        LockedRepository(repo="owner/draft", revision="v1", commit=DRAFT_COMMIT, files=()),
    ),
    images={"some-image": LockedImage(reference="example/some:1", index=INDEX, arm64="sha256:" + "e" * 64)},
)


def hub(repo: str, revision: str = "main") -> HubModel:
    return HubModel(repo=repo, revision=revision, license="mit", architecture="X", parameters=1)


def recipe(name: str = "one", *, revision: str = "main") -> Recipe:
    fields = {
        "schema_version": 1,
        "name": name,
        "description": "x",
        "model": hub("owner/model", revision),
        "target": "cpu",
        "image": "some-image",
        "quantization": {"format": "bf16", "method": "none"},
        "serve": {"speculative": DraftTarget(type="draft_target", draft=hub("owner/draft", "v1"))},
    }
    return Recipe.model_validate(fields)


def test_a_lock_reads_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "one.lock"
    file.write_text(lock_text(LOCK), encoding="utf-8")
    assert read_lock(file) == LOCK


def test_no_lock_is_no_fault(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "one.lock") is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"<<<<<<< HEAD\n",
        json.dumps({**LOCK.model_dump(), "format": 2}).encode(),
        json.dumps({**LOCK.model_dump(), "surprise": 1}).encode(),
        lock_text(LOCK).replace(COMMIT, "main").encode(),
        lock_text(LOCK).replace('"size": 10', '"size": "10"').encode(),
        lock_text(LOCK).replace('"size": 10', '"size": -1').encode(),
    ],
)
def test_a_garbled_lock_is_refused_with_the_command_that_mends_it(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "recipes" / "one.lock"
    file.parent.mkdir()
    file.write_bytes(text)
    with pytest.raises(LockInvalidError, match=r"one\.lock: ") as caught:
        read_lock(file)
    assert caught.value.hint == "make it again: orchestrator lock one"


def test_a_garbled_lock_of_a_recipe_without_a_folder_of_recipes_is_made_again_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "one.lock").write_bytes(b"{")
    with pytest.raises(LockInvalidError) as caught:
        read_lock(tmp_path / "one.lock")
    assert caught.value.hint == f"make it again: orchestrator lock {tmp_path / 'one.yaml'}"


def test_the_first_lock_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(LockDriftError, match="has no lock") as caught:
        check_lock(None, recipe(), tmp_path / "recipes" / "one.lock")
    assert caught.value.hint == "make it: orchestrator lock one"


def test_a_folder_in_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LockInvalidError, match="is a folder"):
        read_lock(tmp_path)


def test_every_model_from_the_hub_is_pinned_to_its_commit() -> None:
    pinned = pin(recipe(), LOCK, Path("one.lock"))
    assert [model.revision for model in hub_models(pinned)] == [COMMIT, DRAFT_COMMIT]
    assert pinned.model_copy(update={"model": recipe().model, "serve": recipe().serve}) == recipe()


def test_the_lock_of_another_recipe_is_refused() -> None:
    with pytest.raises(LockInvalidError, match="belongs to the recipe `one`, not to `two`"):
        pin(recipe("two"), LOCK, Path("two.lock"))


def test_a_lock_from_before_the_recipe_changed_is_refused() -> None:
    with pytest.raises(LockInvalidError, match="does not know owner/model@v2"):
        pin(recipe(revision="v2"), LOCK, Path("one.lock"))


def test_what_nothing_is_known_of_stays_as_it_is() -> None:
    assert pin_commits(recipe(), {}) == recipe()


def test_the_digest_of_a_recipe_is_this_one_for_good() -> None:
    """It stands in committed locks: whatever is added to the schema, it must not change."""
    assert recipe_digest(recipe()) == "sha256:237d33dc1fee5fd037c7681ef6c9dd3f35ac57c3a73685f8353cdaeba19ad574"


def test_a_default_that_is_written_down_changes_no_digest() -> None:
    same = recipe().model_copy(update={"serve": recipe().serve.model_copy(update={"port": 8000})})
    assert recipe_digest(same) == recipe_digest(recipe())


def test_words_change_no_digest() -> None:
    same = recipe().model_copy(update={"description": "y", "expected_refusals": ("X",)})
    assert recipe_digest(same) == recipe_digest(recipe())


def test_every_value_that_counts_changes_the_digest() -> None:
    other = recipe().model_copy(update={"serve": recipe().serve.model_copy(update={"port": 9000})})
    assert recipe_digest(other) != recipe_digest(recipe())
    assert recipe_digest(recipe(revision="v2")) != recipe_digest(recipe())


def test_where_only_the_lock_counts_it_must_be_there_and_current() -> None:
    file = Path("one.lock")
    current = LOCK.model_copy(update={"recipe_digest": recipe_digest(recipe())})
    assert check_lock(current, recipe(), file) is current
    with pytest.raises(LockDriftError, match="does not exist"):
        check_lock(None, recipe(), file)
    with pytest.raises(LockDriftError, match="another state"):
        check_lock(LOCK, recipe(), file)
    with pytest.raises(LockInvalidError, match="belongs to"):
        check_lock(current, recipe("two"), file)


def test_an_image_is_pulled_by_the_digest_of_its_index() -> None:
    assert LOCK.image_digests == {"some-image": INDEX}


def test_an_older_lock_that_has_no_sizes_of_images_is_current() -> None:
    sized = {"some-image": LOCK.images["some-image"].model_copy(update={"sizes": {"arm64": 7}})}
    newer = LOCK.model_copy(update={"images": sized})
    assert moved(LOCK, newer) == ()
    assert newer.image_sizes("arm64") == {"some-image": 7}
    assert newer.image_sizes("amd64") == LOCK.image_sizes("arm64") == {}


def test_the_text_to_calibrate_with_is_pinned_too() -> None:
    assert pin_calibration(recipe(), COMMIT).quantization.calibration.revision == COMMIT


def test_what_moved_is_said_line_by_line() -> None:
    model, _ = LOCK.repositories
    files = (FILES[0].model_copy(update={"sha256": "0" * 64}), LockedFile(path="new.json", size=3, git_sha1="d" * 40))
    new = LOCK.model_copy(
        update={
            "repositories": (model.model_copy(update={"commit": "9" * 40, "files": files}),),
            "images": {"some-image": LOCK.images["some-image"].model_copy(update={"index": "sha256:" + "0" * 64})},
        }
    )
    assert moved(LOCK, LOCK) == ()
    assert moved(LOCK, new) == (
        f"owner/model@main: {COMMIT} → {'9' * 40}",
        "  config.json: is gone",
        "  model.safetensors: 10 → 10 bytes, its content changed",
        "  new.json: is new, 3 bytes",
        f"image some-image: example/some:1 {INDEX} → example/some:1 sha256:{'0' * 64}",
        "owner/draft@v1: no longer used",
    )
    assert len(moved(None, LOCK)) == 3
