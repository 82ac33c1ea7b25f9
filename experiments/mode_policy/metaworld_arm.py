"""Meta-World: an arm on a table, simulated by MuJoCo, and the scripted experts that come with it.

39 numbers are seen (hand, gripper and objects now and one step before, goal), 4 are done (where the hand
goes, and the gripper). Goals and objects lie anew in every episode, as its seed says. Yu et al. 2020
(arXiv:1910.10897); ``pip install "diffax[metaworld]"``.
"""

import os
import warnings
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from diffax import checks
from diffax.data.episodes import Episodes, join
from diffax.data.optional import optional_import
from experiments.mode_policy.simulators import episode_seed

STATE, ACTION = 39, 4
STEPS = 500  # the benchmark's limit of an episode
_TRIES = 4  # episodes of an expert for each that is asked: the weakest one succeeds in 7 of 10


class Arm:
    """One task of Meta-World, whose name is that of ``metaworld_tasks``."""

    def __init__(self, task: str, side: int = 160) -> None:
        module = _metaworld()
        made = module.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"]
        self._env: Any = made()
        # goals by the generator that reset seeds, not by the global one
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True
        self._side, self._renderer = side, None
        self._policy: Any = optional_import("metaworld.policies", "metaworld").ENV_POLICY_MAP[f"{task}-v3"]()

    def reset(self, seed: int) -> Float[np.ndarray, "o"]:
        """Objects and goal where the seed puts them."""
        self._env.seed(seed)
        self._env.max_path_length = STEPS
        self._seen = self._env.reset()[0]
        return self._seen.astype(np.float32)

    def step(self, action: Float[np.ndarray, "a"]) -> tuple[Float[np.ndarray, "o"], bool]:
        """Actions beyond [-1, 1] are cut off, as the arm does."""
        self._seen, _, _, _, info = self._env.step(np.clip(action, -1, 1))
        return self._seen.astype(np.float32), bool(info["success"])

    def expert(self) -> Float[np.ndarray, "a"]:
        """What the task's script does, within [-1, 1]."""
        with np.errstate(all="ignore"):
            found = self._policy.get_action(self._seen)
        return np.clip(found, -1, 1).astype(np.float32)

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """From the corner, without shadows and multisampling: twenty times faster in software."""
        self._renderer = self._renderer or _renderer(self._env.model, self._side)
        self._renderer.update_scene(self._env.data, camera="corner2")
        for flag in (_mujoco().mjtRndFlag.mjRND_SHADOW, _mujoco().mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False
        return np.ascontiguousarray(self._renderer.render()[::-1, ::-1])  # that camera stands on its head


def demonstrate(task: str, count: int, noise: float, seed: int, number: int = 0) -> Episodes:
    """Episodes in which the expert succeeded, every other one disturbed.

    There the arm does the expert's action plus ``noise`` times a normal number, and the episode says what the
    expert wanted (Laskey et al. 2017, DART, arXiv:1703.09327): a policy sees how to come back. Raises
    ValueError where the expert fails too often.
    """
    arm, found = Arm(task), list[Episodes]()
    for attempt in range(_TRIES * count):
        episode = _episode(arm, episode_seed(seed, task, attempt), noise * (len(found) % 2), number)
        found += [episode] if episode else []
        if len(found) == count:
            return join(found)
    allowed = f"an expert that succeeds {count} times in {_TRIES * count}"
    raise ValueError(f"demonstrations of {task}: got {len(found)}, allowed: {allowed}")


def _episode(arm: Arm, seed: int, noise: float, number: int) -> Episodes | None:
    random = np.random.default_rng(seed)
    states, actions, success = [arm.reset(seed)], [], False
    while not success and len(actions) < STEPS:
        actions.append(arm.expert())
        state, success = arm.step(actions[-1] + noise * random.standard_normal(ACTION))
        states.append(state)
    steps = {"state": np.stack(states[:-1]), "action": np.stack(actions)}
    return Episodes(steps, np.array([len(actions)]), np.array([number], np.int32)) if success else None


def versions() -> dict[str, str]:
    """Of the simulator's packages."""
    checks.require(bool(_metaworld()), "metaworld", None, "installed")
    return {name: version(name) for name in ("metaworld", "mujoco", "gymnasium")}


def require_simulator() -> None:
    """Raise ``ValueError`` with the line that installs it where there is none."""
    try:
        _metaworld()
    except ImportError as error:
        raise ValueError(f"suite: got 'metaworld', allowed here: with the simulator: {error}") from error


def require_screen() -> None:
    """Raise ``ValueError`` where nothing can be rendered."""
    try:
        _renderer(_mujoco().MjModel.from_xml_string("<mujoco/>"), 8)
    except Exception as error:  # each back end has errors of its own
        raise ValueError(
            f"video: got {error!s}, allowed: a machine with EGL or OSMesa (MUJOCO_GL=egl or osmesa)"
        ) from error


def _renderer(model: Any, side: int) -> Any:
    model.vis.quality.offsamples = 0
    return _mujoco().Renderer(model, side, side)


def _mujoco() -> ModuleType:
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when it is first imported
    return optional_import("mujoco", "metaworld")


def _metaworld() -> ModuleType:
    _mujoco()
    # at every step of some experts, for what is cut off anyway
    warnings.filterwarnings("ignore", message="Constant.* may be too high", module="metaworld")
    return optional_import("metaworld", "metaworld")
