"""A bot: the scripted player of Doom. `player` puts the parts together; `terrain` is what they know of the level."""
