"""A model as its tensors and what each layer remembers of a text: counts only, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

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
    "adapter",
    "mtp",
]
"""What a tensor is for.

- `vision`: part of a tower that sees or hears.
- `adapter`: switched on by what such a tower reads, never by text.
- `mtp`: of a layer that proposes tokens, stored beside the model and not part of its count.
"""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the unquantized checkpoint, or as many alike as there are experts."""

    name: str
    """As the checkpoint spells it; `{}` stands for the expert's number where there are several."""
    shape: tuple[int, ...]
    """Of one; a matrix is [out, in]."""
    role: Role
    layer: int | None = None
    """None outside the stack of layers."""
    count: int = 1
    """How many alike: one per expert."""
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

    @property
    def elements(self) -> int:
        """Numbers in all of them."""
        return math.prod(self.shape) * self.count

    @property
    def module(self) -> str:
        """The module that it belongs to, as exclusion patterns name it."""
        return self.name.rpartition(".")[0] if self.name.endswith((".weight", ".bias")) else self.name

    def names(self) -> Iterator[str]:
        """Spell every name that the checkpoint has for it."""
        if self.count == 1 or self.stacked:
            yield self.name
        else:
            yield from (self.name.format(number) for number in range(self.count))


@dataclass(frozen=True, slots=True)
class Memory:
    """What one layer keeps of each text, and how it looks back on it."""

    values_per_token: int = 0
    """Numbers of keys and values per token; of the latent vector in MLA. 0 in a layer without attention."""
    window: int | None = None
    """Tokens that it keeps at most; None: all."""
    lookback: int | None = None
    """Tokens that a step reads at most, where it keeps more (sparse attention); None: all that it keeps."""
    index_bytes_per_token: int = 0
    """Bytes per token of keys that choose what sparse attention reads; always read whole."""
    score_width: int = 0
    """Multiplications per token of context and new token: heads x (size of a key + size of a value)."""
    state_values: int = 0
    """Numbers of the recurrent state, whatever the length (Mamba)."""
    convolution_values: int = 0
    """Numbers that the layer's convolution keeps, in BF16."""


@dataclass(frozen=True, eq=False)
class ModelShape:
    """Everything that bytes and operations of a model follow from; equal to itself only, so that sums can be kept."""

    architecture: str
    tensors: tuple[Tensor, ...] = field(repr=False)
    layers: tuple[Memory, ...] = field(repr=False)
    hidden_size: int
    vocab_size: int
    max_position: int
    """Tokens of a text that it was made for, question and answer."""
    tied: bool
    """The output head is the embedding."""
    attention_heads: int
    key_value_heads: int
    """Of the layer with the most: tensor parallelism repeats them where there are fewer than GPUs."""
    largest_intermediate: int
    """The widest activation between two matrices."""
    state_bytes_per_value: int = 4
    """Of a recurrent state."""
    notes: tuple[str, ...] = ()
    """What the figures leave out, in words."""

    @cached_property
    def parameters(self) -> int:
        """Count parameters as model cards do: without the layers that only propose tokens."""
        return sum(tensor.elements for tensor in self.tensors if tensor.role != "mtp")

    @cached_property
    def active_parameters(self) -> int:
        """Count parameters that one token of text reads: of the embedding one row, of the experts the chosen ones."""
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
        return sum(bool(layer.values_per_token) for layer in self.layers)
