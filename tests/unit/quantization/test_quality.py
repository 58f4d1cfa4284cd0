from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import CheckFailedError, CheckpointError
from orchestrator.models.weight_files import SINGLE
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import fp8
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.quality import Report, examine

Save = Callable[..., Path]
Altered = Callable[[dict[str, NDArray[Any] | None]], Path]

_UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="session")
def shared(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "tiny"
    quantize_checkpoint(tiny, folder)
    return folder


@pytest.fixture
def quantized(shared: Path, tmp_path: Path) -> Path:
    """The tiny model, quantized; a copy that may be spoiled."""
    return Path(shutil.copytree(shared, tmp_path / "quantized"))


@pytest.fixture
def altered(quantized: Path, save: Save) -> Altered:
    """The quantized model with some tensors replaced, added or, where None, left out."""

    def alter(tensors: dict[str, NDArray[Any] | None]) -> Path:
        original = Checkpoint.open(quantized)
        changed = {name: original.read(name) for name in original.tensors} | tensors
        weights = save({name: value for name, value in changed.items() if value is not None}, name="weights")
        shutil.copy(weights / SINGLE, quantized / SINGLE)
        return quantized

    return alter


def _read(folder: Path, name: str) -> NDArray[Any]:
    return Checkpoint.open(folder).read(name)


def _failures(report: Report) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.passed}


def test_a_sound_checkpoint_passes_every_check(quantized: Path, tiny: Path) -> None:
    report = examine(quantized, reference=tiny, min_snr_db=19)
    assert [check.name for check in report.checks] == [
        "configuration",
        "tokenizer",
        "chat_template",
        "files",
        "token_ids",
        "tensors",
        "numbers",
        "fused_scales",
        "unquantized",
        "signal_to_noise",
    ]
    assert report.passed
    assert report.skipped == ()
    report.require()


def test_the_noise_of_every_quantized_module_is_measured(quantized: Path, tiny: Path) -> None:
    report = examine(quantized, reference=tiny)
    assert len(report.layers) == 14
    # A bell curve in NVFP4 has about 20 dB.
    assert all(layer.snr_db is not None and 19 < layer.snr_db < 22 for layer in report.layers)


def test_the_document_is_json_with_the_least_and_the_mean(quantized: Path, tiny: Path) -> None:
    document = json.loads(json.dumps(examine(quantized, reference=tiny).document(), allow_nan=False))
    measured = [layer["snr_db"] for layer in document["layers"]]
    assert document["snr_db"]["min"] == min(measured)
    assert document["snr_db"]["mean"] == pytest.approx(sum(measured) / len(measured), abs=0.001)
    assert (document["format"], document["passed"]) == ("w4a16_nvfp4", True)


def test_too_much_noise_names_the_worst_module_and_both_figures(quantized: Path, tiny: Path) -> None:
    report = examine(quantized, reference=tiny, min_snr_db=30)
    worst = min(report.layers, key=lambda layer: layer.snr_db or 0)
    with pytest.raises(
        CheckFailedError, match=rf"{worst.name}: found .* of {worst.snr_db} dB, expected at least 30 dB"
    ):
        report.require()


def test_one_spoiled_module_is_found(altered: Altered, tiny: Path, quantized: Path) -> None:
    codes = _read(quantized, f"{_UP}.weight")
    report = examine(altered({f"{_UP}.weight": codes[::-1]}), reference=tiny, min_snr_db=15)
    assert _failures(report)["signal_to_noise"].startswith(f"{_UP}: found")


