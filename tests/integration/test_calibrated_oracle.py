"""Is what we calibrate and write what the real ModelOpt calibrates and writes, for every family and format?"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from orchestrator.payloads import generate
from orchestrator.quantization import layout, quality
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.dequantize import dequantize_checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.formats import mxfp4
from tests.support.checkpoints import write_fp8_blocks, write_gpt_oss, write_model, write_tensors
from tests.support.comparison import described, differences, differences_beyond_stored_types
from tests.support.docker_daemon import do_without
from tests.support.families import (
    FAMILIES,
    FORMATS,
    SIZES,
    STORED_OTHERWISE,
    UNLISTED,
    UNLISTED_FORMATS,
    Family,
    Format,
)
from tests.support.killed import KILLS, kill_ten_times
from tests.support.oracle import Environment, find_environment
from tests.support.sample import sample
from tests.support.small_disk import small_disk

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(900)]

_ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent

_WHOLE = ("Llama", "Qwen3-MoE")
"""Families that every run tries in every format; it tries the others in one, which the commit chooses."""
_TRIED = {name: FORMATS if name in _WHOLE else sample(name, FORMATS, 1) for name in FAMILIES}
_TRIED_UNLISTED = {name: sample(name, UNLISTED_FORMATS, 1) for name in sample("unlisted", UNLISTED, 6)}
_ROUNDED = ("Qwen2, norms and biases in FP32", "Llama, all in FP32")
_STORED_FORMATS = ("W4A16 NVFP4", "NVFP4 + FP8 KV", "FP8")
_TRIED_STORED = {
    name: sample(name, _STORED_FORMATS, 1)
    for name in STORED_OTHERWISE
    if name in (*_ROUNDED, *sample("stored otherwise", STORED_OTHERWISE, 4))
}


def _cases(tried: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    return [(name, label) for name, labels in tried.items() for label in labels]


_EXPERTS_EXCLUDED = ("Granite-MoE", "Llama 4", "gpt-oss")
_EXCLUDING = Format("nvfp4", "fp8")
_WEIGHTS_AND_CACHE = Format("w4a16_nvfp4", "fp8")


@pytest.fixture(scope="session")
def environment() -> Environment:
    return find_environment()


def _batches(samples: int) -> list[dict[str, list[list[int]]]]:
    """Batches with and without padding, of two lengths."""
    drawn = random.Random(5)  # noqa: S311 - tokens

    def rows(count: int, length: int) -> list[list[int]]:
        return [[drawn.randrange(320) for _ in range(length)] for _ in range(count)]

    padded = {"input_ids": rows(2, 24), "attention_mask": [[0] * 5 + [1] * 19, [1] * 24]}
    whole = {"input_ids": rows(1, 20), "attention_mask": [[1] * 20]}
    return [padded, whole, padded][:samples]


@pytest.fixture(scope="session")
def quantized(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every family in every format, twice: by ModelOpt and by us; half of them on each of two processors."""
    folder = tmp_path_factory.mktemp("families")
    requests = [_request(folder, name, family, 3, _TRIED[name]) for name, family in FAMILIES.items()]
    few = _request(folder, "few", FAMILIES["Qwen3-MoE"], 0, FORMATS)
    few["batches"] = [{"input_ids": [[7, 8]], "attention_mask": [[1, 1]]}]
    excluding = _request(folder, "excluding", FAMILIES["Llama"], 2, ())
    excluding["exports"] = [
        _export(folder, "excluding", "excluding", _EXCLUDING, "model.layers.1.*"),
        _export(folder, "excluding", "weights and cache", _WEIGHTS_AND_CACHE),
        _export(folder, "excluding", "shared", Format("fp8")) | {"shared_scales": True},
    ]
    for name in _EXPERTS_EXCLUDED:
        request = _request(folder, f"{name} excluded", UNLISTED[name], 1, ())
        request["exports"] = [_export(folder, f"{name} excluded", "FP8", Format("fp8"), "*layers.0.*experts*")]
        requests.append(request)
    requests += [_request(folder, name, UNLISTED[name], 3, labels) for name, labels in _TRIED_UNLISTED.items()]
    every = [*requests, few, excluding, *_unusual(folder), *_stored_otherwise(folder)]
    files = [folder / f"requests-{half}.json" for half in (0, 1)]
    for half, file in enumerate(files):
        file.write_text(json.dumps(every[half::2]))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(_quantize_twice, environment), files))
    return folder


