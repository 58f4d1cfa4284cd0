"""Bundles of every shipped recipe, from small stand-ins for what its steps leave; nothing is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.bundle.contents import BundleContents, read_contents
from orchestrator.bundle.targets import choose
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.models import find_model
from orchestrator.catalog.project import Project
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.lock import LockedImage, hub_models, pin_commits
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.steps.registry import build_steps
from orchestrator.store.artifact import Artifact, hash_files

ROOT = Path(__file__).resolve().parents[2]
CATALOG = Catalog(Project(ROOT))
BOOK = RecipeBook(ROOT / "recipes")
LICENSE = 'LICENSE of the model, as its owner wrote it: é, $HOME, {{ braces }} and "quotes".\n'


def served_recipes() -> tuple[str, ...]:
    """Name every shipped recipe that can be built: the others exist to explain why they cannot."""
    return tuple(name for name in BOOK.names if not BOOK.load(name).recipe.expected_refusals)


def pinned_recipe(name: str, *overrides: str) -> Recipe:
    """Load a recipe as a lock would pin it."""
    recipe = BOOK.load(name, overrides).recipe
    return pin_commits(recipe, {(model.repo, model.revision): _hash(model.repo)[:40] for model in hub_models(recipe)})


def locked_images(recipe: Recipe) -> Mapping[str, LockedImage]:
    """Lock the recipe's image, or what it is built from, to digests that look like some."""
    build = CATALOG.image(recipe.image).build
    name = build.base if build else recipe.image
    image = CATALOG.image(name)
    digests = {arch: f"sha256:{_hash(image.reference + arch)}" for arch in image.architectures}
    index = f"sha256:{_hash(image.reference)}"
    return {name: LockedImage.model_validate({"reference": image.reference, "index": index, **digests})}


def stand_in_artifacts(recipe: Recipe, root: Path) -> dict[str, Artifact]:
    """Leave files of a few bytes for each step of a recipe, as the step leaves them."""
    made = {step.name: dict(_outputs(recipe, step.name)) for step in build_steps(recipe, CATALOG)}
    return {name: _artifact(root / recipe.name / name, name, files) for name, files in made.items() if files}


def contents_of(name: str, root: Path, *overrides: str, targets: tuple[str, ...] = ()) -> BundleContents:
    """Gather what a bundle of a shipped recipe is rendered from."""
    recipe = pinned_recipe(name, *overrides)
    artifacts = stand_in_artifacts(recipe, root)
    return choose(read_contents(recipe, CATALOG, artifacts, images=locked_images(recipe)), targets)


def _outputs(recipe: Recipe, step: str) -> Iterator[tuple[str, bytes]]:
    match step:
        case "download" | "import" | "generate" | "download-draft" | "quantize":
            yield from _checkpoint(recipe, step)
        case "engine" if CATALOG.image(recipe.image).runtime == "edge_llm":
            sizes = {"max_kv_cache_capacity": recipe.serve.max_seq_len, "max_batch_size": recipe.serve.max_batch_size}
            yield "config.json", _json({"edgellm_version": "0.11.0", "builder_config": sizes})
            yield "llm.engine", b"engine"
            yield "cache_entry.json", _json({"path": "engines/model-0123456789abcdef/i4096-b8-kv8192-none-0123"})
        case "engine":
            yield "config.json", _json(_engine_config(recipe))
            for rank in range(recipe.serve.tensor_parallel_size):
                yield f"rank{rank}.engine", b"engine"
        case "verify":
            layers = [{"name": "model.layers.0.mlp.up_proj", "snr_db": 20.25}]
            measured = {"min": 20.25, "mean": 21.0, "worst": layers, "layers": {}}
            checks = [{"name": "tensors", "passed": True, "detail": "all there", "warning": False}]
            yield (
                "quality.json",
                _json({"passed": True, "checks": checks, "advice": "", "snr_db": measured, "divergence": None}),
            )
        case "benchmark":
            yield "performance.json", _json(_performance(recipe))
        case _:  # a bundle reads no files of other steps
            pass


def _checkpoint(recipe: Recipe, step: str) -> Iterator[tuple[str, bytes]]:
    repo = recipe.model.repo if isinstance(recipe.model, HubModel) and step != "download-draft" else ""
    known = find_model(repo) if repo else None
    config = dict(known.config) if known else {"max_position_embeddings": 2048}
    yield "config.json", _json({"architectures": [recipe.model.architecture], **config})
    yield "generation_config.json", b"{}"
    yield "tokenizer.json", b"{}"
    yield "tokenizer_config.json", b"{}"
    yield "model-00001-of-00001.safetensors", f"weights of {recipe.name} after {step}".encode()
    yield "model.safetensors.index.json", b"{}"
    if step == "quantize":
        yield "hf_quant_config.json", b"{}"
    if repo and (step != "quantize" or recipe.quantization.method == "onepass"):  # which copies all other files
        yield "LICENSE", LICENSE.encode()


def _engine_config(recipe: Recipe) -> dict[str, Any]:
    size = recipe.serve.tensor_parallel_size
    build = {"max_seq_len": recipe.serve.max_seq_len or 8192, "max_batch_size": recipe.serve.max_batch_size}
    mapping = {"world_size": size, "tp_size": size, "pp_size": 1}
    return {"version": "1.2.1", "pretrained_config": {"mapping": mapping}, "build_config": build}


def _performance(recipe: Recipe) -> dict[str, Any]:
    assert recipe.benchmark is not None
    levels = [
        {
            "concurrency": concurrency,
            "output_tokens_per_second": 10.5 * concurrency,
            "output_tokens_per_second_per_user": 10.5,
            "time_to_first_token_ms": {"average": 250.0},
        }
        for concurrency in recipe.benchmark.concurrency
    ]
    return {"schema_version": 1, "tool": {"name": "trtllm-bench", "version": "1.2.1"}, "levels": levels}


def _artifact(folder: Path, step: str, files: Mapping[str, bytes]) -> Artifact:
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return Artifact(_hash(step), step, out, folder / "log.txt", hash_files(out))


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
