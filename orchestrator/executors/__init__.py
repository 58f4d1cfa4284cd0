"""Runs a step's command on this machine's Python or in a container, behind one small protocol."""
