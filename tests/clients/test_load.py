"""Load generators and clients as people use them, pointed at a deployment with few requests: `make test-clients`.

They need a gigabyte of packages, so they have an environment of their own and are no part of `make test`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.environments import ROOT, clients
from tests.support.gateway import Deployment, deployed

REQUESTS = 10
SAID = "Paris is what a stand-in answers."
NOWHERE = "http://127.0.0.1:9"

LITELLM = """\
import json, sys, litellm
asked = {"model": "openai/tiny", "api_base": sys.argv[1], "api_key": "none", "num_retries": 0,
         "messages": [{"role": "user", "content": "hello"}]}
for _ in range(int(sys.argv[2])):
    answer = litellm.completion(**asked)
    print(json.dumps([answer.choices[0].message.content, answer.usage.completion_tokens]))
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    print(json.dumps([text, usage[-1].completion_tokens]))
"""
JAVASCRIPT = """\
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const asked = { model: "tiny", messages: [{ role: "user", content: "hello" }] };
for (let number = 0; number < Number(process.argv[3]); number++) {
  const answer = await client.chat.completions.create(asked);
  console.log(JSON.stringify([answer.choices[0].message.content, answer.usage.completion_tokens]));
  let text = "", tokens = 0;
  const streamed = { ...asked, stream: true, stream_options: { include_usage: true } };
  const stream = await client.chat.completions.create(streamed);
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    tokens = chunk.usage?.completion_tokens ?? tokens;
  }
  console.log(JSON.stringify([text, tokens]));
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A bundle's server without any option set."""
    with deployed(tmp_path_factory.mktemp("server") / "bundle") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model, whose tokenizer counts the tokens of prompts."""
    folder = tmp_path_factory.mktemp("model")
    command = (sys.executable, "-m", "orchestrator.payloads.generate", "--output", folder, "--seed", "0")
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    return folder


def run(folder: Path, program: str | Path, *arguments: object, variables: Mapping[str, str] | None = None) -> str:
    """Run a program of the environment to its end, without the Hub; return what it printed."""
    done = subprocess.run(
        [str(clients() / program), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "HF_ENDPOINT": NOWHERE, **(variables or {})},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def asked(server: Deployment) -> int:
    """Count the questions that reached the runtime."""
    return sum("completions" in json.dumps(each) for each in server.heard)


def test_litellm_answers_and_streams(server: Deployment, tmp_path: Path) -> None:
    variables = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks the network for prices
    said = run(tmp_path, "python", "-c", LITELLM, f"{server.url}/v1", REQUESTS, variables=variables)
    _check_answers(said)


def test_openai_for_javascript_answers_and_streams(server: Deployment, tmp_path: Path) -> None:
    modules = clients().parent / "node_modules"
    assert modules.is_dir(), "npm was missing when the environment was made"
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "ask.mjs").write_text(JAVASCRIPT)
    command = ("node", "--preserve-symlinks", tmp_path / "ask.mjs", f"{server.url}/v1", REQUESTS)
    _check_answers(run(tmp_path, "/usr/bin/env", *command))


def _check_answers(said: str) -> None:
    answers = [json.loads(line) for line in said.splitlines()]
    assert len(answers) == 2 * REQUESTS
    assert {text.strip() for text, _ in answers} == {SAID}
    assert {tokens for _, tokens in answers} == {6}


def test_guidellm_measures_without_a_failed_request(server: Deployment, tokenizer: Path, tmp_path: Path) -> None:
    before = asked(server)
    load = ("--rate-type", "concurrent", "--rate", 2, "--max-requests", REQUESTS)
    data = ("--processor", tokenizer, "--data", "prompt_tokens=16,output_tokens=8", "--output-path", "found.json")
    run(tmp_path, "guidellm", "benchmark", "run", "--target", server.url, "--model", "tiny", *load, *data)
    (found,) = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    made = {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}
    assert found["run_stats"]["requests_made"] == made
    tokens = {name: found["metrics"][f"{name}_token_count"]["successful"] for name in ("prompt", "output")}
    assert {name: each["count"] for name, each in tokens.items()} == {"prompt": REQUESTS, "output": REQUESTS}
    assert min(each["total_sum"] for each in tokens.values()) >= REQUESTS
    assert asked(server) - before >= REQUESTS


@pytest.mark.parametrize("streaming", [("--streaming",), ()], ids=["streamed", "whole"])
def test_aiperf_measures_without_a_failed_request(
    server: Deployment, tokenizer: Path, tmp_path: Path, streaming: tuple[str, ...]
) -> None:
    before = asked(server)
    load = ("--request-count", REQUESTS, "--concurrency", 2, "--endpoint-type", "chat", *streaming)
    data = ("--tokenizer", tokenizer, "--synthetic-input-tokens-mean", 16, "--output-tokens-mean", 8)
    quiet = ("--ui", "none", "--no-gpu-telemetry", "--artifact-dir", "found")
    run(tmp_path, "aiperf", "profile", "--url", server.url, "--model", "tiny", *load, *data, *quiet)
    found: dict[str, Any] = json.loads((tmp_path / "found" / "profile_export_aiperf.json").read_text())
    assert found["request_count"]["avg"] == REQUESTS
    assert "error_request_count" not in found or found["error_request_count"]["avg"] == 0
    assert found["output_sequence_length"]["avg"] > 0
    assert ("time_to_first_token" in found) == bool(streaming)
    assert asked(server) - before >= REQUESTS
