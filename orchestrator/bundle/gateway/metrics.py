"""Serves `/v1/metrics`: the gateway's metrics, TensorRT-LLM's metrics, and NIM's names for both.

TensorRT-LLM's metrics are passed on as they are. Where one of them is what NIM calls by another name, it is written
again under that name, with the label `model_name` that clients know; what TensorRT-LLM does not count (its Prometheus
metrics are off unless `return_perf_metrics` is set) and the gateway sees itself has NIM's name too.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
"""What TensorRT-LLM calls a metric, and what NIM calls it."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds."""
_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(?:\{(?P<labels>.*)\})?\s+(?P<rest>\S.*)")
_COMMENT = re.compile(r"# (?P<kind>HELP|TYPE) (?P<name>\S+)(?: (?P<rest>.*))?")
_MODEL = re.compile(r'(?:^|,)\s*model_name="(?:[^"\\]|\\.)*"')
_PARTS = ("_bucket", "_sum", "_count")


@dataclass
class Histogram:
    """Seconds, counted in buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterator[str]:
        """Write it down."""
        seen = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            seen += count
            yield _line(f"{name}_bucket", {**labels, "le": bound}, seen)
        yield _line(f"{name}_sum", labels, self.total)
        yield _line(f"{name}_count", labels, seen)


@dataclass
class Metrics:
    """What the gateway counts."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by route and status; the route of what is on no list is `other`."""
    seconds: dict[str, Histogram] = field(default_factory=dict)
    """By route of the model."""
    first_byte: Histogram = field(default_factory=Histogram)
    """Of streamed answers."""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    """Requests for the model, by their end: answered, failed in the server, given up by the client."""

    def text(self, model: str, *, running: int, ready: bool, most: int, engine: str) -> str:
        """Write everything down for Prometheus.

        Args:
            model: The name that clients know.
            running: Requests for the model under way.
            ready: Whether trtllm-serve answers.
            most: How many requests may be under way.
            engine: TensorRT-LLM's own metrics; empty where there are none.
        """
        labels = {"model_name": model}
        families = [*self._own(labels, running, ready)]
        aliases = dict(_renamed(engine, model))
        seen = self._seen(labels, running, most)
        families += ["".join(f"{line}\n" for line in lines) for name, lines in seen.items() if name not in aliases]
        passed = engine if not engine or engine.endswith("\n") else engine + "\n"
        return "".join((*families, passed, *aliases.values()))

    def _own(self, labels: Mapping[str, str], running: int, ready: bool) -> Iterator[str]:
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
        yield _family("nim_gateway_model_requests_total", "counter", "Requests for the model, by how they ended.", ends)
        for name, told, value in (
            ("nim_gateway_model_requests_running", "Requests for the model under way.", running),
            ("nim_gateway_engine_ready", "1 while trtllm-serve answers.", int(ready)),
        ):
            yield _family(name, "gauge", told, [_line(name, labels, value)])

    def _seen(self, labels: Mapping[str, str], running: int, most: int) -> dict[str, Sequence[str]]:
        """Give what the gateway can say under NIM's names."""
        whole = Histogram()
        for each in self.seconds.values():
            whole.counts = [a + b for a, b in zip(whole.counts, each.counts, strict=True)]
            whole.total += each.total
        numbers = {
            "num_requests_running": ("gauge", running),
            "num_request_max": ("gauge", most),
            "request_success_total": ("counter", self.succeeded),
            "request_failure_total": ("counter", self.failed),
        }
        found: dict[str, Sequence[str]] = {
            name: [f"# HELP {name} Seen by the gateway.", f"# TYPE {name} {kind}", _line(name, labels, value)]
            for name, (kind, value) in numbers.items()
        }
        for name, seconds in {
            "e2e_request_latency_seconds": whole,
            "time_to_first_token_seconds": self.first_byte,
        }.items():
            head = [f"# HELP {name} Seen by the gateway.", f"# TYPE {name} histogram"]
            found[name] = [*head, *seconds.lines(name, labels)]
        return found


def _family(name: str, kind: str, told: str, lines: Iterator[str] | Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in (f"# HELP {name} {told}", f"# TYPE {name} {kind}", *lines))


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    told = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
    return f"{name}{{{told}}} {value}"


def escape(text: str) -> str:
    """Write the value of a label."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _renamed(engine: str, model: str) -> Iterator[tuple[str, str]]:
    """Give the families of TensorRT-LLM that NIM has names for, under these."""
    families: dict[str, list[str]] = {}
    for line in engine.splitlines():
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
    """Name the family of a sample; a counter's is written with and without `_total` by different versions."""
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
