"""Which bytes do ModelOpt's searches for NVFP4's scales write, and which ours? Needs torch, ModelOpt and a GPU.

`python -m benchmarks.searches_modelopt` has ModelOpt search the scales of three linear layers on the GPU, whose weights
are normal, heavy-tailed (Student's t with 3 degrees), and normal with some rows 20 times as large; their inputs depend
on each other. Ours searches the same weights there, with the same inputs. For each search it prints how many of
ModelOpt's block scales and codes are equal, with our `weight_scale_2` and with ModelOpt's, and why the others are not:

- `tie`: in float64, both scales leave the same error but for the roundings of FP32;
- `far`: ModelOpt's scale is beyond the 13 that ours compares, and leaves less error;
- `edge`: with one of both scales, a number of the block is a halfway point but for FP32's roundings;
- `other`: anything else. There should be none.

Codes whose block has the same scale differ at such an `edge`, or there is an `other` reason.
`error` is that of ours over ModelOpt's, by the search's own measure, and `of 126` ours over the least of all 126
scales. The last line has the rate of our searches there. Without a GPU it says that it is skipped.
"""

# ruff: noqa: ANN401 - torch and its tensors, which type checks do not see here

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from orchestrator.quantization.format_names import FOUR_OVER_SIX, LOCAL_HESSIAN, MAX, MSE, WEIGHTED
from orchestrator.quantization.formats import e2m1, kernels, nvfp4

_CONFIGS = {
    MAX: "NVFP4_DEFAULT_CFG",
    MSE: "NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG",
    FOUR_OVER_SIX: "NVFP4_FOUR_OVER_SIX_CFG",
    LOCAL_HESSIAN: "NVFP4_W4A4_WEIGHT_LOCAL_HESSIAN_CFG",
}
_TOKENS = 2048
_ROUNDINGS = 1e-5
"""Share of the sum of the magnitudes that FP32 adds up, below which errors are equal."""
_EDGE = 1e-6
_TRIES = 3
_DIFFERS = 7


@dataclass(frozen=True)
class Encoding:
    """A weight in NVFP4, as tensors."""

    scale_2: float
    scales: Any
    """Bytes, [out, in/16]."""
    codes: Any
    """[out, in]."""


@dataclass(frozen=True)
class Case:
    """A weight, and the products of its inputs within blocks."""

    torch: Any
    weight: Any
    """BF16, [out, in]."""
    products: Any
    """Float64, [in/16, 16, 16]."""

    def error(self, encoding: Encoding, search: str) -> tuple[Any, Any]:
        """Return each block's error, and the sum of the magnitudes of its terms, in float64."""
        torch, values = self.torch, self.torch.tensor(e2m1.VALUES, device=self.weight.device).double()
        steps = encoding.scales.view(torch.float8_e4m3fn).double() * encoding.scale_2
        off = values[encoding.codes.long()].reshape(*steps.shape, 16) * steps[..., None]
        off -= self.weight.double().reshape(off.shape)
        if search != LOCAL_HESSIAN:
            return off.square().sum(-1), off.square().sum(-1)
        shares = [
            torch.einsum("rbi,bij,rbj->rb", e, h, e)
            for e, h in ((off, self.products), (off.abs(), self.products.abs()))
        ]
        return shares[0], shares[1]


def main() -> None:
    """Compare and print."""
    options = _parser().parse_args()
    try:
        torch: Any = importlib.import_module("torch")
        mtq: Any = importlib.import_module("modelopt.torch.quantization")
    except ImportError as error:
        print(f"skipped: {error}")
        return
    if not torch.cuda.is_available():
        print("skipped: no GPU here, and ModelOpt's searches need one")
        return
    found = compared(torch, mtq, "cuda", options.size)
    print(json.dumps({"gpu": torch.cuda.get_device_name(), "searches": found}, indent=1))
    print(json.dumps({"billion weights a second": _rates(torch, options.size)}))
    if any(part["scales"]["other"] or part["codes"]["other"] for ways in found.values() for part in ways.values()):
        sys.exit(_DIFFERS)


