"""What TensorRT-LLM and transformers know is data with sources and dates."""

from __future__ import annotations

import datetime as dt
import json
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.catalog.runtimes import software_of, unserved

DATA: dict[str, Any] = json.loads(files("orchestrator.catalog").joinpath("runtimes.json").read_text(encoding="utf-8"))
IMAGES = Catalog(Project(Path(__file__).resolve().parents[3])).images
DATED = {
    **{f"list {name}": entry for name, entry in DATA["lists"].items()},
    **{f"transformers {name}": entry for name, entry in DATA["transformers"].items()},
    **{f"list of vLLM {name}": entry for name, entry in DATA["vllm"]["lists"].items()},
    **{f"builders of Edge-LLM {name}": entry for name, entry in DATA["edge_llm"]["versions"].items()},
    "own_model_types": DATA["own_model_types"],
}
NAMES = [(f"{what} {key}", names) for what, e in DATED.items() for key, names in e.items() if isinstance(names, list)]
SOURCE = re.compile(r"https://(github\.com|nvidia\.github\.io)/\S+")


@pytest.mark.parametrize("name", [name for name, image in IMAGES.items() if image.tools])
def test_each_image_has_a_list_of_classes_and_of_model_types(name: str) -> None:
    software = software_of(IMAGES[name])
    assert software is not None
    assert "LlamaForCausalLM" in software.classes.served
    types = software.model_types  # of others they were not read
    assert (types is None) == (IMAGES[name].runtime != "tensorrt_llm")
    assert types is None or {"llama", "deepseek_v32"} <= types.names  # the second is read by TensorRT-LLM itself


def test_no_version_is_listed_that_no_image_has() -> None:
    assert set(DATA["versions"]) == {image.version for image in IMAGES.values() if image.runtime == "tensorrt_llm"}
    for runtime in ("vllm", "edge_llm"):
        used = {image.version for image in IMAGES.values() if image.runtime == runtime}
        assert set(DATA[runtime]["versions"]) == used
    assert set(DATA["vllm"]["versions"].values()) == set(DATA["vllm"]["lists"])
    assert {entry["classes"] for entry in DATA["versions"].values()} == set(DATA["lists"])
    assert {entry["transformers"] for entry in DATA["versions"].values()} == set(DATA["transformers"])


@pytest.mark.parametrize("what", DATED)
def test_each_list_has_sources_and_the_day_it_was_read(what: str) -> None:
    entry = DATED[what]
    assert dt.date.fromisoformat(entry["read"]) >= dt.date(2026, 11, 27)
    assert entry["sources"]
    assert all(SOURCE.fullmatch(source) for source in entry["sources"])


@pytest.mark.parametrize(("what", "names"), [(what, names) for what, names in NAMES if not what.endswith("sources")])
def test_each_list_is_sorted_and_has_each_name_once(what: str, names: list[str]) -> None:
    assert names == sorted(set(names)), what


def test_a_class_stays_in_newer_versions() -> None:
    for older, newer in pairwise(DATA["lists"].values()):
        assert set(older["pytorch"]) < set(newer["pytorch"])


@pytest.mark.parametrize("name", DATA["lists"])
def test_a_class_is_listed_for_autodeploy_only_if_the_pytorch_backend_does_not_have_it(name: str) -> None:
    assert not set(DATA["lists"][name]["pytorch"]) & set(DATA["lists"][name]["autodeploy"])


@pytest.mark.parametrize("architecture", unserved())
def test_what_no_version_serves_is_in_no_list_and_has_a_reason(architecture: str) -> None:
    assert all(architecture not in entry["pytorch"] for entry in DATA["lists"].values())
    assert architecture in DATA["vllm"]["lists"]["both"]["served"]  # which the reason says
    assert unserved()[architecture].why
    assert unserved()[architecture].instead
    assert all(SOURCE.fullmatch(source) for source in DATA["refused"]["tensorrt_llm"][architecture]["sources"])
