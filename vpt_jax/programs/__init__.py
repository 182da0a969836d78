"""Programs as functions of a config: what the commands run, and what other programs may call."""
