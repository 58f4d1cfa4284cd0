"""The reference of everything that can be refused or go wrong, with its code and exit status."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from docs.generate.catalogue import faults
from docs.generate.markdown import block, code, first_line, page, table, table_in
from orchestrator import errors
from orchestrator.errors import OrchestratorError
from orchestrator.planner import rules

_INTRODUCTION = """\
A message says where, what was found and what was expected; the line after the arrow says what to do next. Codes and
exit statuses are part of the interface and do not change their meaning."""

_EXAMPLE = """\
error[RECIPE_INVALID]: --set: `quantization.format`: expected one of bf16, fp8, nvfp4, w4a16_nvfp4, mxfp4, int4_awq; \
found "fp6"; did you mean `fp8`?"""

_JSON = """\
With `--json`, an error is one object on standard error: `{"error": {"code", "message", "hint"}}`. Refusals of `plan`
and of a dry-run are part of the document on standard output."""


_MAKE = """\
`make` ends with 2 whatever the command that it ran ended with. The status of the command stands in the last line, as in
`make: *** [Makefile:35: plan] Error 4`. Where a script must tell the statuses apart, call `orchestrator` itself."""


def reference() -> str:
    """Write the page of error codes."""
    return page(
        "Errors, refusals and warnings",
        _INTRODUCTION,
        block(_EXAMPLE),
        _JSON,
        f"## Exit statuses\n\n{exit_statuses()}\n\n{_MAKE}",
        f"## Errors\n\n{table(('code', 'exit status', 'meaning'), error_rows())}",
        f"## Refusals\n\nA refused plan ends with exit status 4 before anything is downloaded.\n\n{refusals()}",
        "## Warnings\n\nA plan that warns is carried out all the same.\n\n"
        + table(("code", "when"), [*_caution_rows(), *_fault_rows()]),
    )


def exit_statuses() -> str:
    """Write the table of exit statuses."""
    return table_in(errors.__doc__)


def refusals() -> str:
    """Write the table of refusal codes."""
    return table_in(rules.__doc__)


def error_rows() -> list[tuple[str, str, str]]:
    """List the errors with a code of their own, in the order of the source."""
    return [
        (code(kind.code), str(kind.exit_status), first_line(kind.__doc__))
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, OrchestratorError) and "code" in vars(kind)
        if kind is not OrchestratorError
    ]


def _caution_rows() -> Iterator[tuple[str, str]]:
    for rule in rules.CAUTIONS:
        source = ast.parse(inspect.getsource(rule))
        yield from ((code(found), first_line(rule.__doc__)) for found in codes_in(source))


def _fault_rows() -> list[tuple[str, str]]:
    return [(code(fault.code), fault.message) for fault in faults() if fault.effect == "warn"]


def codes_in(tree: ast.AST) -> list[str]:
    """Find the codes that a piece of source gives to refusals."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal")
    firsts = (call.args[0] for call in calls if call.args)
    return [first.value for first in firsts if isinstance(first, ast.Constant) and isinstance(first.value, str)]
