"""Calculates the one profile of a bundle, and the manifest that lists it."""

from __future__ import annotations

import hashlib
import json

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.gateway.documents import MODEL, Profile

_SCHEMA_VERSION = "2.0.0"
_WEIGHT_FORMATS = {"w4a16_nvfp4": "nvfp4"}
"""The format of the weights, if it has another name. A profile's `precision` is about weights."""


def profile_of(contents: BundleContents) -> Profile:
    """Calculate the profile's id as NIMs do, from its tags and every file's sha256."""
    tags = _tags(contents)
    fields = {"tags": tags, "files": {path: file.sha256 for path, file in sorted(contents.model_files.items())}}
    identifier = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    name = f"{tags['llm_engine']}-{tags['precision']}-tp{tags['tp']}-pp{tags['pp']}"
    return Profile(identifier, name, tags)


def manifest_of(contents: BundleContents) -> dict[str, object]:
    """Write a manifest of one profile in the form of the second version of NVIDIA's operator's parser."""
    profile = profile_of(contents)
    files = {path: {"uri": (MODEL / path).as_uri()} for path in sorted(contents.model_files)}
    return {
        "schema_version": _SCHEMA_VERSION,
        "profile_selection_criteria": "default",
        "profiles": [{"id": profile.id, "tags": dict(profile.tags), "workspace": {"files": files}}],
    }


def _tags(contents: BundleContents) -> dict[str, str]:
    """Return the tags of a profile. Each value is a string."""
    recipe, gpu = contents.recipe, contents.shape.target.gpu
    limits = contents.limits
    has_backends = contents.runtime.HAS_BACKENDS
    tags = {
        "llm_engine": contents.image.runtime,
        **({"trtllm_backend": recipe.backend} if has_backends else {}),
        "precision": _WEIGHT_FORMATS.get(recipe.quantization.format, recipe.quantization.format),
        "quantization": recipe.quantization.format,
        "tp": str(limits.tensor_parallel_size or recipe.serve.tensor_parallel_size),
        "pp": str(limits.pipeline_parallel_size or 1),
        "feat_lora": "false",
        **({"trtllm_buildable": "false"} if has_backends else {}),
    }
    # as in the GPU operator's node labels: NVIDIA-H100-80GB-HBM3
    return tags | ({"gpu": gpu.name.removeprefix("NVIDIA ").replace(" ", "-")} if gpu else {})