def _formats_of(stored: str) -> tuple[str, ...]:
    """What is tried of a model that is stored otherwise; FP8 shows what ModelOpt rounds."""
    return tuple(dict.fromkeys((*_TRIED_STORED[stored], *(("FP8",) if stored in _ROUNDED else ()))))


def _stored_otherwise(folder: Path) -> list[dict[str, Any]]:
    """Ask for models whose checkpoints store some tensors in types of their own."""
    requests = []
    for name, stored in ((name, STORED_OTHERWISE[name]) for name in _TRIED_STORED):
        request = _request(folder, name, FAMILIES[stored.family], 3, _formats_of(name))
        requests.append(request | {"stored": dict(stored.types)})
    return requests


_ODD: Mapping[str, Any] = {
    **SIZES,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "dtype": "bfloat16",
}
_OF_ZEROS = "model.layers.1.mlp.down_proj"
_SILENT = "model.layers.1.self_attn.v_proj"


def _unusual(folder: Path) -> list[dict[str, Any]]:
    """Ask for a model whose inner size is no multiple of 16, with all kinds of small numbers in its weights."""
    small = np.arange(1, 1 + 64 * 64, dtype=np.uint16)  # from the smallest subnormal number to 2**-96
    row = np.zeros((64, 64), ml_dtypes.bfloat16)
    row[0, :16], row[1, :32], row[2, 3] = 1, -0.0, 2**-130
    changes = {
        "model.layers.0.self_attn.q_proj.weight": row,
        "model.layers.0.self_attn.o_proj.weight": small.view(ml_dtypes.bfloat16).reshape(64, 64),
        f"{_OF_ZEROS}.weight": np.zeros((64, 40), ml_dtypes.bfloat16),
    }
    write_model(folder / "odd" / "source", _ODD, changes)
    silent = {f"{_SILENT}.weight": np.zeros((32, 64), ml_dtypes.bfloat16)}
    write_model(folder / "silent" / "source", {**_ODD, "intermediate_size": 48}, silent)
    both = [
        _export(folder, "odd", "FP8", Format("fp8", "fp8")),
        _export(folder, "odd", "NVFP4", Format("nvfp4", "fp8"), "*.down_proj"),
    ]
    ours_alone = [
        _export(folder, "silent", label, wanted) | {"output": None}
        for label, wanted in {"FP8": Format("fp8", "fp8"), "NVFP4": Format("nvfp4", "fp8")}.items()
    ]
    batches = _batches(2)
    return [
        {"source": str(folder / name / "source"), "config": {}, "batches": batches, "exports": exports}
        for name, exports in {"odd": both, "silent": ours_alone}.items()
    ]


def _quantize_twice(environment: Environment, requests: Path) -> None:
    environment.with_modelopt.run(_HERE / "oracle_export.py", "calibrate", requests)
    environment.run(_HERE / "onepass_run.py", requests)


def _request(folder: Path, name: str, family: Family, samples: int, labels: Iterable[str]) -> dict[str, Any]:
    return {
        "source": str(folder / name / "source"),
        "config": {**SIZES, **family.config},
        "experts": family.experts,
        "batches": _batches(samples),
        "exports": [_export(folder, name, label, FORMATS[label]) for label in labels],
    }


def _export(folder: Path, name: str, label: str, wanted: Format, *exclude: str) -> dict[str, Any]:
    places = {"output": str(folder / name / label / "theirs"), "ours": str(folder / name / label / "ours")}
    return {**places, "format": wanted.number_format, "kv_cache": wanted.kv_cache, "exclude": list(exclude)}


@pytest.mark.parametrize(("family", "label"), _cases(_TRIED))
def test_every_family_is_what_modelopt_writes(quantized: Path, family: str, label: str) -> None:
    _same(quantized / family / label, broken_list=FAMILIES[family].broken_list)


