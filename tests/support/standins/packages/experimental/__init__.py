"""Stand-in for packages that an image has, as far as our payloads import them."""
