"""Calculates in torch what a runtime calculates for a quantized module.

A runtime multiplies short numbers exactly, adds the products in FP32, multiplies the sum with the scales and rounds it
to the model's type. So here a weight is kept without its scale: E2M1 codes times E4M3 block scales have six
significant bits and are exact in BF16. The module's input is rounded as the runtime's kernels do:

- NVFP4, in blocks of 16: `s = E4M3(min(448, amax / (6 * input_scale)))`, then each number is the nearest E2M1 number
  to `x / (s * input_scale)`, ties to even, 6 for anything larger. A block whose scale rounds to 0 becomes zeros: a
  runtime does not raise small scales to 2^-9 as the encoder of weights does (`cvt_warp_fp16_to_fp4` of TensorRT-LLM).
- FP8: `E4M3(x / input_scale)`, saturating.

Runtimes that fuse q, k and v give an FP8 matrix the largest of the three scales and round the other two again,
`E4M3(BF16(BF16(w * s) / s_max))` (`FP8QDQLinearMethod` of TensorRT-LLM). So does this module.

Left out are the approximate reciprocals of the kernels, one unit in the last place of a quotient, and the order in
which products are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization import layout
from orchestrator.quantization.activation_probe import Overrides
from orchestrator.quantization.formats import e2m1, fp8, nvfp4
from orchestrator.quantization.libraries import short_numbers_are_exact
from orchestrator.values import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.torch_types import Tensor, Torch

Inputs = Literal["as they are", "nvfp4", "fp8"]
"""The rounding of a module's input."""


@frozen
class Operand:
    """A quantized weight as a runtime multiplies it."""

    weight: Tensor
    """Shape [out, in], BF16, without the scale."""
    scale: np.float32
    inputs: Inputs
    input_scale: np.float32

    @property
    def product_scale(self) -> np.float32:
        """The scale of the products of a quantized weight and quantized inputs."""
        return np.float32(self.scale * self.input_scale)


