"""Predicts before any download whether a recipe works and what it costs, by rules and arithmetic without I/O."""
