"""One model behind our servers and behind everybody else's, one load generator, all in turns. ``python -m benchmarks.serving --help``."""
