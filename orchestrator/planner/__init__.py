"""What will work and what it will cost, said before anything is downloaded: rules and arithmetic without I/O."""
