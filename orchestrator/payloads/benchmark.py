"""Measures throughput and latency: writes the requests, runs trtllm-bench for each level, merges its reports.

`python3 -m orchestrator.payloads.benchmark --checkpoint DIR --output DIR … -- trtllm-bench … [-- trtllm-bench …]`
writes `dataset.jsonl` and `performance.json`; each command names the dataset, its concurrency and its report. With
`--precision` each command is repeated, with a report for each run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError, StepFailedError
from orchestrator.events import Progress
from orchestrator.payloads import _main
from orchestrator.payloads._performance import Level, read_report
from orchestrator.payloads._process import running, split
from orchestrator.payloads._repeats import repeated
from orchestrator.payloads._report import Reporter
from orchestrator.quantization.intervals import LEAST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PERFORMANCE = "performance.json"
DATASET = "dataset.jsonl"
PROVENANCE = "ORCHESTRATOR_PROVENANCE"
"""The variable with digests that the step does not know, as a JSON object."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, measure and write the figures."""
    given = sys.argv[1:] if arguments is None else arguments
    ours, commands = split(given)
    options = _parser().parse_args(ours)
    options.output.mkdir(parents=True, exist_ok=True)
    dataset = options.output / DATASET
    dataset.write_text("".join(request_lines(options)), encoding="utf-8")
    levels, report = [], Reporter()
    for number, command in enumerate(commands):
        report(Progress(number, len(commands), "runs", f"concurrency {_value(command, '--concurrency')}"))
        levels.append(repeated(partial(_measure, command), options.precision, options.max_runs))
    report(Progress(len(commands), len(commands), "runs"))
    reported = next((level.tool_version for level in levels if level.tool_version), None)
    tool = {"name": "trtllm-bench", "version": os.environ.get("TRT_LLM_VERSION", reported)}
    document = performance_document(options, dataset, levels, tool)
    (options.output / PERFORMANCE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def request_lines(options: argparse.Namespace) -> Iterator[str]:
    """Generate the requests: the same for the same seed, with exactly the given lengths.

    Token numbers come from the middle of the vocabulary: its ends hold bytes, control and placeholder tokens.
    """
    vocabulary = _vocabulary(options.checkpoint / "config.json")
    lowest, highest = vocabulary // 8, vocabulary * 3 // 4
    source = random.Random(options.seed)  # noqa: S311 - repeatable, not secret
    for number in range(options.requests):
        tokens = [source.randrange(lowest, highest) for _ in range(options.input_tokens)]
        request = {"task_id": number, "input_ids": tokens, "output_tokens": options.output_tokens}
        yield json.dumps(request, separators=(",", ":")) + "\n"


def _vocabulary(config: Path) -> int:
    try:
        document = json.loads(config.read_bytes())
        size = document.get("vocab_size", document.get("text_config", {}).get("vocab_size"))
    except (FileNotFoundError, ValueError, AttributeError) as error:
        message = f"{config}: cannot be read: {error}"
        raise CheckpointError(message) from error
    if not isinstance(size, int) or size < 8:  # noqa: PLR2004 - fewer have no middle
        message = f"{config}: vocab_size: expected a whole number of at least 8; found {size!r}"
        raise CheckpointError(message)
    return size


def _measure(command: Sequence[str], run: int) -> Level:
    command = _with_own_report(command, run)
    try:
        with running(command) as process:
            status = process.wait()
    except FileNotFoundError as error:
        message = f"{command[0]}: there is no such program here"
        raise StepFailedError(message) from error
    if status != 0:
        message = f"{Path(command[0]).name} ended with status {status}: {' '.join(command)}"
        raise StepFailedError(message, hint="see the step's log for its last lines")
    report = Path(_value(command, "--report_json"))
    return read_report(report, int(_value(command, "--concurrency")), command)


def performance_document(
    options: argparse.Namespace, dataset: Path, levels: Sequence[Level], tool: Mapping[str, str | None]
) -> dict[str, Any]:
    """Put the figures and all that decides them into performance.json.

    Args:
        options: Those of `parser_of`.
        dataset: The requests.
        levels: The figures.
        tool: Name and version of what measured.
    """
    facts = dict(fact.split("=", 1) for fact in options.fact)
    return {
        "schema_version": 1,
        "tool": dict(tool),
        "facts": facts,
        "provenance": json.loads(os.environ.get(PROVENANCE, "{}")),
        "dataset": {
            "requests": options.requests,
            "input_tokens": options.input_tokens,
            "output_tokens": options.output_tokens,
            "seed": options.seed,
            "sha256": hashlib.sha256(dataset.read_bytes()).hexdigest(),
        },
        "levels": [
            {
                "concurrency": level.concurrency,
                **level.measured,
                **({"interval": dict(level.interval)} if level.interval else {}),
                "report": level.report,
                "command": list(level.command),
            }
            for level in levels
        ],
    }


def _with_own_report(command: Sequence[str], run: int) -> Sequence[str]:
    """Name another report for each further run."""
    if run == 0:
        return command
    report = Path(_value(command, "--report_json"))
    other = str(report.with_name(f"{report.stem}-{run + 1}{report.suffix}"))
    return [other if word == str(report) else word for word in command]


def _value(command: Sequence[str], option: str) -> str:
    try:
        return command[command.index(option) + 1]
    except (ValueError, IndexError):
        message = f"the command to measure with has no {option}: {' '.join(command)}"
        raise StepFailedError(message) from None


def _fact(text: str) -> str:
    if "=" not in text:
        message = f"expected NAME=VALUE; found {text!r}"
        raise argparse.ArgumentTypeError(message)
    return text


def _parser() -> argparse.ArgumentParser:
    return parser_of(
        "benchmark", "COMMAND … [-- COMMAND …]", "Measure with trtllm-bench; one command for each level of concurrency."
    )


def parser_of(payload: str, commands: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of a payload that measures."""
    parser = argparse.ArgumentParser(
        prog=f"python3 -m orchestrator.payloads.{payload}",
        usage=f"%(prog)s --checkpoint DIR --output DIR [options] -- {commands}",
        description=description,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="its config.json is read")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"where to write {PERFORMANCE}")
    parser.add_argument("--requests", type=int, default=16, metavar="N", help="at each level (%(default)s)")
    parser.add_argument("--input-tokens", type=int, default=128, metavar="N", help="of each request (%(default)s)")
    parser.add_argument("--output-tokens", type=int, default=128, metavar="N", help="of each answer (%(default)s)")
    parser.add_argument("--seed", type=int, default=420, metavar="N", help="of the requests (%(default)s)")
    parser.add_argument(
        "--precision", type=float, metavar="SHARE", help="repeat until the mean's 95 %% interval is ± so much"
    )
    parser.add_argument(
        "--max-runs", type=int, default=10, metavar="N", help=f"with --precision, at least {LEAST} (%(default)s)"
    )
    parser.add_argument(
        "--fact", type=_fact, action="append", default=[], metavar="NAME=VALUE", help="to be written with the figures"
    )
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(main))
