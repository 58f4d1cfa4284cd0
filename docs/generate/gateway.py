"""The reference of a bundle's server: routes, actions, variables, exit statuses."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.markdown import block, code, page, table, table_in
from orchestrator.bundle.gateway import __main__ as program
from orchestrator.bundle.gateway import edge_llm, errors, trtllm, vllm
from orchestrator.bundle.gateway.routes import ROUTES, STORED
from orchestrator.bundle.gateway.starting import RuntimeKind
from orchestrator.bundle.gateway.variables import NOT_SERVED, VARIABLES, WITHOUT_EFFECT, Topic, Variable

_INTRODUCTION = """\
`start_server.sh` of a bundle starts one program, which starts `trtllm-serve` on loopback and answers in front of it as
a NIM does. It is no NVIDIA NIM. Why it is built so: [decision 0024](../adr/0024-gateway.md)."""

_ROUTES = """\
Nothing else exists: every other path is answered with 404, every other method with 405; what takes GET takes HEAD.
Errors have the shape of OpenAI's, `{"error": {"message", "type", "param", "code"}}`. An answer has an `X-Request-Id`,
the request's own where it has one. A body must be `application/json`. Its fields are those of OpenAI's interface and
TensorRT-LLM's sampling; every other one is refused with 400 and its name. Bodies of 128 KiB and more are checked in a
process of their own, one at a time, so that health is answered meanwhile."""

_KEYS = """\
With `NIM_GATEWAY_API_KEYS_FILE` the routes marked so ask for `Authorization: Bearer KEY`. Make a key, which is shown
once and kept as a hash:"""

_KEYS_COMMAND = """\
./start_server.sh create-api-key alice --file api-keys.txt"""

_KEYS_AFTER = """\
The file is looked at every second: a new line opens, a removed line shuts. SIGHUP reads keys and certificates at once;
if they cannot be read, the old ones stay."""

_ACTIONS = """\
What follows `nim-serve` goes to `trtllm-serve`. The command line wins over `NIM_PASSTHROUGH_ARGS`, that over `NIM_*`
variables, those over the recipe. What a TensorRT engine was not built for is refused before it is loaded."""

_VARIABLES = """\
Two names of one variable with different values are refused, and so is a value that is not allowed. An unknown `NIM_*`
variable is warned about."""

_VLLM = """\
In front of vLLM the routes are the same, except that no answers are stored: there is no `/v1/responses/{response_id}`.
vLLM's other routes, such as `/invocations`, `/ping`, `/tokenize` and `/scale_elastic_ep`, cannot be reached. It has no
key of its own, because that would guard `/v1` alone. `vllm serve` does not listen while it loads; if its health check
is 503, its engine is dead, and the program ends with status 5. The line `ready` of the log and the metric
`nim_gateway_runtime_kernel_info` name the kernels that vLLM's log named. Variables with another meaning:"""

_EDGE_LLM = """\
TensorRT Edge-LLM is experimental here and was never run. Of the routes for the model it has `/v1/chat/completions`
alone; `/v1/completions` and `/v1/responses` are answered with 404. `tensorrt-edgellm-serve` takes the checkpoint and
looks for the engine in a cache that it writes to: the program links the bundle's engine into a folder of
`NIM_CACHE_PATH`. With other sizes than the engine's the server would build another one while it starts, so they are
refused. It does not listen before it is loaded, and its health is 200 from then on, whatever its engine does: a hung
engine shows as silence, a dead process as its end. Answers to more than one request at once come in turn if the
engine was built for one; above a batch and a queue of 16 it answers 429. Variables with another meaning:"""

_MEANING = ("variable", "meaning")

_METRICS = """\
`/v1/metrics` has the gateway's own (`nim_gateway_…`), those of the runtime, and NIM's names for them, with the label
`model_name`. A bundle sets `return_perf_metrics` and `enable_iter_perf_stats` where its version knows them. What
TensorRT-LLM does not measure (releases up to 1.3 have no tokens and no queue) the gateway counts itself under NIM's
names, with two limits: `gpu_cache_usage_perc` is TensorRT-LLM's alone, and tokens are those that answers tell, an event
of a stream without `usage` being one. `time_to_first_token_seconds` is of streamed answers. TensorRT-LLM's metrics
begin with the first answer. TensorRT Edge-LLM has no metrics: the gateway counts all but the KV cache."""

