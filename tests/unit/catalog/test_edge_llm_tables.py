"""The tables of TensorRT Edge-LLM's options against what its own parsers said, where that is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project

ROOT = Path(__file__).resolve().parents[3]
FACTS = ROOT.parent / "shared" / "data" / "edgellm_cli.json"
CATALOG = Catalog(Project(ROOT))
IMAGES = [name for name, image in CATALOG.images.items() if image.runtime == "edge_llm" and image.tools]


@pytest.mark.skipif(not FACTS.is_file(), reason=f"no {FACTS} on this machine")
@pytest.mark.parametrize("tool", ["tensorrt-edgellm-build", "tensorrt-edgellm-serve"])
@pytest.mark.parametrize("name", IMAGES)
def test_a_table_has_just_the_options_of_its_version_with_their_types_and_values(name: str, tool: Any) -> None:  # noqa: ANN401 - a tool
    ours = CATALOG.options(CATALOG.image(name), tool)
    read = [option for option in json.loads(FACTS.read_text())[tool]["options"] if not option.get("positional")]
    assert set(ours) == {flag for option in read for flag in option["flags"]}
    for option in read:
        own, kind = ours[option["flags"][0]], option["type"]
        assert own.type == (kind if kind in ("flag", "int", "float") else "str")
        assert set(own.choices) == {str(choice) for choice in option.get("choices") or ()}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_built_from_the_versions_that_decide_its_engines(name: str) -> None:
    image = CATALOG.image(name)
    assert image.build is not None
    assert image.build.arguments == {
        "EDGE_LLM_VERSION": image.version,
        "TENSORRT_VERSION": image.libraries["tensorrt"],
    }
    base = CATALOG.image(image.build.base)
    assert f"cuda:{image.libraries['cuda']}." in base.reference
    assert "ubuntu24.04" in base.reference  # the wheel for arm64 needs its glibc
    assert not base.serves
    dockerfile = (ROOT / image.build.dockerfile).read_text()
    for argument, value in image.build.arguments.items():
        assert f"ARG {argument}={value}" in dockerfile


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_was_never_tried_says_so(name: str) -> None:
    image = CATALOG.image(name)
    assert "never ran" in image.experimental
    assert "experimental" in image.description
