"""Defines a model's shape: its tensors and what each layer caches of a sequence. Only counts, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from orchestrator.values import frozen

Role = Literal[
    "embedding",
    "head",
    "attention",
    "mlp",
    "expert",
    "shared_expert",
    "router",
    "mamba",
    "norm",
    "bias",
    "vision",
    "audio",
    "adapter",
    "mtp",
]
"""What a tensor is for.

- `vision`, `audio`: part of a tower, or of what joins it to the language model.
- `adapter`: used for input of such a tower, never for text.
- `mtp`: of a layer that proposes tokens, stored beside the model and not part of its parameter count.
"""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the unquantized checkpoint, or equal tensors of all experts."""

    name: str
    """Its name in the checkpoint. `{}` stands for the expert's number if there are several."""
    shape: tuple[int, ...]
    """The shape of one; a matrix is [out, in]."""
    role: Role = "mlp"
    layer: int | None = None
    """None outside the stack of layers."""
    count: int = 1
    """Number of equal tensors: one per expert."""
    used: float = 1.0
    """Share of it that one token reads: 8 of 128 experts, one row of the embedding, nothing of a vision tower."""
    dtype: Literal["BF16", "F32"] = "BF16"
    """Type in an unquantized checkpoint."""
    quantizable: bool = False
    """ModelOpt's default rules quantize it."""
    linear: bool = False
    """A matrix product that is quantized unless a quantization config excludes it; true for the output head."""
    stacked: bool = False
    """The experts' matrices are stored as one tensor with a dimension more."""
    stored: int | None = None
    """Bytes of all of them in the checkpoint whose headers were read, with their scales; None without headers."""

    @property
    def elements(self) -> int:
        """Number of values in all of them."""
        return math.prod(self.shape) * self.count

    @property
    def module(self) -> str:
        """Its module, as exclusion patterns name it."""
        return self.name.rpartition(".")[0] if self.name.endswith((".weight", ".bias")) else self.name

    def renamed(self, name: str) -> Tensor:
        """Return the same tensor under another name, in half the time of `dataclasses.replace`."""
        return Tensor(
            name,
            self.shape,
            self.role,
            self.layer,
            self.count,
            self.used,
            self.dtype,
            self.quantizable,
            self.linear,
            self.stacked,
            self.stored,
        )

    def names(self) -> Iterator[str]:
        """Return every name that the checkpoint has for it."""
        yield from ([self.name] if self.stacked else (self.name.format(number) for number in range(self.count)))


@dataclass(frozen=True, slots=True)
class Memory:
    """What one layer caches of each sequence, and which tokens its attention sees."""

    values_per_token: int = 0
    """Numbers of keys and values per token; of the latent vector in MLA. 0 in a layer without attention."""
    window: int | None = None
    """Most tokens that it keeps; None: all."""
    lookback: int | None = None
    """Most tokens that a step reads if it keeps more (sparse attention); None: all that it keeps."""
    index_bytes_per_token: int = 0
    """Bytes per token of keys that choose what sparse attention reads; always read whole."""
    score_width: int = 0
    """Multiplications per token of context and new token: heads x (size of a key + size of a value)."""
    state_values: int = 0
    """Numbers of the recurrent state, independent of the length (Mamba)."""
    convolution_values: int = 0
    """Numbers that the layer's convolution keeps, in BF16."""
    shared: bool = False
    """It reads the cache of an earlier layer and keeps none of its own."""


@frozen(eq=False)
class ModelShape:
    """The source of all bytes and operations of a model. It equals only itself, so that sums can be cached."""

    architecture: str
    tensors: tuple[Tensor, ...] = field(repr=False)
    layers: tuple[Memory, ...] = field(repr=False)
    hidden_size: int
    vocab_size: int
    max_position: int
    """Maximum tokens of a sequence, prompt and answer."""
    tied: bool
    """The output head is tied to the embedding."""
    attention_heads: int
    key_value_heads: int
    """Key-value heads of the layer with the most. Tensor parallelism repeats them if there are fewer than GPUs."""
    largest_intermediate: int
    """The widest activation between two matrices."""
    state_bytes_per_value: int = 4
    """Of a recurrent state."""
    notes: tuple[str, ...] = ()
    """What the figures leave out, in words."""
    chosen: int = 1
    """Experts that one token chooses in a layer."""
    exact: bool = True
    """False: its tensors are an upper limit, because no entry says what this model type fixes in its own code."""
    model_type: str | None = None
    """The type by which transformers chooses its class; None if it brings its own code, or if it is not known."""

    @cached_property
    def parameters(self) -> int:
        """Count parameters as model cards do, without the layers that only propose tokens."""
        return sum(tensor.elements for tensor in self.tensors if tensor.role != "mtp")

    @cached_property
    def active_parameters(self) -> int:
        """Count parameters that one token reads: one row of the embedding, and the chosen experts."""
        return round(sum(tensor.elements * tensor.used for tensor in self.tensors))

    @cached_property
    def stored_parameters(self) -> int:
        """Count everything in the checkpoint."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def is_moe(self) -> bool:
        """Tell whether tokens choose among experts."""
        return any(tensor.role == "expert" for tensor in self.tensors)

    @property
    def is_hybrid(self) -> bool:
        """Tell whether some layers keep a recurrent state."""
        return any(layer.state_values for layer in self.layers)

    @property
    def attention_layers(self) -> int:
        """Count layers with a KV cache."""
        return sum(bool(layer.values_per_token) and not layer.shared for layer in self.layers)
