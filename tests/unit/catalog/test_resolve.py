"""What images.yaml may abbreviate."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import CatalogError

BASE = """
images:
  first:
    reference: example/first:1
    description: The first
    architectures: [amd64]
    version: 1.0.0
    tools:
      trtllm-serve: {command: [trtllm-serve], options: a}
      trtllm-bench: {command: [trtllm-bench], options: b}
    formats: {sm_90: [fp8], sm_121: [fp8]}
    kv_cache_formats: {}
    faults: [broken]
faults:
  broken: {code: BROKEN, effect: warn, message: it is broken, hint: do not, source: "https://example.org/1"}
"""


def catalog(folder: Path, more: str) -> Catalog:
    (folder / "docker").mkdir()
    (folder / "docker" / "images.yaml").write_text(BASE.replace("faults:\n  broken:", f"{more}faults:\n  broken:"))
    return Catalog(Project(folder))


def test_an_image_takes_over_what_it_does_not_say(tmp_path: Path) -> None:
    found = catalog(tmp_path, "  second: {extends: first, reference: 'example/second:2'}\n").images["second"]
    assert found.reference == "example/second:2"
    assert found.version == "1.0.0"
    assert found.faults[0].code == "BROKEN"


def test_mappings_merge_and_lists_are_replaced(tmp_path: Path) -> None:
    more = "  second: {extends: first, formats: {sm_121: [bf16]}, faults: []}\n"
    found = catalog(tmp_path, more).images["second"]
    assert found.formats == {"sm_90": ("fp8",), "sm_121": ("bf16",)}
    assert found.faults == ()


def test_an_image_may_extend_one_that_extends(tmp_path: Path) -> None:
    more = "  second: {extends: first, version: 2.0.0}\n  third: {extends: second, description: The third}\n"
    assert catalog(tmp_path, more).images["third"].version == "2.0.0"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  second: {extends: nobody}\n", "`second` extends `nobody`"),
        ("  second: {extends: second}\n", "extends itself"),
        ("  second: {extends: third}\n  third: {extends: second}\n", "extends itself"),
        ("  second: {extends: first, faults: [unheard-of]}\n", "unknown fault `unheard-of`"),
        ("  second: {extends: first, refrence: a}\n", "unknown key `images.second.refrence`"),
        ("  second: {extends: [first]}\n", "which is not here"),
    ],
)
def test_what_cannot_be_resolved_is_named_with_its_line(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(CatalogError, match=r"images\.yaml:\d+:\d+: ") as caught:
        _ = catalog(tmp_path, more).images
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["images: []\n", "images: {first: []}\n", "images: {first: {faults: 1}}\n"])
def test_an_unexpected_shape_is_left_to_validation(tmp_path: Path, text: str) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "images.yaml").write_text(text)
    with pytest.raises(CatalogError):
        _ = Catalog(Project(tmp_path)).images
