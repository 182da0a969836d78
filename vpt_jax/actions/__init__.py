"""Action spaces: keys and axes of a game, the forms of an action, and mappings between spaces."""
