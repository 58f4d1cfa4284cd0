"""YAML to `Recipe`: strict parsing, inheritance, overrides, lock file, JSON Schema."""
