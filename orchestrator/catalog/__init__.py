"""Reads targets and images as data: the files, their types and their capabilities."""
