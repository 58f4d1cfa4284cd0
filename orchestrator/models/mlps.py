"""Reads what follows attention in a layer: an MLP, or a router and experts."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.habits import Habits
from orchestrator.models.parts import Tensors, linear, renamed
from orchestrator.models.shape import Tensor
from orchestrator.values import frozen

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts", "moe_num_experts")
_CHOSEN = (
    "num_experts_per_tok",
    "top_k_experts",
    "num_experts_per_token",
    "experts_per_token",
    "moe_top_k",
    "moe_topk",
    "moe_k",
)
_EXPERT_SIZES = (
    "moe_intermediate_size",
    "expert_intermediate_size",
    "expert_ffn_hidden_size",
    "intermediate_size",
)


@frozen
class Experts:
    """The routed experts of a layer."""

    total: int
    chosen: int
    inner: int
    """Their width."""


def experts_of(fields: Fields, habits: Habits) -> Experts | None:
    """Read the experts; None if the model has none.

    Raises:
        ConfigInvalidError: A number is missing, or more are chosen than exist.
    """
    if "experts" not in habits.parts or not fields.flag("enable_moe_block", default=True):
        return None
    name = fields.named(*EXPERTS)
    if name is None:
        return None
    total, chosen = fields.size(name), fields.size(*_CHOSEN)
    fields.ignore(*_CHOSEN)  # gpt-oss has two of them
    if chosen > total:
        message = f"{fields.where}: {fields.named(*_CHOSEN)} is {chosen}, but {name} is only {total}"
        raise ConfigInvalidError(message)
    return Experts(total, chosen, fields.size(*(("intermediate_size",) if habits.experts_as_mlp else _EXPERT_SIZES)))


def dense(fields: Fields, habits: Habits, *, widened: int = 1) -> tuple[Tensors, int]:
    """Return an MLP, and its width."""
    name = "intermediate_size_mlp" if fields.has("intermediate_size_mlp") else "intermediate_size"  # the first: Llama 4
    inner = widened * fields.size(name)
    bias, hidden = fields.flag("mlp_bias", default=False), fields.size("hidden_size")
    if habits.fused:
        tensors: Tensors = (
            *linear("gate_up_proj", 2 * inner, hidden, bias=bias),
            *linear("down_proj", hidden, inner, bias=bias),
        )
    else:
        tensors = mlp(habits, hidden, inner, bias=bias)
    return tensors, inner


def mixture(fields: Fields, habits: Habits, experts: Experts) -> tuple[Tensors, int]:
    """Return a router with its experts, routed and shared, and the widest of them."""
    hidden = fields.size("hidden_size")
    fields.ignore("intermediate_size", "intermediate_size_mlp", "mlp_bias")  # of layers without experts
    latent = fields.size("moe_latent_size") if fields.has("moe_latent_size") else None
    shared, wide = _shared(fields, habits, experts)
    tensors = (
        *_router(fields, habits, experts, hidden),
        *(linear("fc1_latent_proj", latent, hidden) if latent else ()),
        *(linear("fc2_latent_proj", hidden, latent) if latent else ()),
        *_routed(habits, experts, latent or hidden),
        *shared,
    )
    return tensors, max(experts.inner, wide)


def _router(fields: Fields, habits: Habits, experts: Experts, hidden: int) -> Tensors:
    extras: Tensors = ()
    if habits.router_extras:
        parent = habits.router.rpartition(".")[0]
        extras = (
            Tensor(f"{parent}.scale", (hidden,)),
            Tensor(f"{parent}.per_expert_scale", (experts.total,)),
        )
    if habits.correction and fields.flag("use_routing_bias", default=True):
        extras = (*extras, Tensor(habits.correction, (experts.total,), dtype="F32"))
    return (*linear(habits.router, experts.total, hidden, bias=habits.router_bias), *extras)


def _routed(habits: Habits, experts: Experts, hidden: int) -> Tensors:
    if not habits.stacked:
        one = mlp(habits, hidden, experts.inner, names=habits.expert)
        return tuple(replace(part, name=f"experts.{{}}.{part.name}", count=experts.total) for part in one)
    found: list[Tensor] = []
    for name, shape in (("gate_up_proj", (2 * experts.inner, hidden)), ("down_proj", (hidden, experts.inner))):
        weight = Tensor(f"experts.{name}", shape, count=experts.total, stacked=True)
        found.append(weight)
        if habits.expert_bias:
            found.append(replace(weight, name=f"experts.{name}_bias", shape=shape[:1]))
    return tuple(found)


def _shared(fields: Fields, habits: Habits, experts: Experts) -> tuple[Tensors, int]:
    """Return the experts that every token uses, and their width."""
    hidden = fields.size("hidden_size")
    if fields.named("shared_expert_intermediate_size"):  # Qwen: one, behind a gate
        wide = fields.size("shared_expert_intermediate_size")
        gate = linear("shared_expert_gate", 1, hidden)
        return (*renamed(mlp(habits, hidden, wide), "shared_expert"), *gate), wide
    count = fields.named("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    if count:
        wide = fields.size(count) * fields.size("moe_shared_expert_intermediate_size", *_EXPERT_SIZES)
        return renamed(mlp(habits, hidden, wide), "shared_experts"), wide
    if fields.named("shared_intermediate_size"):
        wide = fields.size("shared_intermediate_size")
        return renamed(mlp(habits, hidden, wide), "shared_mlp"), wide
    if habits.shared_always:
        return renamed(mlp(habits, hidden, experts.inner), "shared_expert"), experts.inner
    return (), 0


def mlp(
    habits: Habits,
    hidden: int,
    inner: int,
    *,
    bias: bool = False,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Tensors:
    """Return one MLP: gated, or plain as in Nemotron-H."""
    gate, up, down = names
    return (
        *(() if habits.plain else linear(gate, inner, hidden, bias=bias)),
        *linear(up, inner, hidden, bias=bias),
        *linear(down, hidden, inner, bias=bias),
    )
