"""Serves `/v1/metrics`: the gateway's metrics, the runtime's metrics, and NIM's names for both.

The runtime's metrics are forwarded unchanged. If NIM has another name for one of them, it is written a second time
under that name, with the clients' model name as the label `model_name`. A bundle switches the runtime's metrics on
where its version has them. What it does not measure, the gateway counts itself under NIM's names, except the KV cache.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

READY = "nim_gateway_runtime_ready"
KERNEL = "nim_gateway_runtime_kernel_info"
SILENCE = "nim_gateway_runtime_silence_seconds"
ENDS = "nim_gateway_model_requests_total"
FREE_DISK = "nim_gateway_free_disk_bytes"
CERTIFICATE_END = "nim_gateway_certificate_end_timestamp_seconds"
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


@dataclass(frozen=True)
class MachineState:
    """The server at one moment."""

    running: int
    """Running requests for the model."""
    limit: int
    """The most that may run."""
    at_once: int | None
    """Those that the runtime answers at once; None if not known."""
    ready: bool
    """Whether the runtime answers."""
    silence: float
    """Seconds without a sign that was due."""
    free_disk: int | None
    """Bytes."""
    certificate_end: float | None
    """As Unix has it; None without TLS."""
    kernels: tuple[str, ...] = ()
    """The kernels that the runtime's log names."""

    @property
    def waiting(self) -> int:
        """Running requests that have no place in a batch."""
        return 0 if self.at_once is None else max(0, self.running - self.at_once)


@dataclass
class Metrics:
    """The gateway's counters."""

    names: Mapping[str, str]
    """NIM's name of each of the runtime's metrics."""
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by route and status. An unknown route is `other`."""
    seconds: dict[str, Histogram] = field(default_factory=dict)
    """By route of the model."""
    first_byte: Histogram = field(default_factory=Histogram)
    """Of streamed answers."""
    per_token: Histogram = field(default_factory=Histogram)
    """Of streamed answers: from token to token."""
    read_tokens: int = 0
    written_tokens: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    cut: int = 0
    """Requests for the model, by their end: answered, failed in the server, cancelled by the client, broken off."""

    def text(self, model: str, state: MachineState, runtime: str) -> str:
        """Write all metrics for Prometheus.

        Args:
            model: The name that clients know.
            state: The server at this moment.
            runtime: The runtime's own metrics; empty if there are none.
        """
        labels = {"model_name": model}
        families = [*self._own_families(labels, state)]
        aliases = dict(_renamed(runtime, model, self.names))
        counted = self._nim_families(labels, state)
        families += [family for name, family in counted.items() if name not in aliases]
        forwarded = runtime if not runtime or runtime.endswith("\n") else runtime + "\n"
        return "".join((*families, forwarded, *aliases.values()))

    def _own_families(self, labels: Mapping[str, str], state: MachineState) -> Iterator[str]:
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
        ended = (
            ("cancelled", self.cancelled),
            ("cut", self.cut),
            ("failed", self.failed),
            ("succeeded", self.succeeded),
        )
        ends = (_line(ENDS, {**labels, "end": end}, count) for end, count in ended)
        yield _family(ENDS, "counter", "Requests for the model, by their end.", ends)
        for name, meaning, value in (
            ("nim_gateway_model_requests_running", "Running requests for the model.", state.running),
            (READY, "1 if the runtime is ready.", int(state.ready)),
            (SILENCE, "Seconds without a sign of the runtime that was due.", state.silence),
            (FREE_DISK, "Free disk space for compiled kernels.", state.free_disk),
            (CERTIFICATE_END, "Unix time at which the certificate ends.", state.certificate_end),
        ):
            if value is None:
                continue
            yield _family(name, "gauge", meaning, [_line(name, labels, value)])
        if state.kernels:
            lines = [_line(KERNEL, {**labels, "kernel": kernel}, 1) for kernel in state.kernels]
            yield _family(KERNEL, "gauge", "The kernels that the log of the runtime names.", lines)

    def _nim_families(self, labels: Mapping[str, str], state: MachineState) -> dict[str, str]:
        """Return the gateway's own counts under NIM's names."""
        total = Histogram()
        for each in self.seconds.values():
            total.counts = [a + b for a, b in zip(total.counts, each.counts, strict=True)]
            total.total += each.total
        numbers = {
            "num_requests_running": ("gauge", state.running - state.waiting),
            "num_requests_waiting": ("gauge", state.waiting),
            "num_request_max": ("gauge", state.limit),
            "prompt_tokens_total": ("counter", self.read_tokens),
            "generation_tokens_total": ("counter", self.written_tokens),
            "request_success_total": ("counter", self.succeeded),
            "request_failure_total": ("counter", self.failed),
        }
        histograms = {
            "e2e_request_latency_seconds": total,
            "time_to_first_token_seconds": self.first_byte,
            "time_per_output_token_seconds": self.per_token,
        }
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


def _renamed(runtime: str, model: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Write those of the runtime's metrics that have a NIM name under that name."""
    families: dict[str, list[str]] = {}
    for line in runtime.splitlines():
        found = _COMMENT.match(line) or _SAMPLE.match(line)
        if not found:
            continue
        family = _family_of(found["name"], names)
        alias = names.get(family)
        if alias:
            families.setdefault(alias, []).append(_rename(line, found, family, alias, model))
    for alias, lines in families.items():
        if all(line.startswith("#") for line in lines):
            continue  # a runtime names a metric before it has a value
        yield alias, "".join(f"{line}\n" for line in lines)


def _family_of(name: str, names: Mapping[str, str]) -> str:
    """Name the family of a sample. Versions differ in whether a counter's family ends in `_total`."""
    if name in names:
        return name
    if f"{name}_total" in names:
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
