"""What says what is served: its configuration, what was measured, and what the server tells of itself."""

from __future__ import annotations

import hashlib
import json

from orchestrator.bundle.facts import CONFIG, DRAFT_FOLDER, ENGINE_FOLDER, Facts
from orchestrator.bundle.gateway.documents import ETC, MODEL, SERVE, Serve, ServeOption
from orchestrator.bundle.profile import manifest_of, profile_of
from orchestrator.bundle.texts import yaml_text
from orchestrator.recipe.model import HubModel

_API = "1.0.0"
"""The version of the routes that the gateway has."""


def files(facts: Facts) -> dict[str, str]:
    """Write down what every deployment needs."""
    documents: dict[str, object] = {
        "license.json": _license(facts),
        "metadata.json": _metadata(facts),
        "version.json": {"release": _release(facts), "api": _API},
    }
    reports = {
        "quality.json": facts.quality,
        "performance.json": facts.performance,
        "prediction.json": facts.prediction,
    }
    documents |= {name: report for name, report in reports.items() if report is not None}
    return {
        CONFIG: facts.config,
        SERVE: _serve(facts).to_json(),
        "model_manifest.yaml": yaml_text("documents/model_manifest.yaml.j2", manifest=manifest_of(facts)),
        **{name: _json(document) for name, document in documents.items()},
    }


def _serve(facts: Facts) -> Serve:
    recipe, shape = facts.recipe, facts.shape
    known = dict.fromkeys(shape.catalog.options(shape.image, "trtllm-serve").values())
    return Serve(
        recipe=recipe.name,
        backend=recipe.backend,
        tensorrt_llm=facts.image.tensorrt_llm,
        command=shape.image.tools["trtllm-serve"].command,
        model=str(MODEL),
        engine=ENGINE_FOLDER if recipe.backend == "tensorrt" else None,
        draft=DRAFT_FOLDER if shape.draft else None,
        served_model_name=facts.model_name,
        config=str(ETC / CONFIG),
        arguments=facts.arguments,
        options=tuple(ServeOption(option.flags, option.type, option.choices) for option in known),
        limits=facts.limits,
        profile=profile_of(facts),
    )


def _metadata(facts: Facts) -> dict[str, object]:
    """Answer `/v1/metadata`."""
    model = facts.recipe.model
    url = (
        f"https://huggingface.co/{model.repo}/tree/{model.revision}" if isinstance(model, HubModel) else MODEL.as_uri()
    )
    return {
        "assetInfo": [f"{part.name}:sha256:{part.artifact.digest}" for part in facts.parts],
        "licenseInfo": _license(facts),
        "modelInfo": [{"shortName": facts.model_name, "modelUrl": url}],
        "repository_override": "",
        "version": _release(facts),
        "selectedModelProfileId": profile_of(facts).id,
    }


def _license(facts: Facts) -> dict[str, object]:
    """Answer `/v1/license`: about the base model, whatever made it smaller."""
    found = facts.license
    return {
        "name": found.name,
        "path": found.path,
        "sha": hashlib.sha1(found.text.encode(), usedforsecurity=False).hexdigest(),
        "size": len(found.text),
        "url": found.url,
        "type": "file",
        "content": found.text,
    }


def _release(facts: Facts) -> str:
    """Name what is served as a version: another one for whatever is served otherwise."""
    return f"{facts.version}+{facts.tag}"


def _json(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
