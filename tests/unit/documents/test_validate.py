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


MODEL = "repo: owner/model, license: mit, architecture: LlamaForCausalLM"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "{path: here, architecture: X}"}, "`model.parameters` is missing"),
        ({"model": "{repo: owner/model, architecture: X, parameters: 1}"}, "`model.license` is missing"),
        ({"serve": "{speculative: {type: eagle3}}"}, "`serve.speculative.draft` is missing"),
        (
            {"serve": "{speculative: {type: draft_target, draft: {repo: a/b, architecture: X, parameters: 1}}}"},
            "`serve.speculative.draft.license` is missing",
        ),
        ({"serve": "{speculative: {type: mtp, draf: 1}}"}, "unknown key `serve.speculative.draf`; did you mean"),
        ({"model": "{path: here, architecture: X, parameters: 1, pth: 2}"}, "unknown key `model.pth`; did you mean"),
    ],
)  # fmt: skip
def test_a_key_is_named_as_it_stands_in_the_file_whatever_union_it_is_in(
    changes: dict[str, str | None], expected: str
) -> None:
    assert expected in message(**changes).splitlines()[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{a: [1]}", "`serve.options.a`: input should be a valid boolean, integer, number, string or object; found"),
        ("{a: {b: [[1]]}}", "`serve.options.a.b.0`: input should be a valid boolean, integer, number or string"),
        ("{a: {b: {}}}", "`serve.options.a.b`: input should be a valid boolean, integer, number, string or array"),
    ],
)  # fmt: skip
def test_a_value_of_none_of_several_types_is_one_fault(options: str, expected: str) -> None:
    lines = message(serve=f"{{options: {options}}}").splitlines()
    assert len(lines) == 1
    assert expected in lines[0]


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("8B", "8000000000"),
        ("70.6 billion", "70600000000"),
        ("'8,030,000,000'", "8030000000"),
        ("0.5b", "500000000"),
        ("'8e9'", "8000000000"),
    ],
)
def test_a_number_with_a_unit_is_answered_with_the_number(written: str, right: str) -> None:
    model = f"{{{MODEL}, parameters: {written}}}"
    assert message(model=model).endswith(f"; did you mean {right}?")
    assert check(model=model.replace(written, right)).model.parameters == float(right)


@pytest.mark.parametrize("written", ["many", "8X", "B", "1.5 of them"])
def test_what_is_no_number_gets_no_guess(written: str) -> None:
    assert "did you mean" not in message(model=f"{{{MODEL}, parameters: {written}}}")


def test_a_whole_number_is_suggested_where_one_is_wanted() -> None:
    assert message(serve="{max_seq_len: 128K}").endswith('found "128K"; did you mean 128000?')
    assert "did you mean" not in message(serve="{max_seq_len: '1.5'}")
