"""Defines each format of a recipe for weights and inputs: names, scales and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from orchestrator.quantization import layout
from orchestrator.quantization.format_names import GPTQ, HEADROOM, LOCAL_HESSIAN, MAX, MSE, NEAREST, WEIGHTED
from orchestrator.quantization.formats import fp8, kernels, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded, Numbers
from orchestrator.values import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.quantization.formats.gptq import Changes
    from orchestrator.quantization.formats.kernels import Empty
    from orchestrator.quantization.tensors import TensorSpec


class Scheme(Protocol):
    """One format of quantized checkpoints."""

    @property
    def algorithm(self) -> str:
        """Its name in `quant_algo`."""

    @property
    def calibrated(self) -> bool:
        """Whether it has input scales, which need a run of the model."""

    @property
    def weighs_errors(self) -> bool:
        """Whether `encode` uses the importance of inputs, which needs a run of the model."""

    @property
    def weighs_pairs(self) -> bool:
        """Whether that importance is of pairs of inputs."""

    @property
    def compensates(self) -> bool:
        """Whether columns make up for the errors of earlier ones, which needs a run of the model."""

    @property
    def leaves_headroom(self) -> bool:
        """Whether `input_scale` gets the range of `input_ranges`, not the largest magnitude."""

    @property
    def columns(self) -> int:
        """The number of inputs must be a multiple of this."""

    def shares(self, group: tuple[str, ...]) -> bool:
        """Tell whether fused modules share the scale of their weights."""

    def specs(self, weight: TensorSpec) -> list[TensorSpec]:
        """Return the tensors that a weight becomes."""

    def weight_scale(self, amax: float) -> np.float32:
        """Return the scale of a tensor, or of tensors that share it, with this largest magnitude."""

    def input_scale(self, amax: float) -> np.float32:
        """Return the scale of a module's input with this largest magnitude."""

    def encode(
        self,
        rows: Numbers,
        scale: np.float32,
        empty: Empty = np.empty,
        importance: NDArray[np.float32] | None = None,
        changes: Changes | None = None,
    ) -> dict[str, Numbers]:
        """Encode rows of a weight; return the rows of each tensor by the suffix of its name.

        Args:
            rows: Of the weight.
            scale: See `weight_scale`.
            empty: Allocates the results. Some may be in memory of their own.
            importance: The importance of inputs, if it is known and used, see `weighs_errors` and `nvfp4.encode`.
            changes: What an error changes of later columns, if it is known and used, see `compensates`.
        """

    def decode(self, encoded: Mapping[str, NDArray[Any]], scale: np.float32) -> NDArray[np.float32]:
        """Decode encoded rows."""

    def error(self, rows: Numbers, encoded: Mapping[str, Numbers], scale: np.float32) -> tuple[float, float]:
        """Return the sums of squares of rows and of their encoding error."""

    def scalars(self, scale: np.float32) -> dict[str, NDArray[Any]]:
        """Return the tensors of a weight that have no rows, by the suffix of their names."""


@frozen
class Nvfp4:
    """4-bit weights, with or without 4-bit inputs."""

    algorithm: str
    search: str = MAX
    """One of `format_names.SCALE_SEARCHES`."""
    rounding: str = NEAREST
    """One of `format_names.ROUNDINGS`."""
    input_scales: str = MAX
    """One of `format_names.INPUT_SCALES`."""
    columns: int = nvfp4.BLOCK

    @property
    def calibrated(self) -> bool:
        """See `Scheme`."""
        return self.algorithm != "W4A16_NVFP4"

    @property
    def weighs_errors(self) -> bool:
        """See `Scheme`."""
        return self.search in (WEIGHTED, LOCAL_HESSIAN)

    @property
    def weighs_pairs(self) -> bool:
        """See `Scheme`."""
        return self.search == LOCAL_HESSIAN

    @property
    def compensates(self) -> bool:
        """See `Scheme`."""
        return self.rounding == GPTQ

    @property
    def leaves_headroom(self) -> bool:
        """See `Scheme`."""
        return self.calibrated and self.input_scales == HEADROOM

    def shares(self, group: tuple[str, ...]) -> bool:  # noqa: ARG002 - part of every scheme's signature
        """See `Scheme`: TensorRT-LLM asserts it."""
        return True

    def specs(self, weight: TensorSpec) -> list[TensorSpec]:
        """See `Scheme`."""
        return layout.quantized_specs(weight, self.algorithm)

    def weight_scale(self, amax: float) -> np.float32:
        """See `Scheme`."""
        return nvfp4.tensor_scale(amax)

    def input_scale(self, amax: float) -> np.float32:
        """See `Scheme`: an input's blocks are scaled as a weight's are."""
        return nvfp4.tensor_scale(amax)

    def encode(
        self,
        rows: Numbers,
        scale: np.float32,
        empty: Empty = np.empty,
        importance: NDArray[np.float32] | None = None,
        changes: Changes | None = None,
    ) -> dict[str, Numbers]:
        """See `Scheme`: what calibration does not know is searched by `mse` and rounded to the nearest."""
        if self.compensates and changes is not None:
            encoded = kernels.encode_gptq(rows, scale, self.search, changes)
        else:
            search = MSE if self.weighs_errors or self.compensates else self.search
            encoded = kernels.encode_nvfp4(rows, scale, empty, search, importance if self.weighs_errors else None)
        return {"": encoded.codes, "_scale": encoded.scales}

    def decode(self, encoded: Mapping[str, NDArray[Any]], scale: np.float32) -> NDArray[np.float32]:
        """See `Scheme`."""
        return nvfp4.decode(Encoded(encoded[""], encoded["_scale"]), scale)

    def error(self, rows: Numbers, encoded: Mapping[str, Numbers], scale: np.float32) -> tuple[float, float]:
        """See `Scheme`."""
        return kernels.nvfp4_error(rows, Encoded(encoded[""], encoded["_scale"]), scale)

    def scalars(self, scale: np.float32) -> dict[str, NDArray[Any]]:
        """See `Scheme`."""
        return {"_scale_2": np.array(scale)}


