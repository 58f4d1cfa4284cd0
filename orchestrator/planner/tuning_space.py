"""Chooses the options that `tune` tries, and what the plan says of each combination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from orchestrator.planner.serving import Serving
from orchestrator.planner.speed import served
from orchestrator.planner.tuning import Axis, Point, points_of
from orchestrator.recipe.model import DraftTarget, Eagle3, Mtp, Recipe
from orchestrator.serving.server import Runtime, Server

BATCH, TOKENS = "serve.max_batch_size", "serve.max_num_tokens"
MEMORY = "serve.kv_cache.free_gpu_memory_fraction"
CACHE = "serve.kv_cache.dtype"
_MEMORIES = (0.7, 0.8, 0.9)
_STEPS = (2048, 4096, 8192, 16384)
_DRAFTED = (1, 2, 4)


def axes_of(recipe: Recipe, server: Server, runtime: Runtime, users: int, *, drafts: bool) -> tuple[Axis, ...]:
    """Return the options to try, each with the recipe's own value.

    Args:
        recipe: The recipe.
        server: The same, as its runtime sees it.
        runtime: Its runtime.
        users: Users at once.
        drafts: Try other lengths of drafts.
    """
    serve = recipe.serve
    own = {BATCH: serve.max_batch_size, TOKENS: serve.max_num_tokens, MEMORY: serve.kv_cache.free_gpu_memory_fraction}
    batches = {max(1, users // 4), max(1, users // 2), users, own[BATCH]}
    tried = {BATCH: batches, TOKENS: {*_STEPS, own[TOKENS]}, MEMORY: {*_MEMORIES, own[MEMORY]}}
    built = recipe.backend == "tensorrt"  # an engine takes what it was built for
    axes = [
        Axis(
            name,
            tuple(sorted(value for value in values if not (built and name != MEMORY and value > own[name]))),
            memory=1,
        )
        for name, values in tried.items()
    ]
    axes += [_kernels(recipe, name, values) for name, values in runtime.kernels(server).items()]
    axes += list(_drafts(recipe)) if drafts else []
    if serve.kv_cache.dtype != "auto" and recipe.quantization.kv_cache == "none":
        axes.append(Axis(CACHE, (serve.kv_cache.dtype, "auto"), ordered=False))  # more exact, never less
    return tuple(axis for axis in axes if len(axis.values) > 1)


def start_of(axes: tuple[Axis, ...], recipe: Recipe) -> Point:
    """Return the point that is the recipe itself."""
    return tuple(axis.values.index(_own(recipe, axis)) for axis in axes)


def predicted(axes: tuple[Axis, ...], serving: Serving) -> dict[Point, float]:
    """Return the plan's tokens per second of every point that fits: prompts and all users included.

    Kernels and drafts change no prediction.
    """
    names = [axis.name for axis in axes]
    speeds: dict[tuple[object, ...], float] = {}
    found = {}
    for point in points_of(axes):
        values = {name: axis.values[at] for name, axis, at in zip(names, axes, point, strict=True)}
        known = tuple(values.get(name) for name in (BATCH, TOKENS, MEMORY))
        if known not in speeds:
            speeds[known] = _speed(serving, *known)
        if speeds[known]:
            found[point] = speeds[known]
    return found


def changes_of(axes: tuple[Axis, ...], start: Point, point: Point) -> dict[str, object]:
    """Return the values by key path in which a point differs from the recipe."""
    places = zip(axes, start, point, strict=True)
    return {axis.name: axis.values[at] for axis, own, at in places if at != own}


def point_of(axes: tuple[Axis, ...], start: Point, changes: Mapping[str, object]) -> Point | None:
    """Return the point with these changes; None if it is not one of those to try."""
    if any(changes.get(axis.name, axis.values[own]) not in axis.values for axis, own in zip(axes, start, strict=True)):
        return None
    return tuple(
        axis.values.index(changes[axis.name]) if axis.name in changes else own
        for axis, own in zip(axes, start, strict=True)
    )


def _speed(serving: Serving, batch: object, tokens: object, share: object) -> float:
    asked = replace(
        serving,
        batch=min(serving.batch, batch if isinstance(batch, int) else serving.batch),
        tokens_per_step=tokens if isinstance(tokens, int) else serving.tokens_per_step,
        cache_share=share if isinstance(share, float) else serving.cache_share,
    )
    one = replace(asked, batch=1)
    return served(asked).expected if one.peak <= one.limit <= one.available else 0.0


def _own(recipe: Recipe, axis: Axis) -> object:
    value: object = recipe
    for part in axis.name.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    return value if value in axis.values else None


def _kernels(recipe: Recipe, name: str, values: tuple[str, ...]) -> Axis:
    """Try kernels besides the recipe's own choice; None: that of the runtime, or one that is not tried elsewhere."""
    axis = Axis(name, values, ordered=False)
    return axis if _own(recipe, axis) is not None else Axis(name, (None, *values), ordered=False)


def _drafts(recipe: Recipe) -> Iterator[Axis]:
    """Try other lengths of the recipe's own drafts. They change no answer."""
    match recipe.serve.speculative:
        case Mtp(num_nextn_predict_layers=own):
            yield Axis("serve.speculative.num_nextn_predict_layers", tuple(sorted({*_DRAFTED, own})))
        case DraftTarget(max_draft_len=own) | Eagle3(max_draft_len=own):
            yield Axis("serve.speculative.max_draft_len", tuple(sorted({*_DRAFTED, own})))
        case None:
            return
