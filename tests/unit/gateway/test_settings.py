"""Variables of NIM 1.x and 2.x, and what is refused or warned about."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bundle.gateway.errors import ContradictionError
from orchestrator.bundle.gateway.settings import KeyLines, RequestLimits, Settings, Tls, read_settings
from orchestrator.bundle.gateway.variables import VARIABLES, Environment
from tests.support.gateway import example_serve


def settings(**values: str) -> Settings:
    return read_settings(Environment(values), example_serve(port=9000))


def test_without_variables_the_recipe_and_the_defaults_hold() -> None:
    found = settings()
    assert (found.port, found.runtime_port, found.health_port) == (9000, 8001, None)
    assert found.names == ("tiny",)
    assert (found.keys, found.tls, found.cors) == (None, None, None)
    assert found.limits == RequestLimits(
        body_bytes=16 << 20,
        concurrent_requests=256,
        connections=1024,
        held_bytes=256 << 20,
        concurrent_requests_of_one=0,
        per_minute=0,
        header_seconds=10,
        body_seconds=60,
        write_seconds=60,
        request_seconds=3600,
    )
    assert (found.log_level, found.json_logs, found.log_prompts) == ("INFO", False, False)


def test_both_names_of_a_port_are_read() -> None:
    assert settings(NIM_SERVER_PORT="8080").port == 8080
    assert settings(NIM_HTTP_API_PORT="8080").port == 8080
    assert settings(NIM_HTTP_API_PORT="8080", NIM_SERVER_PORT="8080").port == 8080


def test_an_empty_variable_is_none() -> None:
    assert settings(NIM_SERVER_PORT="", NIM_SSL_MODE="").port == 9000


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"NIM_SERVER_PORT": "8000", "NIM_HTTP_API_PORT": "9000"}, "NIM_SERVER_PORT=8000 and NIM_HTTP_API_PORT=9000"),
        ({"NIM_SERVER_PORT": "http"}, "NIM_SERVER_PORT=http: expected a whole number"),
        ({"NIM_SERVER_PORT": "70000"}, "expected 1 to 65535"),
        ({"NIM_SERVER_PORT": "8001"}, "port 8001 is used twice"),
        ({"NIM_HEALTH_PORT": "8001"}, "port 8001 is used twice"),
        ({"NIM_JSONL_LOGGING": "perhaps"}, "NIM_JSONL_LOGGING=perhaps: expected one of 1, true"),
        ({"NIM_LOG_LEVEL": "LOUD"}, "expected one of TRACE, DEBUG"),
        ({"NIM_SSL_MODE": "tls"}, "NIM_SSL_MODE=tls needs NIM_SSL_KEY_PATH and NIM_SSL_CERTS_PATH"),
        ({"NIM_SSL_MODE": "mtls", "NIM_SSL_KEY_PATH": "k", "NIM_SSL_CERTS_PATH": "c"}, "needs NIM_SSL_CA_CERTS_PATH"),
        ({"NIM_SSL_KEY_PATH": "/k"}, "NIM_SSL_KEY_PATH is set, but NIM_SSL_MODE is disabled"),
        ({"NIM_SSL_CERT_PATH": "/a", "NIM_SSL_CERTS_PATH": "/b"}, "contradict each other"),
        ({"NIM_GATEWAY_MAX_BODY_BYTES": "0"}, "expected at least 1"),
        ({"NIM_GATEWAY_DRAIN_SECONDS": "nan"}, "expected at least 0"),
        ({"NIM_GATEWAY_DRAIN_SECONDS": "inf"}, "expected at least 0"),
    ],
)
def test_what_cannot_hold_is_refused(values: dict[str, str], reason: str) -> None:
    with pytest.raises(ContradictionError, match=reason):
        settings(**values)


def test_certificates_have_names_of_both_versions() -> None:
    given = {"NIM_SSL_MODE": "TLS", "NIM_SSL_KEY_PATH": "/key", "NIM_SSL_CERT_PATH": "/chain"}
    assert settings(**given).tls == Tls(Path("/key"), Path("/chain"), None)


def test_keys_in_a_variable_win_over_their_file() -> None:
    file = {"NIM_GATEWAY_API_KEYS_FILE": "/run/secrets/api_keys"}
    assert settings(**file).keys == Path("/run/secrets/api_keys")
    assert settings(**file, NIM_GATEWAY_API_KEYS="alice sha256:00").keys == KeyLines("alice sha256:00")
    assert settings(NIM_GATEWAY_API_KEYS=" ").keys is None


def test_the_runtime_port_has_its_former_name_as_well() -> None:
    assert settings(NIM_GATEWAY_ENGINE_PORT="9100").runtime_port == 9100


def test_several_served_names_are_read_in_their_order() -> None:
    assert settings(NIM_SERVED_MODEL_NAME="meta/llama, llama").names == ("meta/llama", "llama")


def test_a_health_port_that_is_the_port_is_no_second_one() -> None:
    assert settings(NIM_HEALTH_PORT="9000").health_port is None


def test_unknown_variables_are_warned_about_and_foreign_ones_are_not() -> None:
    environment = Environment({
        "NIM_SERVED_MODEL_NAMES": "x",
        "NIM_PEFT_SOURCE": "/loras",
        "NIM_PEFT_REFRESH_INTERVAL": "",
        "NIM_CACHE_PATH": "/opt/nim/.cache",
        "NIM_SERVICE_HOST": "10.0.0.1",
        "NIM_LLM_PORT_8000_TCP_ADDR": "10.0.0.1",
        "NIM_LLM_SERVICE_PORT_API": "8000",
        "NGC_API_KEY": "secret",
        "PATH": "/bin",
    })  # fmt: skip
    assert list(environment.warnings()) == [
        "NIM_PEFT_SOURCE has no effect: LoRA adapters are not served",
        "NIM_SERVED_MODEL_NAMES is unknown and has no effect; did you mean NIM_SERVED_MODEL_NAME?",
    ]


def test_the_table_names_each_variable_once_and_with_a_sentence() -> None:
    names = [name for variable in VARIABLES for name in (variable.name, *variable.aliases)]
    assert len(names) == len(set(names))
    assert all(variable.meaning.endswith((".", "`")) for variable in VARIABLES)
    for variable in VARIABLES:
        if variable.choices and variable.default:
            assert variable.default in variable.choices