@pytest.mark.parametrize(("family", "label"), _cases(_TRIED_UNLISTED))
def test_a_family_that_no_file_names_is_what_modelopt_writes(quantized: Path, family: str, label: str) -> None:
    _same(quantized / family / label, listed=UNLISTED[family].listed)


def test_no_file_of_the_program_names_these_families() -> None:
    program = "".join(
        path.read_text(encoding="utf-8") for path in (_ROOT / "orchestrator" / "quantization").rglob("*.py")
    )
    assert not [family.architecture for family in UNLISTED.values() if family.architecture in program]


_CALIBRATED = [label for label, wanted in FORMATS.items() if wanted.number_format != "w4a16_nvfp4"]


@pytest.mark.parametrize("label", _CALIBRATED)
def test_experts_that_nothing_reached_are_what_modelopt_writes(quantized: Path, label: str) -> None:
    _same(quantized / "few" / label)
    experts = read_json(quantized / "few" / label / "ours" / "quantization.json")["experts"]
    assert experts["unreached"] >= 8  # two tokens reach four of eight experts at most, in each of two layers
    assert set(experts["tokens"]) == {"model.layers.0", "model.layers.2"}


@pytest.mark.parametrize("case", ["excluding", "weights and cache"])
def test_an_excluded_layer_and_scales_of_the_cache_alone_are_what_modelopt_writes(quantized: Path, case: str) -> None:
    _same(quantized / "excluding" / case)


@pytest.mark.parametrize("family", _EXPERTS_EXCLUDED)
def test_excluded_experts_of_one_tensor_are_what_modelopt_writes(quantized: Path, family: str) -> None:
    _same(quantized / f"{family} excluded" / "FP8", listed=UNLISTED[family].listed)


def test_odd_sizes_and_small_numbers_are_what_modelopt_writes_except_for_a_tensor_of_zeros(quantized: Path) -> None:
    _same(quantized / "odd" / "NVFP4")
    ours, theirs = (quantized / "odd" / "FP8" / whose for whose in ("ours", "theirs"))
    assert differences(ours, theirs) == [f"{_OF_ZEROS}.weight", f"{_OF_ZEROS}.weight_scale"]
    # A deliberate difference: ModelOpt's scale is 0, and 0 / 0 is not a number.
    assert np.isnan(Checkpoint.open(theirs).read(f"{_OF_ZEROS}.weight").astype(np.float32)).all()
    assert float(Checkpoint.open(ours).read(f"{_OF_ZEROS}.weight_scale")) == 1
    assert not Checkpoint.open(ours).read(f"{_OF_ZEROS}.weight").view(np.uint8).any()


@pytest.mark.parametrize(("case", "label"), _cases(_TRIED_STORED))
def test_what_is_not_quantized_keeps_its_stored_type_and_else_is_what_modelopt_writes(
    quantized: Path, case: str, label: str
) -> None:
    source, ours = Checkpoint.open(quantized / case / "source"), Checkpoint.open(quantized / case / label / "ours")
    kept = [name for name in source.tensors if f"{name}_scale" not in ours.tensors]
    assert any(layout.matches(name, STORED_OTHERWISE[case].types) for name in kept)
    assert [name for name in kept if described(ours, name) != described(source, name)] == []
    _same(quantized / case / label, broken_list=FAMILIES[STORED_OTHERWISE[case].family].broken_list)


@pytest.mark.parametrize("case", _ROUNDED)
def test_modelopt_rounds_to_the_declared_type_what_no_version_of_transformers_keeps(quantized: Path, case: str) -> None:
    ours, theirs = (Checkpoint.open(quantized / case / "FP8" / whose) for whose in ("ours", "theirs"))
    norm = "model.layers.0.input_layernorm.weight"
    assert (ours.tensors[norm].dtype, theirs.tensors[norm].dtype) == ("F32", "BF16")


@pytest.mark.parametrize("label", ["FP8", "NVFP4"])
def test_what_calibration_never_saw_move_has_scales_of_one(quantized: Path, label: str) -> None:
    # An engine divides by them. ModelOpt refuses such a model in NVFP4.
    written = Checkpoint.open(quantized / "silent" / label / "ours")
    assert float(written.read(f"{_SILENT}.v_scale")) == 1
    assert float(written.read("model.layers.1.self_attn.o_proj.input_scale")) == 1
    report = quality.examine(quantized / "silent" / label / "ours", reference=quantized / "silent" / "source")
    assert {check.name for check in report.checks if not check.passed} == {"tokenizer"}


