"""Programs as functions of a config: what the scripts in launch/ run, and what other programs may call."""
