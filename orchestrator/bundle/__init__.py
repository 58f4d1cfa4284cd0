"""Renders the deployment files from recipe and artifacts."""
