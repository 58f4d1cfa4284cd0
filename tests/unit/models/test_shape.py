"""Tensors of a shape."""

from __future__ import annotations

from dataclasses import fields, replace

from orchestrator.models.shape import Tensor


def test_a_tensor_keeps_every_field_under_another_name() -> None:
    other = {
        "shape": (3, 5),
        "role": "expert",
        "layer": 2,
        "count": 7,
        "used": 0.25,
        "dtype": "F32",
        "quantizable": True,
        "linear": True,
        "stacked": True,
        "stored": 99,
    }
    tensor = Tensor("a.weight", **other)  # type: ignore[arg-type] # by name
    assert {field.name for field in fields(Tensor)} == {"name", *other}
    assert tensor.renamed("b.weight") == replace(tensor, name="b.weight")
    assert tensor != Tensor("a.weight", (3, 5))
