"""Stub of MineRL v1: its interface, and one effect for each of some keys.

attack gains a log of the next kind, use is a death and respawn, jump a death that ends MineRL's episode, sneak a lost
connection, sprint a game that hangs. The first pixel encodes the seed and the step; without a seed, 255.
"""

import json
import time
from pathlib import Path

import numpy as np
from gym import spaces

SPEC = json.loads((Path(__file__).parents[5] / "minerl_v1_spec.json").read_text())
LOGS = ("oak_log", "birch_log", "dark_oak_log")


class HumanSurvival:
    def __init__(self, **settings):
        self.settings = settings

    def make(self):
        return Env(self)


class Env:
    def __init__(self, task):
        self.task, self._seed, self.done, self.closed = task, None, True, False
        keys = {name: spaces.Box(**key) if "low" in key else spaces.Discrete(**key) for name, key in keys_of_spec()}
        self.action_space = spaces.Dict(keys)
        width, height = task.settings["resolution"]
        pov = spaces.Box(**{**SPEC["observations"]["pov"], "shape": (height, width, 3)})
        self.observation_space = spaces.Dict({"pov": pov, "inventory": spaces.Dict({})})

    def seed(self, seed=None):
        assert isinstance(seed, int)
        self._seed = seed

    def reset(self):
        self._shown, self._seed = 255 if self._seed is None else self._seed, None
        self.steps, self.done = 0, False
        self._live()
        return self._see()

    def step(self, action):
        if self.done:
            raise RuntimeError("Attempted to step an environment server with done=True")
        assert set(action) == set(SPEC["actions"])
        assert action["camera"].dtype == np.float32
        assert action["camera"].shape == (2,)
        self.action, self.steps = action, self.steps + 1
        if action["attack"]:
            self.inventory[LOGS[self.steps % len(LOGS)]] += 1
        if action["use"] or action["jump"]:
            self._live()
        if action["sprint"]:
            time.sleep(1000)
        lost = {"error": "Connection timed out!"} if action["sneak"] else {}
        self.done = bool(action["jump"] or lost)
        return self._see(), 0, self.done, lost

    def close(self):
        self.closed = True

    def _live(self):
        """Empties the inventory, as at a spawn."""
        self.inventory = {item: np.array(0) for item in (*LOGS, "air", "oak_planks", "birch_planks", "diamond")}

    def _see(self):
        picture = np.zeros((360, 640, 3), np.uint8)
        picture[0, 0] = self._shown, self.steps, 0
        life = {"life": np.array(20.0), "food": np.array(20)}
        return {"pov": picture, "inventory": dict(self.inventory), "life_stats": life}


def keys_of_spec():
    return SPEC["actions"].items()
