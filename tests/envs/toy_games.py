"""Toy environments for the tests of the pool: one that counts, and one with faults of every kind."""

import os
import random
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np

SIZE = (4, 6)


class Counting:
    """Frames encode seed and step; `apples` counts steps with attack held, `turned` sums the yaw, `process`: PID."""

    observation_space = {"pov": SimpleNamespace(shape=(*SIZE, 3))}  # noqa: RUF012 - Gymnasium's own name

    def __init__(self, steps=5, truncates=True):
        self._steps, self._truncates = steps, truncates

    def reset(self, seed):
        self.seed, self.step_number, self.apples, self.turned = seed, 0, 0, 0.0
        return self._observe()

    def step(self, action):
        self.step_number += 1
        self.apples += action["attack"]
        self.turned += float(action["camera"][1])
        over = self.step_number == self._steps
        return self._observe()[0], 0.0, over and not self._truncates, over and self._truncates, self._observe()[1]

    def close(self):
        pass

    def _observe(self):
        frame = np.zeros((*SIZE, 3), np.uint8)
        frame[..., 0], frame[..., 1] = self.seed % 256, self.step_number
        info = {"apples": self.apples, "turned": self.turned, "process": os.getpid(), "name": "left out"}
        return {"pov": frame}, info


class Faulty(Counting):
    """Every reset and step fails with probability `chance`, with a random one of `faults`."""

    def __init__(self, faults, chance, **options):
        super().__init__(**options)
        self._faults, self._chance, self._random = faults, chance, random.Random(os.getpid())

    def reset(self, seed):
        return self._inject_fault(super().reset(seed))

    def step(self, action):
        return self._inject_fault(super().step(action))

    def _inject_fault(self, answer):
        if self._random.random() < self._chance:
            return getattr(self, self._random.choice(self._faults))(answer)
        return answer

    def hang(self, answer):
        time.sleep(1000)

    def die(self, answer):
        os._exit(9)

    def fail(self, answer):
        raise RuntimeError("out of apples")

    def babble(self, answer):
        os.write(int(sys.argv[1]), b"no JSON at all\n")
        return answer

    def lie(self, answer):
        answer[-1]["apples"] = float("nan")
        return answer

    def leak(self, answer):
        """Leaks a process, in a session of its own, and memory."""
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
        self.leaked = bytearray(1 << 20)
        return answer


class FailsAt(Counting):
    """Fails in one step of the episode of one seed, or of all (None)."""

    def __init__(self, seed, step, **options):
        super().__init__(**options)
        self._place = seed, step

    def step(self, action):
        seed, number = self._place
        if self.step_number + 1 == number and seed in (None, self.seed):
            raise RuntimeError(f"step {number} of seed {self.seed}")
        return super().step(action)


class CountsItsEpisodes(Counting):
    """`info` counts the episodes of the object."""

    episodes = 0

    def reset(self, seed):
        self.episodes += 1
        return super().reset(seed)

    def _observe(self):
        observation, info = super()._observe()
        return observation, info | {"episodes": self.episodes}


class OnceOnly(Counting):
    """Plays a single episode: later resets fail, in this process and in others."""

    def __init__(self, file, **options):
        super().__init__(**options)
        self._file = file

    def reset(self, seed):
        with open(self._file, "x"):
            return super().reset(seed)


def unmakeable():
    raise ImportError("install the game first")
