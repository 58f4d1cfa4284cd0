"""Builds a recipe up to its checks, and collects what they found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.app.building import Executors, build, executors_of
from orchestrator.app.make_plan import ExecutorName, Plan
from orchestrator.app.planning import plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.resolving import resolve
from orchestrator.app.runner import Runner, StepResult
from orchestrator.app.settings import Settings
from orchestrator.errors import ArtifactCorruptError, CheckFailedError
from orchestrator.events import Observer, silence
from orchestrator.values import frozen

_STEP = "verify"


@frozen
class Verification:
    """The results of a recipe's checks."""

    plan: Plan
    results: tuple[StepResult, ...]
    """The result of each step up to the checks."""
    quality: dict[str, Any]
    """The content of quality.json: `passed`, `checks`, and figures of the quantization."""

    @property
    def quantization(self) -> dict[str, Any]:
        """The quantizer's report; empty if nothing was quantized."""
        return _report(self.results, "quantize", "quantization.json")


def verify(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str] = (),
    *,
    executor: ExecutorName | None = None,
    deep: bool = False,
    executors: Executors | None = None,
    observer: Observer = silence,
) -> Verification:
    """Build a recipe up to its checks.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run the steps that can run in more than one place.
        deep: Hash every file of every step again.
        executors: How to create each executor; None: processes and Docker of this machine.
        observer: Gets the events of the build.

    Raises:
        CheckFailedError: A check failed.
        ArtifactCorruptError: A file changed since it was built. The artifact was set aside, and the next build
            creates it again.
    """
    built = build(settings, recipe, overrides, executor=executor, last=_STEP, executors=executors, observer=observer)
    if deep:
        _hash_again(settings, built.results)
    return Verification(built.plan, built.results, _report(built.results, _STEP, "quality.json"))


def failed_verification(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str],
    error: CheckFailedError,
    *,
    executor: ExecutorName | None = None,
) -> Verification:
    """Collect the results of the steps before a failed check. They show the cause."""
    resolved = resolve(settings, plan(settings, recipe, overrides, executor))
    names = [placed.step.name for placed in resolved.steps]
    before = names[names.index(_STEP) - 1]
    results = Runner(settings.store, executors_of(settings), silence).run(
        resolved, last=before
    )  # all of them are cached
    tensors = _report(results, "quantize", "quantization.json").get("tensors", [])
    quality = {
        "passed": False,
        "checks": [{"name": error.code, "passed": False, "detail": error.message, "warning": False}],
        "advice": error.hint,
        "skipped": [],
        "layers": [{"name": tensor["module"], "snr_db": tensor["snr_db"]} for tensor in tensors],
        "divergence": _report(results, "evaluate", "evaluation.json") or None,
    }
    return Verification(resolved, results, quality)


def _report(results: Sequence[StepResult], step: str, file: str) -> dict[str, Any]:
    """Read a step's output file; an empty object if there is no such step or file."""
    found = [result.artifact.folder / file for result in results if result.name == step]
    return next((dict(json.loads(report.read_bytes())) for report in found if report.is_file()), {})


def _hash_again(settings: Settings, results: Sequence[StepResult]) -> None:
    for result in results:
        try:
            settings.store.check(result.artifact)
        except ArtifactCorruptError:
            settings.store.set_aside(result.artifact.key)
            raise
