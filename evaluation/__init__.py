"""Scores of the planner against published measurements."""
