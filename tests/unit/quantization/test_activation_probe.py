"""Which modules have a mean square for each input, and over which tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.quantization.activation_probe import ENOUGH_TOKENS, InputMoments, InputProducts, Measured, ModuleProbe
from orchestrator.quantization.candidates import parse
from orchestrator.quantization.formats.nvfp4 import pairs_of
from orchestrator.quantization.schemes import searching

_INPUTS = 16


class _Tensor(np.ndarray[Any, Any]):
    """An array with the methods of a tensor that the sums need."""

    def square(self) -> _Tensor:
        return np.square(self).view(_Tensor)

    def amax(self) -> _Tensor:
        largest: _Tensor = np.asarray(self.max()).view(_Tensor)
        return largest

    def numel(self) -> int:
        return self.size

    def float(self) -> _Tensor:
        return self

    def addcmul(self, one: _Tensor, other: _Tensor) -> _Tensor:
        found: _Tensor = (self + one * other).view(_Tensor)
        return found

    def addmm_(self, one: _Tensor, other: _Tensor) -> None:
        self += one @ other

    def permute(self, *axes: int) -> _Tensor:
        return self.transpose(axes)

    def cpu(self) -> _Tensor:
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        return np.asarray(self)


def _vector_norm(
    tokens: _Tensor,
    *,
    ord: float = 2,  # noqa: A002 - torch's name
    dim: int | None = None,
    dtype: type[np.generic] = np.float32,
) -> _Tensor:
    flat = tokens.reshape(-1) if dim is None else tokens
    norms: _Tensor = np.asarray(np.linalg.norm(flat.astype(dtype), ord, axis=dim)).view(_Tensor)
    return norms


def _where(condition: np.ndarray[Any, Any], given: _Tensor, other: float) -> _Tensor:
    found: _Tensor = np.where(condition, given, np.float32(other)).view(_Tensor)
    return found


def _stack(numbers: list[_Tensor]) -> _Tensor:
    stacked: _Tensor = np.stack(numbers).view(_Tensor)
    return stacked


_TORCH = SimpleNamespace(
    linalg=SimpleNamespace(vector_norm=_vector_norm),
    backends=SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False))),
    float32=np.float32,
    float64=np.float64,
    where=_where,
    stack=_stack,
)


def _acting(array: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - it acts as a tensor of torch
    return array.view(_Tensor)


def _tokens(count: int) -> Any:  # noqa: ANN401 - as above
    """Draw inputs whose magnitudes differ by position."""
    drawn = np.random.default_rng(count).normal(size=(count, _INPUTS)).astype(np.float32)
    return _acting(drawn * np.arange(1, _INPUTS + 1, dtype=np.float32))


def _zeros(count: int) -> Any:  # noqa: ANN401 - as above
    return _acting(np.zeros((count, _INPUTS), np.float32))


@pytest.mark.parametrize(("reached", "enough"), [(ENOUGH_TOKENS - 1, False), (ENOUGH_TOKENS, True)])
def test_tokens_of_zeros_do_not_count_among_those_that_reached_an_expert(reached: int, enough: bool) -> None:
    squares = InputMoments()
    squares.saw(_TORCH, ["mlp.experts.0.up_proj"], _acting(np.concatenate([_tokens(reached), _zeros(500)])))
    squares.saw(_TORCH, ["mlp.experts.0.up_proj"], _zeros(500))
    assert ("mlp.experts.0.up_proj" in squares.importance()) is enough


def test_tokens_of_zeros_change_no_mean_square() -> None:
    alone, among_zeros = InputMoments(), InputMoments()
    alone.saw(_TORCH, ["down_proj"], _tokens(100))
    among_zeros.saw(_TORCH, ["down_proj"], _acting(np.concatenate([_zeros(7), _tokens(100)])))
    np.testing.assert_array_equal(alone.importance()["down_proj"], among_zeros.importance()["down_proj"])


def test_a_token_with_one_input_that_is_not_zero_counts() -> None:
    squares, tokens = InputMoments(), _zeros(ENOUGH_TOKENS)
    tokens[:, 3] = 1
    squares.saw(_TORCH, ["down_proj"], tokens)
    assert squares.importance()["down_proj"].tolist() == [float(place == 3) for place in range(_INPUTS)]


def test_padding_counts_neither_as_tokens_nor_in_the_sums() -> None:
    given = _tokens(2 * ENOUGH_TOKENS).reshape(2, ENOUGH_TOKENS, _INPUTS)
    mask = _acting(np.array([[True] * ENOUGH_TOKENS, [False] * ENOUGH_TOKENS]))
    padded, first = InputMoments(mask), InputMoments()
    padded.saw(_TORCH, ["q_proj", "k_proj"], given)
    first.saw(_TORCH, ["q_proj"], given[0])
    np.testing.assert_array_equal(padded.importance()["k_proj"], first.importance()["q_proj"])
    short = InputMoments(mask[:, 1:])
    short.saw(_TORCH, ["q_proj"], given[:, 1:])
    assert short.importance() == {}


def test_a_mask_of_another_shape_leaves_all_tokens() -> None:
    squares = InputMoments(_acting(np.zeros((2, ENOUGH_TOKENS), bool)))
    squares.saw(_TORCH, ["mlp.experts.0.down_proj"], _tokens(ENOUGH_TOKENS))
    assert "mlp.experts.0.down_proj" in squares.importance()


def test_products_are_summed_over_tokens_without_padding_and_given_out_once() -> None:
    given = _tokens(2 * ENOUGH_TOKENS).reshape(2, ENOUGH_TOKENS, _INPUTS)
    mask = _acting(np.array([[True] * ENOUGH_TOKENS, [True] * 10 + [False] * (ENOUGH_TOKENS - 10)]))
    moments = InputMoments(mask, keeps_products=True)
    for _ in range(2):
        moments.saw(_TORCH, ["q_proj"], given)
    moments.share("k_proj", "q_proj")
    (found,) = moments.taken_products()
    seen = np.asarray(given[mask], np.float64)
    np.testing.assert_allclose(np.asarray(found.sums), 2 * seen.T @ seen, rtol=1e-4, atol=1e-2)
    assert found.modules == ("q_proj", "k_proj")
    assert found.tokens == 2 * (ENOUGH_TOKENS + 10)
    assert not found.is_singular
    assert list(moments.taken_products()) == []
    assert list(InputMoments().taken_products()) == []


def test_pairs_of_inputs_within_blocks_are_summed_over_tokens_without_padding() -> None:
    wide = np.concatenate([_tokens(2 * ENOUGH_TOKENS), _tokens(2 * ENOUGH_TOKENS)[::-1]], axis=1)
    given = _acting(wide.reshape(2, ENOUGH_TOKENS, 2 * _INPUTS))
    mask = _acting(np.array([[True] * ENOUGH_TOKENS, [True] * 10 + [False] * (ENOUGH_TOKENS - 10)]))
    moments = InputMoments(mask, keeps_blocks=True)
    for _ in range(2):
        moments.saw(_TORCH, ["q_proj", "k_proj"], given)
    moments.saw(_TORCH, ["mlp.experts.0.up_proj"], given[:, : ENOUGH_TOKENS // 4])
    seen = np.asarray(given[mask], np.float64)
    blocks = np.stack([seen[:, here : here + 16].T @ seen[:, here : here + 16] for here in (0, 16)])
    found = moments.importance(pairs=True)
    np.testing.assert_allclose(found["q_proj"], pairs_of(blocks), rtol=1e-4, atol=1e-6)
    assert found.keys() == moments.importance().keys() == {"q_proj", "k_proj"}
    assert found["q_proj"] is found["k_proj"]


def test_pairs_that_no_number_of_32_bits_holds_are_left_out() -> None:
    moments = InputMoments(keeps_blocks=True)
    with np.errstate(over="ignore"):
        moments.saw(_TORCH, ["down_proj"], _tokens(ENOUGH_TOKENS) * np.float32(1e20))
    assert moments.importance().keys() == {"down_proj"}
    assert moments.importance(pairs=True) == {}


@pytest.mark.parametrize(
    ("ways", "products", "blocks"),
    [
        (("mse", "max+gptq"), True, False),
        (("weighted",), False, False),
        (("max", "local_hessian"), False, True),
        (("local_hessian+gptq",), True, False),
        (("weighted+gptq", "local_hessian"), True, True),
    ],
)
def test_what_is_summed_is_what_a_scheme_needs(ways: tuple[str, ...], products: bool, blocks: bool) -> None:
    schemes = [searching(**one.values)["nvfp4"] for one in parse(",".join(ways))]
    found = InputMoments.of(schemes)
    assert found is not None
    assert (found.keeps_products, found.keeps_blocks) == (products, blocks)
    assert InputMoments.of([searching("mse")["nvfp4"], searching("local_hessian")["fp8"]]) is None


def test_products_of_few_tokens_are_not_given_out() -> None:
    moments = InputMoments(keeps_products=True)
    moments.saw(_TORCH, ["mlp.experts.0.up_proj"], _tokens(ENOUGH_TOKENS - 1))
    moments.saw(_TORCH, ["mlp.experts.1.up_proj"], _tokens(ENOUGH_TOKENS))
    assert [found.modules for found in moments.taken_products()] == [("mlp.experts.1.up_proj",)]


@pytest.mark.parametrize(
    ("tokens", "silent", "singular"), [(_INPUTS, None, False), (_INPUTS - 1, None, True), (_INPUTS, 3, True)]
)
def test_fewer_tokens_than_inputs_or_an_input_of_zeros_cannot_be_inverted(
    tokens: int, silent: int | None, singular: bool
) -> None:
    given = np.asarray(_tokens(tokens), np.float64)
    if silent is not None:
        given[:, silent] = 0
    sums = given.T @ given
    assert InputProducts(("q_proj",), _acting(sums), tokens).is_singular is singular
    assert bool(np.linalg.matrix_rank(given) < _INPUTS) is singular


def _probe() -> tuple[ModuleProbe, Measured]:
    measured = Measured()
    return ModuleProbe(_TORCH, measured, None, InputMoments()), measured


@pytest.mark.parametrize("name", ["mlp.experts.0.up_proj", "experts.0.w3"])
def test_the_largest_input_of_all_batches_is_kept_and_experts_count_their_tokens(name: str) -> None:
    probe, measured = _probe()
    for count in (3, 4):
        probe.record(name, _tokens(count))
    probe.finish()
    assert measured.inputs == {name: max(np.abs(_tokens(count)).max() for count in (3, 4))}
    assert measured.tokens == {name: 7}
    assert (measured.keys, measured.values, measured.attended) == (0, 0, False)


@pytest.mark.parametrize("largest", [0, 63, 64, 199])
def test_the_largest_of_many_batches_is_found_wherever_it_is(largest: int) -> None:
    probe, measured = _probe()
    for batch in range(200):
        probe.record("down_proj", _tokens(1) * 0 + (100 if batch == largest else batch / 200))
    probe.finish()
    assert measured.inputs == {"down_proj": 100}


def test_modules_that_get_the_same_tensor_are_known_by_the_first() -> None:
    probe, measured = _probe()
    shared, own = _tokens(5), _tokens(6)
    for name, given in (("q_proj", shared), ("k_proj", shared), ("o_proj", own)):
        probe.record(name, given)
    probe.finish()
    assert measured.fed_alike == {"k_proj": "q_proj"}
    assert measured.inputs == {
        "q_proj": np.abs(shared).max(),
        "k_proj": np.abs(shared).max(),
        "o_proj": np.abs(own).max(),
    }


def test_a_module_that_nothing_reached_is_missing() -> None:
    probe, measured = _probe()
    empty = _tokens(0)
    for name in ("mlp.experts.0.up_proj", "mlp.experts.0.gate_proj"):
        probe.record(name, empty)
    probe.finish()
    assert (measured.inputs, measured.tokens) == ({}, {})


@pytest.mark.parametrize("first", [True, False])
def test_what_is_not_a_number_wins_whenever_it_comes(first: bool) -> None:
    probe, measured = _probe()
    broken = _tokens(2)
    broken[0, 0] = np.nan
    for given in (broken, _tokens(3)) if first else (_tokens(3), broken):
        probe.record("down_proj", given)
        probe.record_cache(_tokens(2), given)
    probe.finish()
    assert measured.attended
    assert np.isfinite(measured.keys)
    assert np.isnan([measured.inputs["down_proj"], measured.values]).all()
