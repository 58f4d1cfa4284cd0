"""One function per reason why a plan cannot work; each looks at one case and yields what it finds."""