_STOPPING = """\
After SIGTERM ready is 503 at once, while requests are still served for `NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS`, so that
load balancers stop sending them; answers then end their connection. After that, new requests are refused and running
ones finish within `NIM_GATEWAY_DRAIN_SECONDS`; then `trtllm-serve` is stopped. SIGINT skips the delay, and a second
signal ends the wait. A platform must wait for delay + drain + 20 seconds before it kills the program: every target of a
bundle does. Where `trtllm-serve` ends by itself, every route says so with 503 for `NIM_GATEWAY_LINGER_SECONDS`, then
the program ends with status 5 and its last lines.

A `trtllm-serve` that hangs does not end. So the gateway measures its silence: the time for which a streamed request
that has its place in the batch waits for its next token, or a health check for its answer. After
`NIM_GATEWAY_SILENCE_SECONDS` live is 503 and the program ends with status 7, with all processes of `trtllm-serve`.
Docker (`restart: unless-stopped`), systemd (five times an hour at most) and Kubernetes (with growing pauses) start it
again; on two Sparks `start.sh` does. A health check of Compose alone would restart nothing. Answers that are not
streamed may take any time, and so may requests that wait behind others."""


def reference() -> str:
    """Write the page."""
    return page(
        "The server of a bundle",
        _INTRODUCTION,
        f"## Routes\n\n{_ROUTES}\n\n{table(('route', 'key', 'what'), _routes())}",
        f"## Actions\n\n{block((program.__doc__ or '').partition(chr(10) * 2)[2])}\n\n{_ACTIONS}",
        f"## API keys\n\n{_KEYS}\n\n{block(_KEYS_COMMAND)}\n\n{_KEYS_AFTER}",
        f"## Variables\n\n{_VARIABLES}",
        *(f"### {topic.value[0].upper()}{topic.value[1:]}\n\n{_variables(topic)}" for topic in Topic),
        f"### Of NIM, without effect here\n\n{table(('variable', 'why'), _others())}",
        f"### With vLLM\n\n{_VLLM}\n\n{table(_MEANING, _variables_of(vllm, 'vllm'))}",
        f"### With TensorRT Edge-LLM\n\n{_EDGE_LLM}\n\n{table(_MEANING, _variables_of(edge_llm, 'edge_llm'))}",
        f"## Metrics\n\n{_METRICS}\n\n{table(('NIM', 'TensorRT-LLM', 'vLLM'), _metrics())}",
        f"## Stopping\n\n{_STOPPING}",
        f"## Exit statuses\n\n{table_in(errors.__doc__)}",
    )


def _routes() -> Iterator[tuple[str, str, str]]:
    for route in (*ROUTES.values(), *STORED):
        yield code(f"{route.method} {route.path}"), "" if route.open else "yes", route.summary


def _variables(topic: Topic) -> str:
    rows = [_row(variable) for variable in VARIABLES if variable.topic is topic]
    return table(("variable", "default", "meaning"), rows)


def _row(variable: Variable) -> tuple[str, str, str]:
    names = ", ".join(map(code, (variable.name, *variable.aliases)))
    meaning = variable.meaning_in(trtllm, "tensorrt_llm")
    if variable.choices:
        meaning += " One of " + ", ".join(map(code, variable.choices)) + "."
    return names, code(variable.default) if variable.default else "", meaning


def _others() -> Iterator[tuple[str, str]]:
    for name, why in sorted(NOT_SERVED.items()):
        yield code(name), f"warned about: {why}"
    yield ", ".join(map(code, sorted(WITHOUT_EFFECT))), "nothing is cached, downloaded or chosen at the start"


def _variables_of(kind: RuntimeKind, runtime: str) -> Iterator[tuple[str, str]]:
    for variable in VARIABLES:
        if variable.name in kind.MEANINGS:
            yield code(variable.name), variable.meaning_in(kind, runtime)
    for name, instead in sorted(kind.GONE_VARIABLES.items()):
        yield code(name), f"refused: {instead}"


def _metrics() -> Iterator[tuple[str, str, str]]:
    theirs = [{name: own for own, name in kind.METRICS.items()} for kind in (trtllm, vllm)]
    for name in dict.fromkeys(name for names in theirs for name in names):
        trtllm_name, vllm_name = (names.get(name) for names in theirs)
        yield code(name), code(trtllm_name) if trtllm_name else "", code(vllm_name) if vllm_name else ""