def test_a_scale_that_is_nan_is_found_with_its_place(altered: Altered, tiny: Path, quantized: Path) -> None:
    scales = _read(quantized, f"{_UP}.weight_scale").copy()
    scales[7, 2] = np.nan
    failures = _failures(examine(altered({f"{_UP}.weight_scale": scales}), reference=tiny))
    assert failures == {"numbers": f"{SINGLE}: {_UP}.weight_scale[7, 2]: found nan, expected a finite scale above zero"}


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_found(altered: Altered, quantized: Path, value: float) -> None:
    scales = _read(quantized, f"{_UP}.weight_scale").copy()
    scales[0, 0] = value
    failures = _failures(examine(altered({f"{_UP}.weight_scale": scales})))
    assert "weight_scale[0, 0]: found" in failures["numbers"]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_tensor_scale_that_is_no_scale_is_found(altered: Altered, value: float) -> None:
    failures = _failures(examine(altered({f"{_UP}.weight_scale_2": np.array(value, np.float32)})))
    assert f"{_UP}.weight_scale_2[]: found" in failures["numbers"]


def test_a_number_that_is_nan_is_found(altered: Altered) -> None:
    norm = np.ones(64, ml_dtypes.bfloat16)
    norm[3] = np.nan
    failures = _failures(examine(altered({"model.norm.weight": norm})))
    assert "model.norm.weight[3]: found nan, expected a finite number" in failures["numbers"]


def test_fused_scales_that_differ_are_found(altered: Altered, quantized: Path) -> None:
    scale_2 = _read(quantized, f"{_UP}.weight_scale_2")
    failures = _failures(examine(altered({f"{_UP}.weight_scale_2": scale_2 * np.float32(1.5)})))
    assert f"found {_UP}.weight_scale_2 " in failures["fused_scales"]
    assert "gate_proj.weight_scale_2" in failures["fused_scales"]


def test_a_missing_tensor_is_named(altered: Altered) -> None:
    failures = _failures(examine(altered({f"{_UP}.weight_scale": None})))
    assert failures == {"tensors": f"{_UP}.weight_scale is missing; expected F8_E4M3 [96, 4]"}


@pytest.mark.parametrize(
    ("value", "found"),
    [(np.zeros((96, 31), np.uint8), "U8 [96, 31]"), (np.zeros((96, 32), np.int8), "I8 [96, 32]")],
)
def test_a_tensor_of_another_shape_or_type_is_named(
    altered: Altered, tiny: Path, value: NDArray[Any], found: str
) -> None:
    failures = _failures(examine(altered({f"{_UP}.weight": value}), reference=tiny))
    assert failures["tensors"] == f"{SINGLE}: found {_UP}.weight {found}, expected U8 [96, 32]"


def test_without_a_reference_codes_and_scales_must_fit_each_other(altered: Altered) -> None:
    failures = _failures(examine(altered({f"{_UP}.weight": np.zeros((96, 16), np.uint8)})))
    assert failures["tensors"] == f"{SINGLE}: found {_UP}.weight_scale F8_E4M3 [96, 4], expected F8_E4M3 [96, 2]"


def test_without_a_reference_a_weight_that_was_not_quantized_is_named(altered: Altered) -> None:
    failures = _failures(examine(altered({f"{_UP}.weight": np.zeros((96, 64), ml_dtypes.bfloat16)})))
    assert failures["tensors"] == f"{SINGLE}: found {_UP}.weight BF16 [96, 64], expected U8 [96, 32]"


def test_a_tensor_too_many_is_named(altered: Altered, tiny: Path) -> None:
    failures = _failures(examine(altered({"model.extra": np.ones(1, np.float32)}), reference=tiny))
    assert failures["tensors"] == f"{SINGLE}: found model.extra F32 [1], which this model does not have"


def test_scales_of_the_key_value_cache_are_no_surprise(altered: Altered) -> None:
    scales: dict[str, NDArray[Any] | None] = {
        f"model.layers.0.self_attn.{name}_proj.{name}_scale": np.array(0.5, np.float32) for name in "kv"
    }
    assert examine(altered(scales)).passed


def test_a_truncated_file_fails_instead_of_raising(quantized: Path) -> None:
    (quantized / SINGLE).write_bytes((quantized / SINGLE).read_bytes()[:-1])
    assert "truncated" in _failures(examine(quantized))["files"]


