"""The command line. Only this package prints, reads the environment or exits."""
