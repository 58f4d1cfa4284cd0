"""What layers are given is known without running them only where the model hands on nothing but hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.quantization import skeleton
from orchestrator.quantization.skeleton import Call, listen
from orchestrator.quantization.torch_types import HiddenStates, Model, Module


class Tensor:
    """Hidden states, a mask or a rotation; compared by identity."""


class Layer:
    """What a model of two layers is made of; `listen` replaces its forward."""

    def forward(self, hidden: Tensor, **_: object) -> Tensor:
        return hidden


Between = Callable[[Tensor], Tensor]
LAYERS = (Layer(), Layer())
MASK = Tensor()


def model(between: Between = lambda hidden: hidden, **given: object) -> Callable[..., None]:
    """Make a model's own forward, with what it does to hidden states between its layers and what it gives them."""

    def forward(*, inputs: Tensor, use_cache: bool) -> None:
        assert not use_cache
        hidden = inputs
        for number, layer in enumerate(LAYERS):
            hidden = layer.forward(between(hidden) if number else hidden, mask=MASK, **given)

    return forward


@pytest.fixture(autouse=True, params=["4.57.0", "5.1.0"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    libraries: Mapping[str, Any] = {
        "torch": SimpleNamespace(is_tensor=lambda _: False, inference_mode=nullcontext),
        "transformers": SimpleNamespace(__version__=request.param),
    }
    monkeypatch.setattr(skeleton, "library", libraries.__getitem__)
    monkeypatch.setattr(skeleton, "load_torch", lambda: libraries["torch"])
    return str(request.param)


def heard(forward: Callable[..., None], batches: int = 2) -> tuple[list[list[Call]] | None, list[Tensor]]:
    hidden: list[Tensor] = []
    inputs = [{"inputs": Tensor()} for _ in range(batches)]
    calls = listen(cast("Model", forward), cast("tuple[Module, ...]", LAYERS), inputs, cast("HiddenStates", hidden))
    assert not hidden or hidden == [each["inputs"] for each in inputs]
    return calls, hidden


def unpacked(hidden: Any) -> Tensor:  # noqa: ANN401 - a tuple in version 4
    found: Tensor = hidden[0] if isinstance(hidden, tuple) else hidden
    return found


@pytest.mark.parametrize("between", [lambda hidden: hidden, unpacked])
def test_each_layer_gets_what_the_model_gives_it(between: Between) -> None:
    calls, hidden = heard(model(between))
    assert calls == [[Call((), {"mask": MASK})] * 2] * 2
    assert len(hidden) == 2


@pytest.mark.parametrize(
    "forward",
    [
        model(lambda _: Tensor()),  # changed between two layers
        model(state={}),  # a layer may write to it for later ones
        model(states=[]),
    ],
)
def test_layers_that_hand_on_more_have_to_run(forward: Callable[..., None]) -> None:
    assert heard(forward) == (None, [])
