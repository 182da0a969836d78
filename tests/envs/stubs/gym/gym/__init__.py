"""A stand-in for the old gym, which MineRL needs."""
