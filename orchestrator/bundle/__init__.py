"""The deployment files, rendered from recipe and artifacts."""
