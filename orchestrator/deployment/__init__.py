"""Starts a bundle on this machine as its compose.yaml describes, through Docker's own API."""
