"""A bundle brought up on this machine: what its compose.yaml says, done through the engine's own interface."""
