from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.models import shape_of
from orchestrator.planner.bytes import weights_read_of
from orchestrator.planner.drafting import DRAFT_KINDS, bytes_of_pass, drafting
from orchestrator.planner.drafts import Wanted
from orchestrator.planner.scheme import as_published, scheme_of
from orchestrator.planner.speed import speed
from orchestrator.planner.step_time import MARLIN, load_of, prefill_terms, step_terms
from orchestrator.planner.users import users_of
from tests.unit.planner.byte_configs import DEEPSEEK_V2, QWEN3_NEXT
from tests.unit.planner.test_speed import SHAPES, TARGETS, asked

BF16 = scheme_of("bf16")


def decode(**changes: Any) -> float:  # noqa: ANN401 - what differs
    given = {"context": 1280, "output_tokens": 256, "runtime": "vllm", **changes}
    return speed(asked(given.pop("shape", "8b"), **given)).decode.expected


@pytest.mark.parametrize("kind", DRAFT_KINDS)
def test_drafts_of_every_kind_pay_for_one_user_of_a_dense_model(kind: Any) -> None:  # noqa: ANN401 - a kind
    for shape in ("8b", "70b"):
        assert decode(shape=shape, drafter=drafting(kind)) > decode(shape=shape)


@pytest.mark.parametrize("kind", DRAFT_KINDS)
def test_drafts_that_are_never_accepted_cost_time(kind: Any) -> None:  # noqa: ANN401 - as above
    assert decode(drafter=drafting(kind, acceptance=0.0)) < decode()


def test_many_drafts_that_are_rarely_accepted_are_a_loss_for_experts() -> None:
    assert (
        decode(shape="moe", drafter=drafting("dflash"))
        < decode(shape="moe")
        < decode(shape="moe", drafter=drafting("mtp"))
    )


def test_drafts_may_pass_the_limit_of_plain_decoding() -> None:
    accepted = drafting("dspark", 5, 1.0)
    plain = speed(asked("70b", context=512))
    assert speed(asked("70b", context=512, drafter=accepted)).decode.expected > plain.ceiling


def test_more_users_gain_less_from_drafts_of_a_dense_model() -> None:
    found = users_of(asked("8b", context=1280, output_tokens=256, drafter=drafting("eagle3")), 64)
    assert found is not None
    gains = [gain for _, gain in found.gains]
    assert [users for users, _ in found.gains] == [1, 16, 64]
    assert gains == sorted(gains, reverse=True)


def test_a_drafter_reads_an_output_head_and_takes_memory() -> None:
    for kind in ("mtp", "dflash", "dspark"):
        read = bytes_of_pass(drafting(kind), SHAPES["8b"], BF16, 1)
        assert read > weights_read_of(SHAPES["8b"], BF16, "head") == 2 * 4096 * 128256
    eagle = bytes_of_pass(drafting("eagle3"), SHAPES["8b"], BF16, 1)
    assert eagle < 2 * 4096 * 128256  # its head has the most frequent tokens only
    serving = asked("moe")
    assert dataclasses.replace(serving, drafter=drafting("mtp")).weights > serving.weights


def test_a_layer_of_mtp_reads_more_experts_for_more_users() -> None:
    one, many = (bytes_of_pass(drafting("mtp"), SHAPES["moe"], BF16, batch) for batch in (1, 32))
    assert one < many


def test_what_is_given_replaces_what_is_published() -> None:
    given = drafting("mtp", 3, 0.5)
    assert (given.tokens, given.acceptance, given.source) == (3, 0.5, "as given")
    assert given.tokens_per_step == pytest.approx(1.875)
    assert "arXiv" in drafting("mtp").source


def test_fp8_in_vllm_on_a_spark_reads_prompts_in_16_bits() -> None:
    def prefill(**changes: Any) -> float:  # noqa: ANN401 - what differs
        return speed(asked("8b", context=4096, **{"format_name": "fp8", "runtime": "vllm", **changes})).prefill.expected

    assert prefill() < prefill(format_name="bf16") < prefill(kernels="native")
    assert prefill(runtime="trtllm", kernels="marlin") < prefill(runtime="trtllm")
    assert prefill(target=TARGETS["h200"]) > prefill(target=TARGETS["h200"], kernels="marlin")


def test_marlin_takes_its_time_for_products_alone() -> None:
    load = load_of(asked("8b", format_name="fp8", runtime="vllm"))
    slow = prefill_terms(load, 4096)
    fast = prefill_terms(dataclasses.replace(load, marlin=False), 4096)
    assert slow["prefill_16"] == pytest.approx(MARLIN * fast["prefill_8"])
    assert slow["weights"] == fast["weights"]


def test_a_checkpoint_that_lists_what_is_quantized_keeps_its_own_fp8() -> None:
    listed = dataclasses.replace(scheme_of("fp8"), exclude=("lm_head",))
    assert not load_of(asked("8b", runtime="vllm", scheme=listed)).marlin
    assert load_of(asked("8b", runtime="vllm", scheme=scheme_of("fp8_block_scale"))).marlin


def test_latent_attention_launches_twice_as_many_blocks() -> None:
    shape = shape_of(DEEPSEEK_V2)
    layers = len(shape.layers)
    launches = step_terms(load_of(dataclasses.replace(asked(), shape=shape)))["launch"] * 1e6
    assert launches == pytest.approx(3 * layers)


def test_linear_attention_of_a_published_checkpoint_stays_as_it_is() -> None:
    shape = shape_of(QWEN3_NEXT)
    mixer = next(t for t in shape.tensors if "linear_attn" in t.module and t.quantizable and "in_proj_qkv" in t.module)
    ours, theirs = scheme_of("nvfp4"), as_published(scheme_of("nvfp4"))
    assert [name for name, _ in ours.split(mixer, 48)] == ["NVFP4"]
    assert [name for name, _ in theirs.split(mixer, 48)] == ["BF16"]
    assert as_published(scheme_of("bf16")).extra_exclude == ()


def test_a_step_yields_one_token_besides_accepted_drafts() -> None:
    found = [Wanted(100.0, 1.0, with_costs, None).drafts_accepted for with_costs in (0.5, 1.0, 3.5)]
    assert found == [0.0, 0.0, 2.5]
