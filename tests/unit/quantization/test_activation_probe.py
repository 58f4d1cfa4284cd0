"""Which modules have a mean square for each input, and over which tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.quantization.activation_probe import ENOUGH_TOKENS, InputSquares

_INPUTS = 16


class _Tensor(np.ndarray[Any, Any]):
    """An array with the methods of a tensor that the sums need."""

    def square(self) -> _Tensor:
        return np.square(self).view(_Tensor)

    def cpu(self) -> _Tensor:
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        return np.asarray(self)


def _vector_norm(tokens: _Tensor, *, dim: int, dtype: type[np.generic]) -> _Tensor:
    norms: _Tensor = np.linalg.norm(tokens.astype(dtype), axis=dim).view(_Tensor)
    return norms


_TORCH = SimpleNamespace(linalg=SimpleNamespace(vector_norm=_vector_norm), float64=np.float64)


def _tokens(count: int) -> _Tensor:
    """Draw inputs whose magnitudes differ by position."""
    drawn = np.random.default_rng(count).normal(size=(count, _INPUTS)).astype(np.float32)
    return (drawn * np.arange(1, _INPUTS + 1, dtype=np.float32)).view(_Tensor)


def _zeros(count: int) -> _Tensor:
    return np.zeros((count, _INPUTS), np.float32).view(_Tensor)


@pytest.mark.parametrize(("reached", "enough"), [(ENOUGH_TOKENS - 1, False), (ENOUGH_TOKENS, True)])
def test_tokens_of_zeros_do_not_count_among_those_that_reached_an_expert(reached: int, enough: bool) -> None:
    squares = InputSquares()
    squares.saw(_TORCH, ["experts.gate_up_proj.0"], np.concatenate([_tokens(reached), _zeros(500)]).view(_Tensor))
    squares.saw(_TORCH, ["experts.gate_up_proj.0"], _zeros(500))
    assert ("experts.gate_up_proj.0" in squares.importance()) is enough


def test_tokens_of_zeros_change_no_mean_square() -> None:
    alone, among_zeros = InputSquares(), InputSquares()
    alone.saw(_TORCH, ["down_proj"], _tokens(100))
    among_zeros.saw(_TORCH, ["down_proj"], np.concatenate([_zeros(7), _tokens(100)]).view(_Tensor))
    np.testing.assert_array_equal(alone.importance()["down_proj"], among_zeros.importance()["down_proj"])


def test_a_token_with_one_input_that_is_not_zero_counts() -> None:
    squares, tokens = InputSquares(), _zeros(ENOUGH_TOKENS)
    tokens[:, 3] = 1
    squares.saw(_TORCH, ["down_proj"], tokens)
    assert squares.importance()["down_proj"].tolist() == [float(place == 3) for place in range(_INPUTS)]


def test_padding_counts_neither_as_tokens_nor_in_the_sums() -> None:
    given = _tokens(2 * ENOUGH_TOKENS).reshape(2, ENOUGH_TOKENS, _INPUTS)
    mask = np.array([[True] * ENOUGH_TOKENS, [False] * ENOUGH_TOKENS])
    padded, first = InputSquares(mask), InputSquares()
    padded.saw(_TORCH, ["q_proj", "k_proj"], given)
    first.saw(_TORCH, ["q_proj"], given[0])
    np.testing.assert_array_equal(padded.importance()["k_proj"], first.importance()["q_proj"])
    short = InputSquares(mask[:, 1:])
    short.saw(_TORCH, ["q_proj"], given[:, 1:])
    assert short.importance() == {}


def test_a_mask_of_another_shape_leaves_all_tokens() -> None:
    squares = InputSquares(np.zeros((2, ENOUGH_TOKENS), bool))
    squares.saw(_TORCH, ["experts.0.down_proj"], _tokens(ENOUGH_TOKENS))
    assert "experts.0.down_proj" in squares.importance()
