"""What `deploy` reads: that part of Compose which bundles are written in, with its variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.deployment.compose_file import ComposeFile, published, read, seconds
from orchestrator.errors import BundleIncompleteError, ComposeUnsupportedError

_COMPOSE = """\
name: llama
services:
  server:
    image: "llama:1"
    ports: ["127.0.0.1:8000:8000"]
    environment:
      SAID: "%s"
  grafana:
    profiles: [monitoring]
    image: grafana
"""


def said(folder: Path, text: str, env: str = "", **shell: str) -> str:
    """Give the server's variable after everything was filled in."""
    (folder / "compose.yaml").write_text(_COMPOSE % text)
    (folder / ".env").write_text(env)
    return read(folder, shell).services["server"].environment["SAID"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("${WHO}", "env"),
        ("$WHO!", "env!"),
        ("$$WHO", "$WHO"),
        ("${NOBODY:-somebody}", "somebody"),
        ("${NOBODY-somebody}", "somebody"),
        ("${EMPTY:-somebody}", "somebody"),
        ("${EMPTY-somebody}", ""),
        ("${NOBODY}", ""),
        ("a${WHO}b${WHO:-x}c", "aenvbenvc"),
        ("100$", "100$"),
    ],
)
def test_variables_mean_what_compose_means_by_them(tmp_path: Path, text: str, meant: str) -> None:
    assert said(tmp_path, text, "WHO=env\nEMPTY=\n") == meant


def test_the_shell_is_asked_before_the_file(tmp_path: Path) -> None:
    assert said(tmp_path, "${WHO}", "WHO=file\n", WHO="shell") == "shell"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("WHO=a b", "a b"),
        ("WHO = 'a # b' # said", "a # b"),
        ('export WHO="a b"', "a b"),
        ("WHO=a # said", "a"),
        ("WHO=a#b", "a#b"),
        ("# WHO=c\nWHO=d", "d"),
    ],
)
def test_lines_of_settings_are_read_as_compose_reads_them(tmp_path: Path, line: str, value: str) -> None:
    assert said(tmp_path, "${WHO}", line + "\n") == value


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(ComposeUnsupportedError, match=r"\.env:2: expected NAME=value"):
        said(tmp_path, "", "A=1\nnonsense\n")


def test_a_variable_that_must_be_set_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ComposeUnsupportedError, match="WHO must be set: by you") as refused:
        said(tmp_path, "${WHO:?by you}")
    assert "WHO=" in refused.value.hint


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("    privileged: true", r"compose.yaml:6:5: unknown key `services.server.privileged`"),
        ("    stop_grace_period: soon", "stop_grace_period"),
        ("    restart: sometimes", "sometimes"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(tmp_path: Path, wrong: str, told: str) -> None:
    text = _COMPOSE.replace("    environment:", f"{wrong}\n    environment:") % ""
    (tmp_path / "compose.yaml").write_text(text)
    with pytest.raises(ComposeUnsupportedError, match=told) as refused:
        read(tmp_path, {})
    assert "docker compose" in refused.value.hint


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ('["127.0.0.1:8000:8000"]', '["8000"]', "expected ADDRESS:PORT:PORT"),
        ('["127.0.0.1:8000:8000"]', "[]", "expected a service `server`"),
        ("  server:", "  another:", "expected a service `server`"),
    ],
)
def test_a_file_without_a_server_that_can_be_reached_is_refused(
    tmp_path: Path, right: str, wrong: str, told: str
) -> None:
    (tmp_path / "compose.yaml").write_text(_COMPOSE.replace(right, wrong) % "")
    with pytest.raises(ComposeUnsupportedError, match=told):
        read(tmp_path, {})


def test_a_bundle_without_the_file_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(BundleIncompleteError) as refused:
        read(tmp_path / "llama", {})
    assert "orchestrator build llama" in refused.value.hint


def test_a_bundle_without_files_for_this_machine_says_so(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").touch()
    with pytest.raises(BundleIncompleteError, match="was written for other ways to deploy") as refused:
        read(tmp_path, {})
    assert "--target compose" in refused.value.hint


def test_a_bundle_for_two_machines_names_what_starts_them(tmp_path: Path) -> None:
    (tmp_path / "two-sparks").mkdir()
    (tmp_path / "two-sparks" / "start.sh").touch()
    with pytest.raises(BundleIncompleteError) as refused:
        read(tmp_path, {})
    assert "two-sparks/start.sh" in refused.value.hint


def test_services_of_a_profile_are_chosen_by_its_name(tmp_path: Path) -> None:
    said(tmp_path, "")
    compose: ComposeFile = read(tmp_path, {})
    assert list(compose.chosen(())) == ["server"]
    assert list(compose.chosen(("monitoring",))) == ["server", "grafana"]
    assert compose.profiles == ("monitoring",)


@pytest.mark.parametrize(
    ("port", "reached"),
    [
        ("127.0.0.1:8355:8000", "127.0.0.1:8355"),
        ("0.0.0.0:8355:8000", "127.0.0.1:8355"),
        ("8355:8000", "127.0.0.1:8355"),
        ("[::]:8355:8000", "[::1]:8355"),
        ("10.0.0.7:80:8000", "10.0.0.7:80"),
    ],
)
def test_a_published_port_is_reached_from_this_machine(port: str, reached: str) -> None:
    assert published(port).reached_at == reached


@pytest.mark.parametrize("port", ["8000", "x:8000:8000", "127.0.0.1:99999:8000", "127.0.0.1:0:8000"])
def test_what_is_no_published_port_is_refused(port: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        published(port)


@pytest.mark.parametrize(("text", "meant"), [("90s", 90), ("1h30m", 5400), ("1800s", 1800), ("2m5s", 125)])
def test_durations_are_read(text: str, meant: int) -> None:
    assert seconds(text) == meant


def test_settings_that_are_no_text_are_refused_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("name: a\n")
    (tmp_path / ".env").write_bytes(b"PORT=9\n\xff=2\n")
    with pytest.raises(ComposeUnsupportedError, match=r"not UTF-8: byte 7 is 0xff"):
        read(tmp_path, {})


def test_a_rule_for_variables_that_is_not_known_is_refused_and_not_taken_as_text(tmp_path: Path) -> None:
    with pytest.raises(ComposeUnsupportedError, match=r"\$\{A:\+b\}: expected"):
        said(tmp_path, "${A:+b}", "A=1")
