"""The tensors of a language model's parts: attention, MLPs, experts, state spaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.shape import Memory, Tensor
from orchestrator.values import frozen

Tensors = tuple[Tensor, ...]


def linear(name: str, out: int, columns: int, *, bias: bool = False) -> Tensors:
    """Return a linear layer's weight, and its bias if it has one."""
    return weights({name: (out, columns)}, bias=bias)


def vector(name: str, size: int) -> Tensor:
    """Return a vector, such as the scale of a normalization."""
    return Tensor(f"{name}.weight", (size,))


def weights(shapes: Mapping[str, tuple[int, ...]], *, bias: bool = False) -> Tensors:
    """Return weights of any shape by the name of their module, each with a bias for its rows if it has one."""
    return tuple(
        part
        for name, shape in shapes.items()
        for part in (Tensor(f"{name}.weight", shape), *((Tensor(f"{name}.bias", shape[:1]),) if bias else ()))
    )


def renamed(tensors: Iterable[Tensor], parent: str) -> Tensors:
    """Put tensors below a parent module."""
    return tuple(tensor.renamed(f"{parent}.{tensor.name}") for tensor in tensors)


@frozen
class Heads:
    """The heads of one attention."""

    query: int
    key: int
    size: int
    hidden: int

    @property
    def key_width(self) -> int:
        """Numbers of the keys of one token."""
        return self.key * self.size

    @property
    def query_width(self) -> int:
        """Numbers of the queries of one token."""
        return self.query * self.size

    def memory(self, window: int | None = None) -> Memory:
        """Return what this attention caches."""
        return Memory(2 * self.key_width, window=window, score_width=2 * self.query_width)


def heads_of(fields: Fields, *, size_name: str = "head_dim") -> Heads:
    """Read the heads. The default size is the hidden size divided by their number.

    Raises:
        ConfigInvalidError: A number is missing, or one does not divide the other.
    """
    hidden, query = fields.size("hidden_size"), fields.size("num_attention_heads")
    key = fields.size_or("num_key_value_heads", query)
    if query % key:
        message = f"{fields.where}: num_key_value_heads {key} does not divide num_attention_heads {query}"
        raise ConfigInvalidError(message)
    if not fields.has(size_name) and hidden % query:
        message = (
            f"{fields.where}: {size_name} is missing, and hidden_size {hidden} is no multiple of"
            f" num_attention_heads {query}"
        )
        raise ConfigInvalidError(message)
    return Heads(query, key, fields.size_or(size_name, hidden // query), hidden)


def attention(heads: Heads, *, bias: bool = False, out_bias: bool = False) -> Tensors:
    """Return grouped-query attention with separate projections."""
    return (
        *linear("q_proj", heads.query_width, heads.hidden, bias=bias),
        *linear("k_proj", heads.key_width, heads.hidden, bias=bias),
        *linear("v_proj", heads.key_width, heads.hidden, bias=bias),
        *linear("o_proj", heads.hidden, heads.query_width, bias=out_bias),
    )
