"""What we are compared with, run by interpreters that have it."""
