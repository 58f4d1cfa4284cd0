"""The bill of materials and the provenance of a bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.supply_chain import files
from tests.support.bundles import contents_of

WHOLE = "llama3-70b-nvfp4"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> BundleContents:
    return contents_of(WHOLE, tmp_path_factory.mktemp("artifacts"))


def bom(contents: BundleContents) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(files(contents)["bom.cdx.json"])
    return document


def provenance(contents: BundleContents) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(files(contents)["provenance.json"])
    return document


@pytest.mark.parametrize("name", [WHOLE, "llama3-70b-nvfp4-published-draft-target", "tiny-llama-w4a16-nvfp4"])
def test_a_bill_of_materials_is_valid_by_the_official_schema(tmp_path: Path, name: str) -> None:
    text = files(contents_of(name, tmp_path))["bom.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    del document["components"][0]["name"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is not None


def test_it_names_what_the_deployment_is_made_of(whole: BundleContents) -> None:
    document = bom(whole)
    model, data, image = document["components"]
    source = whole.recipe.model
    assert model["name"] == whole.model_source
    assert model["version"] == whole.commit
    assert model["purl"] == f"pkg:huggingface/{whole.model_source}@{whole.commit}"
    assert model["licenses"][0]["license"]["name"] == whole.license.name
    assert (data["name"], data["version"]) == (
        "abisee/cnn_dailymail",
        whole.recipe.quantization.calibration.revision,
    )
    assert f"sha256:{image['hashes'][0]['content']}" == whole.image.digest
    deployed = document["metadata"]["component"]
    assert deployed["modelCard"]["modelParameters"]["modelArchitecture"] == source.architecture
    assert {"name": "trtllm-orchestrator:format", "value": "nvfp4"} in deployed["properties"]
    assert document["metadata"]["tools"]["components"][0]["version"] == whole.version


def test_every_served_file_is_in_both_with_its_digest(whole: BundleContents) -> None:
    digests = {f"model/{path}": file.sha256 for path, file in whole.model_files.items()}
    components = bom(whole)["metadata"]["component"]["components"]
    assert {one["name"]: one["hashes"][0]["content"] for one in components} == digests
    assert {one["name"]: one["digest"]["sha256"] for one in provenance(whole)["subject"]} == digests


def test_the_provenance_has_every_step_with_its_command_and_result(whole: BundleContents) -> None:
    predicate = provenance(whole)["predicate"]
    steps = predicate["buildDefinition"]["internalParameters"]["steps"]
    assert [step["name"] for step in steps] == ["download", "quantize", "verify", "benchmark"]
    for step, built in zip(steps, whole.steps, strict=True):
        assert step["artifact"] == built.artifact.digest
        assert step["command"]
    byproducts = {one["name"]: one["digest"]["sha256"] for one in predicate["runDetails"]["byproducts"]}
    assert len(byproducts) == sum(len(built.artifact.files) for built in whole.steps)
    sources = {one["name"]: one for one in predicate["buildDefinition"]["resolvedDependencies"]}
    assert sources[whole.model_source]["digest"] == {"gitCommit": whole.commit}


def test_the_provenance_has_the_form_that_in_toto_and_slsa_ask_for(whole: BundleContents) -> None:
    document = provenance(whole)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(document) == {"_type", "subject", "predicateType", "predicate"}
    definition, details = document["predicate"]["buildDefinition"], document["predicate"]["runDetails"]
    assert {"buildType", "externalParameters"} <= set(definition)
    assert re.match("[a-z]+:", definition["buildType"])
    assert details["builder"]["id"]


def test_a_path_of_the_machine_that_built_it_is_in_neither(tmp_path: Path) -> None:
    private = "/home/somebody/secret project/text.jsonl"
    contents = contents_of(WHOLE, tmp_path, f"quantization.calibration.dataset={private}")
    texts = files(contents)
    assert "text.jsonl" in texts["bom.cdx.json"]
    assert "secret project" not in "".join(texts.values())
