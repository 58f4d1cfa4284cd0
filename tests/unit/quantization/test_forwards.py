"""A model's own forward stops at each layer until somebody has run that layer."""

from __future__ import annotations

import pytest

from orchestrator.quantization.forwards import Forward
from orchestrator.quantization.skeleton import Call


def _forward(seen: list[object]) -> Forward:
    def work() -> None:
        for _ in range(2):
            seen.append(forward.is_current)
            seen.append(forward.wait_for_result())

    forward = Forward(work)
    return forward


def test_the_model_runs_between_two_layers_with_what_the_layer_returned() -> None:
    seen: list[object] = []
    forward = _forward(seen)
    forward.start()
    assert seen == [True]
    assert not forward.is_current
    forward.hand_on(("hidden states", "and more"))
    assert seen == [True, ("hidden states", "and more"), True]
    forward.hand_on("the last")
    assert seen[-1] == "the last"


def test_a_forward_that_is_stopped_runs_no_further() -> None:
    seen: list[object] = []
    forward = _forward(seen)
    forward.start()
    forward.stop()
    assert seen == [True]


def test_an_error_of_the_model_is_raised_where_the_layer_was_run() -> None:
    def work() -> None:
        forward.wait_for_result()
        message = "between two layers"
        raise ValueError(message)

    forward = Forward(work)
    forward.start()
    with pytest.raises(ValueError, match="between two layers"):
        forward.hand_on(None)


def test_a_layer_that_runs_again_changes_nothing_that_later_layers_read() -> None:
    keys = object()
    call = Call(([1], "text"), {"shared": {"keys": [keys]}, "mask": None})
    again = call.apart
    assert again == call
    again.named["shared"]["keys"].append("quantized")
    again.positional[0].append(2)
    assert call == Call(([1], "text"), {"shared": {"keys": [keys]}, "mask": None})
