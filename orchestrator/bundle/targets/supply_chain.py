"""Renders the bill of materials (CycloneDX 1.6) and the provenance of every step (in-toto, SLSA 1.0).

Neither has a time or a random number, so that the same deployment has the same documents.
https://cyclonedx.org/docs/1.6/json/ and https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from orchestrator.bundle.contents import BuiltStep, BundleContents
from orchestrator.bundle.templating import to_json
from orchestrator.executors.job import Inside
from orchestrator.recipe.model import HubModel
from orchestrator.steps.calibration import RANDOM, calibration_dataset, is_local, needs_text
from orchestrator.values import frozen

BOM = "bom.cdx.json"
PROVENANCE = "provenance.json"
_TOOL = "trtllm-orchestrator"
_BUILD_TYPE = f"urn:{_TOOL}:recipe:1"
"""The meaning of the provenance's parameters."""

Document = dict[str, Any]


@frozen
class Material:
    """Something from elsewhere that the deployment was made of."""

    name: str
    version: str
    """A commit or a digest; empty: none is known."""
    purl: str
    """https://github.com/package-url/purl-spec; empty: it is in no registry."""
    kind: str
    """CycloneDX's type of component."""
    digest: tuple[str, str] | None = None
    """Its algorithm and value."""
    license: tuple[str, str] | None = None
    """The name and URL of its licence."""


def files(contents: BundleContents) -> dict[str, str]:
    """Render both documents."""
    materials = list(_materials(contents))
    return {BOM: to_json(_bom(contents, materials)), PROVENANCE: to_json(_provenance(contents, materials))}


def _materials(contents: BundleContents) -> Iterator[Material]:
    license_ = (contents.license.name, contents.license.url)
    if isinstance(contents.recipe.model, HubModel):
        model = contents.recipe.model
        yield _of_the_hub(model.repo, model.revision, "machine-learning-model", license_)
    else:
        yield Material(contents.model_source, "", "", "machine-learning-model", license=license_)
    if contents.shape.draft:
        yield _of_the_hub(contents.shape.draft.repo, contents.shape.draft.revision, "machine-learning-model")
    yield from _calibration_data(contents)
    image, digest = contents.image, (contents.image.digest or "").removeprefix("sha256:")
    version = f"sha256:{digest}" if digest else image.reference.rpartition(":")[2]
    repository = image.reference.rpartition(":")[0]
    name = repository.rpartition("/")[2]
    purl = f"pkg:oci/{name}@sha256%3A{digest}?repository_url={repository}" if digest else ""
    yield Material(image.reference, version, purl, "container", ("sha256", digest) if digest else None)


def _of_the_hub(repo: str, commit: str, kind: str, license_: tuple[str, str] | None = None) -> Material:
    return Material(repo, commit, f"pkg:huggingface/{repo}@{commit}", kind, ("gitCommit", commit), license_)


def _calibration_data(contents: BundleContents) -> Iterator[Material]:
    calibration = contents.recipe.quantization.calibration
    if dataset := calibration_dataset(contents.recipe):
        # purl has no type for data sets of the Hub
        yield Material(dataset.repo, calibration.revision, "", "data", ("gitCommit", calibration.revision))
    elif needs_text(contents.recipe) and calibration.dataset != RANDOM:
        yield Material(PurePosixPath(calibration.dataset).name, "", "", "data")


def _bom(contents: BundleContents, materials: list[Material]) -> Document:
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, contents.digest)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": _TOOL, "version": contents.version}]},
            "component": _deployed_model(contents, materials),
        },
        "components": [_component(material) for material in materials],
        "dependencies": [{"ref": _ref(contents.recipe.name), "dependsOn": [_ref(one.name) for one in materials]}],
    }


def _deployed_model(contents: BundleContents, materials: list[Material]) -> Document:
    recipe = contents.recipe
    datasets = [{"ref": _ref(one.name)} for one in materials if one.kind == "data"]
    parameters = {"modelArchitecture": recipe.model.architecture, **({"datasets": datasets} if datasets else {})}
    facts = {
        "format": recipe.quantization.format,
        "kv_cache": recipe.quantization.kv_cache,
        "method": recipe.quantization.method,
        **({"backend": recipe.backend} if contents.runtime.HAS_BACKENDS else {}),
        contents.image.runtime: contents.image.version,
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": _ref(recipe.name),
        "name": recipe.name,
        "version": contents.tag,
        "licenses": [_license(contents.license.name, contents.license.url)],
        "modelCard": {"modelParameters": parameters},
        "properties": [{"name": f"{_TOOL}:{name}", "value": value} for name, value in facts.items()],
        "components": [
            {"type": "file", "name": f"model/{path}", "hashes": [{"alg": "SHA-256", "content": file.sha256}]}
            for path, file in sorted(contents.model_files.items())
        ],
    }


def _component(material: Material) -> Document:
    component: Document = {"type": material.kind, "bom-ref": _ref(material.name), "name": material.name}
    if material.version:
        component["version"] = material.version
    if material.digest and material.digest[0] == "sha256":
        component["hashes"] = [{"alg": "SHA-256", "content": material.digest[1]}]
    if material.license:
        component["licenses"] = [_license(*material.license)]
    if material.purl:
        component["purl"] = material.purl
    if material.kind == "data":
        component["data"] = [{"type": "dataset", "name": material.name}]
    return component


def _license(name: str, url: str) -> Document:
    """Name a licence as its owner does: many licences of models have no SPDX identifier."""
    return {"license": {"name": name, **({"url": url} if url else {})}}


def _ref(name: str) -> str:
    return f"{_TOOL}:{name}"


def _provenance(contents: BundleContents, materials: list[Material]) -> Document:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": f"model/{path}", "digest": {"sha256": file.sha256}}
            for path, file in sorted(contents.model_files.items())
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": _parameters(contents),
                "internalParameters": {"steps": [_step(built) for built in contents.steps]},
                "resolvedDependencies": [_resource(material) for material in materials],
            },
            "runDetails": {
                "builder": {"id": f"urn:{_TOOL}", "version": {_TOOL: contents.version}},
                "byproducts": [
                    {"name": f"{built.step.name}/{file.path}", "digest": {"sha256": file.sha256}}
                    for built in contents.steps
                    for file in built.artifact.files
                ],
            },
        },
    }


def _parameters(contents: BundleContents) -> Document:
    """Return what the recipe decides about the model's bytes. Paths of this machine are left out."""
    recipe = contents.recipe
    quantization = recipe.quantization.model_dump(mode="json", exclude_defaults=True, exclude={"resources"})
    if is_local(recipe.quantization.calibration.dataset):
        quantization["calibration"]["dataset"] = PurePosixPath(recipe.quantization.calibration.dataset).name
    return {
        "recipe": recipe.name,
        "model": contents.model_source,
        "target": recipe.target,
        "image": contents.image.reference,
        **({"backend": recipe.backend} if contents.runtime.HAS_BACKENDS else {}),
        "quantization": quantization,
    }


def _step(built: BuiltStep) -> Document:
    """Describe a step: its command, the artifacts that it read, and the one that it left."""
    step = built.step
    return {
        "name": step.name,
        "command": [f"{one.target}/{one.path}".rstrip("/") if isinstance(one, Inside) else one for one in step.argv],
        "image": step.image,
        "inputs": {one.target: one.step for one in step.inputs},
        "key": built.artifact.key,
        "artifact": built.artifact.digest,
    }


def _resource(material: Material) -> Document:
    resource: Document = {"name": material.name}
    if material.purl:
        resource["uri"] = material.purl
    if material.digest:
        resource["digest"] = dict([material.digest])
    return resource