def test_shared_scales_are_the_largest_of_modelopts_and_nothing_else_differs(quantized: Path) -> None:
    ours, theirs = (Checkpoint.open(quantized / "excluding" / "shared" / whose) for whose in ("ours", "theirs"))
    different = set()
    for group in layout.fusion_groups(
        name.removesuffix(".input_scale") for name in theirs.tensors if "input_s" in name
    ):
        scales = {module: float(theirs.read(f"{module}.weight_scale")) for module in group}
        assert {float(ours.read(f"{module}.weight_scale")) for module in group} == {max(scales.values())}
        smaller = [module for module in group if scales[module] < max(scales.values())]
        different |= {f"{module}.{part}" for module in smaller for part in ("weight", "weight_scale")}
    assert different
    assert (
        set(differences(quantized / "excluding" / "shared" / "ours", quantized / "excluding" / "shared" / "theirs"))
        == different
    )


_EDGELLM_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3-MoE")
_EDGELLM_EXPERTS = ("Qwen3-MoE",)
_EDGELLM_GRAPHS = (("Llama", "NVFP4 + FP8 KV"), ("Llama", "W4A16 NVFP4"))


@pytest.fixture(scope="session")
def edgellm(environment: Environment, quantized: Path) -> Mapping[tuple[str, str], Any]:
    """What the readers of TensorRT Edge-LLM find in what we wrote."""
    if not environment.has("tensorrt_edgellm"):
        do_without("TensorRT Edge-LLM's wheels are for x86-64 and Python 3.12 or older")
    asked = {}
    for family in _EDGELLM_FAMILIES:
        for label in _TRIED[family]:
            folder, graph = quantized / family / label / "ours", None
            if (family, label) in _EDGELLM_GRAPHS:
                graph = str(quantized / "edgellm" / family / label / "graph")
                folder = Path(shutil.copytree(folder, quantized / "edgellm" / family / label / "with a template"))
                (folder / "chat_template.jinja").write_text("{{ messages }}")  # the exporter demands one
            asked[family, label] = {"folder": str(folder), "graph": graph}
    request = quantized / "edgellm.json"
    request.write_text(json.dumps(list(asked.values())))
    output = environment.run(_HERE / "edgellm_run.py", request)
    return dict(zip(asked, json.loads(output.splitlines()[-1]), strict=True))


def _scales(written: Checkpoint, prefix: str) -> list[float]:
    """The scales that a module should have there: those of FP8 weights are rounded to FP16, a missing one is 1."""

    def scale(name: str) -> float:
        return float(written.read(name)) if name in written.tensors else 1.0

    second = f"{prefix}.weight_scale_2"
    weight = scale(second) if second in written.tensors else float(np.float16(scale(f"{prefix}.weight_scale")))
    return [weight, scale(f"{prefix}.input_scale")]


@pytest.mark.parametrize(("family", "label"), _cases({name: _TRIED[name] for name in _EDGELLM_FAMILIES}))
def test_edge_llm_reads_every_module_and_scale_as_we_wrote_it(
    quantized: Path, edgellm: Mapping[tuple[str, str], Any], family: str, label: str
) -> None:
    wanted, found = FORMATS[label], edgellm[family, label]
    written = Checkpoint.open(quantized / family / label / "ours")
    modules = {name.removesuffix(".weight_scale") for name in written.tensors if name.endswith(".weight_scale")}
    assert set(found["builder"]["modules"]) == modules
    for module, (number_format, *scales) in found["builder"]["modules"].items():
        assert number_format in {wanted.number_format, wanted.number_format.removeprefix("w4a16_")}
        assert scales == _scales(written, module)
    assert found["builder"]["kv_cache"] == (None if wanted.kv_cache == "none" else wanted.kv_cache)
    for attention, (key, value) in found["builder"]["cache"].items():
        assert key == float(written.read(f"{attention}.k_proj.k_scale"))
        assert value == float(written.read(f"{attention}.v_proj.v_scale"))
    assert (found["exporter"]["loaded"], found["exporter"]["left"]) == (len(written.tensors), 0)
    experts_in_fp8 = family in _EDGELLM_EXPERTS and wanted.number_format == "fp8"
    assert (found["exporter"]["fault"] is not None) is experts_in_fp8  # it packs those of four bits only


