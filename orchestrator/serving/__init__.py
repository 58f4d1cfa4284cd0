"""Writes the command line and configuration file of trtllm-serve. Each setting is in one of the two."""