@frozen
class Fp8:
    """8-bit weights and inputs with one scale each."""

    shared: bool = False
    """Fused modules get one scale. This saves the runtime another rounding. ModelOpt does not do it."""
    in_fp32: bool = False
    """Quotients are not rounded to the type of the weight, as ModelOpt calculates experts that stay in one tensor."""
    algorithm: str = "FP8"
    calibrated: bool = True
    weighs_errors: bool = False
    weighs_pairs: bool = False
    compensates: bool = False
    leaves_headroom: bool = False
    columns: int = 1

    def shares(self, group: tuple[str, ...]) -> bool:
        """See `Scheme`: ModelOpt scales the gate and up of an expert as the one matrix that they were."""
        return self.shared or ".experts." in group[0]

    def specs(self, weight: TensorSpec) -> list[TensorSpec]:
        """See `Scheme`."""
        return layout.quantized_specs(weight, self.algorithm)

    def weight_scale(self, amax: float) -> np.float32:
        """See `Scheme`."""
        return fp8.tensor_scale(amax)

    def input_scale(self, amax: float) -> np.float32:
        """See `Scheme`."""
        return fp8.tensor_scale(amax)

    def encode(
        self,
        rows: Numbers,
        scale: np.float32,
        empty: Empty = np.empty,
        importance: NDArray[np.float32] | None = None,  # noqa: ARG002 - part of every scheme's signature
        changes: Changes | None = None,  # noqa: ARG002
    ) -> dict[str, Numbers]:
        """See `Scheme`."""
        if not self.in_fp32:
            return {"": kernels.encode_fp8(rows, scale, empty)}
        if isinstance(rows, np.ndarray):
            return {"": kernels.encode_fp8(rows.astype(np.float32), scale, empty)}
        return {"": kernels.encode_fp8(rows.float(), scale, empty)}

    def decode(self, encoded: Mapping[str, NDArray[Any]], scale: np.float32) -> NDArray[np.float32]:
        """See `Scheme`."""
        return fp8.decode(encoded[""], scale)

    def error(self, rows: Numbers, encoded: Mapping[str, Numbers], scale: np.float32) -> tuple[float, float]:
        """See `Scheme`."""
        return kernels.fp8_error(rows, encoded[""], scale)

    def scalars(self, scale: np.float32) -> dict[str, NDArray[Any]]:
        """See `Scheme`."""
        return {"_scale": np.array(scale)}


SCHEMES: Mapping[str, Scheme] = {
    "w4a16_nvfp4": Nvfp4("W4A16_NVFP4"),
    "nvfp4": Nvfp4("NVFP4"),
    "fp8": Fp8(),
}
"""By the name of the format in a recipe; `format_names.SINGLE_FORMATS` names them, too."""


def searching(scale_search: str, rounding: str = NEAREST, input_scales: str = MAX) -> Mapping[str, Scheme]:
    """Return the schemes by the names of `SCHEMES`, with choices for NVFP4: of scales, of rounding, of input scales."""
    return {
        name: replace(scheme, search=scale_search, rounding=rounding, input_scales=input_scales)
        if isinstance(scheme, Nvfp4)
        else scheme
        for name, scheme in SCHEMES.items()
    }
