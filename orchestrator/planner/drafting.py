"""Describes the ways to draft tokens: what one pass of the drafter reads, and how often its tokens are accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import weights_read_of
from orchestrator.planner.scheme import Scheme
from orchestrator.values import frozen

DraftKind = Literal["mtp", "eagle3", "dflash", "dspark"]
DRAFT_KINDS: tuple[DraftKind, ...] = get_args(DraftKind)

_BYTES_OF_BF16 = 2
_EAGLE_VOCABULARY = 32_000
"""EAGLE-3 heads predict the most frequent tokens only (arXiv:2503.01840; `draft_vocab_size` of published heads)."""


@frozen
class _Habits:
    """What drafters of one kind have in common."""

    tokens: int
    """Tokens drafted per step, as the publishers recommend."""
    acceptance: float
    """Chance that a drafted token is accepted if those before it are."""
    source: str
    layers: int
    """Layers of one pass."""
    at_once: bool
    """One pass drafts all tokens."""


_HABITS: Mapping[DraftKind, _Habits] = {
    "mtp": _Habits(2, 0.85, "DeepSeek-V3, arXiv:2412.19437, section 5.4.3: 85 to 90 %", 1, at_once=False),
    "eagle3": _Habits(3, 0.75, "EAGLE-3, arXiv:2503.01840: about three of four at each position", 1, at_once=False),
    "dflash": _Habits(7, 0.65, "z-lab/dflash issue 118: 2 to 3 tokens per step of Qwen3.5-35B-A3B", 5, at_once=True),
    "dspark": _Habits(5, 0.8, "eugr/spark-vllm-docker issue 350: 3.73 tokens per step on a Spark", 5, at_once=True),
}


@frozen
class Drafting:
    """A drafter."""

    kind: DraftKind
    tokens: int
    """Tokens drafted per step."""
    acceptance: float
    source: str
    """Where the acceptance comes from."""

    @property
    def passes(self) -> int:
        """Passes of the drafter per step."""
        return 1 if _HABITS[self.kind].at_once else self.tokens

    @property
    def layers(self) -> int:
        """Layers of one pass."""
        return _HABITS[self.kind].layers

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that one step yields, with its own (arXiv:2211.17192, equation 1)."""
        return sum(self.acceptance**number for number in range(self.tokens + 1))


def drafting(kind: DraftKind, tokens: int | None = None, acceptance: float | None = None) -> Drafting:
    """Describe a drafter; what is not given is what is published for its kind."""
    habits = _HABITS[kind]
    source = habits.source if acceptance is None else "as given"
    return Drafting(kind, tokens or habits.tokens, habits.acceptance if acceptance is None else acceptance, source)


def bytes_of_pass(drafter: Drafting, shape: ModelShape, scheme: Scheme, batch: float) -> float:
    """Return the bytes of weights that one pass reads for a batch: its layers in BF16, and its output head.

    MTP has a layer like the model's last one, with its experts; publishers leave it unquantized. Others have dense
    layers of the model's width. All but EAGLE-3 use the model's own head.
    """
    if drafter.kind == "eagle3":
        return _dense_layers(shape, drafter.layers) + _BYTES_OF_BF16 * _EAGLE_VOCABULARY * shape.hidden_size
    own = _last_layer(shape, batch) if drafter.kind == "mtp" else _dense_layers(shape, drafter.layers)
    return own + weights_read_of(shape, scheme, "head")


def bytes_in_memory(drafter: Drafting, shape: ModelShape) -> float:
    """Return the bytes that a drafter adds to the weights in memory."""
    if drafter.kind == "mtp":
        return _last_layer(shape, float("inf"))
    head = _EAGLE_VOCABULARY * shape.hidden_size if drafter.kind == "eagle3" else 0
    return _dense_layers(shape, drafter.layers) + _BYTES_OF_BF16 * head


def _dense_layers(shape: ModelShape, layers: int) -> float:
    """Count layers of a Llama of this width: 4 h² for attention, 10.5 h² for the MLP, and 3 h² for the inputs."""
    return _BYTES_OF_BF16 * shape.hidden_size**2 * (14.5 * layers + 3)


def _last_layer(shape: ModelShape, batch: float) -> float:
    last = max((t.layer for t in shape.tensors if t.layer is not None and t.role != "mtp"), default=0)
    tensors = (t for t in shape.tensors if t.layer == last and t.role != "mtp")
    return _BYTES_OF_BF16 * sum(tensor.elements * (1 - math.pow(1 - tensor.used, batch)) for tensor in tensors)
