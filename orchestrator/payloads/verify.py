"""Checks a checkpoint and, with a server's command, that it can be served.

`python -m orchestrator.payloads.verify --checkpoint DIR --output DIR [-- trtllm-serve serve DIR …]` writes
`quality.json`, also when a check fails, and the server's output to `server.log`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckFailedError
from orchestrator.events import Warned
from orchestrator.payloads import _main
from orchestrator.payloads._engine_cache import add_engine_option, engine_cache
from orchestrator.payloads._process import split
from orchestrator.payloads._report import Reporter
from orchestrator.payloads._server import Served, Server, kernels
from orchestrator.quantization import evaluation, limits, quality
from orchestrator.quantization import report as quantizer_report
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.format_names import MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.events import Observer

QUALITY = "quality.json"
SERVER_LOG = "server.log"
_NO_TEXT = "not measured: the recipe names no text to compare both models on (checks.held_out)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, check, serve if there is a command, and write the report."""
    ours, commands = split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(ours)
    options.output.mkdir(parents=True, exist_ok=True)
    reporter = Reporter()
    report = quality.examine(
        options.checkpoint,
        reference=options.reference,
        min_snr_db=options.min_snr_db,
        chat_template=options.chat_template,
        observer=reporter,
    )
    document: dict[str, Any] = {"divergence": None}
    if options.evaluation:
        report, document["divergence"] = _compare(report, options, reporter)
    else:
        report = replace(report, skipped=(*report.skipped, quality.Skipped("kl_divergence", _NO_TEXT)))
    if options.candidates:
        document["compared"] = {"own": options.own, **read_json(options.candidates)}
    served = None
    if commands and report.passed:
        report, served = _serve(report, options, commands[0])
    document = {**report.document(), **document}
    document["min_snr_db"] = options.min_snr_db
    document["served"] = None if served is None else asdict(served) | _kernels(options)
    write_json(options.output / QUALITY, document)
    report.require()


def _compare(
    report: quality.Report, options: argparse.Namespace, observer: Observer
) -> tuple[quality.Report, dict[str, Any]]:
    """Judge the comparison with the original: the report with more checks, and the numbers."""
    found = evaluation.Evaluation.read(options.evaluation)
    made = _quantizer_report(options.checkpoint)
    bits, search = made.get("choice", {}).get("bits_per_weight"), made.get("scale_search", {}).get("name", MAX)
    gates = limits.limits(report.format, bits, options.max_kl_divergence, options.max_perplexity_increase)
    verdicts = evaluation.judge(found, gates)
    checks = [quality.Check(one.name, one.passed, one.detail, one.warning) for one in verdicts]
    advice = evaluation.advice(verdicts, limits.other_ways(report.format, search))
    report = replace(report, checks=(*report.checks, *checks), advice=advice)
    for one in checks:
        if one.warning:
            observer(Warned(f"{one.name}: {one.detail}. What to try: {advice}"))
    return report, evaluation.as_document(found, gates, verdicts)


def _quantizer_report(checkpoint: Path) -> dict[str, Any]:
    """Read what our own quantizer wrote beside the checkpoint; nothing if another one made it."""
    file = checkpoint / quantizer_report.FILE
    return read_json(file) if file.is_file() else {}


def _serve(
    report: quality.Report, options: argparse.Namespace, command: Sequence[str]
) -> tuple[quality.Report, Served | None]:
    """Ask the server a question: the report with one more check, and the answer if there was one."""
    served, log = None, options.output / SERVER_LOG
    try:
        with engine_cache(options.engine) as cache:
            timeouts = options.startup_timeout, options.answer_timeout
            server = Server([*command, *cache], options.checkpoint, options.port, log, *timeouts)
            served = server.ask_once(chat=quality.has_chat_template(options.checkpoint))
        check = quality.Check("served", passed=True, detail=f"answered in {served.seconds_to_answer} seconds")
    except CheckFailedError as error:
        check = quality.Check("served", passed=False, detail=error.message)
    return replace(report, checks=(*report.checks, check)), served


def _kernels(options: argparse.Namespace) -> dict[str, list[str]]:
    """Tell which kernels the server chose, if its log can say so."""
    patterns = options.kernel_pattern
    return {"kernels": kernels(options.output / SERVER_LOG, patterns)} if patterns else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.payloads.verify",
        usage="%(prog)s --checkpoint DIR --output DIR [options] [-- COMMAND …]",
        description="Check a checkpoint; with a server's command after --, also that it answers a question.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what to check")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"where to write {QUALITY}")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="the unquantized original")
    parser.add_argument("--min-snr-db", type=float, metavar="X", help="signal-to-noise that each module must reach")
    parser.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="the result of the comparison with the original"
    )
    parser.add_argument("--candidates", type=Path, metavar="FILE", help="the result of comparing ways to quantize")
    parser.add_argument("--own", metavar="NAME", help="which of them the checkpoint is")
    parser.add_argument(
        "--max-kl-divergence",
        type=float,
        metavar="X",
        help="largest divergence from the original, in nats a token; by default what the format is known for",
    )
    parser.add_argument(
        "--max-perplexity-increase",
        type=float,
        metavar="X",
        help="largest relative increase of perplexity; by default likewise",
    )
    parser.add_argument(
        "--no-chat-template", dest="chat_template", action="store_false", help="allow a model without a chat template"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="where the server listens (%(default)s)")
    parser.add_argument(
        "--startup-timeout", type=float, default=1800, metavar="S", help="until it is healthy (%(default)s seconds)"
    )
    parser.add_argument(
        "--answer-timeout", type=float, default=300, metavar="S", help="until it has answered (%(default)s seconds)"
    )
    parser.add_argument(
        "--kernel-pattern", action="append", default=[], metavar="X", help="finds kernels in the server's log"
    )
    add_engine_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(main))
