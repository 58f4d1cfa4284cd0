"""The vocabulary of gpt-oss follows from its tokenizer, and every server of it gets it, of a step or of a bundle."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import io
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import orchestrator
from orchestrator.bundle.gateway import harmony
from orchestrator.bundle.gateway.harmony import FILE, VARIABLE, VocabularyError, vocabulary_of, write_vocabulary
from orchestrator.bundle.gateway.logs import Log
from orchestrator.bundle.gateway.serving import _vocabulary
from orchestrator.executors.job import Inside
from orchestrator.steps.registry import build_steps
from orchestrator.steps.shape import CHECKPOINT
from tests.support.bundles import CATALOG, pinned_recipe

TOKENS = {"Ġ": 2, "a": 0, "Ã©": 3, "Ċ!": 1, "<|start|>": 200_006}
VOCABULARY = b"YQ== 0\nCiE= 1\nIA== 2\nw6k= 3\n"
GPT_OSS = ("gpt-oss-20b-mxfp4", "gpt-oss-120b-mxfp4", "gpt-oss-120b-mxfp4-eagle3")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of four tokens whose digest is known."""
    monkeypatch.setattr(harmony, "DIGEST", hashlib.sha256(VOCABULARY).hexdigest())
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["GptOssForCausalLM"]}')
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": TOKENS}}))
    return folder


def test_tokens_are_bytes_in_base64_in_the_order_of_their_numbers(model: Path, tmp_path: Path) -> None:
    assert vocabulary_of(model / "tokenizer.json") == VOCABULARY
    assert write_vocabulary(model, lambda: tmp_path, {}) == {VARIABLE: str(tmp_path)}
    assert (tmp_path / FILE).read_bytes() == VOCABULARY


def test_another_model_and_a_folder_of_the_users_need_none(model: Path, tmp_path: Path) -> None:
    assert write_vocabulary(model, lambda: tmp_path, {VARIABLE: "/mine"}) == {}
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert write_vocabulary(model, lambda: tmp_path, {}) == {}
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"model": {"vocab": {"☃": 1}}}', '{"model": {"vocab": {"a": 1}}}', "null"]
)
def test_other_tokens_are_named_with_a_way_out(model: Path, tmp_path: Path, text: str) -> None:
    (model / "tokenizer.json").write_text(text)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json.*o200k_base\.tiktoken"):
        write_vocabulary(model, lambda: tmp_path, {})


def test_a_bundle_gives_it_to_its_server_or_warns(model: Path) -> None:
    stack, said = AsyncExitStack(), io.StringIO()
    folder = Path(_vocabulary(stack, model, {}, Log(stream=said))[VARIABLE])
    assert (folder / FILE).read_bytes() == VOCABULARY
    asyncio.run(stack.aclose())
    assert not folder.exists()
    (model / "tokenizer.json").unlink()
    assert _vocabulary(stack, model, {}, Log(stream=said)) == {}
    assert FILE in said.getvalue()


@pytest.mark.parametrize("name", GPT_OSS)
@pytest.mark.parametrize("image", ["tensorrt-llm-1.2.1", "vllm-0.27.1"])
def test_every_step_that_serves_names_its_checkpoint(name: str, image: str) -> None:
    recipe = pinned_recipe(name)
    serve = recipe.serve.model_copy(update={"options": {}, "speculative": None})
    recipe = recipe.model_copy(update={"image": image, "serve": serve})
    commands = {step.name: step.argv for step in build_steps(recipe, CATALOG) if "--" in step.argv}
    assert {"verify", "benchmark"} <= commands.keys()
    for argv in commands.values():
        assert argv[argv.index("--checkpoint") + 1] == Inside(CHECKPOINT)


def test_every_payload_that_starts_a_server_starts_it_so() -> None:
    """`trtllm-bench`, which benchmark.py runs, loads the model and no conversations."""
    starters = set()
    for file in (Path(orchestrator.__file__).parent / "payloads").glob("*.py"):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_bytes()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        starters |= {file.name} if "running" in called else set()
    assert starters == {"_server.py", "benchmark.py", "edge_engine.py"}
