"""A simulator for tests: a point in the plane that moves to its task's corner."""

import numpy as np

CORNERS = {"east": (1.0, 0.0), "north": (0.0, 1.0), "west": (-1.0, 0.0)}


class Point:
    """``state``: position and goal; done within 0.15 of it."""

    def __init__(self, task):
        if task == "nowhere":
            raise ValueError("task: got 'nowhere', allowed: a corner")
        self.goal = np.array(CORNERS[task])

    def _seen(self):
        return np.concatenate([self.at, self.goal]).astype(np.float32)

    def reset(self, seed):
        self.at = np.random.default_rng(seed).uniform(-0.3, 0.3, 2)
        return self._seen()

    def step(self, action):
        self.at = self.at + 0.1 * np.clip(action, -1, 1)
        return self._seen(), bool(np.linalg.norm(self.at - self.goal) < 0.15)

    def expert(self):
        way = self.goal - self.at
        return way / np.abs(way).max()

    def render(self):
        return np.full((4, 6, 3), int(100 + 50 * self.at[0]), np.uint8)


class Dying(Point):
    """Its process ends at the second step."""

    def step(self, action):
        import os

        os._exit(3)
