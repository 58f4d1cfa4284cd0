"""Defines the options that describe what users send, and the times that they accept."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from orchestrator.planner.drafting import DRAFT_KINDS, Drafting, DraftKind, drafting
from orchestrator.planner.queueing import Targets
from orchestrator.recipe.model import Workload
from orchestrator.values import frozen

_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3}


class Seconds(click.ParamType[float]):
    """A short time: `1s`, `200ms`, or seconds without a unit."""

    name = "time"

    def convert(
        self,
        value: str | float,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Convert to seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(s|ms|)", value.strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r:.60} is no time above 0; write it as `1s` or `200ms`", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


@frozen
class AskedWorkload:
    """What the command line says of the users; None: nothing."""

    input_tokens: int | None
    output_tokens: int | None
    concurrency: int | None
    rate: float | None
    targets: Targets
    drafter: Drafting | None

    @property
    def workload(self) -> Workload:
        """The workload; lengths that are not given are the usual ones."""
        return Workload.model_validate(dict(self._given()))

    @property
    def overrides(self) -> tuple[str, ...]:
        """The same as values of a recipe."""
        other = {"concurrency": "rate", "rate": "concurrency"}
        given = dict(self._given())
        cleared = [f"serve.workload.{other[name]}=null" for name in given if name in other]
        return (*cleared, *(f"serve.workload.{name}={value}" for name, value in given.items()))

    def _given(self) -> Iterator[tuple[str, float]]:
        for name in ("input_tokens", "output_tokens", "concurrency", "rate"):
            if (value := getattr(self, name)) is not None:
                yield name, value


Command = Callable[..., Any]

_targets_options = (
    click.option("--ttft", type=Seconds(), metavar="TIME", help="Longest time to the first token, such as 1s."),
    click.option("--tpot", type=Seconds(), metavar="TIME", help="Longest time per further token, such as 50ms."),
)
_length_options = (
    click.option("--input-tokens", type=click.IntRange(1, 2**24), metavar="N", help="Tokens of each prompt."),
    click.option("--output-tokens", type=click.IntRange(1, 2**24), metavar="N", help="Tokens of each answer."),
    click.option("--concurrency", type=click.IntRange(1, 4096), metavar="N", help="Users at once."),
)
_rate_options = (
    click.option(
        "--rate", type=click.FloatRange(0, 1e6, min_open=True), metavar="N",
        help="Requests per second that arrive, in place of --concurrency.",
    ),
)  # fmt: skip
_draft_options = (
    click.option(
        "--drafts", type=click.Choice(DRAFT_KINDS),
        help="Speculative decoding: the model's own layers (mtp), or a head of this kind.",
    ),
    click.option(
        "--draft-tokens", type=click.IntRange(1, 64), metavar="N",
        help="With --drafts: tokens drafted per step. Default: what is usual for the kind.",
    ),
    click.option(
        "--acceptance", type=click.FloatRange(0, 1), metavar="SHARE",
        help="With --drafts: the chance that a drafted token is accepted. Default: what is published for the kind.",
    ),
)  # fmt: skip


def workload_options(command: Command) -> Command:
    """Add the options of a workload; the command gets them as `asked`."""
    return _gathered(command, (*_length_options, *_rate_options, *_targets_options, *_former_options))


def measured_workload_options(command: Command) -> Command:
    """Add the options of a workload that is measured: users, who send their next request after each answer."""
    return _gathered(command, _length_options)


def tuned_workload_options(command: Command) -> Command:
    """Add the same, with the times that users accept."""
    return _gathered(command, (*_length_options, *_targets_options))


def drafted_workload_options(command: Command) -> Command:
    """Add the options of a workload and of drafts; the command gets them as `asked`."""
    return _gathered(command, (*_length_options, *_rate_options, *_targets_options, *_draft_options, *_former_options))


def _refuse(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Name the options that replace one. Click would suggest one that is merely spelt alike."""
    if value is not None:
        message = f"there is no option {param.opts[0]} any more: {_INSTEAD[param.opts[0]]}"
        raise click.UsageError(message, ctx)


_INSTEAD = {
    "--batch": "write --concurrency",
    "--context": "write --input-tokens and --output-tokens, which it was the sum of",
}
_former_options = tuple(
    click.option(name, hidden=True, expose_value=False, callback=_refuse, default=None) for name in _INSTEAD
)


def _gathered(command: Command, options: Iterable[Callable[[Command], Command]]) -> Command:
    @functools.wraps(command)
    def gathered(
        *arguments: object,
        input_tokens: int | None,
        output_tokens: int | None,
        concurrency: int | None,
        rate: float | None = None,
        ttft: float | None = None,
        tpot: float | None = None,
        drafts: DraftKind | None = None,
        draft_tokens: int | None = None,
        acceptance: float | None = None,
        **others: object,
    ) -> Any:  # noqa: ANN401 - what the command returns
        if concurrency is not None and rate is not None:
            message = "give either --concurrency or --rate"
            raise click.UsageError(message)
        if drafts is None and (draft_tokens is not None or acceptance is not None):
            message = "--draft-tokens and --acceptance describe drafts: give --drafts as well"
            raise click.UsageError(message)
        drafter = drafting(drafts, draft_tokens, acceptance) if drafts else None
        asked = AskedWorkload(input_tokens, output_tokens, concurrency, rate, Targets(ttft, tpot), drafter)
        return command(*arguments, asked=asked, **others)

    found: Command = gathered
    for option in reversed(tuple(options)):
        found = option(found)
    return found
