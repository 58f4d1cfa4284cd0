"""The quantizer's plan for real models: what it quantizes, and where a publisher chose otherwise, with the reason.

Where a model was published quantized by ModelOpt, its list of what is not quantized is expanded over the modules that
follow from its config.json and compared with our plan, module by module. A difference that is not written down here
fails, and so does one that is written down and not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.quantization import configs, layout, structure
from orchestrator.quantization.schemes import SCHEMES
from tests.support.architectures import ARCHITECTURES, expected_tensors, selected
from tests.support.sample import sample

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "model_configs"
_LISTS = "_hf_quant_config.json"
QUANTIZED = sorted(path.name.removesuffix(_LISTS) for path in FOLDER.glob(f"*{_LISTS}"))
MODELS = sorted(
    path.name.removesuffix("_config.json") for path in FOLDER.glob("*_config.json") if not path.name.endswith(_LISTS)
)

pytestmark = pytest.mark.skipif(not MODELS, reason=f"the real configurations are not at {FOLDER}")


@dataclass(frozen=True)
class Choice:
    """Modules on which a publisher and ModelOpt's own rules of 0.47 differ."""

    patterns: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Published:
    """How a published list differs from our plan."""

    algorithm: str
    left_out: Choice | None = None
    """What the publisher left in BF16 beyond the rules: a recipe says so in `quantization.exclude`."""
    unlisted: Choice | None = None
    """What stays as it is in both, and the publisher's list does not name."""
    nowhere: tuple[str, ...] = ()
    """Patterns for layers that predict further tokens."""
    no_list: str = ""
    """Why there is no list to compare with."""


_OLD = "ModelOpt lists the embedding since 0.40; before, it listed linear modules alone"
EMBEDDING = Choice(("model.embed_tokens",), _OLD)

PUBLISHED: Mapping[str, Published] = {
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": Published("FP8", unlisted=EMBEDDING),
    "nvidia--Llama-3.1-70B-Instruct-FP8": Published("FP8", unlisted=EMBEDDING),
    "nvidia--Qwen3-235B-A22B-NVFP4": Published("NVFP4", unlisted=EMBEDDING),
    "nvidia--DeepSeek-V3.1-NVFP4": Published(
        "NVFP4",
        left_out=Choice(
            ("*.self_attn.q_[ab]_proj", "*.self_attn.kv_a_proj_with_mqa", "*.self_attn.kv_b_proj"),
            "NVIDIA keeps the small projections of the latent attention and quantizes its output alone",
        ),
        unlisted=Choice(
            ("model.embed_tokens", "*.mlp.gate"),
            f"{_OLD}; the routers of DeepSeek's own code are no linear modules",
        ),
        nowhere=("model.layers.61*",),
    ),
    "nvidia--DeepSeek-V3.2-NVFP4": Published("NVFP4", no_list="its architecture is not known"),
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4": Published(
        "NVFP4",
        left_out=Choice(
            (
                "backbone.layers.*.mixer.[qkvo]_proj",
                *(f"backbone.layers.{number}.mixer.*_proj" for number in (4, 11, 18, 25, 32, 41)),
            ),
            "NVIDIA keeps attention and the state space before each of them",
        ),
        unlisted=Choice(
            ("backbone.embeddings", "*.mixer.gate"), f"{_OLD}; the routers of NVIDIA's own code are no linear modules"
        ),
    ),
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": Published("FP8", no_list="NVIDIA published none"),
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4": Published("NVFP4", no_list="NVIDIA published none"),
}


@cache
def _config(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}_config.json").read_text(encoding="utf-8"))
    return document


def _quantization(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}{_LISTS}").read_text(encoding="utf-8"))["quantization"]
    return document


@cache
def _selected(name: str, exclude: tuple[str, ...] = ()) -> layout.Selection:
    return selected(_config(name), exclude)


def _expanded(patterns: Iterable[str], modules: set[str]) -> set[str]:
    """Find the modules that one of the patterns fits; there are tens of thousands of modules in some models."""
    patterns = set(patterns)
    named = patterns & modules
    globs = [pattern for pattern in patterns if "*" in pattern or "[" in pattern]
    if not globs:
        return named
    fits = re.compile("|".join(map(translate, globs))).match
    return named | {module for module in modules if fits(module)}


