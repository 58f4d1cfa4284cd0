"""Measures a server over HTTP: writes the requests, starts it once, sends each level of concurrency.

`python3 -m orchestrator.payloads.measure --checkpoint DIR --output DIR --concurrency 1 … -- vllm serve DIR …`
writes `dataset.jsonl`, `report-N.json` for each level, `server.log` and `performance.json`. Requests are streamed, with
token numbers as prompts, and answers have exactly the given length, as those of trtllm-bench. No prompt is sent twice,
because a server keeps the cache of those that it knows. Each level begins with a warm-up. With `--conversations`
they are conversations of so many words, for a server without a route for bare text; the server counts their tokens.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import queue
import random
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StepFailedError
from orchestrator.events import Progress
from orchestrator.payloads import _main
from orchestrator.payloads._engine_cache import add_engine_option, engine_cache
from orchestrator.payloads._performance import Level
from orchestrator.payloads._process import split
from orchestrator.payloads._repeats import repeated
from orchestrator.payloads._report import Reporter
from orchestrator.payloads._server import Server
from orchestrator.payloads.benchmark import DATASET, PERFORMANCE, parser_of, performance_document, request_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SERVER_LOG = "server.log"
_WARM_UP = 2**32
"""Added to the seed for requests that are not measured."""
_OK = 200
_EVENT = b"data: "
_DONE = b"[DONE]"
_WORDS = ("book", "city", "day", "far", "good", "house", "long", "man", "new", "old", "sea", "time", "year")
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass
class Timing:
    """The times of one request, in seconds of one clock."""

    began: float
    tokens: list[float] = field(default_factory=list)
    """When each part of the answer came."""
    ended: float = 0.0
    read: int = 0
    """Tokens of the request."""
    written: int = 0
    """Tokens of the answer."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, measure and write the figures."""
    ours, (command,) = split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(ours)
    options.output.mkdir(parents=True, exist_ok=True)
    dataset = options.output / DATASET
    dataset.unlink(missing_ok=True)
    levels, report, count = [], Reporter(), len(options.concurrency)
    with _started(options, command) as model:
        prompts = Prompts(options, dataset, model)
        for number, concurrency in enumerate(options.concurrency):
            report(Progress(number, count, "runs", f"concurrency {concurrency}"))
            _answer_all(options, prompts.warm_up(concurrency), concurrency)
            levels.append(_measure(options, prompts, concurrency, command))
        version = _version(options)
    report(Progress(count, count, "runs"))
    document = performance_document(options, dataset, levels, {"name": options.tool, "version": version})
    (options.output / PERFORMANCE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _started(options: argparse.Namespace, command: Sequence[str]) -> Iterator[str]:
    log = options.output / SERVER_LOG
    with engine_cache(options.engine) as cache:
        timeouts = options.startup_timeout, options.answer_timeout
        server = Server([*command, *cache], options.checkpoint, options.port, log, *timeouts)
        with server.started() as model:
            yield model


def conversation_lines(options: argparse.Namespace) -> Iterator[str]:
    """Generate questions of so many common words, most of which are one token: the same for the same seed."""
    source = random.Random(options.seed)  # noqa: S311 - repeatable, not secret
    for number in range(options.requests):
        question = " ".join(source.choices(_WORDS, k=options.input_tokens))
        request = {"task_id": number, "question": question, "output_tokens": options.output_tokens}
        yield json.dumps(request, separators=(",", ":")) + "\n"


def request_body(request: dict[str, Any], model: str) -> bytes:
    """Write the body of a request of the data set."""
    sent: dict[str, Any] = {"model": model}
    if "question" in request:
        sent |= {"messages": [{"role": "user", "content": request["question"]}], "max_tokens": request["output_tokens"]}
        sent |= {"stream_options": {"include_usage": True}}
    else:
        sent |= {"prompt": request["input_ids"], "max_tokens": request["output_tokens"], "ignore_eos": True}
    return json.dumps({**sent, "temperature": 0, "stream": True}).encode()


@dataclass
class Prompts:
    """Makes the requests of each run; those of the first run follow from the seed, as those of trtllm-bench do."""

    options: argparse.Namespace
    dataset: Path
    """Gets all requests that are measured, in the order of the runs."""
    model: str
    _runs: int = 0

    def warm_up(self, concurrency: int) -> list[bytes]:
        """Make a request for each user."""
        lines = self._lines(_WARM_UP + self._runs)
        return [request_body(json.loads(line), self.model) for line in itertools.islice(lines, concurrency)]

    def next_run(self) -> list[bytes]:
        """Make requests that were not sent before, and note them."""
        lines = list(self._lines(self._runs))
        self._runs += 1
        with self.dataset.open("a", encoding="utf-8") as stream:
            stream.writelines(lines)
        return [request_body(json.loads(line), self.model) for line in lines]

    def _lines(self, number: int) -> Iterator[str]:
        own = argparse.Namespace(**{**vars(self.options), "seed": self.options.seed + number})
        return conversation_lines(own) if own.conversations else request_lines(own)


def _measure(options: argparse.Namespace, prompts: Prompts, concurrency: int, command: Sequence[str]) -> Level:
    """Measure a level, more than once if its interval has to be narrow."""

    def measure(run: int) -> Level:
        timings, seconds = _answer_all(options, prompts.next_run(), concurrency)
        name = f"report-{concurrency}-{run + 1}.json" if run else f"report-{concurrency}.json"
        _write_report(options, name, timings, seconds)
        return Level(concurrency, command, name, summarize(timings, seconds, options), None)

    return repeated(measure, options.precision, options.max_runs)


def _answer_all(options: argparse.Namespace, bodies: Sequence[bytes], concurrency: int) -> tuple[list[Timing], float]:
    """Send all requests, so many at once. Return their times, and the seconds of the whole run."""
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for body in bodies:
        waiting.put(body)
    timings: list[Timing] = []
    failed: list[Exception] = []

    def work() -> None:
        while not failed:
            try:
                body = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                timings.append(_send(options, body))
            except (OSError, http.client.HTTPException, StepFailedError) as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if failed:
        message = f"a request failed at concurrency {concurrency}: {failed[0]}"
        raise StepFailedError(message, hint=f"see {SERVER_LOG} among the step's results")
    return timings, seconds


def _write_report(options: argparse.Namespace, name: str, timings: Sequence[Timing], seconds: float) -> None:
    counts = [{"read": each.read, "written": each.written} if options.conversations else {} for each in timings]
    times = [
        {"began": each.began, "tokens": each.tokens, "ended": each.ended, **count}
        for each, count in zip(timings, counts, strict=True)
    ]
    (options.output / name).write_text(json.dumps({"seconds": seconds, "requests": times}) + "\n", encoding="utf-8")


def _send(options: argparse.Namespace, body: bytes) -> Timing:
    """Send one request and note when each part of its answer comes."""
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=options.answer_timeout)
    try:
        timing = Timing(time.monotonic(), read=options.input_tokens, written=options.output_tokens)
        path = "/v1/chat/completions" if options.conversations else "/v1/completions"
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != _OK:
            message = f"{path} answered with status {answer.status}: {answer.read(500).decode(errors='replace')}"
            raise StepFailedError(message)
        for line in answer:
            if line.startswith(_EVENT) and line.removeprefix(_EVENT).strip() != _DONE:
                _note(timing, line.removeprefix(_EVENT), conversation=options.conversations)
        timing.ended = time.monotonic()
    finally:
        connection.close()
    if not timing.tokens:
        message = f"{path} answered without a token"
        raise StepFailedError(message)
    return timing


