"""Room for a whole plan, counted before its first byte."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.app import needs
from orchestrator.app.make_plan import Plan, make_plan
from orchestrator.app.needs import needs_of
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import DiskFullError
from orchestrator.hub import outstanding
from orchestrator.hub.cache import RepoCache
from orchestrator.hub.listing import RemoteFile, Snapshot, listing_text
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.lock import pin_commits
from orchestrator.recipe.model import LocalModel
from orchestrator.steps.sources import with_listing
from orchestrator.store import space
from orchestrator.store.space import Need, files_in, require_space
from orchestrator.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
CATALOG = Catalog(Project(ROOT))
REPO, COMMIT = "meta-llama/Llama-3.3-70B-Instruct", "1" * 40
BIG = "llama3-70b-w4a16-nvfp4"
DOWNLOAD, CHECKPOINT = 141.1e9, 42.7e9
KEY = "a" * 64


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make everything below a folder another file system."""

    def other(folder: Path) -> None:
        def device(place: Path) -> int:
            return 2 if place.is_relative_to(folder) else 1

        for module in (space, needs, outstanding):
            monkeypatch.setattr(module, "device_of", device)

    return other


def plan(name: str = BIG, *overrides: str) -> Plan:
    recipe = RecipeBook(ROOT / "recipes").load(name, overrides).recipe
    return make_plan(pin_commits(recipe, {(REPO, "main"): COMMIT}), CATALOG, None)


def listed(made: Plan, snapshot: Snapshot) -> Plan:
    """Give the plan's download the list that a lock has of it."""
    first, *rest = made.steps
    return replace(made, steps=(replace(first, step=with_listing(first.step, listing_text(snapshot))), *rest))


def pending(made: Plan, key: str = KEY) -> dict[str, str]:
    return {placed.step.name: key for placed in made.steps}


def sizes(found: list[Need]) -> dict[str, int]:
    return {need.what: need.size for need in found}


def wanted(tmp_path: Path, made: Plan, dist: Path | None = None, **to_run: str) -> dict[str, int]:
    store = Store(tmp_path / "store")
    return sizes(list(needs_of(made, store, to_run or pending(made), dist)))


def test_a_plan_needs_room_for_its_download_and_for_what_its_steps_leave(tmp_path: Path) -> None:
    found = wanted(tmp_path, plan())
    notes = "evaluate: saved state, until it ends"
    assert list(found) == ["download: to fetch, as predicted", "quantize: quantized checkpoint", notes]
    assert found.pop(notes) == 2 * 2 * 2 * 64 * 512 * 8192  # twice, two models, BF16
    assert list(found.values()) == pytest.approx([DOWNLOAD, CHECKPOINT], rel=0.02)


def test_a_step_that_is_reused_needs_none(tmp_path: Path) -> None:
    assert list(wanted(tmp_path, plan(), quantize=KEY)) == ["quantize: quantized checkpoint"]
    assert list(needs_of(plan(), Store(tmp_path), {}, tmp_path / "dist")) == []


def test_a_locked_download_is_counted_to_the_byte_and_a_partial_one_by_what_is_missing(tmp_path: Path) -> None:
    files = tuple(RemoteFile(f"model-{n}.safetensors", 1000, f"{n}" * 64, "c" * 40) for n in range(3))
    snapshot = Snapshot(REPO, "model", COMMIT, files)
    made = listed(plan(), snapshot)
    assert wanted(tmp_path, made)["download: 3 of 3 files to fetch"] == 3000
    cache = RepoCache.of(snapshot)
    cache.blob("0" * 64).parent.mkdir(parents=True)
    cache.blob("0" * 64).write_bytes(b"x" * 1000)
    cache.incomplete("1" * 64).with_suffix(".journal").write_text("orchestrator 1 1000\n400\n")
    assert wanted(tmp_path, made)["download: 2 of 3 files to fetch"] == 1600


