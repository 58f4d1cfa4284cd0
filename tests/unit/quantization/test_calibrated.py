"""What of the calibrated quantizer needs no torch; the rest is compared with ModelOpt in tests/integration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from orchestrator.errors import (
    CalibrationTextError,
    CheckpointError,
    DependencyMissingError,
    ModelUnsupportedError,
    RecipeInvalidError,
)
from orchestrator.quantization import layout
from orchestrator.quantization.activation_probe import Measured
from orchestrator.quantization.calibrated import check_measured, quantize_calibrated
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import fp8, nvfp4
from orchestrator.quantization.model import LayeredModel
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.report import Report
from orchestrator.quantization.samples import random_batches, text_batches
from orchestrator.quantization.schemes import SCHEMES
from tests.support.architectures import expected_tensors, selected
from tests.unit.quantization.conftest import Save

_BF16 = ml_dtypes.bfloat16


def test_without_torch_the_error_says_what_to_do(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyMissingError, match="needs torch and transformers") as caught:
        quantize_calibrated(tiny, tmp_path / "out", random_batches(261, 1, 4), number_format="fp8")
    assert "make setup-torch" in caught.value.hint
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_source_is_never_the_output(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="the output folder is the source folder"):
        quantize_calibrated(tiny, tiny, [], number_format="fp8")


# --- samples ---


def test_tokens_from_a_seed_never_change() -> None:
    first, second = random_batches(1000, 3, 4, batch_size=2, seed=7)
    assert first.tokens.tolist() == [[706, 878, 406, 277], [509, 93, 785, 800]]
    assert second.tokens.shape == (1, 4)
    assert first.mask.all()
    again = random_batches(1000, 3, 4, batch_size=1, seed=7)
    assert np.concatenate([batch.tokens for batch in again]).tolist() == [
        *first.tokens.tolist(),
        *second.tokens.tolist(),
    ]
    assert random_batches(1000, 3, 4, seed=8)[0].tokens.tolist() != again[0].tokens.tolist()
    assert max(int(batch.tokens.max()) for batch in random_batches(10, 50, 10)) == 9


class _Tokenizer:
    pad_token: str | None = None
    eos_token = "end"
    padding_side = "right"

    def __call__(self, texts: list[str], **options: object) -> dict[str, list[list[int]]]:
        assert options == {"padding": True, "truncation": True, "max_length": 3}
        assert (self.pad_token, self.padding_side) == ("end", "left")
        rows = [[ord(letter) for letter in text[:3]] for text in texts]
        return {
            "input_ids": [[0] * (3 - len(row)) + row for row in rows],
            "attention_mask": [[0] * (3 - len(row)) + [1] * len(row) for row in rows],
        }

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        message = f"no template for {len(messages)} messages, {tokenize}"
        raise ValueError(message)


def test_text_is_padded_on_the_left_to_the_longest_sample(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("abcd", "e", "fg", "unused")))
    batches = text_batches(file, _Tokenizer(), 3, 3, batch_size=2)
    assert [batch.tokens.tolist() for batch in batches] == [[[97, 98, 99], [0, 0, 101]], [[0, 102, 103]]]
    assert [batch.mask.tolist() for batch in batches] == [[[1, 1, 1], [0, 0, 1]], [[0, 1, 1]]]


@pytest.mark.parametrize("text", ["{", '{"other": 1}', '{"text": 1}', '"text"'])
def test_lines_without_text_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(CalibrationTextError, match="expected"):
        text_batches(tmp_path / "train.jsonl", _Tokenizer(), 1, 3, batch_size=1)


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(CalibrationTextError, match="2 samples are needed, found 1"):
        text_batches(tmp_path / "train.jsonl", _Tokenizer(), 2, 3, batch_size=1)


# --- layouts ---

_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "torch_dtype": "bfloat16",
}


def _names(**config: object) -> list[str]:
    return list(expected_tensors({**_BASE, **config}))


def test_experts_have_a_router_which_is_not_quantized() -> None:
    config = {**_BASE, "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 3, "moe_intermediate_size": 16}
    tensors = expected_tensors(config)
    assert tensors["model.layers.0.mlp.gate.weight"].shape == (3, 32)
    assert tensors["model.layers.1.mlp.experts.2.down_proj.weight"].shape == (32, 16)
    selection = selected(config)
    assert "model.layers.0.mlp.gate" in selection.excluded
    gate, up = (f"model.layers.0.mlp.experts.1.{name}_proj" for name in ("gate", "up"))
    assert (gate, up) in selection.groups


def test_layers_can_be_left_without_experts() -> None:
    names = _names(architectures=["Qwen3MoeForCausalLM"], num_experts=2, moe_intermediate_size=16, mlp_only_layers=[1])
    assert "model.layers.0.mlp.experts.1.up_proj.weight" in names
    assert "model.layers.1.mlp.up_proj.weight" in names
    assert "model.layers.1.mlp.gate.weight" not in names


def test_mixtral_names_its_experts_by_numbers() -> None:
    names = _names(architectures=["MixtralForCausalLM"], num_local_experts=2)
    assert "model.layers.0.block_sparse_moe.experts.1.w3.weight" in names
    assert layout.input_group("model.layers.0.block_sparse_moe.experts.1.w3") == layout.input_group(
        "model.layers.0.block_sparse_moe.experts.0.w1"
    )


def test_gemma_ties_its_head_unless_told_otherwise() -> None:
    assert "lm_head.weight" not in _names(architectures=["Gemma3ForCausalLM"])
    assert "lm_head.weight" in _names(architectures=["Gemma3ForCausalLM"], tie_word_embeddings=False)


def test_phi_keeps_fused_projections_as_one() -> None:
    tensors = expected_tensors({**_BASE, "architectures": ["Phi3ForCausalLM"]})
    assert tensors["model.layers.0.self_attn.qkv_proj.weight"].shape == (64, 32)
    assert tensors["model.layers.0.mlp.gate_up_proj.weight"].shape == (96, 32)


# --- plans and schemes ---


def test_a_calibrated_weight_has_the_scale_of_its_input(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("nvfp4"), kv_cache="fp8")
    names = {spec.name for unit in plan.outputs for spec in unit}
    assert "model.layers.0.self_attn.k_proj.k_scale" in names
    assert "model.layers.1.self_attn.v_proj.v_scale" in names
    assert {name.rpartition(".")[0] for name in names if name.endswith("input_scale")} == plan.selection.quantized


def test_an_excluded_attention_has_no_scales_for_its_cache(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"), ["model.layers.1.*"], "fp8")
    names = {spec.name for unit in plan.outputs for spec in unit if spec.name.endswith("k_scale")}
    assert names == {"model.layers.0.self_attn.k_proj.k_scale"}


def test_a_cache_format_that_needs_other_scales_is_refused(tiny: Path) -> None:
    with pytest.raises(RecipeInvalidError, match=r"quantization.kv_cache: found 'nvfp4'"):
        Plan.make(tiny, scheme_named("fp8"), kv_cache="nvfp4")


# --- scales of keys and values ---


def _configure_unknown(folder: Path, like: Path) -> None:
    """Write the configuration of a model of no known architecture."""
    unknown = {"architectures": ["MixerForCausalLM"], "model_type": "mixer"}
    write_json(folder / "config.json", {**read_json(like / "config.json"), **unknown})


def _renamed_attention(tiny: Path, save: Save, **names: str) -> Path:
    """Copy a model with other names for the projections of its attention."""
    checkpoint = Checkpoint.open(tiny)

    def renamed(name: str) -> str:
        parent, _, leaf = name.removesuffix(".weight").rpartition(".")
        return f"{parent}.{names[leaf]}.weight" if leaf in names else name

    folder = save({renamed(name): checkpoint.read(name) for name in checkpoint.tensors})
    _configure_unknown(folder, tiny)
    return folder


def test_an_attention_whose_keys_have_an_unknown_name_is_refused_by_name(tiny: Path, save: Save) -> None:
    source = _renamed_attention(tiny, save, k_proj="keys", v_proj="values")
    with pytest.raises(ModelUnsupportedError) as caught:
        Plan.make(source, scheme_named("fp8"), kv_cache="fp8")
    assert "model.layers.0.self_attn.keys.weight" in caught.value.message
    assert "none of them is known to compute keys" in caught.value.message
    assert Plan.make(source, scheme_named("fp8")).outputs


def test_layers_without_attention_are_counted_with_the_reason(tiny: Path, save: Save) -> None:
    checkpoint = Checkpoint.open(tiny)
    mixer = {f"model.layers.1.linear_attn.{part}_proj.weight": np.ones((64, 64), _BF16) for part in ("in", "out")}
    left = [name for name in checkpoint.tensors if "layers.1.self_attn" not in name]
    source = save({**{name: checkpoint.read(name) for name in left}, **mixer})
    _configure_unknown(source, tiny)
    plan = Plan.make(source, scheme_named("fp8"), kv_cache="fp8")
    assert plan.layers_without_cache_scales == {1: "it has no attention"}
    excluding = Plan.make(source, scheme_named("fp8"), ["model.layers.0.self_attn*"], "none")
    assert excluding.layers_without_cache_scales[1] == "it has no attention"


def test_an_excluded_attention_is_counted_apart(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"), ["model.layers.1.*"], "fp8")
    assert plan.layers_without_cache_scales == {1: "its attention is excluded"}


def test_a_quantized_cache_without_any_scale_is_refused(tiny: Path) -> None:
    with pytest.raises(RecipeInvalidError, match="no layer gets scales: its attention is excluded"):
        Plan.make(tiny, scheme_named("fp8"), ["*.self_attn*"], "fp8")


def test_keys_and_values_that_were_not_recorded_are_refused(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"), ["model.layers.1.*"], "fp8")
    check_measured(plan, 0, Measured(keys=1, values=1, attended=True))
    check_measured(plan, 1, Measured())
    with pytest.raises(ModelUnsupportedError, match=r"model\.layers\.0: keys and values were not recorded"):
        check_measured(plan, 0, Measured())
    check_measured(Plan.make(tiny, scheme_named("fp8")), 0, Measured())


def test_keys_and_values_of_a_layer_without_planned_scales_are_refused(tiny: Path, save: Save) -> None:
    checkpoint = Checkpoint.open(tiny)
    names = {name: name.replace("layers.1.self_attn", "layers.1.mixer") for name in checkpoint.tensors}
    source = save({new.replace("mixer.k_proj", "mixer.keys"): checkpoint.read(name) for name, new in names.items()})
    _configure_unknown(source, tiny)
    plan = Plan.make(source, scheme_named("fp8"), kv_cache="fp8")
    with pytest.raises(ModelUnsupportedError, match=r"model\.layers\.1: it has attention, but no projection"):
        check_measured(plan, 1, Measured(keys=1, values=1, attended=True))


def test_the_report_says_which_layers_have_no_scales_for_their_cache() -> None:
    report = Report("fp8", "fp8", without_cache_scales={"model.layers.1": "it has no attention"})
    assert report.document()["without_cache_scales"] == {"model.layers.1": "it has no attention"}
    assert "without_cache_scales" not in Report("fp8", "fp8").document()


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_decodes_what_it_encodes(name: str, numbers: np.random.Generator) -> None:
    scheme = SCHEMES[name]
    weight = numbers.standard_normal((8, 32), np.float32).astype(_BF16)
    scale = scheme.weight_scale(float(np.abs(weight.astype(np.float32)).max()))
    decoded = scheme.decode(scheme.encode(weight, scale), scale)
    noise = np.square(decoded - weight.astype(np.float32)).sum() / np.square(weight.astype(np.float32)).sum()
    assert noise < 0.02


def test_fp8_shares_scales_where_asked_and_always_within_an_expert() -> None:
    group = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj")
    assert not scheme_named("fp8").shares(group)
    assert scheme_named("fp8", shared_scales=True).shares(group)
    assert scheme_named("fp8").shares(("model.layers.0.mlp.experts.0.gate_proj",))
    assert scheme_named("nvfp4").shares(group)


def test_scales_follow_from_magnitudes() -> None:
    assert SCHEMES["nvfp4"].input_scale(2688) == 1
    assert SCHEMES["fp8"].input_scale(448) == 1
    assert nvfp4.tensor_scale(6.0) == np.float32(6) / np.float32(2688)
    assert fp8.tensor_scale(3.0) == np.float32(3) / np.float32(448)


# --- report ---


def _measured() -> Measured:
    return Measured(inputs={"mlp.experts.0.up_proj": 0.2}, tokens={"mlp.experts.0.up_proj": 7})


def test_experts_that_nothing_reached_are_counted(numbers: np.random.Generator) -> None:
    report = Report("nvfp4", "none")
    scheme = SCHEMES["nvfp4"]
    weight = numbers.standard_normal((4, 32), np.float32).astype(_BF16)
    for expert in range(3):
        entry = report.tensor(f"model.layers.0.mlp.experts.{expert}.up_proj", scheme, np.float32(0.001))
        entry.add(weight, scheme.encode(weight, np.float32(0.001)))
    report.layer("model.layers.0", _measured())
    document = report.document()
    assert document["experts"] == {
        "unreached": 2,
        "tokens": {"model.layers.0": {"mlp.experts.0": 7, "mlp.experts.1": 0, "mlp.experts.2": 0}},
    }
    assert document["snr_db"]["min"] == document["snr_db"]["mean"] == document["tensors"][0]["snr_db"] > 15
    json.dumps(document, allow_nan=False)


def test_a_report_names_the_search_and_the_modules_that_had_no_importance() -> None:
    report = Report("nvfp4", "none", "weighted")
    for expert, falls_back in enumerate((False, True)):
        entry = report.tensor(f"model.layers.0.mlp.experts.{expert}.up_proj", SCHEMES["nvfp4"], np.float32(1))
        entry.falls_back = falls_back
    expected = {"name": "weighted", "as_mse": ["model.layers.0.mlp.experts.1.up_proj"]}
    assert report.document()["scale_search"] == expected
    assert "scale_search" not in Report("nvfp4", "none").document()


def test_a_report_names_the_rounding_and_the_modules_that_it_did_not_suit() -> None:
    report = Report("nvfp4", "none", "max", "gptq")
    for expert, (falls_back, singular) in enumerate([(False, False), (True, False), (False, True)]):
        entry = report.tensor(f"model.layers.0.mlp.experts.{expert}.up_proj", SCHEMES["nvfp4"], np.float32(1))
        entry.falls_back, entry.is_singular = falls_back, singular
    module = "model.layers.0.mlp.experts.{}.up_proj"
    expected = {"name": "gptq", "as_nearest": [module.format(1)], "singular": [module.format(2)]}
    document = report.document()
    assert document["rounding"] == expected
    assert "scale_search" not in document
    assert "rounding" not in Report("nvfp4", "none", "weighted").document()


def test_the_cost_is_no_part_of_what_is_found() -> None:
    report = Report("fp8", "none")
    with report.cost.phase("calibrate"):
        pass
    assert report.cost.spent(2).seconds == {"calibrate": pytest.approx(0, abs=1)}
    assert "seconds" not in json.dumps(report.document())


def test_the_model_is_not_loaded_by_importing_it() -> None:
    assert LayeredModel.__module__ in sys.modules
    assert "torch" not in sys.modules


# --- conversations ---


class _Chatting(_Tokenizer):
    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        assert not tokenize
        return "".join(f"{turn['role'][0]}{turn['content']}" for turn in messages)


def test_the_chat_template_makes_text_of_conversations(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    file.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"text": "abc"}) + "\n")
    (batch,) = text_batches(file, _Chatting(), 2, 3, batch_size=2)
    assert batch.tokens.tolist() == [[ord(letter) for letter in text] for text in ("uAa", "abc")]


def test_a_tokenizer_without_a_template_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "A"}]}) + "\n")
    with pytest.raises(CalibrationTextError, match=r"train.jsonl:1: the model's tokenizer cannot write") as caught:
        text_batches(file, _Tokenizer(), 1, 3, batch_size=1)
    assert "chat_template: false" in caught.value.hint
