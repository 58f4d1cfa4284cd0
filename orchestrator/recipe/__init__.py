"""Reads recipes from YAML: strict parsing, inheritance, overrides, lock file, JSON Schema."""
