"""Whatever surrounds the command line, it ends with an error of ours: never with a traceback or a defect."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.command_line import COMMAND, orchestrator

RECIPE = "tiny-llama-w4a16-nvfp4"
DONE, BAD_INPUT, MACHINE = 0, 3, 6
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command line in a folder of its own; no variable of this shell but PATH reaches it."""
    usual = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(
        *arguments: str | bytes,
        variables: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        out: int = subprocess.PIPE,
    ) -> subprocess.CompletedProcess[str]:
        environment = {**usual, **(variables or {})}
        words = [word for word in arguments if isinstance(word, str)]
        if before is None and out == subprocess.PIPE and len(words) == len(arguments):
            return seen(orchestrator(*words, environment=environment, folder=tmp_path))
        found = subprocess.run(
            [sys.executable, *COMMAND, *arguments],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            errors="backslashreplace",
            preexec_fn=before,
        )
        return seen(found)

    def seen(found: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        assert "Traceback" not in found.stderr
        assert "DEFECT" not in found.stderr
        return found

    return run


def _closing(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for one in descriptors:
            os.close(one)

    return close


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("HF_ENDPOINT", "http://[", "an environment variable of the Hub's client"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", "an environment variable of the Hub's client"),
        ("HF_TOKEN", "hf_\u00fc", "is not ASCII"),
        ("SSL_CERT_FILE", "/nonexistent", "certificates"),
        ("SSL_CERT_FILE", "/etc/passwd", "certificates"),
    ],
)
def test_a_variable_that_the_hub_s_client_cannot_use_is_named(run: Run, name: str, value: str, problem: str) -> None:
    found = run("compare", "owner/name", variables={"HF_ENDPOINT": "http://127.0.0.1:1", name: value})
    assert (found.returncode, "error[HUB_UNREACHABLE]" in found.stderr) == (MACHINE, True)
    assert problem in found.stderr


@pytest.fixture(params=["", "<html>Sign in</html>", "[]", '{"ApiVersion": 7}', '{"ApiVersion": "new"}'])
def no_docker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of what is not Docker."""
    script = (
        "import http.server, sys\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    command = [sys.executable, "-c", script, request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        yield f"tcp://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


def test_what_answers_in_place_of_docker_is_not_docker(run: Run, no_docker: str) -> None:
    found = run("undeploy", RECIPE, variables={"DOCKER_HOST": no_docker})
    assert (found.returncode, "error[DOCKER_UNAVAILABLE]" in found.stderr) == (MACHINE, True)


@pytest.mark.parametrize(
    "text", ["nonsense", "http://[", "tcp://", "unix:///dev/null", "ssh://x", "npipe:////./pipe/x", "unix:///\u00fc"]
)
def test_an_address_of_docker_that_is_none_is_an_error_of_the_machine(run: Run, text: str) -> None:
    found = run("undeploy", RECIPE, variables={"DOCKER_HOST": text})
    assert (found.returncode, "error[DOCKER_UNAVAILABLE]" in found.stderr) == (MACHINE, True)


@pytest.mark.parametrize("text", ["{", "[]", '{"currentContext": 7}', '{"currentContext": "gone"}'])
def test_a_configuration_of_docker_that_is_none_is_an_error_of_the_machine(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert run("doctor", "llama3-8b-nvfp4", variables={"DOCKER_CONFIG": str(tmp_path)}).returncode == MACHINE


@pytest.mark.parametrize("descriptors", [(1,), (2,)], ids=str)
def test_closed_streams_are_no_defect(run: Run, descriptors: tuple[int, ...]) -> None:
    assert run("plan", RECIPE, before=_closing(*descriptors)).returncode == DONE
    assert run("show", "no-such-recipe", before=_closing(*descriptors)).returncode == BAD_INPUT


def test_a_build_without_any_stream_is_whole(run: Run, tmp_path: Path) -> None:
    assert run("build", RECIPE, before=_closing(0, 1, 2)).returncode == DONE
    assert (tmp_path / "dist" / RECIPE / "model" / "config.json").is_file()


@pytest.mark.parametrize("command", [("recipes",), ("plan", RECIPE), ("--help",)])
def test_a_reader_that_leaves_is_no_failure(run: Run, command: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = run(*command, out=writer)
    finally:
        os.close(writer)
    assert (found.returncode, found.stderr) == (DONE, "")


@pytest.mark.parametrize("command", [("recipes",), ("plan", RECIPE, "--json"), ("--help",)])
def test_output_on_a_full_disk_is_an_error(run: Run, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        found = run(*command, out=full.fileno())
    assert (found.returncode, "DISK_FULL" in found.stderr) == (MACHINE, True), found.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("plan", "a" * 300), MACHINE, "FILE_SYSTEM"),
        (("plan", "a/" * 3000 + "x.yaml"), MACHINE, "FILE_SYSTEM"),
        (("plan", b"\xff.yaml"), BAD_INPUT, "RECIPE_UNKNOWN"),
        (("compare", "a/" * 3000 + "config.json"), MACHINE, "FILE_SYSTEM"),
        (("--store", "s" * 300, "build", RECIPE), MACHINE, "FILE_SYSTEM"),
        (("--dist", "d/" * 3000, "build", RECIPE), MACHINE, "FILE_SYSTEM"),
        (("--store", b"\xff", "build", RECIPE), BAD_INPUT, "FILE_NAME"),
        (("--dist", "red\x1b[31m", "build", RECIPE), BAD_INPUT, "FILE_NAME"),
        (("--store", "/dev/null", "build", RECIPE), MACHINE, "NO_PERMISSION"),
        (("--project", "/dev/null", "plan", RECIPE), MACHINE, "FILE_SYSTEM"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_path_that_cannot_be_used_is_named(
    run: Run, arguments: tuple[str | bytes, ...], status: int, code: str
) -> None:
    found = run(*arguments)
    assert (found.returncode, f"[{code}]" in found.stderr) == (status, True), found.stderr


def test_a_limit_of_the_user_is_an_error_of_the_machine(run: Run) -> None:
    found = run("build", RECIPE, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert (found.returncode, "error[FILE_SYSTEM]" in found.stderr) == (MACHINE, True), found.stderr
    assert "ulimit -f" in found.stderr
