"""The tensors of a language model's parts: attention, MLPs, experts, state spaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.shape import Memory, Role, Tensor

Tensors = tuple[Tensor, ...]


def linear(name: str, out: int, columns: int, role: Role, *, bias: bool = False) -> Tensors:
    """Return a linear layer's weight, and its bias if it has one."""
    weight = Tensor(f"{name}.weight", (out, columns), role, quantizable=True, linear=True)
    return (weight, Tensor(f"{name}.bias", (out,), "bias")) if bias else (weight,)


def kept(name: str, out: int, columns: int, role: Role, *, bias: bool = False) -> Tensors:
    """Return a linear layer that ModelOpt does not quantize by default: routers, the output head."""
    tensors = linear(name, out, columns, role, bias=bias)
    return tuple(replace(tensor, quantizable=False, linear=role == "head" and tensor.linear) for tensor in tensors)


def vector(name: str, size: int, role: Role = "norm") -> Tensor:
    """Return a vector, such as the scale of a normalization."""
    return Tensor(f"{name}.weight", (size,), role)


def placed(prefix: str, layer: int, tensors: Iterable[Tensor]) -> Tensors:
    """Number a layer's tensors in the stack."""
    return tuple(replace(tensor, name=f"{prefix}.{layer}.{tensor.name}", layer=layer) for tensor in tensors)


def renamed(tensors: Iterable[Tensor], parent: str) -> Tensors:
    """Put tensors below a parent module."""
    return tuple(replace(tensor, name=f"{parent}.{tensor.name}") for tensor in tensors)


def embedding(name: str, fields: Fields, *, tied: bool) -> Tensor:
    """Return the embedding. A tied one is read whole, as the output head."""
    vocabulary = fields.size("vocab_size")
    return Tensor(
        f"{name}.weight",
        (vocabulary, fields.size("hidden_size")),
        "embedding",
        used=1.0 if tied else 1 / vocabulary,
    )


@dataclass(frozen=True)
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


def attention(heads: Heads, *, bias: bool = False, out_bias: bool = False, normed: bool = False) -> Tensors:
    """Return grouped-query attention with separate projections."""
    norms = (vector("q_norm", heads.size), vector("k_norm", heads.size)) if normed else ()
    return (
        *linear("q_proj", heads.query_width, heads.hidden, "attention", bias=bias),
        *linear("k_proj", heads.key_width, heads.hidden, "attention", bias=bias),
        *linear("v_proj", heads.key_width, heads.hidden, "attention", bias=bias),
        *linear("o_proj", heads.hidden, heads.query_width, "attention", bias=out_bias),
        *norms,
    )
