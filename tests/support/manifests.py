"""Validators for Kubernetes' objects, each schema loaded once: core kinds, custom resources, an operator's rules."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

Object = dict[str, Any]
"""One object of Kubernetes."""

SHARED = Path(__file__).resolve().parents[3] / "shared"
VERSIONS = ("1.29", "1.37")
"""The oldest and the newest Kubernetes that the files must be right for."""


def needs_shared() -> None:
    """Skip where the schemas of custom resources are not beside the project."""
    if not (SHARED / "data" / "crds").is_dir():
        pytest.skip(f"the schemas of custom resources are not in {SHARED}")


def objects(text: str) -> list[Object]:
    """Read every document of a YAML text, as Kubernetes' tools do: by YAML 1.1."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def core_problems(document: Object, version: str) -> list[str]:
    """Hold an object of a kind that every cluster has against its strict schema."""
    validator = _core_validator(document["kind"], document["apiVersion"], version)
    return [f"{_name(document)}: {error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def is_core(document: Object) -> bool:
    """Tell whether a kind is one that every cluster has."""
    group = document["apiVersion"].rpartition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and not group.startswith("gateway."))


def custom_problems(document: Object, folder: str) -> list[str]:
    """Hold a custom resource against its definition: strict fields, defaults, CEL rules.

    Args:
        document: The resource.
        folder: The set of definitions, in the shared data.
    """
    tool, schema = _checker(), _definition(folder, document["apiVersion"], document["kind"])
    subject = copy.deepcopy(document)
    tool.default(schema, subject)
    validator = _strict_validator(folder, document["apiVersion"], document["kind"])
    problems = [f"{_name(document)}: {error.json_path}: {error.message}" for error in validator.iter_errors(subject)]
    if not problems:
        tool.cel(schema, subject, "self", problems)
    return problems


def operator_problems(service: Object) -> Iterator[str]:
    """Apply the rules that the NIM Operator's webhook has besides the schema."""
    spec = service["spec"]
    storage = spec.get("storage", {})
    sources = [name for name in ("nimCache", "pvc", "hostPath", "emptyDir") if storage.get(name)]
    if len(sources) != 1:
        yield f"exactly one source of storage, not {sources}"
    volume = storage.get("pvc", {})
    if volume and not volume.get("create") and not volume.get("name"):
        yield "pvc.name is required unless it is created"
    if volume.get("create") and not (volume.get("size") and volume.get("volumeAccessMode")):
        yield "a volume that is created needs size and volumeAccessMode"
    if not spec.get("authSecret"):
        yield "authSecret is required"
    if not (spec.get("image", {}).get("repository") and spec["image"].get("tag")):
        yield "image.repository and image.tag are required"
    if spec.get("metrics", {}).get("enabled") and not spec["metrics"].get("serviceMonitor"):
        yield "metrics.serviceMonitor is required where metrics are enabled"
    yield from _scale_problems(spec)
    if spec.get("resources", {}).get("claims"):
        yield "resources.claims is forbidden"
    if spec.get("inferencePlatform") == "kserve" and spec.get("multiNode"):
        yield "multiNode is forbidden with kserve"


def _scale_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    scale = spec.get("scale", {})
    if scale.get("enabled"):
        if not scale.get("hpa"):
            yield "scale.hpa is required where scaling is enabled"
        if "replicas" in spec:
            yield "replicas is forbidden where scaling is enabled"


def _name(document: Object) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


@cache
def _core_validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = _core_schema(version, f"{kind.lower()}-{group}.json")
    definitions = Resource.from_contents(_core_schema(version, "_definitions.json"))
    registry: Registry[Any] = Registry().with_resources([("", Resource.from_contents(schema)), ("", definitions)])
    return Draft202012Validator(schema, registry=definitions @ registry)


@cache
def _core_schema(version: str, name: str) -> Any:  # noqa: ANN401 - a JSON document
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    return json.loads((folder / name).read_text(encoding="utf-8"))


@cache
def _checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nim_crdcheck", SHARED / "tools" / "nim_crdcheck.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _definitions(folder: str) -> dict[tuple[str, str], Object]:
    found = {}
    for file in sorted((SHARED / "data" / folder).glob("*.yaml")):
        for definition in objects(file.read_text(encoding="utf-8")):
            spec = definition["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


@cache
def _definition(folder: str, api_version: str, kind: str) -> Object:
    schema = copy.deepcopy(_definitions(folder)[api_version, kind])
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"].pop("status", None)
    return schema


@cache
def _strict_validator(folder: str, api_version: str, kind: str) -> Draft202012Validator:
    return Draft202012Validator(_checker().strict(_definition(folder, api_version, kind)))