def test_edge_llm_quantizes_activations_with_our_scales_and_those_of_w4a16_with_1(
    quantized: Path, edgellm: Mapping[tuple[str, str], Any]
) -> None:
    calibrated, weights_alone = (edgellm[case]["graph"] for case in _EDGELLM_GRAPHS)
    written = Checkpoint.open(quantized / "Llama" / "NVFP4 + FP8 KV" / "ours")
    assert set(calibrated) == {float(written.read(name)) for name in written.tensors if name.endswith(".input_scale")}
    assert set(weights_alone) == {1.0}  # which is why it is refused in front of Edge-LLM


def _same(folder: Path, *, broken_list: bool = False, listed: Mapping[str, str] | None = None) -> None:
    ours, theirs = folder / "ours", folder / "theirs"
    assert differences_beyond_stored_types(folder, folder.parent / "source") == []
    expected = read_json(theirs / "hf_quant_config.json")
    excluded = _mended(expected["quantization"]["exclude_modules"], broken=broken_list)
    expected["quantization"]["exclude_modules"] = excluded
    found = read_json(ours / "hf_quant_config.json")
    found["quantization"]["exclude_modules"] = _as_listed(found["quantization"]["exclude_modules"], listed or {})
    assert found == expected
    found, expected = (read_json(place / "config.json")["quantization_config"] for place in (ours, theirs))
    expected["ignore"] = _mended(expected["ignore"], broken=broken_list)
    found["ignore"] = _as_listed(found["ignore"], listed or {})
    grouped = {"group_size": 16} if "NVFP4" in expected["quant_algo"] else {}  # as ModelOpt 0.48 has it
    assert found == {**expected, **grouped}


def _as_listed(names: list[str], listed: Mapping[str, str]) -> list[str]:
    """Replace names of the checkpoint by those of transformers, where they are known to differ; each must occur."""
    for end, replacement in listed.items():
        assert any(name.endswith(end) for name in names)
        names = [name.removesuffix(end) + replacement if name.endswith(end) else name for name in names]
    return names


def _mended(names: list[str], *, broken: bool) -> list[str]:
    """Cut off what ModelOpt 0.47 leaves behind names that it failed to translate, where it is known to fail."""
    assert all((".\0" in name) is broken for name in names)
    return sorted(name.partition(".\0")[0] for name in names)


@pytest.mark.parametrize(("family", "label"), _cases(_TRIED))
def test_what_was_written_passes_our_own_checks(quantized: Path, family: str, label: str) -> None:
    report = quality.examine(
        quantized / family / label / "ours", reference=quantized / family / "source", min_snr_db=18
    )
    failed = {check.name for check in report.checks if not check.passed}
    assert failed == {"tokenizer"}  # these models have none
    assert report.layers


