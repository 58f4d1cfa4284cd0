"""vLLM's own parser and configuration classes accept what is written for it: commands, and files of checkpoints.

`make test-vllm` runs this with the Python files of two versions, which the index has. `read_run.py` says what stands in
for a GPU. How a model is loaded and computed is not part of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from orchestrator.catalog.models import find_model
from orchestrator.quantization import configs
from orchestrator.quantization.layout import ALGORITHMS
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.serving import vllm
from orchestrator.serving.server import Places
from orchestrator.steps.shape import Shape
from tests.support.environments import ROOT, vllm_python
from tests.unit.serving.test_vllm import RECIPES, SERVES
from tests.unit.steps.recipes import CATALOG, recipe

IMAGES = {"0.27.1": "vllm-0.27.1", "0.33.0": "vllm-openai-0.33.0"}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 320,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
EXCLUDED = ("lm_head", "model.layers.0.self_attn*")
METHODS: Mapping[str, str] = {
    "FP8": "modelopt",
    "NVFP4": "modelopt_fp4",
    "W4A16_NVFP4": "modelopt_fp4",
    configs.MIXED: "modelopt_mixed",
}
"""vLLM's name of each `quant_algo` of ours."""
ALONE = ("NVFP4", "FP8")
"""Formats that vLLM reads from `hf_quant_config.json` if `config.json` names none. Ours always names it."""
MIXTURE = {"model.layers.0.mlp.up_proj": "NVFP4", "model.layers.1.mlp.up_proj": "FP8"}


def written(folder: Path, config: Mapping[str, Any], document: Mapping[str, Any] | None = None) -> Path:
    """Write the configuration of a checkpoint; vLLM asks for no tensor before it starts."""
    folder.mkdir(parents=True)
    (folder / configs.CONFIG).write_text(json.dumps(config))
    if document:
        (folder / configs.QUANT_CONFIG).write_text(json.dumps(document))
    return folder


def line(found: Recipe, checkpoint: Path, draft: Path) -> list[str]:
    """Return the arguments of `vllm serve` that a recipe gets."""
    places = Places(str(checkpoint), "127.0.0.1", 8000, draft=str(draft))
    return [str(word) for word in vllm.command(Shape(found, CATALOG).server, places)][2:]


def quantized(algorithm: str, cache: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `config.json` and `hf_quant_config.json` say of a format of ours."""
    if algorithm == configs.MIXED:
        return configs.mixed_quantization_config(MIXTURE, cache), configs.mixed(MIXTURE, cache)
    arguments = (algorithm, EXCLUDED, cache)
    return configs.quantization_config(*arguments), configs.hf_quant_config(*arguments)


def rows(version: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the commands of all recipes and settings, and all forms of a checkpoint's files."""
    image = IMAGES[version]
    plain = written(folder / "plain", LLAMA)
    words = {word: number for number, word in enumerate(("<unk>", "<think>", "</think>"))}
    unknown = "<unk>"
    Tokenizer(WordLevel(words, unk_token=unknown)).save(str(plain / "tokenizer.json"))
    (plain / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    eagle = written(folder / "eagle", {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 320})
    for name in RECIPES:
        found = RecipeBook(CATALOG.project.recipes).load(name).recipe.model_copy(update={"image": image})
        model = found.model
        assert isinstance(model, HubModel)
        entry = find_model(model.repo)
        assert entry is not None
        algorithm = {"fp8": "FP8", "nvfp4": "NVFP4"}[found.quantization.format]
        inside, beside = quantized(algorithm, found.quantization.kv_cache)
        config = configs.quantized_config({**LLAMA, **entry.config}, inside)
        yield {"name": name, "words": line(found, written(folder / name, config, beside), plain)}
    for serve in SERVES:
        if serve.get("speculative") == {"type": "mtp"}:
            continue  # such a draft is in a model's own layers, and has no class for Llama
        found = recipe(image=image, target="dgx-spark", serve={**serve, "max_seq_len": 4096})
        draft = eagle if serve.get("speculative", {}).get("type") == "eagle3" else plain
        yield {"name": f"serve {json.dumps(serve)}", "words": line(found, plain, draft)}
    for algorithm in (*ALGORITHMS, configs.MIXED):
        for cache in ("none", "fp8"):
            inside, beside = quantized(algorithm, cache)
            within = written(folder / algorithm / cache / "in", configs.quantized_config(LLAMA, inside), beside)
            yield {"name": f"config.json {algorithm} {cache}", "words": [str(within)]}
            if algorithm not in ALONE:
                continue
            alone = written(folder / algorithm / cache / "beside", LLAMA, beside)
            yield {"name": f"hf_quant_config.json {algorithm} {cache}", "words": [str(alone)]}


@pytest.fixture(scope="module", params=IMAGES)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Let one version read every row, in one process."""
    version, python = request.param, vllm_python()
    folder = tmp_path_factory.mktemp("vllm")
    asked = folder / "rows.json"
    asked.write_text(json.dumps(list(rows(version, folder))))
    done = subprocess.run(
        [str(python), str(ROOT / "tests/vllm/read_run.py"), str(python.parents[1] / f"vllm-{version}"), str(asked)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_OFFLINE": "1", **vllm.ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.timeout(1000)
def test_vllm_accepts_every_command_and_file(answers: dict[str, dict[str, Any]]) -> None:
    assert {name: row["refused"] for name, row in answers.items() if "refused" in row} == {}
    assert len(answers) == len(RECIPES) + len(SERVES) - 1 + 2 * (len(METHODS) + len(ALONE))


@pytest.mark.parametrize("cache", ["none", "fp8"])
@pytest.mark.parametrize(
    ("file", "algorithm"), [*((configs.CONFIG, name) for name in METHODS), *((configs.QUANT_CONFIG, n) for n in ALONE)]
)
def test_vllm_reads_a_format_as_what_it_is(
    answers: dict[str, dict[str, Any]], file: str, algorithm: str, cache: str
) -> None:
    row = answers[f"{file} {algorithm} {cache}"]
    assert row["quantization"] == METHODS[algorithm]
    if algorithm != configs.MIXED:
        assert row["excluded"] == sorted(EXCLUDED)


def test_vllm_reads_the_recipes_as_they_are(answers: dict[str, dict[str, Any]]) -> None:
    for name in RECIPES:
        assert answers[name]["quantization"] == METHODS[name.rpartition("-")[2].upper()]
        assert answers[name]["cache_bytes"] > 0
    drafts = {row["drafts"] for name, row in answers.items() if '"speculative"' in name}
    assert drafts == {"draft_model", "eagle3"}
