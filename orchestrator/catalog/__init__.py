"""Targets and images as data: the files, their types and what they can do."""
