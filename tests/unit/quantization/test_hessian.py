"""What GPTQ changes later columns by follows from the inverse of the damped products, in arrays that act as torch's."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from orchestrator.quantization import hessian
from orchestrator.quantization.formats.gptq import Changes
from orchestrator.quantization.hessian import DAMPING, OWN_DAMPING, changes_of
from orchestrator.quantization.torch_types import Tensor

_INPUTS = 48


class _Tensor(np.ndarray[Any, Any]):
    """An array with the methods of a tensor that the factorization needs."""

    device = "cpu"

    def add_(self, number: float) -> None:
        self += number

    def mul_(self, number: float) -> None:
        self *= number

    def diagonal(self, *_: object, **__: object) -> _Tensor:
        writable: _Tensor = np.einsum("ii->i", self).view(_Tensor)
        return writable

    def double(self) -> _Tensor:
        return self.astype(np.float64).view(_Tensor)

    def clone(self) -> _Tensor:
        return self.copy().view(_Tensor)

    def flip(self, *axes: int) -> _Tensor:
        return np.flip(self, axes).view(_Tensor)

    def unsqueeze(self, axis: int) -> _Tensor:
        return np.expand_dims(self, axis).view(_Tensor)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return cast("Tensor", array.copy().view(_Tensor))


def _cholesky(matrix: _Tensor) -> tuple[_Tensor, int]:
    try:
        return np.linalg.cholesky(matrix).view(_Tensor), 0
    except np.linalg.LinAlgError:
        return np.zeros_like(matrix).view(_Tensor), 1


def _solve(factor: _Tensor, right: _Tensor, *, upper: bool) -> _Tensor:
    assert not upper
    return np.linalg.solve(np.tril(factor), right).view(_Tensor)


def _eye(size: int, *, dtype: np.dtype[Any], device: str) -> _Tensor:
    assert device == "cpu"
    return np.eye(size, dtype=dtype).view(_Tensor)


_TORCH = SimpleNamespace(
    eye=_eye, inference_mode=nullcontext, linalg=SimpleNamespace(cholesky_ex=_cholesky, solve_triangular=_solve)
)


@pytest.fixture(autouse=True)
def arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessian, "as_array", np.asarray)


def _check(found: Changes, sums: np.ndarray[Any, Any], damping: float) -> None:
    """Compare with the definition in float64: `damping` was added to the diagonal, besides a part of itself."""
    columns = (found.order[:, np.newaxis] * 16 + np.arange(16)).reshape(-1)
    damped = (sums + damping * np.eye(len(sums)) + OWN_DAMPING * np.diag(sums.diagonal()))[np.ix_(columns, columns)]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    np.testing.assert_allclose(found.matrix, upper / upper.diagonal()[:, np.newaxis], rtol=1e-6, atol=1e-9)
    costs = 1 / np.square(upper.diagonal())
    np.testing.assert_allclose(found.costs, costs / costs.max(), rtol=1e-6)


@pytest.mark.parametrize("tokens", [5 * _INPUTS, _INPUTS // 3, 1])
def test_changes_are_those_of_the_damped_inverse_even_of_few_tokens(tokens: int) -> None:
    given = np.random.default_rng(tokens).standard_normal((tokens, _INPUTS))
    sums = given.T @ given
    _check(changes_of(_TORCH, _tensor(sums)), sums, DAMPING * sums.diagonal().mean())


def test_blocks_with_the_largest_inputs_come_first_and_of_equal_ones_the_first() -> None:
    sizes = np.repeat([1.0, 3.0, 2.0], 16)
    sums = np.diag(sizes)
    assert changes_of(_TORCH, _tensor(sums)).order.tolist() == [1, 2, 0]
    assert changes_of(_TORCH, _tensor(np.eye(_INPUTS))).order.tolist() == [0, 1, 2]


def test_an_input_that_is_always_zero_changes_nothing_and_is_not_changed() -> None:
    given = np.random.default_rng(1).standard_normal((100, _INPUTS))
    given[:, 7] = 0
    found = changes_of(_TORCH, _tensor(given.T @ given))
    place = found.order.tolist().index(0) * 16 + 7
    assert not found.matrix[place, place + 1 :].any()
    assert not found.matrix[:place, place].any()


def test_what_damping_does_not_make_positive_is_damped_tenfold() -> None:
    given = np.random.default_rng(1).standard_normal((100, _INPUTS))
    sums = given.T @ given
    mean = sums.diagonal().mean()
    # As roundings might, take away more than the first damping gives back.
    lowest = np.linalg.eigh(sums + OWN_DAMPING * np.diag(sums.diagonal()))
    sums -= (lowest[0][0] + 2 * DAMPING * mean) * np.outer(lowest[1][:, 0], lowest[1][:, 0])
    first = DAMPING * sums.diagonal().mean()
    _check(changes_of(_TORCH, _tensor(sums)), sums, 11 * first)
