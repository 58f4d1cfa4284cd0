"""Makes the one profile of a bundle, and the manifest that lists it."""

from __future__ import annotations

import hashlib
import json

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.gateway.documents import MODEL, Profile

_SCHEMA_VERSION = "2.0.0"
_FORMATS = {"w4a16_nvfp4": "nvfp4"}
"""Formats with the weights of another one. A profile's `precision` is about weights."""


def profile_of(facts: Facts) -> Profile:
    """Calculate the profile's id as NIMs do, from its tags and every file's sha256."""
    tags = _tags(facts)
    contents = {"tags": tags, "files": {path: file.sha256 for path, file in sorted(facts.model_files.items())}}
    identifier = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    name = f"{tags['llm_engine']}-{tags['precision']}-tp{tags['tp']}-pp{tags['pp']}"
    return Profile(identifier, name, tags)


def manifest_of(facts: Facts) -> dict[str, object]:
    """Write a manifest of one profile in the form of the second version of NVIDIA's operator's parser."""
    profile = profile_of(facts)
    files = {path: {"uri": (MODEL / path).as_uri()} for path in sorted(facts.model_files)}
    return {
        "schema_version": _SCHEMA_VERSION,
        "profile_selection_criteria": "default",
        "profiles": [{"id": profile.id, "tags": dict(profile.tags), "workspace": {"files": files}}],
    }


def _tags(facts: Facts) -> dict[str, str]:
    """Return the tags of a TensorRT-LLM profile. Each value is a string."""
    recipe, gpu = facts.recipe, facts.shape.target.gpu
    limits = facts.limits
    tags = {
        "llm_engine": "tensorrt_llm",
        "trtllm_backend": recipe.backend,
        "precision": _FORMATS.get(recipe.quantization.format, recipe.quantization.format),
        "quantization": recipe.quantization.format,
        "tp": str(limits.tensor_parallel_size or recipe.serve.tensor_parallel_size),
        "pp": str(limits.pipeline_parallel_size or 1),
        "feat_lora": "false",
        "trtllm_buildable": "false",
    }
    # as in the GPU operator's node labels: NVIDIA-H100-80GB-HBM3
    return tags | ({"gpu": gpu.name.removeprefix("NVIDIA ").replace(" ", "-")} if gpu else {})
