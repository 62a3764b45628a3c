"""Where it runs: settings, the local stack, and the `headrace` command line."""