def compared(
    torch: Any, mtq: Any, device: str, size: int, searches: tuple[str, ...] = tuple(_CONFIGS)
) -> dict[str, Any]:
    """Return the comparison of each search, by the weights."""
    generator = torch.Generator(device).manual_seed(1)
    inputs = _inputs(torch, generator, device, size)
    wide = inputs.float().reshape(_TOKENS, -1, 16).double()
    products = torch.einsum("tbi,tbj->bij", wide, wide)
    weights = {name: weight.bfloat16() for name, weight in _weights(torch, generator, device, size).items()}
    cases = {name: Case(torch, weight, products) for name, weight in weights.items()}
    found: dict[str, Any] = {}
    for search in searches:
        theirs = _theirs(torch, mtq, search, weights, inputs)
        found[search] = {}
        for name, case in cases.items():
            for whose, scale_2 in (("our s2", _scale_2(case)), ("their s2", theirs[name].scale_2)):
                ours = _ours(case, search, scale_2)
                found[search][f"{name}, {whose}"] = _difference(case, search, ours, theirs[name])
    return found


def _weights(torch: Any, generator: Any, device: str, size: int) -> dict[str, Any]:
    def normal() -> Any:
        return torch.randn(size, size, generator=generator, device=device) * 0.02

    heavy = normal() / sum(normal().square() for _ in range(3)).sqrt() * 0.02
    rows = normal()
    rows[:: size // 16] *= 20
    return {"normal": normal(), "heavy-tailed": heavy, "large rows": rows}


def _inputs(torch: Any, generator: Any, device: str, size: int) -> Any:
    """Draw inputs of which neighbours depend on each other, and some are much larger."""
    drawn = torch.randn(_TOKENS, size, generator=generator, device=device)
    sizes = torch.randn(size, generator=generator, device=device).exp()
    return ((drawn + drawn.roll(1, 1) + 0.5 * drawn[:, :1]) * sizes).bfloat16()


def _theirs(torch: Any, mtq: Any, search: str, weights: dict[str, Any], inputs: Any) -> dict[str, Encoding]:
    quant_utils = importlib.import_module("modelopt.torch.export.quant_utils")

    class Layers(torch.nn.Module):  # type: ignore[misc] # torch is not known to type checks here
        def __init__(self) -> None:
            super().__init__()
            for number, weight in enumerate(weights.values()):
                layer = torch.nn.Linear(*weight.T.shape, bias=False, device=weight.device, dtype=weight.dtype)
                layer.weight.data.copy_(weight)
                self.add_module(f"layer_{number}", layer)

        def forward(self, given: Any) -> Any:
            return [layer(given) for layer in self.children()]

    config = copy.deepcopy(getattr(mtq, _CONFIGS[search]))
    config["quant_cfg"] += [{"quantizer_name": "*input_quantizer", "enable": False}]
    with torch.no_grad():
        model = mtq.quantize(Layers(), config, lambda model: model(inputs))
        found = {}
        for name, layer in zip(weights, model.children(), strict=True):
            scale_2 = quant_utils.get_weight_scaling_factor_2(layer)
            scales = quant_utils.get_weight_scaling_factor(layer)
            packed = quant_utils.to_quantized_weight(weights[name].clone(), scales, "nvfp4", scale_2, 16)
            found[name] = Encoding(float(scale_2), scales.view(torch.uint8), _unpacked(torch, packed))
    return found


def _scale_2(case: Case) -> float:
    return float(nvfp4.tensor_scale(float(case.weight.float().abs().max())))


def _ours(case: Case, search: str, scale_2: float) -> Encoding:
    importance = nvfp4.pairs_of(case.products.cpu().numpy()) if search == LOCAL_HESSIAN else None
    how = MSE if search == LOCAL_HESSIAN else search
    encoded: Any = kernels.encode_nvfp4(case.weight, np.float32(scale_2), search=how, importance=importance)
    return Encoding(scale_2, encoded.scales.view(case.torch.uint8), _unpacked(case.torch, encoded.codes))


def _unpacked(torch: Any, packed: Any) -> Any:
    return torch.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)