@frozen
class Arithmetic:
    """The runtime's arithmetic for some modules of a layer."""

    torch: Torch
    operands: Mapping[str, Operand]
    """By the module's name within the layer. All others compute unchanged."""
    cache_scales: tuple[np.float32, np.float32] | None = None
    """Scales of keys and values, if the cache is FP8."""

    @property
    def overrides(self) -> Overrides:
        """The overrides of a layer."""
        return Overrides(self.linear, self.cache)

    def linear(self, name: str, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply as a runtime does.

        Args:
            name: The module.
            given: Shape [..., in].
            weight: The layer's weight, which holds `Operand.weight`; fused modules are stacked.
            bias: Shape [out], or None.
        """
        functional = self.torch.nn.functional
        operand = self.operands.get(name)
        if operand is None:
            return functional.linear(given, weight, bias)
        numbers, scale = self._inputs(given, operand)
        with short_numbers_are_exact(self.torch, given):
            sums = functional.linear(numbers, weight.float())
        result = (sums * float(scale)).to(given.dtype)
        return result if bias is None else result + bias

    def cache(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Round keys and values to the cache's type."""
        if self.cache_scales is None:
            return keys, values
        rounded = [
            (fp8_numbers(self.torch, tensor, scale) * float(scale)).to(tensor.dtype)
            for tensor, scale in zip((keys, values), self.cache_scales, strict=True)
        ]
        return rounded[0], rounded[1]

    def _inputs(self, given: Tensor, operand: Operand) -> tuple[Tensor, np.float32]:
        """Return the rounded input in FP32, and the scale of the products."""
        match operand.inputs:
            case "nvfp4":
                return nvfp4_numbers(self.torch, given, operand.input_scale), operand.product_scale
            case "fp8":
                return fp8_numbers(self.torch, given, operand.input_scale), operand.product_scale
            case "as they are":
                return given.float(), operand.scale


def nvfp4_numbers(torch: Torch, given: Tensor, input_scale: np.float32) -> Tensor:
    """Round to NVFP4: E2M1 times E4M3 in FP32, without the scale of the whole.

    Args:
        torch: The library.
        given: Shape [..., in], in a multiple of 16.
        input_scale: The largest magnitude of calibration over 2688.
    """
    blocks = given.float().unflatten(-1, (-1, nvfp4.BLOCK))
    wanted = blocks.abs().amax(-1, keepdim=True) / (e2m1.LARGEST * float(input_scale))
    scales = wanted.clamp(max=fp8.LARGEST).to(torch.float8_e4m3fn).float()
    quotients = torch.where(scales > 0, blocks / (scales * float(input_scale)), 0.0)
    size = quotients.abs()
    rounded = torch.where(size < 2, (size * 2).round() / 2, torch.where(size < 4, size.round(), (size / 2).round() * 2))  # noqa: PLR2004 - where the distance of E2M1 numbers doubles
    return (rounded.clamp(max=e2m1.LARGEST).copysign(quotients) * scales).flatten(-2)


def fp8_numbers(torch: Torch, given: Tensor, scale: np.float32) -> Tensor:
    """Round to E4M3, in FP32, without the scale."""
    quotients = (given.float() / float(scale)).clamp(-fp8.LARGEST, fp8.LARGEST)
    return quotients.to(torch.float8_e4m3fn).float()


# --- operands ------------------------------------------------------------------------------------------------------


@frozen
class Stored:
    """A quantized weight as a checkpoint stores it."""

    weight: NDArray[Any]
    """Codes: U8 of shape [out, in/2], or E4M3 of shape [out, in]."""
    block_scales: NDArray[Any] | None
    """E4M3 of shape [out, in/16] for NVFP4."""
    scale: np.float32
    input_scale: np.float32 | None
    """None if inputs are not quantized."""


def stored(checkpoint: Checkpoint, module: str) -> Stored | None:
    """Read a module's weight; None if it is not quantized.

    Raises:
        CheckpointError: Its quantization is not supported.
    """
    tensors, weight = checkpoint.tensors, f"{module}.weight"
    if f"{weight}_scale" not in tensors:
        return None
    given = f"{module}.input_scale"
    input_scale = np.float32(checkpoint.read(given)) if given in tensors else None
    kind = tensors[weight].dtype
    if kind == "U8" and f"{weight}_scale_2" in tensors:
        codes, blocks = checkpoint.read(weight), checkpoint.read(f"{weight}_scale")
        return Stored(codes, blocks, np.float32(checkpoint.read(f"{weight}_scale_2")), input_scale)
    if kind == "F8_E4M3" and not tensors[f"{weight}_scale"].shape:
        return Stored(checkpoint.read(weight), None, np.float32(checkpoint.read(f"{weight}_scale")), input_scale)
    message = f"{tensors[weight].file}: {tensors[weight]} has scales whose meaning is not known here"
    raise CheckpointError(message)


def operands(torch: Torch, found: Mapping[str, Stored], device: str) -> dict[str, Operand]:
    """Make the operands of a layer's quantized modules, with the runtime's scales for fused modules.

    Args:
        torch: The library.
        found: The weights by module.
        device: The device for the result.
    """
    made: dict[str, Operand] = {}
    for group in layout.fusion_groups(found):
        parts = [_operand(torch, found[module], device) for module in group]
        inputs = max(part.input_scale for part in parts)
        parts = [replace(part, input_scale=inputs) for part in parts]
        if all(found[module].block_scales is None for module in group):
            parts = _fused(torch, parts)
        made.update(zip(group, parts, strict=True))
    return made


def _operand(torch: Torch, part: Stored, device: str) -> Operand:
    scale_of_inputs = np.float32(1) if part.input_scale is None else part.input_scale
    codes = torch.from_numpy(part.weight.view(np.uint8)).to(device)
    if part.block_scales is None:
        weight = codes.view(torch.float8_e4m3fn).to(torch.bfloat16)
        return Operand(weight, part.scale, "as they are" if part.input_scale is None else "fp8", scale_of_inputs)
    values = torch.tensor(e2m1.VALUES.tolist(), dtype=torch.bfloat16, device=device)
    halves = [values[(codes & 15).int()], values[(codes >> 4).int()]]  # the even column in the low half
    scales = torch.from_numpy(part.block_scales.view(np.uint8)).to(device).view(torch.float8_e4m3fn)
    blocks = torch.stack(halves, -1).flatten(-2).unflatten(-1, (-1, nvfp4.BLOCK))
    weight = (blocks * scales.to(torch.bfloat16)[..., None]).flatten(-2)
    return Operand(weight, part.scale, "as they are" if part.input_scale is None else "nvfp4", scale_of_inputs)


def _fused(torch: Torch, parts: Sequence[Operand]) -> list[Operand]:
    """Give fused FP8 matrices one scale, the largest. The others' numbers are rounded again."""
    scale = max(part.scale for part in parts)
    return [_rescaled(torch, part, scale) for part in parts]


def _rescaled(torch: Torch, part: Operand, scale: np.float32) -> Operand:
    if part.scale == scale:
        return part
    numbers = (part.weight.float() * float(part.scale)).to(torch.bfloat16).float() / float(scale)
    rounded = numbers.to(torch.bfloat16).clamp(-fp8.LARGEST, fp8.LARGEST).to(torch.float8_e4m3fn)
    return replace(part, weight=rounded.to(torch.bfloat16), scale=scale)
