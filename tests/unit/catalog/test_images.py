"""The catalogue that the project ships."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import ImageUnknownError, TargetUnknownError

ROOT = Path(__file__).resolve().parents[3]
CATALOG = Catalog(Project(ROOT))
IMAGES = sorted(CATALOG.images)
WITH_OPTIONS = [(name, tool) for name in IMAGES for tool in CATALOG.images[name].tools]
SOURCE = re.compile(r"https://\S+|release notes of v\S+, .+")


@pytest.mark.parametrize("name", IMAGES)
def test_each_image_says_where_its_faults_were_read(name: str) -> None:
    assert all(SOURCE.fullmatch(fault.source) for fault in CATALOG.images[name].faults)


@pytest.mark.parametrize("name", IMAGES)
def test_each_image_names_a_pinned_version_and_no_digest(name: str) -> None:
    reference = CATALOG.images[name].reference
    assert ":" in reference
    assert not reference.endswith(":latest")
    assert "@" not in reference


@pytest.mark.parametrize(("name", "tool"), WITH_OPTIONS)
def test_each_tool_of_an_image_has_its_table_of_options(name: str, tool: str) -> None:
    options = CATALOG.options(CATALOG.images[name], tool)  # type: ignore[arg-type]
    assert all(flag.startswith("-") for flag in options)
    assert len(options) > 20


@pytest.mark.parametrize("name", IMAGES)
def test_an_engine_needs_all_of_its_parts_or_none(name: str) -> None:
    image = CATALOG.images[name]
    assert (image.builder is not None) == bool(image.engine_families)
    assert image.has("trtllm-build") == image.has("convert_checkpoint.py")


@pytest.mark.parametrize("name", [name for name in IMAGES if CATALOG.images[name].build])
def test_what_we_build_starts_from_an_image_of_the_catalogue(name: str) -> None:
    image = CATALOG.images[name]
    assert image.build is not None
    base = CATALOG.image(image.build.base)
    assert set(image.architectures) <= set(base.architectures)
    assert image.build.arguments.get("MODELOPT_VERSION") == image.modelopt
    assert image.build.arguments.get("EDGE_LLM_VERSION") in (None, image.version)


@pytest.mark.parametrize("name", sorted(CATALOG.targets))
def test_each_target_has_a_source_for_each_constant(name: str) -> None:
    target = CATALOG.targets[name]
    wanted = {"memory", "reserve"} | ({"memory_bandwidth", "sm"} if target.gpu else set())
    wanted |= {"cuda_free"} if target.cuda_free else set()
    wanted |= {"watts"} if target.gpu and target.gpu.watts else set()
    assert set(target.sources) == wanted


def test_a_misspelt_image_is_answered_with_the_nearest() -> None:
    with pytest.raises(ImageUnknownError) as caught:
        CATALOG.image("tensorrt-llm-1.3.0-rc13")
    assert "tensorrt-llm-1.3.0rc13" in caught.value.hint


def test_an_unknown_target_is_answered_with_all_there_are() -> None:
    with pytest.raises(TargetUnknownError) as caught:
        CATALOG.target("mainframe")
    assert "dgx-spark" in caught.value.hint


def test_telemetry_can_be_turned_off_in_every_image_that_has_it() -> None:
    for name in ("tensorrt-llm-1.3.0rc22", "tensorrt-llm-1.3.0rc24"):
        assert "--no-telemetry" in CATALOG.options(CATALOG.image(name), "trtllm-serve")


def test_every_table_on_disk_belongs_to_a_tool() -> None:
    used = {image.tools[tool].options for image in CATALOG.images.values() for tool in image.tools}
    tables = {file.stem for file in (ROOT / "docker" / "tools").glob("*.json")}
    assert tables == used


def test_tables_of_options_are_plain_json() -> None:
    for file in (ROOT / "docker" / "tools").glob("*.json"):
        flags = [flag for option in json.loads(file.read_text()) for flag in option["flags"]]
        assert len(flags) == len(set(flags))
