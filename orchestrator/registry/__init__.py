"""Registries of images: the digest of each, read over their own HTTP API."""
