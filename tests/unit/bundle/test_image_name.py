"""`bundle --image`: one name in every file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.image_name import ImageName, parse_image_name
from orchestrator.bundle.targets import render_files
from orchestrator.errors import BundleTargetError
from tests.support.bundles import contents_of

ONE, TWO = "llama3-70b-nvfp4", "qwen3-235b-a22b-nvfp4-published"


def _yaml(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def _images(tmp_path: Path, name: ImageName | None) -> tuple[BundleContents, dict[str, str]]:
    """The image of the server in each file."""
    contents = replace(contents_of(ONE, tmp_path / "one"), image_name=name)
    files = render_files(contents)
    two = render_files(replace(contents_of(TWO, tmp_path / "two"), image_name=name))
    values, operator, chart = (
        _yaml(files[file]) for file in ("helm/values.yaml", "nim-operator/nimservice.yaml", "helm/nim-llm-values.yaml")
    )
    plain, volume = (
        _yaml(files[f"{folder}/kustomization.yaml"])["images"][0] for folder in ("kubernetes", "model-volume")
    )
    (unit,) = re.findall(r"^Image=(.*)$", files[f"systemd/{ONE}.container"], re.MULTILINE)
    (base,) = re.findall(r"^ARG BASE_IMAGE=(.*):.*$", two["two-sparks/Dockerfile"], re.MULTILINE)
    return contents, {
        "compose": _yaml(files["compose.yaml"])["services"]["server"]["image"],
        "two-sparks": f"{base}:{contents.image_tag}",
        "systemd": unit,
        "kubernetes": f"{plain['newName']}:{plain['newTag']}",
        "loader": f"{volume['newName']}:{volume['newTag']}",
        "helm": f"{values['image']['repository']}:{values['image']['tag']}",
        "nim-llm": f"{chart['image']['repository']}:{chart['image']['tag']}",
        "nim-operator": f"{operator['spec']['image']['repository']}:{operator['spec']['image']['tag']}",
        "kserve": _yaml(files["kserve/runtime.yaml"])["spec"]["containers"][0]["image"],
        "page": re.findall(r"docker push (\S+)", files["README.md"])[0],
    }


@pytest.mark.parametrize("tag", [None, "v1"])
def test_a_given_name_is_the_image_of_every_target(tmp_path: Path, tag: str | None) -> None:
    contents, images = _images(tmp_path, ImageName("registry.example:5000/team/llama", tag))
    assert set(images.values()) == {f"registry.example:5000/team/llama:{tag or contents.tag}"}


def test_without_one_the_name_is_the_recipes_and_in_no_registry(tmp_path: Path) -> None:
    contents, images = _images(tmp_path, None)
    assert images.pop("systemd") == f"localhost/{ONE}:{contents.tag}"
    assert images.pop("page") == f"registry.example/{ONE}:{contents.tag}"
    assert images.pop("two-sparks") == f"{TWO}:{contents.tag}"
    assert set(images.values()) == {f"{ONE}:{contents.tag}"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llama", ImageName("llama", None)),
        ("registry.example/team/llama:v1.2", ImageName("registry.example/team/llama", "v1.2")),
        ("localhost:5000/llama", ImageName("localhost:5000/llama", None)),
    ],
)
def test_a_name_may_have_a_registry_and_a_tag(text: str, name: ImageName) -> None:
    assert parse_image_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "Llama", "llama:", "llama:v 1", "/llama", "llama/", "a//b", "llama@sha256:0", "-x", "a:b:c", "x\ny"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(BundleTargetError, match="is no name of an image"):
        parse_image_name(text)
