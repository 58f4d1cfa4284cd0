"""Renders the bundle's metadata files: configuration, measurements, and the gateway's documents."""

from __future__ import annotations

import hashlib

from orchestrator.bundle.contents import DRAFT_FOLDER, BundleContents
from orchestrator.bundle.gateway.documents import ETC, MODEL, SERVE, Serve, ServeOption
from orchestrator.bundle.profile import manifest_of, profile_of
from orchestrator.bundle.templating import render_yaml, to_json
from orchestrator.recipe.model import HubModel

_API_VERSION = "1.0.0"
"""The version of the gateway's routes."""


def files(contents: BundleContents) -> dict[str, str]:
    """Render the files that every deployment needs."""
    documents: dict[str, object] = {
        "license.json": _license(contents),
        "metadata.json": _metadata(contents),
        "version.json": {"release": _release(contents), "api": _API_VERSION},
    }
    reports = {
        "quality.json": contents.quality,
        "performance.json": contents.performance,
        "prediction.json": contents.prediction,
    }
    documents |= {name: report for name, report in reports.items() if report is not None}
    name = contents.runtime.CONFIG
    return {
        **({name: contents.config} if name else {}),
        SERVE: _serve(contents).to_json(),
        "model_manifest.yaml": render_yaml("metadata/model_manifest.yaml.j2", manifest=manifest_of(contents)),
        **{name: to_json(document) for name, document in documents.items()},
    }


def _serve(contents: BundleContents) -> Serve:
    recipe, shape = contents.recipe, contents.shape
    options, name = dict.fromkeys(shape.server.options.values()), contents.runtime.CONFIG
    return Serve(
        recipe=recipe.name,
        backend=recipe.backend if contents.runtime.HAS_BACKENDS else "",
        runtime=contents.image.runtime,
        version=contents.image.version,
        command=shape.image.tools[shape.image.server].command,
        model=str(MODEL),
        engine=contents.runtime.ENGINE_FOLDER if recipe.backend == "tensorrt" else None,
        draft=DRAFT_FOLDER if shape.draft else None,
        served_model_name=contents.model_name,
        config=str(ETC / name) if name else "",
        arguments=contents.arguments,
        options=tuple(ServeOption(option.flags, option.type, option.choices) for option in options),
        limits=contents.limits,
        profile=profile_of(contents),
    )


def _metadata(contents: BundleContents) -> dict[str, object]:
    """Answer `/v1/metadata`."""
    model = contents.recipe.model
    url = (
        f"https://huggingface.co/{model.repo}/tree/{model.revision}" if isinstance(model, HubModel) else MODEL.as_uri()
    )
    return {
        "assetInfo": [f"{part.name}:sha256:{part.artifact.digest}" for part in contents.parts],
        "licenseInfo": _license(contents),
        "modelInfo": [{"shortName": contents.model_name, "modelUrl": url}],
        "repository_override": "",
        "version": _release(contents),
        "selectedModelProfileId": profile_of(contents).id,
    }


def _license(contents: BundleContents) -> dict[str, object]:
    """Answer `/v1/license`, about the base model."""
    license_ = contents.license
    return {
        "name": license_.name,
        "path": license_.path,
        "sha": hashlib.sha1(license_.text.encode(), usedforsecurity=False).hexdigest(),
        "size": len(license_.text),
        "url": license_.url,
        "type": "file",
        "content": license_.text,
    }


def _release(contents: BundleContents) -> str:
    """Return a version of the deployment. It changes with everything that is served."""
    return f"{contents.version}+{contents.tag}"
