"""Evaluation of models: metrics on held-out data, trivial baselines, rollouts in environments."""