def _difference(case: Case, search: str, ours: Encoding, theirs: Encoding) -> dict[str, Any]:
    torch = case.torch
    (own, own_terms), (other, other_terms) = (case.error(one, search) for one in (ours, theirs))
    different = ours.scales != theirs.scales
    tie = different & ((own - other).abs() <= _ROUNDINGS * torch.maximum(own_terms, other_terms))
    largest = _ours(case, MAX, ours.scale_2).scales.int()
    off = theirs.scales.int() - largest
    far = different & ~tie & ((off < min(nvfp4.OFFSETS)) | (off > max(nvfp4.OFFSETS))) & (other < own)
    least = _least(case, search, ours.scale_2)
    at_an_edge = _at_an_edge(case, ours) | _at_an_edge(case, theirs)
    edge = different & ~tie & ~far & at_an_edge.reshape(*different.shape, 16).any(-1)
    codes = (ours.codes != theirs.codes) & (~different).repeat_interleave(16, 1)
    other_definition = search == FOUR_OVER_SIX and abs(ours.scale_2 / theirs.scale_2 - 1) > _ROUNDINGS
    parts = {"differ": different, "tie": tie, "far": far, "edge": edge}
    scales = {name: int(part.sum()) for name, part in parts.items()}
    scales["other"] = 0 if other_definition else int((different & ~tie & ~far & ~edge).sum())
    return {
        "s2 of ours over theirs - 1": ours.scale_2 / theirs.scale_2 - 1,
        "scales": {"of": different.numel(), "equal": 1 - float(different.double().mean()), **scales},
        "codes": {
            "equal": float((ours.codes == theirs.codes).double().mean()),
            "differ with equal scales": int(codes.sum()),
            "edge": int((codes & at_an_edge).sum()),
            "other": 0 if other_definition else int((codes & ~at_an_edge).sum()),
        },
        "error": float(own.sum() / other.sum()),
        "of 126": float(own.sum() / least.sum()),
        "theirs of 126": float(other.sum() / least.sum()),
    }


def _at_an_edge(case: Case, encoding: Encoding) -> Any:
    torch = case.torch
    steps = encoding.scales.view(torch.float8_e4m3fn).double() * encoding.scale_2
    values = (case.weight.double().reshape(*steps.shape, 16) / steps[..., None]).abs().reshape(encoding.codes.shape)
    found = torch.zeros_like(values, dtype=torch.bool)
    for point in map(float, e2m1.HALFWAY):
        found |= (values / point - 1).abs() < _EDGE
    return found


def _least(case: Case, search: str, scale_2: float) -> Any:
    """Return the least error of each block with any of the 126 scales."""
    torch, least = case.torch, None
    blocks = case.weight.double().reshape(len(case.weight), -1, 16)
    for code in range(nvfp4.FIRST_BYTE, nvfp4.LAST_BYTE + 1):
        step = float(np.array(code, np.uint8).view(ml_dtypes.float8_e4m3fn)) * scale_2
        values = blocks.abs() / step
        codes = 8 * (blocks < 0)
        codes += sum((values > point).long() for point in map(float, e2m1.HALFWAY[0::2]))
        codes += sum((values >= point).long() for point in map(float, e2m1.HALFWAY[1::2]))
        scales = torch.full(blocks.shape[:2], code, dtype=torch.uint8, device=blocks.device)
        error, _ = case.error(Encoding(scale_2, scales, codes.reshape(case.weight.shape)), search)
        least = error if least is None else torch.minimum(least, error)
    return least


def _rates(torch: Any, size: int) -> dict[str, float]:
    weight = (torch.randn(4 * size, size, device="cuda") * 0.02).bfloat16()
    one = np.random.default_rng(0).random(size).astype(np.float32)
    pairs = nvfp4.pairs_of(np.eye(16)[None] * one.reshape(-1, 16, 1))
    ways = {MAX: (MAX, None), MSE: (MSE, None), FOUR_OVER_SIX: (FOUR_OVER_SIX, None), WEIGHTED: (MSE, one)}
    found = {}
    for name, (search, importance) in {**ways, LOCAL_HESSIAN: (MSE, pairs)}.items():
        seconds = []
        for _ in range(_TRIES + 1):
            torch.cuda.synchronize()
            started = time.perf_counter()
            kernels.encode_nvfp4(weight, np.float32(0.1 / 2688), search=search, importance=importance)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        found[name] = round(weight.numel() / min(seconds) / 1e9, 1)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches_modelopt", description=__doc__)
    parser.add_argument(
        "--size", type=int, default=2048, metavar="N", help="rows and columns of a weight (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    main()
