"""Serves `/v1/metrics`: the gateway's metrics, TensorRT-LLM's metrics, and NIM's names for both.

TensorRT-LLM's metrics are forwarded unchanged. If NIM has another name for one of them, it is written a second time
under that name, with the clients' model name as the label `model_name`. TensorRT-LLM's metrics are off unless
`return_perf_metrics` is set; without them, the gateway's own counts have NIM's names.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

NIM_NAMES: Mapping[str, str] = {
    "trtllm_kv_cache_utilization": "gpu_cache_usage_perc",
    "trtllm_num_requests_running": "num_requests_running",
    "trtllm_num_requests_waiting": "num_requests_waiting",
    "trtllm_max_num_active_requests": "num_request_max",
    "trtllm_prompt_tokens_total": "prompt_tokens_total",
    "trtllm_generation_tokens_total": "generation_tokens_total",
    "trtllm_time_to_first_token_seconds": "time_to_first_token_seconds",
    "trtllm_time_per_output_token_seconds": "time_per_output_token_seconds",
    "trtllm_e2e_request_latency_seconds": "e2e_request_latency_seconds",
    "trtllm_request_success_total": "request_success_total",
    "trtllm_request_error_total": "request_failure_total",
}
"""NIM's name of each of TensorRT-LLM's metrics."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds."""
_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(?:\{(?P<labels>.*)\})?\s+(?P<rest>\S.*)")
_COMMENT = re.compile(r"# (?P<kind>HELP|TYPE) (?P<name>\S+)(?: (?P<rest>.*))?")
_MODEL = re.compile(r'(?:^|,)\s*model_name="(?:[^"\\]|\\.)*"')
_COUNTED = "Counted by the gateway."
_PARTS = ("_bucket", "_sum", "_count")


@dataclass
class Histogram:
    """Seconds, counted in buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterator[str]:
        """Write it for Prometheus."""
        cumulative = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            cumulative += count
            yield _line(f"{name}_bucket", {**labels, "le": bound}, cumulative)
        yield _line(f"{name}_sum", labels, self.total)
        yield _line(f"{name}_count", labels, cumulative)


@dataclass
class Metrics:
    """The gateway's counters."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by route and status. An unknown route is `other`."""
    seconds: dict[str, Histogram] = field(default_factory=dict)
    """By route of the model."""
    first_byte: Histogram = field(default_factory=Histogram)
    """Of streamed answers."""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    """Requests for the model, by their end: answered, failed in the server, cancelled by the client."""

    def text(self, model: str, *, running: int, ready: bool, limit: int, runtime: str) -> str:
        """Write all metrics for Prometheus.

        Args:
            model: The name that clients know.
            running: Running requests for the model.
            ready: Whether trtllm-serve answers.
            limit: The most requests that may run at once.
            runtime: TensorRT-LLM's own metrics; empty if there are none.
        """
        labels = {"model_name": model}
        families = [*self._own_families(labels, running, ready)]
        aliases = dict(_renamed(runtime, model))
        counted = self._nim_families(labels, running, limit)
        families += [family for name, family in counted.items() if name not in aliases]
        forwarded = runtime if not runtime or runtime.endswith("\n") else runtime + "\n"
        return "".join((*families, forwarded, *aliases.values()))

    def _own_families(self, labels: Mapping[str, str], running: int, ready: bool) -> Iterator[str]:
        answers = (
            _line("nim_gateway_requests_total", {"route": route, "status": str(status)}, count)
            for (route, status), count in sorted(self.requests.items())
        )
        yield _family("nim_gateway_requests_total", "counter", "Answers, by route and status.", answers)
        timed = (
            line
            for route, seconds in sorted(self.seconds.items())
            for line in seconds.lines("nim_gateway_request_seconds", {"route": route})
        )
        yield _family("nim_gateway_request_seconds", "histogram", "Time from request to end of answer.", timed)
        ended = (("cancelled", self.cancelled), ("failed", self.failed), ("succeeded", self.succeeded))
        ends = (_line("nim_gateway_model_requests_total", {**labels, "end": end}, count) for end, count in ended)
        yield _family("nim_gateway_model_requests_total", "counter", "Requests for the model, by their end.", ends)
        for name, meaning, value in (
            ("nim_gateway_model_requests_running", "Running requests for the model.", running),
            ("nim_gateway_runtime_ready", "1 if trtllm-serve is ready.", int(ready)),
        ):
            yield _family(name, "gauge", meaning, [_line(name, labels, value)])

    def _nim_families(self, labels: Mapping[str, str], running: int, limit: int) -> dict[str, str]:
        """Return the gateway's own counts under NIM's names."""
        total = Histogram()
        for each in self.seconds.values():
            total.counts = [a + b for a, b in zip(total.counts, each.counts, strict=True)]
            total.total += each.total
        numbers = {
            "num_requests_running": ("gauge", running),
            "num_request_max": ("gauge", limit),
            "request_success_total": ("counter", self.succeeded),
            "request_failure_total": ("counter", self.failed),
        }
        histograms = {"e2e_request_latency_seconds": total, "time_to_first_token_seconds": self.first_byte}
        families = {
            name: _family(name, kind, _COUNTED, [_line(name, labels, value)]) for name, (kind, value) in numbers.items()
        }
        return families | {
            name: _family(name, "histogram", _COUNTED, seconds.lines(name, labels))
            for name, seconds in histograms.items()
        }


def _family(name: str, kind: str, meaning: str, lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in (f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *lines))


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {value}"


def escape(text: str) -> str:
    """Escape the value of a label."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _renamed(runtime: str, model: str) -> Iterator[tuple[str, str]]:
    """Write those of TensorRT-LLM's metrics that have a NIM name under that name."""
    families: dict[str, list[str]] = {}
    for line in runtime.splitlines():
        found = _COMMENT.match(line) or _SAMPLE.match(line)
        if not found:
            continue
        family = _family_of(found["name"])
        alias = NIM_NAMES.get(family)
        if alias:
            families.setdefault(alias, []).append(_rename(line, found, family, alias, model))
    for alias, lines in families.items():
        yield alias, "".join(f"{line}\n" for line in lines)


def _family_of(name: str) -> str:
    """Name the family of a sample. Versions differ in whether a counter's family ends in `_total`."""
    if name in NIM_NAMES:
        return name
    if f"{name}_total" in NIM_NAMES:
        return f"{name}_total"
    for part in _PARTS:
        stem = name.removesuffix(part)
        if stem != name:
            return stem
    return name


def _rename(line: str, found: re.Match[str], family: str, alias: str, model: str) -> str:
    if line.startswith("#"):
        return f"# {found['kind']} {alias} {found['rest'] or ''}".rstrip()
    name = alias + found["name"].removeprefix(family) if found["name"].startswith(family) else alias
    others = _MODEL.sub("", found["labels"] or "").strip(",")
    labels = ",".join(part for part in (f'model_name="{escape(model)}"', others) if part)
    return f"{name}{{{labels}}} {found['rest']}"
