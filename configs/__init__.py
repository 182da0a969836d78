"""Configs of the programs, one file per stage; importable as `vpt_jax.configs` as well, a link to this folder."""
