"""What makes a folder a project, and how its files lie over those that come with the tool."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import CatalogError

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "tensorrt-llm-1.3.0rc24"

OURS = {
    "recipes/mine.yaml": "name: mine\nextends: onepass\n",
    "recipes/whole.yaml": "# a comment first\nschema_version: 1\nname: whole\n",
    "recipes/json.yaml": '{"name": "json", "schema_version": 1}',
    "recipes/broken.yaml": "extends: onepass\nmodel: [\n",
    "recipes/bases/team.yaml": "schema_version: 1\n",
    "recipes/tiny.lock": '{\n "format": 1,\n "recipe": "tiny",\n "repositories": []\n}\n',
    "docker/images.yaml": f"images:\n  mirror:\n    extends: {IMAGE}\n",
    "targets/ours.yaml": "targets:\n  ours:\n    description: x\n    memory: 1\n",
}
STRAY = {
    "recipes/bread.yaml": "name: Bread\nextended: no\nflour: 500\nnotes: |\n  extends: never\n",
    "recipes/notes.txt": "schema_version: 1\n",
    "recipes/uv.lock": "version = 1\n",
    "docker/images.yaml": "images:\n  - name: web\n    tag: latest\n",
    "targets/prometheus.yaml": "- targets: ['localhost:9090']\n",
    "targets/hosts.yaml": "targets:\n  - localhost\n",
    "models/recipes/deep.yaml": "schema_version: 1\n",
}


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", OURS)
def test_a_file_of_ours_makes_its_folder_a_project_from_every_folder_below(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, OURS[name])
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert Project.find(below) == Project(tmp_path)


@pytest.mark.parametrize("name", STRAY)
def test_a_stray_folder_of_the_same_name_makes_none(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, STRAY[name])
    found = Project.find(tmp_path)
    assert (found.root, found.is_found) == (tmp_path, False)
    assert found.recipe_folders == (ROOT / "recipes",)
    assert Catalog(found).image(IMAGE) == Catalog(Project(ROOT)).image(IMAGE)


def test_a_file_that_cannot_be_read_makes_none(tmp_path: Path) -> None:
    (tmp_path / "recipes" / "folder.yaml").mkdir(parents=True)
    assert not Project.find(tmp_path).is_found


def test_the_nearest_project_wins(tmp_path: Path) -> None:
    write(tmp_path, "recipes/mine.yaml", OURS["recipes/mine.yaml"])
    write(tmp_path / "inner", "recipes/mine.yaml", OURS["recipes/mine.yaml"])
    assert Project.find(tmp_path / "inner" / "recipes").root == tmp_path / "inner"


def test_a_folder_that_everybody_may_write_to_counts_only_where_the_user_stands(tmp_path: Path) -> None:
    write(tmp_path, "recipes/mine.yaml", OURS["recipes/mine.yaml"])
    (tmp_path / "sub").mkdir()
    tmp_path.chmod(0o1777)
    assert Project.find(tmp_path).is_found
    assert not Project.find(tmp_path / "sub").is_found


def test_a_checkout_is_its_own_only_layer() -> None:
    found = Project.find(ROOT / "docs")
    assert found.is_checkout
    assert found.layers == (ROOT,)


def test_a_project_is_no_checkout(tmp_path: Path) -> None:
    write(tmp_path, "recipes/mine.yaml", OURS["recipes/mine.yaml"])
    assert not Project.find(tmp_path).is_checkout


def test_an_image_extends_one_of_the_tool_and_takes_its_faults_by_name(tmp_path: Path) -> None:
    text = (
        f"images:\n  mirror:\n    extends: {IMAGE}\n    reference: registry.example/trtllm:1\n"
        "    faults: [quantize-gb10, ours]\nfaults:\n"
        "  ours: {code: OURS, effect: warn, message: m, hint: h, source: s}\n"
    )
    write(tmp_path, "docker/images.yaml", text)
    catalog = Catalog(Project(tmp_path))
    image = catalog.image("mirror")
    assert image.reference == "registry.example/trtllm:1"
    assert image.tools == catalog.image(IMAGE).tools
    assert [fault.code for fault in image.faults][1] == "OURS"
    assert catalog.shadows_image("mirror") is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "not an ordinary file but a pipe"),
        (Path.mkdir, "not an ordinary file but a folder"),
        (lambda place: place.symlink_to("nothing"), "there is no such file"),
    ],
)
def test_images_that_cannot_be_read_are_not_passed_over(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    (tmp_path / "docker").mkdir()
    make(tmp_path / "docker" / "images.yaml")
    with pytest.raises(CatalogError, match=rf"docker/images\.yaml: {said}"):
        Catalog(Project(tmp_path)).image(IMAGE)


def test_an_image_may_change_the_one_of_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "docker/images.yaml", f"images: {{{IMAGE}: {{extends: {IMAGE}, reference: 'mirror.example/a:1'}}}}")
    catalog, shipped = Catalog(Project(tmp_path)), Catalog(Project(ROOT))
    assert catalog.image(IMAGE).reference == "mirror.example/a:1"
    assert catalog.image(IMAGE).formats == shipped.image(IMAGE).formats
    assert catalog.shadows_image(IMAGE) == tmp_path / "docker" / "images.yaml"
    assert list(catalog.images) == list(shipped.images)


def test_an_image_that_is_the_same_shadows_nothing(tmp_path: Path) -> None:
    write(tmp_path, "docker/images.yaml", f"images: {{{IMAGE}: {{extends: {IMAGE}}}}}")
    assert Catalog(Project(tmp_path)).shadows_image(IMAGE) is None


def test_images_of_the_tool_do_not_change_with_what_they_extend(tmp_path: Path) -> None:
    base = "tensorrt-llm-1.3.0rc22"
    heirs = [name for name, image in Catalog(Project(ROOT)).images.items() if name > base and image.llm_api]
    assert heirs
    write(tmp_path, "docker/images.yaml", f"images: {{{base}: {{extends: {base}, llm_api: []}}}}")
    catalog = Catalog(Project(tmp_path))
    assert catalog.image(base).llm_api == ()
    assert all(catalog.image(name).llm_api for name in heirs)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("second: {extends: nobody}", "`second` extends `nobody`"),
        (f"second: {{extends: {IMAGE}, faults: [unheard-of]}}", "unknown fault `unheard-of`"),
        ("second: {extends: second}", "extends itself"),
        ("second: {extends: third}, third: {extends: second}", "extends itself"),
    ],
)
def test_what_an_image_of_a_project_gets_wrong_is_named_with_its_file(tmp_path: Path, images: str, said: str) -> None:
    write(tmp_path, "docker/images.yaml", f"images: {{{images}}}")
    with pytest.raises(CatalogError, match=said) as caught:
        _ = Catalog(Project(tmp_path)).images
    assert str(tmp_path) in caught.value.message


def test_a_target_lies_over_the_one_of_the_tool(tmp_path: Path) -> None:
    fields = {"description": "x", "architecture": "amd64", "memory": 10**9}
    write(tmp_path, "targets/ours.yaml", json.dumps({"targets": {"cpu": fields, "ours": fields}}))
    catalog = Catalog(Project(tmp_path))
    assert catalog.target("cpu").memory == 10**9
    assert catalog.target("dgx-spark") == Catalog(Project(ROOT)).target("dgx-spark")
    assert catalog.shadows_target("cpu") == tmp_path / "targets" / "ours.yaml"
    assert catalog.shadows_target("ours") is None


def test_a_table_of_options_lies_over_the_one_of_the_tool(tmp_path: Path) -> None:
    write(tmp_path, "docker/tools/quantize.json", '[{"flags": ["--ours"]}]')
    catalog = Catalog(Project(tmp_path))
    image = next(image for image in catalog.images.values() if image.has("quantize.py"))
    assert list(catalog.options(image, "quantize.py")) == ["--ours"]
    assert catalog.options(image, "trtllm-serve")
    assert catalog.shadows_options("quantize") == tmp_path / "docker" / "tools" / "quantize.json"
    assert catalog.shadows_options("trtllm-build") is None