def _matched(modules: set[str], choice: Choice | None) -> set[str]:
    return _expanded(choice.patterns, modules) if choice else set()


def _is_known(name: str) -> bool:
    return structure.architecture_of(_config(name)) in ARCHITECTURES


@pytest.mark.parametrize("name", sample("planned whole", [name for name in MODELS if _is_known(name)], 12))
def test_a_real_model_is_planned_whole(name: str) -> None:
    config = _config(name)
    selection, shapes = _selected(name), {spec.name: spec.shape for spec in expected_tensors(config).values()}
    model = structure.read(config, expected_tensors(config).values())
    assert {model.layer_of(module) for module in selection.quantized} == set(range(model.depth))
    assert len(selection.quantized) >= 2 * model.depth
    assert selection.quantized.isdisjoint(selection.excluded)
    assert all(shapes[f"{module}.weight"][1] % 16 == 0 for module in selection.quantized)  # none is refused as NVFP4


def test_every_published_list_is_compared() -> None:
    assert {name for name in QUANTIZED if _is_known(name)} <= set(PUBLISHED) <= set(QUANTIZED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_published_format_has_a_scheme_that_says_the_same(name: str) -> None:
    theirs = _quantization(name)
    (scheme,) = [scheme for scheme in SCHEMES.values() if scheme.algorithm == theirs["quant_algo"]]
    ours = configs.hf_quant_config(scheme.algorithm, [], "fp8")["quantization"]
    assert scheme.algorithm == PUBLISHED[name].algorithm
    same = {key: value for key, value in theirs.items() if key != "exclude_modules"}
    assert {key: ours[key] for key in same} == same
    assert theirs["kv_cache_quant_algo"] == "FP8"


COMPARED = [name for name in QUANTIZED if name in PUBLISHED and not PUBLISHED[name].no_list]


@pytest.mark.parametrize("name", COMPARED)
def test_the_plan_is_what_was_published_but_for_the_choices_that_are_known(name: str) -> None:
    known = PUBLISHED[name]
    selection = _selected(name)
    modules = set(selection.quantized) | set(selection.excluded)
    kept = _expanded(_quantization(name)["exclude_modules"], modules)
    assert kept - set(selection.excluded) == _matched(set(selection.quantized), known.left_out) & kept
    assert _matched(set(selection.quantized), known.left_out) <= kept
    assert set(selection.excluded) - kept == _matched(set(selection.excluded), known.unlisted)


@pytest.mark.parametrize("name", COMPARED)
def test_a_recipe_that_says_what_the_publisher_left_out_plans_the_same_model(name: str) -> None:
    known = PUBLISHED[name]
    selection = _selected(name, known.left_out.patterns if known.left_out else ())
    modules = set(selection.quantized) | set(selection.excluded)
    kept = _expanded(_quantization(name)["exclude_modules"], modules)
    assert set(selection.quantized) == modules - kept - _matched(modules, known.unlisted)


@pytest.mark.parametrize("name", COMPARED)
def test_a_published_pattern_that_fits_nothing_names_layers_that_predict_further(name: str) -> None:
    config = _config(name)
    selection = _selected(name)
    modules = set(selection.quantized) | set(selection.excluded)
    nowhere = [pattern for pattern in _quantization(name)["exclude_modules"] if not _expanded([pattern], modules)]
    assert tuple(nowhere) == PUBLISHED[name].nowhere
    model = structure.read(config, expected_tensors(config).values())
    assert all(model.is_further(pattern.replace("*", ".norm.weight")) for pattern in nowhere)


@pytest.mark.parametrize("name", [name for name, known in PUBLISHED.items() if known.no_list])
def test_a_model_without_a_list_to_compare_has_none(name: str) -> None:
    assert "exclude_modules" not in _quantization(name) or not _is_known(name)


@pytest.mark.parametrize("name", COMPARED)
def test_what_engines_fuse_is_left_out_together(name: str) -> None:
    selection = _selected(name)
    kept = _expanded(_quantization(name)["exclude_modules"], set(selection.quantized) | set(selection.excluded))
    groups = layout.fusion_groups(sorted(selection.quantized))
    assert all(kept.issuperset(group) or kept.isdisjoint(group) for group in groups)
