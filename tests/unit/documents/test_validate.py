"""Messages of validation: where, what was found, what was expected, and the likely right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.documents.validate import validate
from orchestrator.documents.yaml_text import parse
from orchestrator.errors import RecipeInvalidError
from orchestrator.recipe.model import Recipe

GOOD = {
    "schema_version": "1",
    "name": "good",
    "description": "A good one",
    "model": "{generate: {seed: 0}}",
    "target": "cpu",
    "image": "some-image",
    "quantization": "{format: w4a16_nvfp4, method: onepass}",
}


def check(**changes: str | None) -> Recipe:
    lines = [f"{key}: {value}" for key, value in {**GOOD, **changes}.items() if value is not None]
    document = parse("\n".join(lines).encode(), Path("good.yaml"))
    return validate(Recipe, dict(document.data), document.positions, RecipeInvalidError)


def message(**changes: str | None) -> str:
    with pytest.raises(RecipeInvalidError) as caught:
        check(**changes)
    return caught.value.message


def test_the_good_one_is_good() -> None:
    assert check().name == "good"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quantisation": "{}"}, "good.yaml:8:1: unknown key `quantisation`; did you mean `quantization`?"),
        ({"serve": "{prt: 1}"}, "good.yaml:8:9: unknown key `serve.prt`; did you mean `port`?"),
        ({"serve": "{kv_cache: {dtyp: fp8}}"}, "unknown key `serve.kv_cache.dtyp`; did you mean `dtype`?"),
        ({"model": "{generate: {sede: 1}}"}, "good.yaml:4:20: unknown key `model.generate.sede`; did you mean `seed`?"),
        ({"engine": "{zzz: 1}"}, "unknown key `engine.zzz`; known here: build, convert"),
        ({"target": None}, "good.yaml: `target` is missing"),
        ({"quantization": "{format: fp8}"}, "good.yaml:7:1: `quantization.method` is missing"),
        ({"quantization": "{format: nvpf4, method: onepass}"}, "`quantization.format`: expected one of bf16, fp8"),
        ({"quantization": "{format: nvpf4, method: onepass}"}, 'found "nvpf4"; did you mean `nvfp4`?'),
        ({"quantization": "{format: bf16, method: onepass}"}, "bf16 is not quantized: use method none"),
        ({"model": "{}"}, "expected one of `repo` (on the Hub), `path` (a folder) or `generate` (from a seed)"),
        ({"model": "hello"}, "expected one of `repo`"),
        ({"name": "Good"}, "`name`:"),
        ({"schema_version": "2"}, "`schema_version`:"),
        ({"serve": "{port: 70000}"}, "`serve.port`: input should be less than or equal to 65535; found 70000"),
        ({"benchmark": "{concurrency: [1, 0]}"}, "`benchmark.concurrency.1`"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place_and_what_is_right(changes: dict[str, str | None], expected: str) -> None:
    assert expected in message(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"serve": "{port: '8000'}"},
        {"serve": "{port: 8000.5}"},
        {"serve": "{port: true}"},
        {"description": "8"},
        {"checks": "{serve: 1}"},
        {"checks": "{serve: 'true'}"},
        {"checks": "{min_snr_db: '19'}"},
        {"schema_version": "'1'"},
        {"quantization": "{format: fp8, method: onepass, exclude: lm_head}"},
        {"serve": "{environment: {A: 1}}"},
        {"model": "{generate: {seed: 1.0}}"},
    ],
)
def test_a_value_of_another_type_is_not_converted(changes: dict[str, str | None]) -> None:
    assert message(**changes)


def test_all_faults_are_told_at_once() -> None:
    assert len(message(tarket="x", serve="{port: 0}", name="NO").splitlines()) == 3


def test_a_long_value_is_shown_in_part() -> None:
    assert len(message(name="x" * 5000)) < 300


@pytest.mark.parametrize(
    "repo", ["../../etc", "a/b/c", "/etc/passwd", "a", "-a/b", "a/..", "a /b", "'a/b\n'", "'a/-b'", "https://x/y"]
)
def test_a_repository_is_an_owner_and_a_name(repo: str) -> None:
    model = f"{{repo: {repo!r}, license: mit, architecture: X, parameters: 1}}"
    assert "model.repo" in message(model=model)


@pytest.mark.parametrize(
    "shape",
    [
        "{num_attention_heads: 3}",
        "{num_attention_heads: 4, num_key_value_heads: 3}",
        "{hidden_size: 100}",
        "{seed: -1}",
        "{vocab_size: 1}",
    ],
)
def test_a_shape_that_no_model_can_have_is_refused(shape: str) -> None:
    assert "model.generate" in message(model=f"{{generate: {shape}}}")
