"""Predicts tokens per second: of all users together, and of a prompt, each with its band and its basis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from orchestrator.errors import SpeedInputError
from orchestrator.planner.bytes import flops_per_token
from orchestrator.planner.constants import Constants, Cost, constants_in_use
from orchestrator.planner.figures import requests
from orchestrator.planner.queueing import Queue, queue_of
from orchestrator.planner.serving import Serving
from orchestrator.planner.step_time import (
    MARLIN,
    Load,
    Terms,
    gpu_of,
    load_of,
    prefill_cost,
    prefill_terms,
    token_terms,
    total,
    unpacks_eight_bits,
)
from orchestrator.values import frozen

_PEAKS: Mapping[Cost, tuple[int, int]] = {"prefill_8": (8, 2), "prefill_4": (4, 4), "prefill_block": (8, 2)}
"""Bits of the products, and the speed of the tensor cores relative to 16 bits."""


@frozen
class Band:
    """Tokens per second."""

    low: float
    expected: float
    high: float

    def scaled(self, factor: float) -> Band:
        """Multiply all three."""
        return Band(self.low * factor, self.expected * factor, self.high * factor)

    def at_clock(self, share: float) -> Band:
        """Return the band of a GPU whose clock is a share of the usual one.

        Products lose as much as the clock, and reading memory loses less: 48 % of prefill and 58 % of decode were left
        at 35 % of a Spark's clock (source: `clock_mhz` in the constants). So only the lower end moves.
        """
        return Band(self.low * min(share, 1.0), self.expected, self.high)

    def below(self, limit: float) -> Band:
        """Apply the physical limit: no step takes less time than its reading."""
        return Band(self.low, self.expected, max(self.expected, min(self.high, limit)))


@frozen
class Speed:
    """The speed of one server."""

    decode: Band
    """Sum over the batch: from the first token to the last, prompts in between included."""
    prefill: Band
    """Tokens of one prompt."""
    ceiling: float
    """The upper limit: only weights and cache, at the peak bandwidth. Accepted drafts can exceed it."""
    basis: tuple[str, ...]
    """How it was calculated, in sentences."""
    queue: Queue | None
    """What its users see; None if the answers have no length."""


def speed(serving: Serving, constants: Constants | None = None) -> Speed:
    """Estimate decode and prefill.

    Args:
        serving: The served model, its machine and its batch. Drafts are not counted.
        constants: The runtime's constants. Default: those of a calibration, else of the tool.

    Raises:
        SpeedInputError: A number that no run can have, or a target without a GPU.
        CatalogError: No such runtime.
    """
    known = constants or constants_in_use()
    load, answer = load_of(serving, known), serving.output_tokens
    queue = queue_of(load, serving.batch, answer) if answer else None
    terms, all_terms = token_terms(replace(load, batch=queue.running) if queue else load), token_terms(load)
    decode = queue.tokens_per_second if queue else load.batch / total(terms, load.runtime)
    prompt = total(prefill_terms(load, load.prompt), load.runtime)
    margin, reason = _margin(load, known)
    wide = max(margin, known.bands["prefill"])
    ceiling = load.batch / (all_terms["weights"] + all_terms["cache"])
    return Speed(
        decode=_band(decode, margin).below(ceiling),
        prefill=_band(load.prompt / prompt, wide),
        ceiling=ceiling,
        basis=(
            *_decode_basis(load, terms, queue),
            _prefill_basis(load),
            f"constants of {serving.runtime}: {load.runtime.basis}",
            f"band: decode ±{margin:.0%}, prefill ±{wide:.0%}: {reason}",
        ),
        queue=queue,
    )


def served(serving: Serving, constants: Constants | None = None) -> Band:
    """Estimate the tokens per second of a closed loop over its whole time, as trtllm-bench measures it.

    Raises:
        SpeedInputError: A number that no run can have, answers without a length, or a target without a GPU.
    """
    known = constants or constants_in_use()
    load, answer = load_of(serving, known), serving.output_tokens
    if not answer:
        message = "output_tokens: found 0, expected the length of the answers"
        raise SpeedInputError(message)
    queue = queue_of(load, serving.batch, answer)
    margin, _ = _margin(load, known)
    return _band(queue.requests_per_second * answer, margin)


def _margin(load: Load, constants: Constants) -> tuple[float, str]:
    """Return the half width of the range, and the reason for it."""
    kind = "moe" if load.shape.is_moe else "dense"
    name = kind if load.batch == 1 else f"{kind}_batch"
    margin, reason = (
        constants.bands[name],
        "9 of 10 measurements of models that were left out of the fit lie within it",
    )
    if not load.runtime.measured:
        margin, reason = max(margin, constants.bands["elsewhere"]), "no measurement of this runtime is published"
    if load.shape.is_moe and not load.runtime.experts_measured:
        margin = max(margin, constants.bands["elsewhere"])
        reason = "no model with experts was measured in this runtime on one such machine"
    if load.nodes > 1:
        margin, reason = max(margin, constants.bands["nodes"]), "few measurements of several nodes are published"
    gpu = gpu_of(load.target)
    if load.drafter is not None:
        margin, reason = max(margin, constants.bands["elsewhere"]), "the text decides how many drafts are accepted"
    if gpu.sm != load.runtime.sm:
        margin, reason = max(margin, constants.bands["elsewhere"]), f"the constants were not measured on {gpu.name}"
    return margin, reason


def _band(expected: float, margin: float) -> Band:
    return Band(expected * (1 - margin), expected, expected * (1 + margin))


def _decode_basis(load: Load, terms: Terms, queue: Queue | None) -> Iterator[str]:
    costs = load.runtime.costs
    read = terms["weights"] * load.bandwidth / 1e9
    cached = terms["cache"] * load.bandwidth / 1e9
    share = 1 / (costs["weights"] + (costs["four_bit"] if terms["four_bit"] else 0.0))
    blocks = round(terms["launch"] * 1e6)
    parts = [
        f"weights {read:.3g} GB at {share:.0%} of {load.bandwidth / 1e9:.4g} GB/s",
        f"cache {cached:.3g} GB at {1 / costs['cache']:.0%}" if costs["cache"] else "",
        f"{blocks} blocks of {costs['launch']:.3g} µs",
        f"{terms['recurrent'] * 1e6:.0f} recurrent ones of {costs['recurrent']:.3g} µs more"
        if terms["recurrent"]
        else "",
        f"products {terms['compute'] * costs['compute'] * 1e3:.3g} ms",
        f"{blocks} exchanges between nodes of {costs['exchange']:.3g} µs" if terms["exchange"] else "",
        f"work on the processor {terms['host'] * costs['host'] * 1e3:.3g} ms" if costs["host"] else "",
    ]
    asked = f"{requests(queue.running if queue else load.batch)} at {load.context:,} tokens"
    step = total(terms, load.runtime) * 1e3
    if load.drafter is not None:
        drafter = load.drafter
        yield (
            f"drafts: {drafter.tokens} by {drafter.kind}, each accepted with {drafter.acceptance:.0%}"
            f" ({drafter.source}): {drafter.tokens_per_step:.3g} tokens per step; what follows is per token"
        )
    yield f"decode: a step of {step:.3g} ms for {asked}: {'; '.join(filter(None, parts))}"
    if queue and queue.users > 1:
        yield (
            f"users: of {queue.users:,}, {queue.running:.3g} decode on average; while an answer of"
            f" {queue.answer:,} tokens is written, each of the others sends a prompt of {load.prompt:,}, which takes"
            f" {queue.prompt_seconds:.3g} s"
        )


def _prefill_basis(load: Load) -> str:
    each = flops_per_token(load.shape, load.prompt // 2) / 1e9
    cost = prefill_cost(load)
    bits, factor = _PEAKS.get(cost, (16, 1))
    share = 1 / load.runtime.costs[cost] / factor
    kernels = f", Marlin takes {MARLIN:g} times as long" if unpacks_eight_bits(load) else ""
    peak = load.tensor_flops * load.gpus * factor / 1e12
    return (
        f"prefill: {load.prompt:,} tokens in steps of at most {load.runtime.chunk:,}, "
        f"{each:.3g} GFLOP each at {share:.0%} of {peak:.4g} TFLOP/s (dense, {bits} bits{kernels})"
    )
