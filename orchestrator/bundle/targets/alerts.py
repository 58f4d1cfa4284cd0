"""Lists the alert rules of a bundle, for Prometheus and the Prometheus Operator alike."""

from __future__ import annotations

from orchestrator.bundle.gateway.metrics import (
    CERTIFICATE_END,
    ENDS,
    FREE_DISK,
    READY,
    SILENCE,
)
from orchestrator.values import frozen


@frozen
class Alert:
    """A rule."""

    name: str
    query: str
    lasting: str
    """How long the query must hold."""
    severity: str
    summary: str
    """What an operator reads first."""


def alerts(startup_timeout: int, server: str) -> tuple[Alert, ...]:
    """Return the rules.

    Args:
        startup_timeout: Seconds that a server may take to start.
        server: The name of the runtime's server.
    """
    failed, ended = f'{ENDS}{{end="failed"}}', f'{ENDS}{{end!="cancelled"}}'
    return (
        Alert(
            "ModelServerNotReady",
            f"min by (model_name) ({READY}) == 0",
            f"{startup_timeout}s",
            "critical",
            "The model does not answer, for longer than its start may take.",
        ),
        Alert(
            "ModelServerHangs",
            f"max by (model_name) ({SILENCE}) > 120",
            "1m",
            "critical",
            f"{server} gives no sign while an answer is due. After NIM_GATEWAY_SILENCE_SECONDS it is started again.",
        ),
        Alert(
            "ModelServerKvCacheFull",
            "max by (model_name) (gpu_cache_usage_perc) > 0.98",
            "10m",
            "warning",
            "No KV cache is left: requests wait. Lower the context or the requests at once, or add a server.",
        ),
        Alert(
            "ModelServerErrors",
            f"sum by (model_name) (rate({failed}[5m])) / sum by (model_name) (rate({ended}[5m])) > 0.05",
            "5m",
            "critical",
            "More than 5 % of the requests fail in the server.",
        ),
        Alert(
            "ModelServerCutStreams",
            f'sum by (model_name) (rate({ENDS}{{end="cut"}}[5m])) > 0',
            "5m",
            "warning",
            "Answers break off in the middle.",
        ),
        Alert(
            "ModelServerDiskFull",
            f"min by (model_name) ({FREE_DISK}) < 2e9",
            "5m",
            "warning",
            "Less than 2 GB of disk space are free for compiled kernels.",
        ),
        Alert(
            "ModelServerCertificateEnds",
            f"min by (model_name) ({CERTIFICATE_END}) - time() < 14 * 86400",
            "1h",
            "warning",
            "The certificate ends within 14 days: renew it and send SIGHUP.",
        ),
    )
