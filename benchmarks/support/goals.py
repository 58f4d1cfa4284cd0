"""What a measurement was to reach, and whether it did: one line each, for a reader of the log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One figure and its limit."""

    name: str
    found: float
    limit: float
    at_least: bool = False
    """The figure is to be as large as the limit; else it may not be larger."""
    counts: bool = True
    """Missing it is a failure; else it is only shown, with the reason in its name."""

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit

    def __str__(self) -> str:
        """For a person."""
        verdict = "met" if self.met else "MISSED" if self.counts else "not reached"
        return (
            f"goal: {self.name} {self.found:.4g}, at {'least' if self.at_least else 'most'} {self.limit:.4g}: {verdict}"
        )


def missed(goals: list[Goal]) -> bool:
    """Print all goals and say whether one that counts was missed."""
    for goal in goals:
        print(goal)
    return any(goal.counts and not goal.met for goal in goals)
