"""The store of artifacts on disk: find, attempt, publish, lock, remove."""
