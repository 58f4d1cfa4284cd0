"""Reads image digests from registries over their own HTTP API."""
