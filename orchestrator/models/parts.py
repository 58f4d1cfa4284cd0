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


def gated(hidden: int, inner: int, role: Role = "mlp", *, bias: bool = False) -> Tensors:
    """Return a gated MLP: SwiGLU and similar."""
    return (
        *linear("gate_proj", inner, hidden, role, bias=bias),
        *linear("up_proj", inner, hidden, role, bias=bias),
        *linear("down_proj", hidden, inner, role, bias=bias),
    )


def plain(hidden: int, inner: int, role: Role = "mlp", *, bias: bool = False) -> Tensors:
    """Return an MLP without a gate."""
    return (
        *linear("up_proj", inner, hidden, role, bias=bias),
        *linear("down_proj", hidden, inner, role, bias=bias),
    )


@dataclass(frozen=True)
class Experts:
    """The number of experts of a layer, and of those that a token chooses."""

    total: int
    chosen: int

    def of(self, tensors: Iterable[Tensor], parent: str = "experts.{}") -> Tensors:
        """Repeat one expert's tensors for all of them."""
        return tuple(
            replace(tensor, name=f"{parent}.{tensor.name}", count=self.total, used=self.chosen / self.total)
            for tensor in tensors
        )

    def stacked(self, name: str, shape: tuple[int, int], *, bias_name: str | None = None) -> Tensors:
        """Return one matrix of every expert, stored as one tensor."""
        share = self.chosen / self.total
        weight = Tensor(
            name, shape, "expert", count=self.total, used=share, quantizable=True, linear=True, stacked=True
        )
        if bias_name is None:
            return (weight,)
        return (weight, Tensor(bias_name, shape[:1], "bias", count=self.total, used=share, stacked=True))


def experts_of(fields: Fields, total: str, chosen: str = "num_experts_per_tok") -> Experts:
    """Read the experts.

    Raises:
        ConfigInvalidError: A number is missing, or more are chosen than exist.
    """
    experts = Experts(fields.size(total), fields.size(chosen))
    if experts.chosen > experts.total:
        message = f"{fields.where}: {chosen} is {experts.chosen}, but {total} is only {experts.total}"
        raise ConfigInvalidError(message)
    return experts


@dataclass(frozen=True)
class Mamba2:
    """A Mamba-2 layer's dimensions."""

    hidden: int
    heads: int
    head_size: int
    groups: int
    state: int
    kernel: int
    bias: bool
    convolution_bias: bool

    @property
    def inner(self) -> int:
        """Numbers between the projections."""
        return self.heads * self.head_size

    @property
    def convolved(self) -> int:
        """Channels of the convolution: the input, and the parts that read and write the state."""
        return self.inner + 2 * self.groups * self.state

    def tensors(self) -> Tensors:
        """Return the layer's tensors."""
        conv_bias = (Tensor("conv1d.bias", (self.convolved,), "bias"),) if self.convolution_bias else ()
        return (
            *linear("in_proj", self.inner + self.convolved + self.heads, self.hidden, "mamba", bias=self.bias),
            Tensor("conv1d.weight", (self.convolved, 1, self.kernel), "mamba"),
            *conv_bias,
            Tensor("dt_bias", (self.heads,), "mamba"),
            Tensor("A_log", (self.heads,), "mamba"),
            Tensor("D", (self.heads,), "mamba"),
            vector("norm", self.inner),
            *linear("out_proj", self.hidden, self.inner, "mamba", bias=self.bias),
        )

    def memory(self) -> Memory:
        """Return what the layer keeps: per head a matrix, and the last inputs of the convolution."""
        return Memory(
            state_values=self.inner * self.state,
            convolution_values=self.convolved * (self.kernel - 1),
        )
