"""Defines valid names of recipes."""

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
NAME_HINT = "a name is lower-case letters, digits, `.`, `_` and `-`, 64 at most"
ENDING = ".yaml"
"""The ending of a recipe's file."""
