"""Defines every variable that the server reads, in one table for code, documentation and warnings.

Names of NIM 1.x and 2.x where NIM has one; ours begin with NIM_GATEWAY_.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from .errors import ContradictionError

if TYPE_CHECKING:
    from .starting import RuntimeKind

_MIB = 1 << 20


class Topic(StrEnum):
    """What a variable is about; the documentation has a table for each."""

    SERVER = "server"
    MODEL = "model"
    RUNTIME = "runtime"
    KEYS = "API keys"
    TLS = "TLS"
    CORS = "CORS"
    LIMITS = "limits"
    LOGS = "logs and traces"


@dataclass(frozen=True)
class Variable:
    """A variable of the environment."""

    name: str
    topic: Topic
    meaning: str
    """`{server}` and `{runtime}` stand for the names of the runtime."""
    default: str = ""
    """As a user would write it; empty if there is no default."""
    aliases: tuple[str, ...] = ()
    """Other names of the same variable, such as those of NIM 1.x."""
    choices: tuple[str, ...] = ()

    def meaning_in(self, kind: RuntimeKind, runtime: str) -> str:
        """Describe it for one runtime.

        Args:
            kind: The runtime.
            runtime: Its key in `serve.json`.
        """
        meaning = kind.MEANINGS.get(self.name, self.meaning)
        return meaning.replace("{server}", kind.PROGRAM).replace("{runtime}", runtime)


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "NIM_SERVER_PORT",
        Topic.SERVER,
        "The clients' port. If it is not set, the recipe's port.",
        default="8000",
        aliases=("NIM_HTTP_API_PORT",),
    ),
    Variable(
        "NIM_HEALTH_PORT",
        Topic.SERVER,
        "A second port with the two health routes only, never with TLS: for probes if clients need a certificate.",
    ),
    Variable("NIM_GATEWAY_HOST", Topic.SERVER, "The address to listen on.", default="0.0.0.0"),  # noqa: S104 - in a container
    Variable(
        "NIM_GATEWAY_RUNTIME_PORT",
        Topic.SERVER,
        "The port of {server}, always on 127.0.0.1.",
        default="8001",
        aliases=("NIM_GATEWAY_ENGINE_PORT",),
    ),
    Variable("NIM_GATEWAY_LAUNCHER", Topic.SERVER, "Words before `{server}`, such as `mpirun … trtllm-llmapi-launch`."),
    Variable("NIM_GATEWAY_ETC", Topic.SERVER, "The folder of the bundle's documents.", default="/opt/nim/etc"),
    Variable(
        "NIM_CACHE_PATH",
        Topic.SERVER,
        "The folder of compiled kernels, whose free space the metrics have. Nothing else is cached.",
        default="/opt/nim/.cache",
    ),
    Variable(
        "NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS",
        Topic.SERVER,
        "Seconds after SIGTERM for which ready is 503 but requests are still served, so that load balancers can stop "
        "sending them.",
        default="5",
    ),
    Variable(
        "NIM_GATEWAY_DRAIN_SECONDS",
        Topic.SERVER,
        "Seconds after that for running requests to finish; new ones are refused.",
        default="25",
    ),
    Variable(
        "NIM_GATEWAY_LINGER_SECONDS",
        Topic.SERVER,
        "Seconds for which it answers 503 with the reason after {server} has ended or hung.",
        default="5",
    ),
    Variable(
        "NIM_GATEWAY_HEALTH_SECONDS",
        Topic.SERVER,
        "Seconds within which {server} must answer a health check. After three failures it is not ready.",
        default="5",
    ),
    Variable(
        "NIM_GATEWAY_SILENCE_SECONDS",
        Topic.SERVER,
        "Seconds without any sign of {server}, while a streamed request or a health check waits for one, after "
        "which it counts as hung: live is 503, and the program ends with status 7. 0 is no limit. If it is not set, "
        "300 and the time to read the longest prompt at 200 tokens a second; 3600 if the longest prompt is not known.",
    ),
    Variable(
        "NIM_MODEL_PATH",
        Topic.MODEL,
        "A local folder with the model, instead of the bundle's. `hf://` and `ngc://` are refused: nothing is "
        "downloaded.",
        default="/opt/nim/model",
        aliases=("NIM_MODEL_NAME",),
    ),
    Variable(
        "NIM_SERVED_MODEL_NAME",
        Topic.MODEL,
        "The name in requests and answers. Several names are separated by commas: all are accepted, and answers have "
        "the first.",
        aliases=("NIM_CUSTOM_MODEL_NAME",),
    ),
    Variable(
        "NIM_MODEL_PROFILE",
        Topic.MODEL,
        "The bundle has one profile. Its id, its name, `default` and `{runtime}` all select it.",
    ),
    Variable(
        "NIM_TENSOR_PARALLEL_SIZE",
        Topic.RUNTIME,
        "`--tensor_parallel_size`; a TensorRT engine accepts only the number that it was built for.",
    ),
    Variable("NIM_PIPELINE_PARALLEL_SIZE", Topic.RUNTIME, "`--pipeline_parallel_size`; as above."),
    Variable(
        "NIM_MAX_MODEL_LEN",
        Topic.RUNTIME,
        "`--max_seq_len`: tokens of prompt and answer together, at most what the model allows.",
    ),
    Variable(
        "NIM_KVCACHE_PERCENT",
        Topic.RUNTIME,
        "`kv_cache_config.free_gpu_memory_fraction`: the share of the memory left by the weights that the KV cache "
        "takes; 0.8 and 80 are the same.",
    ),
    Variable("NIM_ENABLE_KV_CACHE_REUSE", Topic.RUNTIME, "`kv_cache_config.enable_block_reuse`."),
    Variable("NIM_DISABLE_CUDA_GRAPH", Topic.RUNTIME, "`cuda_graph_config: null`."),
    Variable(
        "NIM_GUIDED_DECODING_BACKEND",
        Topic.RUNTIME,
        "`guided_decoding_backend`: forces answers into `response_format`. A bundle has `xgrammar` where its version "
        "knows it.",
        choices=("xgrammar", "llguidance"),
    ),
    Variable(
        "NIM_PER_REQ_METRICS_ENABLE",
        Topic.RUNTIME,
        "`return_perf_metrics` and `enable_iter_perf_stats`: TensorRT-LLM's own metrics in `/v1/metrics`. A bundle has "
        "them on where its version knows them.",
    ),
    Variable(
        "NIM_TRUST_CUSTOM_CODE",
        Topic.RUNTIME,
        "`--trust_remote_code`: runs Python code that is beside the model.",
        aliases=("NIM_FORCE_TRUST_REMOTE_CODE",),
    ),
    Variable("NIM_PASSTHROUGH_ARGS", Topic.RUNTIME, "Options of {server}, as on a command line."),
    Variable(
        "NIM_GATEWAY_API_KEYS_FILE",
        Topic.KEYS,
        "A file of hashed keys, read again when it changes. If it is set, all routes except health and metrics "
        "require `Authorization: Bearer KEY`.",
    ),
    Variable(
        "NIM_GATEWAY_API_KEYS",
        Topic.KEYS,
        "The lines of such a file, for platforms that mount none; then the file is not read.",
    ),
    Variable("NIM_GATEWAY_METRICS_NEED_KEY", Topic.KEYS, "Require a key for `/v1/metrics` too.", default="false"),
    Variable(
        "NIM_SSL_MODE",
        Topic.TLS,
        "`mtls` requires a certificate from clients.",
        default="disabled",
        choices=("disabled", "tls", "mtls"),
    ),
    Variable("NIM_SSL_KEY_PATH", Topic.TLS, "The private key, PEM."),
    Variable("NIM_SSL_CERTS_PATH", Topic.TLS, "The certificate and its chain, PEM.", aliases=("NIM_SSL_CERT_PATH",)),
    Variable("NIM_SSL_CA_CERTS_PATH", Topic.TLS, "The authorities that sign clients' certificates, PEM; for `mtls`."),
    Variable(
        "NIM_CORS_ALLOW_ORIGINS",
        Topic.CORS,
        "Origins whose pages may send requests, separated by commas, or `*`. If it is not set, none may.",
    ),
    Variable("NIM_CORS_ALLOW_METHODS", Topic.CORS, "Methods that these pages may use.", default="GET, POST"),
    Variable(
        "NIM_CORS_ALLOW_HEADERS",
        Topic.CORS,
        "Headers that these pages may send.",
        default="Authorization, Content-Type",
    ),
    Variable(
        "NIM_CORS_EXPOSE_HEADERS",
        Topic.CORS,
        "Headers of answers that these pages may read.",
        default="X-Request-Id, Retry-After",
    ),
    Variable("NIM_CORS_MAX_AGE", Topic.CORS, "Seconds for which a browser remembers these rules.", default="600"),
    Variable(
        "NIM_GATEWAY_MAX_BODY_BYTES",
        Topic.LIMITS,
        "The largest body of a request; 413 above it.",
        default=str(16 * _MIB),
    ),
    Variable(
        "NIM_GATEWAY_MAX_HELD_BYTES",
        Topic.LIMITS,
        "Bytes of all bodies that are held at once; 429 above it.",
        default=str(256 * _MIB),
    ),
    Variable(
        "NIM_GATEWAY_MAX_CONCURRENT_REQUESTS",
        Topic.LIMITS,
        "Concurrent requests for the model; 429 above it.",
        default="256",
    ),
    Variable(
        "NIM_GATEWAY_MAX_CONCURRENT_REQUESTS_PER_CLIENT",
        Topic.LIMITS,
        "The same for each key, or each address without keys; 0 is no limit.",
        default="0",
    ),
    Variable(
        "NIM_GATEWAY_MAX_CONNECTIONS",
        Topic.LIMITS,
        "Open connections. Above it the one that is idle for longest is closed; if none is, the new one.",
        default="1024",
    ),
    Variable(
        "NIM_GATEWAY_REQUESTS_PER_MINUTE",
        Topic.LIMITS,
        "Requests a minute for the model per key, or per address without keys; 429 with Retry-After above it. 0 is no "
        "limit.",
        default="0",
    ),
    Variable(
        "NIM_GATEWAY_HEADER_SECONDS",
        Topic.LIMITS,
        "Seconds for a connection to send the head of its request.",
        default="10",
    ),
    Variable(
        "NIM_GATEWAY_BODY_SECONDS", Topic.LIMITS, "Seconds for a request to send its body; 408 after it.", default="60"
    ),
    Variable(
        "NIM_GATEWAY_WRITE_SECONDS",
        Topic.LIMITS,
        "Seconds for a client to take a part of an answer; a client that reads nothing is cut off.",
        default="60",
    ),
    Variable(
        "NIM_GATEWAY_REQUEST_SECONDS",
        Topic.LIMITS,
        "Seconds for an answer; 504 after it. 0 is no limit.",
        default="3600",
    ),
    Variable(
        "NIM_GATEWAY_TRUSTED_PROXIES",
        Topic.LIMITS,
        "Addresses and networks of proxies, such as 10.0.0.0/8, separated by commas. Only what they write into "
        "`X-Forwarded-For` counts as the address of a client, in limits and logs.",
    ),
    Variable(
        "NIM_GATEWAY_ALLOW_CHAT_TEMPLATE",
        Topic.LIMITS,
        "Accept `chat_template` in a request. A template is a program.",
        default="false",
    ),
    Variable(
        "NIM_GATEWAY_ALLOW_REMOTE_MEDIA",
        Topic.LIMITS,
        "Let {server} load images, videos and audio from any address that a request names, files and the inner "
        "network among them. Otherwise only `data:` is accepted.",
        default="false",
    ),
    Variable(
        "NIM_LOG_LEVEL",
        Topic.LOGS,
        "The log level of the gateway and {server}.",
        default="INFO",
        choices=("TRACE", "DEBUG", "INFO", "DEFAULT", "WARNING", "ERROR", "CRITICAL"),
    ),
    Variable(
        "NIM_JSONL_LOGGING",
        Topic.LOGS,
        "Write one JSON object a line, also around the lines of {server}.",
        default="false",
    ),
    Variable(
        "NIM_GATEWAY_LOG_PROMPTS",
        Topic.LOGS,
        "Write the bodies of requests for the model into the log. If it is not set, nothing of them is written.",
        default="false",
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        Topic.LOGS,
        "The destination of traces, over OTLP and HTTP. It needs the packages `opentelemetry-sdk` and "
        "`opentelemetry-exporter-otlp-proto-http` in the image. The header `traceparent` reaches {server} in any "
        "case.",
    ),
)

NOT_SERVED: Mapping[str, str] = {
    "NIM_DRAFT_MODEL_PATH": "the recipe decides the draft model",
    "NIM_ENABLE_KV_CACHE_HOST_OFFLOAD": "set kv_cache_config.host_cache_size in trtllm_config.yaml",
    "NIM_FT_MODEL": "set NIM_MODEL_PATH to serve another model",
    "NIM_KV_CACHE_HOST_MEM_FRACTION": "set kv_cache_config.host_cache_size in trtllm_config.yaml",
    "NIM_MIDDLEWARE_CONFIG_PATH": "there is no middleware",
    "NIM_NUM_COMPUTE_NODES": "the recipe decides the number of machines",
    "NIM_PEFT_REFRESH_INTERVAL": "LoRA adapters are not served",
    "NIM_PEFT_SOURCE": "LoRA adapters are not served",
    "NIM_SAGEMAKER_MODE": "SageMaker's routes are not served",
}
"""Variables of NIM that request a missing feature, and what to do instead."""

WITHOUT_EFFECT = frozenset({
    "NIM_CACHE_PROBE_TIMEOUT", "NIM_DISABLE_MODEL_DOWNLOAD", "NIM_LOW_MEMORY_MODE", "NIM_NGINX_DIR",
    "NIM_RELAX_MEM_CONSTRAINTS", "NIM_REPOSITORY_OVERRIDE", "NIM_DISABLE_TRTLLM_PYTORCH_RT",
    "NIM_USE_TRTLLM_LEGACY_BACKEND", "NIM_ENGINE_MODEL_PATH", "NIM_GRPC_API_PORT",
})  # fmt: skip
"""Variables of NIM that have no effect here: there is no cache, no download and one backend."""

_SET_BY_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
"""The variables of every pod for a Kubernetes Service whose name begins with `nim`."""
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Environment:
    """The variables of a process, read by the table.

    Args:
        values: The environment.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._table = {variable.name: variable for variable in VARIABLES}

    def text(self, name: str) -> str | None:
        """Return a variable's value under any of its names. An unset and an empty variable are the same.

        Raises:
            ContradictionError: Two of its names have different values, or the value is not one of its choices.
        """
        variable = self._table[name]
        given = [(each, self._values.get(each, "").strip()) for each in (name, *variable.aliases)]
        given = [(each, value) for each, value in given if value]
        if not given:
            return None
        if len({value for _, value in given}) > 1:
            assignments = " and ".join(f"{each}={value}" for each, value in given)
            message = f"{assignments} contradict each other: set one of them"
            raise ContradictionError(message)
        return self._chosen(variable, *given[0])

    def other(self, name: str) -> str:
        """Return a variable that is not the gateway's own; empty if it is not set."""
        return self._values.get(name, "").strip()

    def integer(self, name: str, *, minimum: int = 0, maximum: int | None = None) -> int | None:
        """Return a whole number.

        Raises:
            ContradictionError: It is not a whole number, or out of range.
        """
        number = self._number(name, int, "a whole number")
        self._check_range(name, number, minimum, maximum)
        return None if number is None else int(number)

    def number(self, name: str, *, minimum: float = 0) -> float | None:
        """Return a number.

        Raises:
            ContradictionError: It is not a number, or out of range.
        """
        number = self._number(name, float, "a number")
        self._check_range(name, number, minimum, None)
        return number

    def switch(self, name: str) -> bool | None:
        """Return a switch.

        Raises:
            ContradictionError: It is neither on nor off.
        """
        text = self.text(name)
        if text is None:
            return None
        if text.lower() not in _SWITCHES:
            message = f"{name}={text}: expected one of {', '.join(_SWITCHES)}"
            raise ContradictionError(message)
        return _SWITCHES[text.lower()]

    def words(self, name: str) -> tuple[str, ...]:
        """Return the parts between commas."""
        text = self.text(name) or self._table[name].default
        return tuple(word.strip() for word in text.split(",") if word.strip())

    def default(self, name: str) -> str:
        """Return the value if nothing is set."""
        return self._table[name].default

    def warnings(self) -> Iterator[str]:
        """List the variables that are set and have no effect."""
        known = {each for variable in VARIABLES for each in (variable.name, *variable.aliases)}
        for name in sorted(name for name, value in self._values.items() if value.strip()):
            if name in NOT_SERVED:
                yield f"{name} has no effect: {NOT_SERVED[name]}"
            elif name.startswith("NIM_") and not (
                name in known or name in WITHOUT_EFFECT or _SET_BY_KUBERNETES.search(name)
            ):
                near = difflib.get_close_matches(name, known, 1, 0.8)
                yield f"{name} is unknown and has no effect" + (f"; did you mean {near[0]}?" if near else "")

    @staticmethod
    def _chosen(variable: Variable, name: str, value: str) -> str:
        if not variable.choices:
            return value
        for choice in variable.choices:
            if value.lower() == choice.lower():
                return choice
        message = f"{name}={value}: expected one of {', '.join(variable.choices)}"
        raise ContradictionError(message)

    def _number(self, name: str, kind: type[int | float], what: str) -> float | None:
        text = self.text(name) or self._table[name].default
        try:
            return kind(text) if text else None
        except ValueError:
            message = f"{name}={text}: expected {what}"
            raise ContradictionError(message) from None

    @staticmethod
    def _check_range(name: str, number: float | None, minimum: float, maximum: float | None) -> None:
        if number is None:
            return
        if not number >= minimum or (maximum is not None and number > maximum) or number == float("inf"):
            expected = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
            message = f"{name}={number:g}: expected {expected}"
            raise ContradictionError(message)
