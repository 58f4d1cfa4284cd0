"""Where a step's command runs: this machine's Python, or a container. Each fulfils one small protocol."""
