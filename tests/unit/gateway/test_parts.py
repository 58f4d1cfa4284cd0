"""The parts that touch nothing: names, rates, keys, metrics, errors, logs."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.bundle.gateway import trtllm
from orchestrator.bundle.gateway.errors import DocumentError, UsageError
from orchestrator.bundle.gateway.keys import KeyRing, create_key, digest_of, parse_keys
from orchestrator.bundle.gateway.limits import BodyBudget, Concurrency, Rate
from orchestrator.bundle.gateway.logs import Log
from orchestrator.bundle.gateway.metrics import Histogram, MachineState, Metrics
from orchestrator.bundle.gateway.model_names import LineBuffer, ModelNames
from orchestrator.bundle.gateway.openapi import describe
from orchestrator.bundle.gateway.refusals import RefusedError
from orchestrator.bundle.gateway.routes import ROUTES, STORED
from orchestrator.bundle.gateway.settings import KeyLines

ENGINE = """\
# HELP trtllm_kv_cache_utilization KV cache utilization
# TYPE trtllm_kv_cache_utilization gauge
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="model"} 0.25
# HELP trtllm_request_success_total Count of successfully processed requests.
# TYPE trtllm_request_success_total counter
trtllm_request_success_total{finished_reason="stop",model_name="model"} 3.0
# TYPE trtllm_request_success_created gauge
trtllm_request_success_created{finished_reason="stop",model_name="model"} 1.7e+09
# HELP trtllm_e2e_request_latency_seconds Histogram of end to end request latency in seconds.
# TYPE trtllm_e2e_request_latency_seconds histogram
trtllm_e2e_request_latency_seconds_bucket{le="+Inf",model_name="model"} 3.0
trtllm_e2e_request_latency_seconds_count{model_name="model"} 3.0
trtllm_e2e_request_latency_seconds_sum{model_name="model"} 1.5
# TYPE trtllm_iteration_latency_seconds gauge
trtllm_iteration_latency_seconds 0.01
"""


STATE = MachineState(
    running=11, limit=256, at_once=8, ready=True, silence=0.0, free_disk=7, certificate_end=None
)  # fmt: skip


# -- names ------------------------------------------------------------------------------------------------------------


@given(content=st.text(), rest=st.dictionaries(st.text(), st.text()), dense=st.booleans())
def test_only_the_key_model_is_renamed_in_an_answer(content: str, rest: dict[str, str], dense: bool) -> None:
    names = ModelNames(('my "own"/name',), "model")
    document = {**rest, "model": "model", "said": content, "quoted": f'"model":"model" {content} "model": "model"'}
    text = json.dumps(document, separators=(",", ":") if dense else None)
    assert json.loads(names.answer(text.encode())) == {**document, "model": 'my "own"/name'}


@given(st.binary(), st.lists(st.integers(0, 50)))
def test_lines_lose_no_byte_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    lines, out, rest = LineBuffer(), b"", data
    for cut in cuts:
        part = lines.cut(rest[:cut])
        assert not part or part.endswith(b"\n")
        out, rest = out + part, rest[cut:]
    assert out + lines.cut(rest) + lines.rest() == data


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_bucket_holds_a_minute_and_fills_evenly() -> None:
    rate = Rate(60)
    for _ in range(60):
        rate.take("a", 0.0)
    with pytest.raises(RefusedError) as raised:
        rate.take("a", 0.5)
    assert (raised.value.status, raised.value.headers) == (429, {"Retry-After": "1"})
    rate.take("b", 0.5)
    rate.take("a", 1.0)
    with pytest.raises(RefusedError):
        rate.take("a", 1.0)


def test_a_slow_rate_says_how_long_to_wait() -> None:
    rate = Rate(2)
    rate.take("a", 0.0)
    rate.take("a", 0.0)
    with pytest.raises(RefusedError) as raised:
        rate.take("a", 10.0)
    assert raised.value.headers["Retry-After"] == "20"


def test_no_limit_is_no_limit_and_forgets_everybody() -> None:
    rate = Rate(0)
    for _ in range(1000):
        rate.take("a", 0.0)


def test_many_clients_are_not_remembered_forever() -> None:
    rate = Rate(1)
    for number in range(20_000):
        rate.take(str(number), 0.0)
    rate.take("0", 0.0)  # forgotten, so that it may ask again
    with pytest.raises(RefusedError):
        rate.take("19999", 0.0)


def test_bodies_are_held_up_to_a_limit_and_given_back() -> None:
    budget = BodyBudget(100)
    with budget.share() as first, budget.share() as second:
        first(60)
        second(40)
        with pytest.raises(RefusedError) as raised:
            first(1)
        assert (raised.value.status, raised.value.code) == (429, "too_many_bytes")
        assert raised.value.headers["Retry-After"] == "1"
    assert budget.held == 0
    with budget.share() as take:
        take(100)


def test_one_client_cannot_take_every_place() -> None:
    concurrency = Concurrency(3, 2)
    with concurrency.running_request("alice"), concurrency.running_request("alice"):
        with pytest.raises(RefusedError, match="2 requests of yours"), concurrency.running_request("alice"):
            pass
        with concurrency.running_request("bob"):
            assert concurrency.running == 3
    with concurrency.running_request("alice"):
        assert concurrency.running == 1


def test_one_request_too_many_is_told_to_try_again() -> None:
    concurrency = Concurrency(1)
    with (
        concurrency.running_request("alice"),
        pytest.raises(RefusedError) as raised,
        concurrency.running_request("alice"),
    ):
        pass
    assert (raised.value.status, raised.value.headers["Retry-After"]) == (429, "1")
    with concurrency.running_request("alice"):
        assert concurrency.running == 1


# -- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key, _ = create_key("alice", file)
    other, _ = create_key("bob", file)
    text = file.read_text()
    assert key not in text
    assert other not in text
    assert file.stat().st_mode & 0o777 == 0o600
    ring = KeyRing(file, Log(stream=io.StringIO()))
    assert [ring.owner(each) for each in (key, other, key[:-1], "", "nobody's", "é\udcff")] == [
        "alice", "bob", None, None, None, None,
    ]  # fmt: skip


def test_keys_may_come_as_the_lines_of_a_file(tmp_path: Path) -> None:
    key, line = create_key("alice", None)
    ring = KeyRing(KeyLines(f"# all\n{line}\n"), Log(stream=io.StringIO()))
    ring.reload()
    assert [ring.owner(each) for each in (key, "nimg-other")] == ["alice", None]
    with pytest.raises(DocumentError, match="NIM_GATEWAY_API_KEYS:1: expected NAME sha256:DIGEST"):
        KeyRing(KeyLines("nimg-secret"), Log(stream=io.StringIO()))
    with pytest.raises(DocumentError, match="cannot read the API keys"):
        KeyRing(tmp_path / "missing", Log(stream=io.StringIO()))


def test_a_name_has_one_key(tmp_path: Path) -> None:
    create_key("alice", tmp_path / "keys")
    with pytest.raises(UsageError, match="alice has a key"):
        create_key("alice", tmp_path / "keys")
    with pytest.raises(UsageError, match="a name has at most 64 letters"):
        create_key("a b", None)


def test_a_key_that_somebody_wrote_down_is_not_repeated() -> None:
    with pytest.raises(DocumentError, match="keys:2: expected NAME sha256:DIGEST") as raised:
        parse_keys("# keys\nalice nimg-secret\n", "keys")
    assert "nimg-secret" not in str(raised.value)


def test_comments_and_empty_lines_are_none(tmp_path: Path) -> None:
    line = f"alice sha256:{digest_of('x').hex()}"
    (key,) = parse_keys(f"# all\n\n  {line}  # until May\n", str(tmp_path))
    assert (key.name, key.digest) == ("alice", digest_of("x"))


def test_a_broken_file_leaves_the_keys_of_before(tmp_path: Path) -> None:
    file, log = tmp_path / "keys", io.StringIO()
    key, _ = create_key("alice", file)
    ring = KeyRing(file, Log(stream=log))
    file.write_text("broken")
    ring.reload()
    assert ring.owner(key) == "alice"
    assert "cannot read the API keys; the old ones stay" in log.getvalue()
    assert f"{file}:1: expected NAME sha256:DIGEST" in log.getvalue()
    file.write_text("")
    ring.reload()
    assert ring.owner(key) is None


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_are_what_prometheus_reads_with_and_without_those_of_tensorrt_llm() -> None:
    metrics = Metrics(trtllm.METRICS, seconds={"/v1/completions": Histogram()}, succeeded=2)
    metrics.requests["/v1/completions", 200] += 2
    metrics.seconds["/v1/completions"].observe(0.3)
    for engine in ("", ENGINE):
        text = metrics.text('my "model"\\', STATE, engine)
        families = list(text_string_to_metric_families(text))
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        samples = {sample.name: sample for family in families for sample in family.samples}
        assert samples["num_request_max"].labels == {"model_name": 'my "model"\\'}
        assert samples["request_success_total"].value == (3 if engine else 2)
        assert samples["e2e_request_latency_seconds_sum"].value == (1.5 if engine else 0.3)
        assert ("gpu_cache_usage_perc" in samples) == bool(engine)


def test_names_of_nim_have_the_label_that_clients_know_and_keep_the_others() -> None:
    text = Metrics(trtllm.METRICS).text("llama", STATE, ENGINE)
    assert 'gpu_cache_usage_perc{model_name="llama",engine_type="trtllm"} 0.25\n' in text
    assert 'request_success_total{model_name="llama",finished_reason="stop"} 3.0\n' in text
    assert 'e2e_request_latency_seconds_bucket{model_name="llama",le="+Inf"} 3.0\n' in text
    assert ENGINE in text


def test_what_tensorrt_llm_does_not_measure_is_counted() -> None:
    metrics = Metrics(trtllm.METRICS, read_tokens=70, written_tokens=30)
    metrics.per_token.observe(0.02)
    named_only = "# HELP trtllm_num_requests_waiting Queued\n# TYPE trtllm_num_requests_waiting gauge\n"
    for engine in ("", named_only, ENGINE):
        families = text_string_to_metric_families(metrics.text("llama", STATE, engine))
        samples = {sample.name: sample.value for family in families for sample in family.samples}
        assert (samples["num_requests_running"], samples["num_requests_waiting"]) == (8, 3)
        assert (samples["prompt_tokens_total"], samples["generation_tokens_total"]) == (70, 30)
        assert samples["time_per_output_token_seconds_sum"] == 0.02
        assert samples["nim_gateway_free_disk_bytes"] == 7
        assert "nim_gateway_certificate_end_timestamp_seconds" not in samples


def test_a_histogram_counts_up() -> None:
    histogram = Histogram()
    for seconds in (0.001, 0.005, 0.3, 10_000):
        histogram.observe(seconds)
    lines = list(histogram.lines("x", {}))
    assert 'x_bucket{le="0.005"} 2' in lines
    assert 'x_bucket{le="600.0"} 3' in lines
    assert 'x_bucket{le="+Inf"} 4' in lines


# -- logs and descriptions --------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_a_line_of_log_is_one_line_whoever_chose_its_words(message: str, value: str) -> None:
    stream = io.StringIO()
    Log(stream=stream).info(message, client=value)
    Log(stream=stream, as_json=True).info(message, client=value)
    first, second = stream.getvalue().rstrip("\n").split("\n")
    assert "\r" not in first
    assert " INFO " in first
    assert json.loads(second)["client"] == value


def test_quiet_logs_keep_what_matters() -> None:
    stream = io.StringIO()
    log = Log("ERROR", stream=stream)
    log.info("no")
    log.warning("no")
    log.error("yes")
    log.runtime("its own business", "trtllm-serve")
    assert re.findall("no|yes|business", stream.getvalue()) == ["yes", "business"]


@pytest.mark.parametrize("line", ["a line", "größer 模型", '{"a": 1}'])
def test_a_line_of_the_runtime_is_forwarded_as_it_is_or_named_in_json(line: str) -> None:
    plain, as_json = io.StringIO(), io.StringIO()
    Log(stream=plain).runtime(line, "trtllm-serve")
    Log(stream=as_json, as_json=True).runtime(line, "trtllm-serve")
    assert plain.getvalue() == f"{line}\n"
    found = json.loads(as_json.getvalue())
    assert found.keys() == {"time", "source", "message"}
    assert (found["source"], found["message"]) == ("trtllm-serve", line)
    assert json.dumps(line, ensure_ascii=False) in as_json.getvalue()  # people read it, too


def test_the_description_has_every_route_and_no_other() -> None:
    described = describe(["tiny"])["paths"]
    assert {(path, method.upper()) for path in described for method in described[path]} == {
        (route.path, route.method) for route in (*ROUTES.values(), *STORED)
    }