def test_a_missing_template_is_found(quantized: Path) -> None:
    config = read_json(quantized / "tokenizer_config.json")
    del config["chat_template"]
    write_json(quantized / "tokenizer_config.json", config)
    assert "no chat_template" in _failures(examine(quantized))["chat_template"]
    (quantized / "chat_template.jinja").write_text("{{ messages }}")
    assert examine(quantized).passed


def test_a_base_model_needs_no_template(quantized: Path, tiny: Path, tmp_path: Path) -> None:
    reference = Path(shutil.copytree(tiny, tmp_path / "base"))
    for folder in (quantized, reference):
        config = read_json(folder / "tokenizer_config.json")
        del config["chat_template"]
        write_json(folder / "tokenizer_config.json", config)
    report = examine(quantized, reference=reference)
    assert report.passed
    assert "chat_template" in {skipped.name for skipped in report.skipped}


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_is_missing_or_garbage_is_found(quantized: Path, name: str) -> None:
    (quantized / name).write_text("{")
    assert f"{name}: not JSON" in _failures(examine(quantized))["tokenizer"]
    (quantized / name).unlink()
    assert "tokenizer" in _failures(examine(quantized))


def test_a_sentencepiece_tokenizer_is_one_too(quantized: Path) -> None:
    (quantized / "tokenizer.json").rename(quantized / "tokenizer.model")
    assert examine(quantized).passed


@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json"])
def test_a_missing_configuration_is_found(quantized: Path, name: str) -> None:
    (quantized / name).unlink()
    failures = _failures(examine(quantized))
    assert name in failures["configuration"]


@pytest.mark.parametrize(
    ("key", "value"), [("quant_algo", "NVFP4"), ("exclude_modules", ["lm_head"]), ("group_size", 32)]
)
def test_configurations_that_disagree_are_found(quantized: Path, key: str, value: object) -> None:
    document = read_json(quantized / "hf_quant_config.json")
    document["quantization"][key] = value
    write_json(quantized / "hf_quant_config.json", document)
    assert f"found {key}" in _failures(examine(quantized))["configuration"]


@pytest.mark.parametrize("document", [{}, {"quantization": {}}, {"producer": {}, "quantization": []}])
def test_a_quantization_file_that_lacks_a_part_is_found(quantized: Path, document: dict[str, object]) -> None:
    write_json(quantized / "hf_quant_config.json", document)
    assert "expected the object quantization" in _failures(examine(quantized))["configuration"]


def test_an_unquantized_checkpoint_is_checked_for_structure_and_numbers(tiny: Path) -> None:
    report = examine(tiny, reference=tiny)
    assert (report.format, report.passed) == ("bf16", True)
    assert {skipped.name: skipped.reason for skipped in report.skipped} == {
        "fused_scales": "no modules that engines fuse have scales that must agree",
        "signal_to_noise": "nothing is quantized",
    }


def test_without_a_reference_the_noise_is_not_claimed(quantized: Path) -> None:
    report = examine(quantized, min_snr_db=10)
    assert report.passed
    assert report.document()["snr_db"] == {"min": None, "mean": None}
    assert "signal_to_noise" in {skipped.name for skipped in report.skipped}


