"""Parses strict YAML with positions, and validates it against typed models, for all files that people write."""
