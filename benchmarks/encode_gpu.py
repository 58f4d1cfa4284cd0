"""How fast does a GPU encode? `python -m benchmarks.encode_gpu` checks every byte first, then prints ratios.

What is compared bit for bit with the definitions in NumPy: every way to encode that there is for tensors, on the
processor and on the GPU, over all finite BF16 numbers, all ties and all boundaries, and one large random weight.

What is measured, of one weight that is much larger than the GPU's caches: copying it from the GPU's memory to the GPU's
memory, and encoding it. Both count the bytes that they read and those that they write. The goal is 0.7 of the copy's
rate in every format. Ends with status 7 where a byte differs or the goal is missed; without a GPU, compares only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from benchmarks.support.goals import Goal, missed
from orchestrator.quantization.formats import cuda, fp8, kernels, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from tests.support.encoders import OnTensors, differences

if TYPE_CHECKING:
    from collections.abc import Callable

_GOAL = 0.7
_MISSED = 7
_WARM = 3
_ROUNDS = 10


def main() -> None:
    """Compare, measure and print."""
    options = _parser().parse_args()
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        print(f"skipped: no torch in {sys.executable}, so neither GPU nor tensors; name a Python that has it")
        return
    gpu = torch.cuda.is_available()
    if not gpu:
        print("no GPU here: rates are skipped, and bytes compared on the processor only")
    wrong = [f"{device}: {case}" for device in ("cpu", "cuda")[: 1 + gpu] for case in differences(OnTensors(device))]
    if gpu:
        wrong += _large(torch, options.megabytes * 1_000_000 // 8)
        compiled = isinstance(cuda.functions(0), cuda.Functions)
        with_loops = _measured(torch, options.megabytes * 1_000_000)
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, functions compiled: {compiled}")
        print(json.dumps(with_loops, indent=2))
    for case in wrong[:20]:
        print(f"DIFFERS {case}")
    print(json.dumps({"different": len(wrong)}))
    goals = [Goal("cases that differ", len(wrong), 0)]
    if gpu:
        least = min(found["of_copy"] for found in with_loops.values() if "of_copy" in found)
        goals.append(Goal("the slowest format's rate over a copy's", least, _GOAL, at_least=True))
    if missed(goals):
        sys.exit(_MISSED)


def _large(torch: Any, elements: int) -> list[str]:  # noqa: ANN401 - the library
    """Compare one large random weight, contiguous and transposed."""
    rows = elements // 8192
    weight = np.random.default_rng(3).standard_normal((rows, 8192), np.float32).astype(ml_dtypes.bfloat16)
    amax = float(np.abs(weight.astype(np.float32)).max())
    four, eight = nvfp4.tensor_scale(amax), fp8.tensor_scale(amax)
    expected, expected_8 = nvfp4.encode(weight, four), fp8.encode(weight, eight)
    tensor = torch.from_numpy(weight.view(np.int16)).view(torch.bfloat16).cuda()
    wrong = [] if float(kernels.largest_magnitude(tensor)) == amax else ["large: largest magnitude"]
    for name, given in (("contiguous", tensor), ("transposed", tensor.t().contiguous().t())):
        encoded: Any = kernels.encode_nvfp4(given, four)
        found = (_bytes(torch, encoded.codes), _bytes(torch, encoded.scales))
        if found != (expected.codes.tobytes(), expected.scales.tobytes()):
            wrong.append(f"large: NVFP4, {name}")
        if _bytes(torch, kernels.encode_fp8(given, eight)) != expected_8.tobytes():
            wrong.append(f"large: FP8, {name}")
    errors = (kernels.nvfp4_error(tensor, kernels.encode_nvfp4(tensor, four), four), _noise(weight, expected, four))
    if not np.allclose(errors[0], errors[1], rtol=1e-4):
        wrong.append(f"large: errors {errors}")
    return wrong


def _noise(weight: Any, encoded: Encoded[Any], scale: np.float32) -> tuple[float, float]:  # noqa: ANN401 - an array
    exact = weight.astype(np.float64)
    off = exact - nvfp4.decode(encoded, scale)
    return float(np.square(exact).sum()), float(np.square(off).sum())


def _bytes(torch: Any, tensor: Any) -> bytes:  # noqa: ANN401 - of torch
    found: bytes = tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()
    return found


def _measured(torch: Any, size: int) -> dict[str, dict[str, float]]:  # noqa: ANN401 - the library
    weight = (torch.randn(size // 2 // 8192, 8192, device="cuda") * 0.02).to(torch.bfloat16)
    size, scale = weight.numel() * 2, np.float32(0.1 / 2688)
    target = torch.empty_like(weight)
    encoded = kernels.encode_nvfp4(weight, scale)
    numbers = kernels.encode_fp8(weight, np.float32(0.001))
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "copy": (lambda: target.copy_(weight), 2 * size),
        "nvfp4": (lambda: kernels.encode_nvfp4(weight, scale), size + size * 9 // 32),
        "fp8": (lambda: kernels.encode_fp8(weight, np.float32(0.001)), size + size // 2),
        "mxfp4": (lambda: kernels.encode_mxfp4(weight), size + size * 17 // 64),
        "largest magnitude": (lambda: kernels.largest_magnitude(weight), size),
        "nvfp4 error": (lambda: kernels.nvfp4_error(weight, encoded, scale), size + size * 9 // 32),
        "fp8 error": (lambda: kernels.fp8_error(weight, numbers, np.float32(0.001)), size + size // 2),
    }
    found = {name: _rate(torch, work, moved) for name, (work, moved) in ways.items()}
    for name in ("nvfp4", "fp8", "mxfp4"):
        found[name]["of_copy"] = round(found[name]["gb_per_s"] / found["copy"]["gb_per_s"], 3)
    return found


def _rate(torch: Any, work: Callable[[], object], moved: int) -> dict[str, float]:  # noqa: ANN401 - the library
    for _ in range(_WARM):
        work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    beside = torch.cuda.max_memory_allocated() - before
    median = sorted(seconds)[_ROUNDS // 2]
    return {"gb_per_s": round(moved / median / 1e9, 1), "peak_mb_beside_weight": round(beside / 1e6, 1)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode_gpu", description="Measure encoding on a GPU.")
    parser.add_argument("--megabytes", type=int, default=2048, metavar="N", help="of weights (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