def test_a_bad_reference_is_bad_input(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        examine(quantized, reference=tmp_path)


def test_a_format_made_by_others_gets_the_checks_that_apply(quantized: Path, save: Save) -> None:
    weights = save(
        {
            "model.layers.0.mlp.experts.down_proj_blocks": np.zeros((2, 4), np.uint8),
            "model.layers.0.mlp.experts.down_proj_scales": np.full((2, 4), 120, np.uint8),
            "model.layers.0.attn.weight": np.ones((2, 2), ml_dtypes.bfloat16),
        }
    )
    shutil.copy(weights / SINGLE, quantized / SINGLE)
    (quantized / "hf_quant_config.json").unlink()
    declared = {"quantization_config": {"quant_method": "mxfp4"}}
    config = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", **declared}
    write_json(quantized / "config.json", config)
    report = examine(quantized)
    assert (report.format, report.passed) == ("mxfp4", True)
    assert {skipped.name for skipped in report.skipped} == {
        "token_ids",
        "tensors",
        "fused_scales",
        "signal_to_noise",
    }


def test_an_mxfp4_scale_that_is_nan_is_found(quantized: Path, save: Save) -> None:
    weights = save({"model.layers.0.mlp.experts.down_proj_scales": np.array([[127, 255]], np.uint8)})
    shutil.copy(weights / SINGLE, quantized / SINGLE)
    assert "down_proj_scales[0, 1]: found 255" in _failures(examine(quantized))["numbers"]


def _fp8(tiny: Path, save: Save, quantized: Path, *, up_scale: float = 0.5) -> Path:
    original = Checkpoint.open(tiny)
    tensors: dict[str, NDArray[Any]] = {}
    for name in original.tensors:
        tensors[name] = original.read(name)
        module = name.removesuffix(".weight")
        if "_proj" in name:
            scale = fp8.tensor_scale(float(np.abs(tensors[name].astype(np.float32)).max()))
            tensors[name] = fp8.encode(tensors[name], scale)
            tensors[f"{module}.weight_scale"] = np.array(scale)
            tensors[f"{module}.input_scale"] = np.array(up_scale if module == _UP else 0.5, np.float32)
    shutil.copy(save(tensors) / SINGLE, quantized / SINGLE)
    quantization = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head", "model.emb*"]}
    write_json(quantized / "hf_quant_config.json", {"producer": {"name": "modelopt"}, "quantization": quantization})
    write_json(quantized / "config.json", read_json(tiny / "config.json"))
    return quantized


def test_an_fp8_checkpoint_is_measured(tiny: Path, save: Save, quantized: Path) -> None:
    report = examine(_fp8(tiny, save, quantized), reference=tiny, min_snr_db=30)
    assert (report.format, report.passed) == ("fp8", True)
    assert report.skipped == ()
    assert len(report.layers) == 14
    assert all(layer.snr_db is not None and 30 < layer.snr_db < 34 for layer in report.layers)


_NORM = "model.layers.1.post_attention_layernorm.weight"


def _stored_as(folder: Path, kind: type[np.generic], save: Save, target: Path) -> Path:
    """A copy of a checkpoint that stores one norm in a type, with numbers that only FP32 can hold."""
    shutil.copytree(folder, target)
    checkpoint = Checkpoint.open(folder)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    tensors[_NORM] = np.linspace(0.9, 1.1, len(tensors[_NORM]), dtype=np.float32).astype(kind)
    for old in target.glob("model*"):
        old.unlink()
    shutil.copy(save(tensors, name=f"{target.name} weights") / SINGLE, target / SINGLE)
    return target


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_an_original_may_store_a_norm_in_another_type_than_its_configuration_declares(
    tiny: Path, save: Save, tmp_path: Path, kind: type[np.generic]
) -> None:
    original = _stored_as(tiny, kind, save, tmp_path / "original")
    quantize_checkpoint(original, tmp_path / "ours")
    report = examine(tmp_path / "ours", reference=original)
    assert report.passed
    assert "rounded" not in {check.name: check.detail for check in report.checks}["unquantized"]
    assert examine(tmp_path / "ours").passed


def test_a_norm_that_was_rounded_to_a_shorter_type_is_named(
    quantized: Path, tiny: Path, save: Save, tmp_path: Path
) -> None:
    original = _stored_as(tiny, np.float32, save, tmp_path / "original")
    rounded = _stored_as(quantized, ml_dtypes.bfloat16, save, tmp_path / "rounded")
    report = examine(rounded, reference=original)
    assert report.passed
    found = {check.name: check.detail for check in report.checks}["unquantized"]
    assert found.endswith(f"1 of them rounded to a shorter type, such as {_NORM} from F32 to BF16")


def test_a_norm_in_a_longer_type_must_have_the_same_numbers(
    quantized: Path, tiny: Path, save: Save, tmp_path: Path
) -> None:
    original = _stored_as(tiny, ml_dtypes.bfloat16, save, tmp_path / "original")
    longer = _stored_as(quantized, np.float32, save, tmp_path / "longer")
    assert set(_failures(examine(longer, reference=original))) == {"unquantized"}


def test_a_norm_in_a_type_that_no_model_computes_in_is_found(
    quantized: Path, tiny: Path, save: Save, tmp_path: Path
) -> None:
    short = _stored_as(quantized, ml_dtypes.float8_e4m3fn, save, tmp_path / "short")
    assert f"{_NORM} F8_E4M3" in _failures(examine(short, reference=tiny))["tensors"]


def test_a_tensor_that_should_have_stayed_as_it_was_is_found(altered: Altered, tiny: Path) -> None:
    norm = _read(tiny, "model.norm.weight").copy()
    norm[5] = 2
    failures = _failures(examine(altered({"model.norm.weight": norm}), reference=tiny))
    assert failures == {"unquantized": "model.norm.weight: found other numbers than the original has, from row 0 on"}


def test_input_scales_of_fused_modules_must_agree(tiny: Path, save: Save, quantized: Path) -> None:
    failures = _failures(examine(_fp8(tiny, save, quantized, up_scale=0.75)))
    assert f"found {_UP}.input_scale 0.75" in failures["fused_scales"]


def test_zeros_that_stay_zeros_have_no_noise(tiny: Path, tmp_path: Path, save: Save) -> None:
    original = Checkpoint.open(tiny)
    tensors = {name: original.read(name) for name in original.tensors}
    tensors[f"{_UP}.weight"] = np.zeros((96, 64), ml_dtypes.bfloat16)
    source = Path(shutil.copytree(tiny, tmp_path / "source", ignore=shutil.ignore_patterns("model*")))
    shutil.copy(save(tensors) / SINGLE, source / SINGLE)
    quantize_checkpoint(source, tmp_path / "out")
    report = examine(tmp_path / "out", reference=source, min_snr_db=19)
    assert report.passed
    assert {layer.name for layer in report.layers if layer.snr_db is None} == {_UP}


def test_zeros_that_became_numbers_are_found(altered: Altered, tiny: Path, tmp_path: Path, save: Save) -> None:
    original = Checkpoint.open(tiny)
    tensors = {name: original.read(name) for name in original.tensors}
    tensors[f"{_UP}.weight"] = np.zeros((96, 64), ml_dtypes.bfloat16)
    source = Path(shutil.copytree(tiny, tmp_path / "source", ignore=shutil.ignore_patterns("model*")))
    shutil.copy(save(tensors) / SINGLE, source / SINGLE)
    report = examine(altered({}), reference=source)
    assert "the original has only zeros" in _failures(report)["signal_to_noise"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "old.safetensors", "adapter_config.json"])
def test_weights_that_no_index_names_fail(quantized: Path, name: str) -> None:
    (quantized / name).write_bytes(b"another model")
    assert name in _failures(examine(quantized))["files"]


def test_a_head_that_was_dropped_although_it_differs_is_missed(quantized: Path, tiny: Path, altered: Altered) -> None:
    altered({"lm_head.weight": None})
    for folder in (quantized, reference := Path(shutil.copytree(tiny, quantized.parent / "reference"))):
        write_json(folder / "config.json", {**read_json(folder / "config.json"), "tie_word_embeddings": True})
    assert "lm_head.weight is missing" in _failures(examine(quantized, reference=reference))["tensors"]


def test_a_stored_head_that_runtimes_would_ignore_fails(quantized: Path) -> None:
    config = read_json(quantized / "config.json")
    write_json(quantized / "config.json", {**config, "tie_word_embeddings": True})
    assert "runtimes ignore the stored head" in _failures(examine(quantized))["tensors"]
