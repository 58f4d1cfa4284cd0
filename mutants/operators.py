"""The changes that are made: operators of cosmic-ray, and two of our own for what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import parso
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator
from parso.tree import NodeOrLeaf

_NAMES = (
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in (
            "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE",
            "GtE_Gt", "GtE_Lt",
        )
    ),
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in (
            "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "LShift_RShift",
            "RShift_LShift", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd",
        )
    ),
    "ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not", "AddNot", "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop",
)  # fmt: skip


class RemoveEntry(Operator):
    """Removes an entry of a dictionary, or an argument that is passed by name."""

    def mutation_positions(self, node: NodeOrLeaf) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Return where an entry can be removed, one position for each."""
        return [(node.children[first].start_pos, node.children[last].end_pos) for first, last in self._entries(node)]

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        """Remove one entry, and the comma after it."""
        first, last = list(self._entries(node))[index]
        end = last + 2 if last + 1 < len(node.children) and node.children[last + 1] == "," else last + 1
        del node.children[first:end]
        return node

    @staticmethod
    def _entries(node: NodeOrLeaf) -> list[tuple[int, int]]:
        children = getattr(node, "children", ())
        if node.type == "arglist":
            return [(place, place) for place, child in enumerate(children) if _is_named(child)]
        if node.type == "dictorsetmaker":
            return [(place - 1, place + 1) for place, child in enumerate(children) if child == ":"]
        return []

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return what it does to two lines."""
        return (Example("{'a': 1, 'b': 2}", "{ 'b': 2}"), Example("f(1, a=2)", "f(1,)"))


class RemoveCall(Operator):
    """Removes a statement that is nothing but a call."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Return where the statement is."""
        if node.type == "simple_stmt" and _is_call(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:  # noqa: ARG002 - cosmic-ray's signature
        """Replace the call by `pass`."""
        prefix = node.get_first_leaf().prefix
        node.children[0] = parso.parse(f"{prefix}pass")
        return node

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return what it does to a line."""
        return (Example("f(1)\n", "pass\n"),)


def _is_named(node: NodeOrLeaf) -> bool:
    return node.type == "argument" and node.children[1] == "="


def _is_call(node: NodeOrLeaf) -> bool:
    if node.type == "await_expr" or (node.type == "atom_expr" and node.children[0] == "await"):
        return True
    last = node.children[-1] if node.type == "atom_expr" else None
    return last is not None and last.type == "trailer" and last.children[0] == "("


OPERATORS: dict[str, Operator] = {name: get_operator(f"core/{name}")() for name in _NAMES} | {
    "RemoveEntry": RemoveEntry(),
    "RemoveCall": RemoveCall(),
}
"""All operators by name."""


def family(operator: str) -> str:
    """Return the kind of an operator; at one place one operator of a kind is taken."""
    return operator.partition("_")[0]
