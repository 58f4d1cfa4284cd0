"""The program as a library: plan, resolve, build, verify and deploy recipes.

    import os

    from orchestrator.app import RecipeName, Settings, build, plan

    settings = Settings(os.environ)
    recipe = RecipeName("tiny-llama-w4a16-nvfp4")
    print(plan(settings, recipe).plan.verdict)
    print(build(settings, recipe).bundle)

Functions print nothing and do not exit. They report events to an observer and raise subclasses of
`orchestrator.errors.OrchestratorError`. Each name is loaded when it is first used, so that a program that only plans
loads no Docker SDK and no client of the Hub.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.app.building import Build, build
    from orchestrator.app.bundling import write_bundle
    from orchestrator.app.deploying import Deployed, deploy
    from orchestrator.app.make_plan import Plan
    from orchestrator.app.planning import Planned, plan
    from orchestrator.app.recipe_name import RecipeName
    from orchestrator.app.resolving import resolve
    from orchestrator.app.runner import StepResult
    from orchestrator.app.settings import Settings
    from orchestrator.app.verifying import Verification, verify

_MODULES = {
    "Build": "building",
    "Deployed": "deploying",
    "Plan": "make_plan",
    "Planned": "planning",
    "RecipeName": "recipe_name",
    "Settings": "settings",
    "StepResult": "runner",
    "Verification": "verifying",
    "build": "building",
    "deploy": "deploying",
    "plan": "planning",
    "resolve": "resolving",
    "verify": "verifying",
    "write_bundle": "bundling",
}
"""The module of each public name."""

__all__ = [
    "Build",
    "Deployed",
    "Plan",
    "Planned",
    "RecipeName",
    "Settings",
    "StepResult",
    "Verification",
    "build",
    "deploy",
    "plan",
    "resolve",
    "verify",
    "write_bundle",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class or a function
    """Load a public name when it is first used."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