def test_a_terabyte_in_ten_thousand_files_is_counted_by_name_and_size(tmp_path: Path) -> None:
    size, number = 10**12, 10_000
    files = tuple(RemoteFile(f"model-{n:05}.safetensors", size // number, f"{n:064}", "c" * 40) for n in range(number))
    made = listed(plan(), Snapshot(REPO, "model", COMMIT, files))
    assert wanted(tmp_path, made)["download: 10000 of 10000 files to fetch"] == size
    cache = RepoCache.of(Snapshot(REPO, "model", COMMIT, files))
    cache.blob("0").parent.mkdir(parents=True)
    for file in files[:100]:
        with cache.blob(str(file.sha256)).open("wb") as sparse:
            sparse.truncate(file.size)
    assert wanted(tmp_path, made)["download: 9900 of 10000 files to fetch"] == size - 100 * files[0].size


def test_a_file_of_a_terabyte_needs_what_of_it_is_missing(tmp_path: Path) -> None:
    file = RemoteFile("model.safetensors", 10**12, "0" * 64, "c" * 40)
    snapshot = Snapshot(REPO, "model", COMMIT, (file,))
    incomplete = RepoCache.of(snapshot).incomplete("0" * 64)
    incomplete.parent.mkdir(parents=True)
    with incomplete.open("wb") as sparse:
        sparse.truncate(file.size)
    incomplete.with_suffix(".journal").write_text(f"orchestrator 1 {file.size}\n{file.size // 4}\n")
    assert wanted(tmp_path, listed(plan(), snapshot))["download: 1 of 1 files to fetch"] == file.size * 3 // 4


def test_what_the_cache_has_of_a_repository_is_not_counted_again(tmp_path: Path) -> None:
    blob = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}" / "blobs" / "x"
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as stream:
        stream.truncate(int(100e9))
    assert wanted(tmp_path, plan())["download: to fetch, as predicted"] == pytest.approx(41.1e9, rel=0.03)


def test_an_unfinished_try_is_not_counted_again_and_a_finished_one_needs_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    before = wanted(tmp_path, plan(), quantize=KEY)["quantize: quantized checkpoint"]
    attempt = store.attempt(KEY, "docker")
    with (attempt.out / "model.safetensors").open("wb") as stream:
        stream.truncate(10**9)
    assert wanted(tmp_path, plan(), quantize=KEY)["quantize: quantized checkpoint"] == before - 10**9
    attempt.seal()
    assert wanted(tmp_path, plan(), quantize=KEY) == {}


def test_a_cache_on_another_disk_than_the_store_needs_room_on_both(
    tmp_path: Path, devices: Callable[[Path], None]
) -> None:
    devices(tmp_path / "hub")
    found = wanted(tmp_path, plan())
    assert found["download: a copy out of the Hub's cache"] == found["download: to fetch, as predicted"]


def test_a_deployment_on_another_disk_than_the_store_needs_a_copy(
    tmp_path: Path, devices: Callable[[Path], None]
) -> None:
    here = wanted(tmp_path, plan(), tmp_path / "dist")
    assert "quantize: a copy for the deployment" not in here
    devices(tmp_path / "dist")
    there = wanted(tmp_path, plan(), tmp_path / "dist")
    assert there["quantize: a copy for the deployment"] == here["quantize: quantized checkpoint"]


def test_an_imported_folder_needs_room_only_where_it_cannot_be_linked(
    tmp_path: Path, devices: Callable[[Path], None]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    made = plan()
    local = LocalModel(path=str(model), architecture="LlamaForCausalLM", parameters=70.6e9)
    made = make_plan(made.recipe.model_copy(update={"model": local}), CATALOG, None)
    assert wanted(tmp_path, made)["import: a copy of the folder"] == 0
    devices(model)
    assert wanted(tmp_path, made)["import: a copy of the folder"] == pytest.approx(DOWNLOAD, rel=0.02)


def test_a_step_that_notes_how_far_it_is_needs_room_for_its_notes(tmp_path: Path) -> None:
    made = plan("tiny-llama-nvfp4")
    found = wanted(tmp_path, made)["quantize: quantized checkpoint"]
    kept = made.estimate.weights.value
    text = made.recipe.quantization.calibration
    assert found == int(kept) + 2 * 2 * text.samples * text.sequence_length * 256


def test_what_is_needed_is_added_up_per_disk_and_said_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _place: 150 * 10**9)
    first = Need(tmp_path / "a", 100 * 10**9, "download: 30 of 30 files to fetch")
    require_space([first, Need(tmp_path / "b" / "c", 40 * 10**9, "quantize: quantized checkpoint")], "x")
    with pytest.raises(DiskFullError) as caught:
        require_space([first, Need(tmp_path / "b", 60 * 10**9, "quantize: quantized checkpoint")], "use --store")
    head, *rows = caught.value.message.splitlines()
    assert re.search(r"need 160\.1 GB, and 150\.0 GB are free:$", head)
    assert rows == [
        "  download: 30 of 30 files to fetch   100.0 GB",
        "  quantize: quantized checkpoint       60.0 GB",
    ]
    assert caught.value.hint == "free 10.1 GB or more, or use --store"


def test_nothing_to_write_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _place: 0)
    require_space([Need(tmp_path, 0, "download")], "x")


def test_counting_files_puts_up_with_others_that_remove_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"12345")
    (tmp_path / "top").write_bytes(b"1")
    found = files_in(tmp_path)
    sizes = [next(found).st_size]
    for name in ("a", "b"):
        shutil.rmtree(tmp_path / name)
    assert sizes + [status.st_size for status in found] == [1, 5]
    assert list(files_in(tmp_path / "nothing")) == []
