"""The demo: New York flights of 2013, replayed through the whole platform."""