def test_every_bf16_number_in_mxfp4_is_what_modelopt_makes_of_it(environment: Environment, tmp_path: Path) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[(every & 0x7F80) != 0x7F80]
    alone = np.zeros((len(finite), 32), np.uint16)
    alone[:, 5] = finite
    mixed = np.random.default_rng(0).permutation(finite).reshape(-1, 32)
    near = np.random.default_rng(1).standard_normal((2048, 32), np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
    weight = np.concatenate([alone, mixed, near])
    np.save(tmp_path / "weight.npy", weight)
    environment.with_modelopt.run(_HERE / "oracle_export.py", "mxfp4", tmp_path / "weight.npy", tmp_path / "encoded")
    ours = mxfp4.encode(weight.view(ml_dtypes.bfloat16))
    assert (tmp_path / "encoded").read_bytes() == ours.codes.tobytes() + ours.scales.tobytes()


def test_gpt_oss_in_16_bits_is_what_transformers_makes_of_its_mxfp4(environment: Environment, tmp_path: Path) -> None:
    write_gpt_oss(tmp_path / "source")
    environment.with_modelopt.run(_HERE / "oracle_export.py", "dequantize", tmp_path / "source", tmp_path / "theirs")
    dequantize_checkpoint(tmp_path / "source", tmp_path / "ours")
    assert differences(tmp_path / "ours", tmp_path / "theirs") == []
    assert "quantization_config" not in read_json(tmp_path / "ours" / "config.json")


def test_fp8_with_block_scales_in_16_bits_is_what_transformers_makes_of_it(
    environment: Environment, tmp_path: Path
) -> None:
    write_fp8_blocks(tmp_path / "source")
    environment.with_modelopt.run(_HERE / "oracle_export.py", "dequantize", tmp_path / "source", tmp_path / "theirs")
    dequantize_checkpoint(tmp_path / "source", tmp_path / "ours")
    assert differences(tmp_path / "ours", tmp_path / "theirs") == []


@pytest.mark.parametrize("write", [write_gpt_oss, write_fp8_blocks])
def test_a_packed_source_is_calibrated_as_its_copy_in_16_bits_is(
    environment: Environment, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    dequantize_checkpoint(write(tmp_path / "source"), tmp_path / "copy")
    rows = [{"input_ids": [list(range(10, 34))], "attention_mask": [[1] * 24]}]
    one = {"format": "nvfp4", "kv_cache": "none", "exclude": []}
    asked = [
        {"source": str(tmp_path / name), "batches": rows, "exports": [{**one, "ours": str(tmp_path / f"{name}-nvfp4")}]}
        for name in ("source", "copy")
    ]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    environment.run(_HERE / "onepass_run.py", tmp_path / "asked.json")
    assert differences(tmp_path / "source-nvfp4", tmp_path / "copy-nvfp4") == []


def test_text_and_conversations_become_the_tokens_that_modelopt_makes_of_it(
    environment: Environment, tmp_path: Path
) -> None:
    generate.main(["--output", str(tmp_path / "model"), "--layers", "1", "--vocab-size", "320"])
    file = tmp_path / "train.jsonl"
    texts = ["A short one.", "Grüße aus 東京, " * 9, "x", "The last of a batch is alone."]
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": " Ada "}]
    lines: list[dict[str, object]] = [{"text": text} for text in texts]
    lines.append({"messages": turns})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["5", "16", "3"]
    printed = environment.with_modelopt.run(_HERE / "oracle_export.py", "tokens", tmp_path / "model", str(file), *asked)
    theirs = json.loads(printed.rpartition("RESULT ")[2])
    code = (
        "import json, sys; from pathlib import Path; from transformers import AutoTokenizer;"
        "from orchestrator.quantization.samples import text_batches;"
        "made = text_batches(Path(sys.argv[2]), AutoTokenizer.from_pretrained(sys.argv[1]), *map(int, sys.argv[3:]));"
        "made = [{'input_ids': b.tokens.tolist(), 'attention_mask': b.mask.tolist()} for b in made];"
        "print('RESULT ' + json.dumps(made))"
    )
    printed = environment.run("-c", code, tmp_path / "model", file, *asked)
    assert json.loads(printed.rpartition("RESULT ")[2]) == theirs


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed") / "model"
    generate.main(["--output", str(folder), "--hidden-size", "64", "--layers", "8", "--vocab-size", "300"])
    return folder


def _quantizing(model: Path, output: Path) -> list[str | Path]:
    """The arguments of an interpreter that quantizes it."""
    options = ["--format", "nvfp4", "--kv-cache", "fp8", "--samples", "8", "--sequence-length", "32"]
    return ["-m", "orchestrator.payloads.quantize", "--checkpoint", model, "--output", output, *options]


@pytest.mark.parametrize(
    "wanted",
    [("--format", "nvfp4", "--kv-cache", "fp8"), ("--format", "w4a16_nvfp4", "--scale-search", "weighted")],
)
def test_ten_random_kills_change_no_byte(
    environment: Environment, model: Path, tmp_path: Path, wanted: tuple[str, ...]
) -> None:
    options = ["--checkpoint", str(model), *wanted, "--samples", "8"]
    options += ["--sequence-length", "32", "--device", "cpu"]
    found = kill_ten_times("calibrate", tmp_path, options, environment)
    assert len(found.done) == KILLS, found.asked
    assert any(found.done), found.asked  # some came to notes
    assert found.differing == [], found.asked


def test_a_disk_that_fills_up_is_named_and_nothing_looks_complete(
    environment: Environment, model: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "200k") as disk:
        command = [*disk.within, environment.python, *_quantizing(model, disk.path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment.variables, check=False)
        printed = done.stdout
        assert done.returncode == 6
        assert '"code": "DISK_FULL"' in printed
        assert re.search(r"small/out/model.safetensors: no space is left on the disk for model\.[a-z_.0-9]+", printed)
        assert [path.name for path in (disk.outside / "out").iterdir()] == ["model.safetensors.part"]
    environment.run(*_quantizing(model, tmp_path / "small" / "out"))


def test_a_shard_that_becomes_shorter_while_it_is_read_is_named(
    environment: Environment, model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    code = (
        "import os, sys; from pathlib import Path; from orchestrator.errors import CheckpointError;"
        "from orchestrator.quantization.calibrated import quantize_calibrated;"
        "from orchestrator.quantization.checkpoint import Checkpoint;"
        "from orchestrator.quantization.samples import random_batches;"
        "source, output = map(Path, sys.argv[1:]); found = Checkpoint.open(source).tensors;"
        "last = max((t for t in found.values() if t.name.startswith('model.layers.7.')), key=lambda t: t.begin);"
        "cut = lambda event: os.truncate(last.file, last.begin + 1);\n"
        "try: quantize_calibrated(source, output, random_batches(300, 1, 4), number_format='fp8', observer=cut)\n"
        "except CheckpointError as error: print(f'RESULT {last.name} {error}')"
    )
    printed = environment.run("-c", code, broken, tmp_path / "out")
    name, _, message = printed.rpartition("RESULT ")[2].partition(" ")
    assert f"the file ends inside {name}; it changed while it was being read" in message
    assert not list((tmp_path / "out").glob("*.safetensors"))


_MISFITS: Mapping[str, tuple[dict[str, Any], str]] = {
    "missing": (
        {"model.norm.weight": None},
        "model.norm.weight is missing, which belongs to LlamaForCausalLM by config.json",
    ),
    "shape": (
        {"model.norm.weight": np.ones(63, np.float32)},
        "expected the shape [64] of LlamaForCausalLM by config.json",
    ),
    "extra": ({"model.extra": np.ones(3, np.float32)}, "model.extra: this transformers has no parameter for it"),
}


@pytest.mark.parametrize("misfit", _MISFITS)
def test_a_checkpoint_that_does_not_fit_its_configuration_is_refused(
    environment: Environment, model: Path, tmp_path: Path, misfit: str
) -> None:
    changes, expected = _MISFITS[misfit]
    original = Checkpoint.open(model)
    tensors = {name: original.read(name) for name in original.tensors} | changes
    write_tensors(tmp_path / "source", tensors, read_json(model / "config.json"))
    assert expected in environment.end(*_quantizing(tmp_path / "source", tmp_path / "out")).output
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_refused_before_anything_is_written(
    environment: Environment, model: Path, tmp_path: Path
) -> None:
    done = environment.end(*_quantizing(model, tmp_path / "out"), ORCHESTRATOR_MEMORY="1000000")
    assert done.status == 6
    assert "calibration needs 0." in done.output
    assert "found 0.01 GB" in done.output
    assert not (tmp_path / "out").exists()


def test_activations_that_are_no_numbers_are_named(environment: Environment, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    checkpoint = Checkpoint.open(broken)
    norm = checkpoint.tensors["model.layers.2.input_layernorm.weight"]
    with norm.file.open("r+b") as stream:
        stream.seek(norm.begin)
        stream.write(np.full(norm.shape, np.inf, np.float32).astype(ml_dtypes.bfloat16).tobytes())
    done = environment.end(*_quantizing(broken, tmp_path / "out"))
    assert done.status == 3
    assert "model.layers.2." in done.output
    assert "the calibration ran into" in done.output
    assert not list((tmp_path / "out").glob("*.safetensors"))
