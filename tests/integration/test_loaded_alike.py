"""Random damage: what the checks and the quantizer accept is the model that transformers' own loader makes of it.

If transformers loads nothing, as without `model_type`, it reads nothing else.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import OrchestratorError
from orchestrator.payloads import generate
from orchestrator.quantization import quality, structure
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.onepass import quantize_checkpoint
from tests.support import hostile
from tests.support.oracle import find_environment

LOAD = Path(__file__).with_name("load_run.py")
EXAMPLES = 120

FIELDS = (
    "architectures",
    "model_type",
    "tie_word_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "attention_bias",
    "mlp_bias",
    "text_config",
    "dtype",
    "torch_dtype",
    "rope_scaling",
    "hidden_act",
    "max_position_embeddings",
)
VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, 2, 16, 32, 64, 96, 261, 2.0, "2", "", [], {}, "llama", "mistral", "float16", "bfloat16"),
    *(["LlamaForCausalLM"], ["LlamaModel"], ["MistralForCausalLM"], ["Qwen2ForCausalLM"], ["LlamaForCausalLMX"]),
    *({"hidden_size": 64}, {"num_hidden_layers": 1}, "silu", "gelu"),
)
"""With those of the model, so that some change nothing."""
NAMES = (
    "model.layers.0.mlp.up_proj.weight_",
    "layers.0.mlp.up_proj.weight",
    "model.model.layers.0.mlp.up_proj.weight",
    "language_model.model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.up_proj.gamma",
    "model.layers.00.mlp.up_proj.weight",
    "model.layers.7.mlp.up_proj.weight",
    "module.model.layers.0.mlp.up_proj.weight",
    "up_proj.weight",
)
CHANGES = st.one_of(
    st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES)).map(lambda pair: hostile.config(**{pair[0]: pair[1]})),
    st.sampled_from(FIELDS).map(hostile.without),
    st.sampled_from(NAMES).map(hostile.renamed),
    st.sampled_from([hostile.HEAD, hostile.EMBEDDING, hostile.UP, hostile.NORM]).map(hostile.lost),
    st.sampled_from([[96, 64], [64, 96], [6144], [1, 96, 64], [48, 128]]).map(lambda shape: hostile.entry(shape=shape)),
    st.sampled_from(["BF16", "F16", "I16"]).map(lambda dtype: hostile.entry(dtype=dtype)),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    sizes = {"hidden-size": 64, "intermediate-size": 96, "layers": 2, "heads": 2, "kv-heads": 1, "vocab-size": 261}
    generate.main(["--output", str(folder), *(word for key, size in sizes.items() for word in (f"--{key}", str(size)))])
    return folder


def _accepted(folder: Path, out: Path) -> bool:
    """Tell whether the checks pass, or the quantizer succeeds."""
    try:
        quantize_checkpoint(folder, out)
    except OrchestratorError:
        return quality.examine(folder, chat_template=False).passed
    return True


def _ours(folder: Path) -> dict[str, Any]:
    """Say what we take a checkpoint for."""
    config, tensors = read_json(folder / "config.json"), Checkpoint.open(folder).tensors
    model = structure.read(config, tensors.values())
    kept = {name: list(tensor.shape) for name, tensor in tensors.items()}
    head = {"lm_head.weight": kept[f"{model.embedding}.weight"]} if model.tied else {}
    return {
        "class": structure.architecture_of(config),
        "missing": [],
        "unexpected": [],
        "mismatched": [],
        "other": [],
        "tied": model.tied,
        "vocabulary": kept[f"{model.embedding}.weight"][0],
        "shapes": kept | head,
    }


def test_what_is_accepted_is_what_transformers_loads(sound: Path, tmp_path: Path) -> None:
    accepted: list[Path] = []

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(changes=st.lists(CHANGES, max_size=2))
    def collect(changes: list[hostile.Change]) -> None:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(sound, folder)
        try:
            for change in changes:
                change(folder)
        except (KeyError, ValueError):  # the first change took what the second one changes
            return
        if _accepted(folder, tmp_path / "out"):
            accepted.append(folder)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    collect()
    (tmp_path / "folders.json").write_text(json.dumps(list(map(str, accepted))))
    theirs = json.loads(find_environment().run(LOAD, tmp_path / "folders.json").splitlines()[-1])
    others = {
        folder.name: (found, _changed(sound, folder))
        for folder, found in zip(accepted, theirs, strict=True)
        if "error" not in found and found != _ours(folder)
    }
    assert others == {}, json.dumps(others, indent=1)
    assert sum("error" not in found for found in theirs) > EXAMPLES / 10


def _changed(sound: Path, folder: Path) -> dict[str, object]:
    before, after = (read_json(place / "config.json") for place in (sound, folder))
    return {key: after.get(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