def _note(timing: Timing, event: bytes, *, conversation: bool) -> None:
    """Note when a token came. Of a conversation, an event may have none, and the last one has the server's counts."""
    if not conversation:
        timing.tokens.append(time.monotonic())
        return
    document = json.loads(event)
    if "error" in document:
        message = f"an answer broke off: {document['error']}"
        raise StepFailedError(message)
    usage = document.get("usage")
    if usage:
        timing.read, timing.written = usage["prompt_tokens"], usage["completion_tokens"]
    deltas = [choice["delta"] for choice in document["choices"]]
    if any(delta.get("content") or delta.get("reasoning_content") for delta in deltas):
        timing.tokens.append(time.monotonic())


def summarize(timings: Sequence[Timing], seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Calculate the figures as trtllm-bench defines them.

    Args:
        timings: The times and tokens of every request.
        seconds: The time of the whole run.
        options: The number of GPUs.
    """
    latencies = [each.ended - each.began for each in timings]
    between = [(each.tokens[-1] - each.tokens[0]) / max(1, each.written - 1) for each in timings]
    written = sum(each.written for each in timings)
    output = written / seconds
    per_user = sum(each.written / latency for each, latency in zip(timings, latencies, strict=True))
    return {
        "output_tokens_per_second": output,
        "total_tokens_per_second": (sum(each.read for each in timings) + written) / seconds,
        "output_tokens_per_second_per_user": per_user / len(latencies),
        "output_tokens_per_second_per_gpu": output / options.gpus,
        "requests_per_second": len(timings) / seconds,
        "request_latency_ms": _spread(latencies),
        "time_to_first_token_ms": _spread([each.tokens[0] - each.began for each in timings]),
        "time_per_output_token_ms": _spread(between),
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(1000 * value for value in seconds)
    last = len(ordered) - 1
    found = {name: ordered[round(share * last)] for name, share in _PERCENTILES.items()}
    return found | {"minimum": ordered[0], "maximum": ordered[-1], "average": sum(ordered) / len(ordered)}


def _version(options: argparse.Namespace) -> str | None:
    """Ask the server for its version; None if it does not tell."""
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=options.answer_timeout)
    try:
        connection.request("GET", "/version")
        answer = connection.getresponse()
        return str(json.loads(answer.read())["version"]) if answer.status == _OK else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("measure", "COMMAND …", "Measure a server over HTTP.")
    parser.add_argument("--concurrency", type=int, action="append", required=True, metavar="N", help="requests at once")
    parser.add_argument("--tool", required=True, metavar="NAME", help="the runtime's name")
    parser.add_argument("--conversations", action="store_true", help="send conversations instead of token numbers")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs that serve (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="where the server listens (%(default)s)")
    parser.add_argument(
        "--startup-timeout", type=float, default=1800, metavar="S", help="until it is healthy (%(default)s seconds)"
    )
    parser.add_argument(
        "--answer-timeout", type=float, default=300, metavar="S", help="for each part of an answer (%(default)s)"
    )
    add_engine_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(main))
