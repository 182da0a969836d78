"""Figures of models: metrics on held-out play, trivial baselines, rollouts in environments."""
