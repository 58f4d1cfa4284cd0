"""Bundle metadata files: the configuration, the measurements, and the server's own documents."""

from __future__ import annotations

import hashlib
import json

from orchestrator.bundle.facts import CONFIG, DRAFT_FOLDER, ENGINE_FOLDER, Facts
from orchestrator.bundle.gateway.documents import ETC, MODEL, SERVE, Serve, ServeOption
from orchestrator.bundle.profile import manifest_of, profile_of
from orchestrator.bundle.templating import yaml_text
from orchestrator.recipe.model import HubModel

_API = "1.0.0"
"""The version of the gateway's routes."""


def files(facts: Facts) -> dict[str, str]:
    """Render the files that every deployment needs."""
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
    """Answer `/v1/license`, about the base model."""
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
    """Return a version of the deployment. It changes with everything that is served."""
    return f"{facts.version}+{facts.tag}"


def _json(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
