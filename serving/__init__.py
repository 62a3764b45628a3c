"""How requests are scored: the exactly-once scorer, model runtimes, releases and canaries, the registry."""
