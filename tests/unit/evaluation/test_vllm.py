"""The evaluation in vLLM: what is kept, and what the table and the exit status say. Neither GPU nor vLLM is needed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from evaluation import vllm
from orchestrator.payloads import quantize
from orchestrator.quantization.checkpoint import Checkpoint
from tests.support.payload_bytes import model_of

Torch = SimpleNamespace


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Torch:
    """A torch that sees a GPU, and arguments that name a folder."""
    gpu = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "NVIDIA GB10")
    found = SimpleNamespace(cuda=gpu, __version__="2.14.1", tensor=np.array)
    monkeypatch.setitem(sys.modules, "torch", found)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.24.0")
    monkeypatch.setattr(sys, "argv", ["evaluation.vllm", str(tmp_path)])
    return found


def _status() -> object:
    with pytest.raises(SystemExit) as stopped:
        vllm.main()
    return stopped.value.code


def _case(from_files: float) -> dict[str, Any]:
    return {"loading": 12.0, "from_files": from_files, "from_original": 0.5}


@pytest.mark.usefixtures("torch")
def test_a_case_that_has_a_result_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def tries(_original: Path, place: Path, *_: object) -> dict[str, Any]:
        tried.append(place.name)
        return _case(0.002)

    monkeypatch.setattr(vllm, "_tried", tries)
    assert (_status(), _status()) == (0, 0)
    assert len(tried) == len(set(tried)) == 24
    assert {"Llama NVFP4", "Qwen3-MoE FP8", "Nemotron-H auto"} <= set(tried)
    printed = capsys.readouterr().out
    assert "NVIDIA GB10, vLLM 0.24.0, torch 2.14.1" in printed
    assert "Llama       NVFP4                         0.0020             0.5000     12 s" in printed


@pytest.mark.usefixtures("torch")
def test_some_cases_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm, "_tried", lambda *_: _case(0.0))
    monkeypatch.setattr(sys, "argv", ["evaluation.vllm", str(tmp_path), "--only", "MoE FP8"])
    assert _status() == 0
    names = ["Qwen3-MoE FP8", "Qwen3-MoE FP8 + FP8 KV", "Qwen3-MoE FP8, shared scales"]
    assert sorted(file.parent.name for file in tmp_path.rglob("result.json")) == names


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(("format_", "status"), [("W4A16 NVFP4", 7), ("NVFP4, weighted", 7), ("FP8", 0)])
def test_the_limit_holds_where_only_weights_are_quantized(
    monkeypatch: pytest.MonkeyPatch, format_: str, status: int
) -> None:
    monkeypatch.setattr(vllm, "_tried", lambda _, place, *__: _case(0.02 if place.name == f"Llama {format_}" else 0.0))
    assert _status() == status


@pytest.mark.usefixtures("torch")
def test_a_case_that_failed_has_its_last_words_in_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs(module: str, *_: object) -> str:
        said = "Traceback\n  File\nNotImplementedError: tie_weights\n"
        raise subprocess.CalledProcessError(1, module, "started\n", said)

    monkeypatch.setattr(vllm, "_run", runs)
    monkeypatch.setattr(vllm, "_write_model", lambda folder, _: folder.mkdir(exist_ok=True))
    assert _status() == 7
    assert "Llama       FP8                   NotImplementedError: tie_weights" in capsys.readouterr().out
    assert "started" in (tmp_path / "Llama FP8" / "error.log").read_text()


def test_without_a_gpu_it_says_what_it_needs(torch: Torch) -> None:
    torch.cuda.is_available = lambda: False
    assert _status() == "evaluation.vllm needs an NVIDIA GPU, and torch sees none"


def test_without_vllm_it_says_which_python_lacks_it(torch: Torch, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert str(_status()).startswith(f"evaluation.vllm needs torch and vllm in {sys.executable}: ")
    assert torch.cuda.is_available()


def test_files_are_decoded_to_what_they_stand_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path / "model")
    quantize.main(["--checkpoint", str(model), "--output", str(tmp_path / "quantized"), "--format", "w4a16_nvfp4"])
    saved: dict[str, Any] = {}
    library = SimpleNamespace(save_file=lambda tensors, *_, **__: saved.update(tensors))
    monkeypatch.setitem(sys.modules, "safetensors.torch", library)
    monkeypatch.setattr(vllm, "as_tensor", lambda array, _: array)
    vllm.decode(tmp_path / "quantized", tmp_path / "decoded")
    original = Checkpoint.open(model)
    assert saved.keys() == original.tensors.keys()
    for name, decoded in saved.items():
        exact = original.read(name).astype(np.float32)
        assert decoded.dtype == ml_dtypes.bfloat16
        noise = np.square(decoded.astype(np.float32) - exact).sum()
        assert noise <= 0.02 * np.square(exact).sum(), name
    assert "quantization_config" not in json.loads((tmp_path / "decoded" / "config.json").read_text())


def test_the_divergence_is_that_of_the_tokens_that_are_named() -> None:
    class Rows(np.ndarray[Any, Any]):
        def exp(self) -> Rows:
            return np.exp(self).view(Rows)

    expected = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])).view(Rows)
    answered = [None, {0: SimpleNamespace(logprob=np.log(0.25)), 1: SimpleNamespace(logprob=np.log(0.5))}]
    torch = SimpleNamespace(tensor=np.array)
    assert vllm.divergence(torch, expected, answered) == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 0.75)
