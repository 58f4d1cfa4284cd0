"""How trtllm-serve is started: its command line and its configuration file, each setting in one of the two."""
