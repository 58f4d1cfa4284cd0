"""Strict YAML with positions, and its validation against typed models: the door for everything people write."""
