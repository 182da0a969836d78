"""Scripted player (bot) of Doom. `player` combines the parts; `terrain` is their map of the level."""
