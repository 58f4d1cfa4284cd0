"""Artifacts on disk: find, attempt, publish, lock, forget."""
