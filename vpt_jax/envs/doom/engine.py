"""Life cycle of a ViZDoom engine: configuration, start, restart and clean-up."""

import contextlib
import tempfile
from pathlib import Path

import vizdoom

from vpt_jax.envs.doom.level import level_file
from vpt_jax.envs.processes import watchdog

KEYS = {
    "attack": "ATTACK", "use": "USE", "forward": "MOVE_FORWARD", "back": "MOVE_BACKWARD", "left": "MOVE_LEFT",
    "right": "MOVE_RIGHT", "jump": "JUMP", "sneak": "CROUCH", "sprint": "SPEED",
} | {f"hotbar.{slot}": f"SELECT_WEAPON{slot}" for slot in range(1, 10)}  # fmt: skip
# The same buttons by the keys of Doom's own action space; slots 8 and 9 exist in MineRL's only.
DOOM_KEYS = {
    "attack": "ATTACK", "use": "USE", "forward": "MOVE_FORWARD", "back": "MOVE_BACKWARD", "left": "MOVE_LEFT",
    "right": "MOVE_RIGHT", "jump": "JUMP", "crouch": "CROUCH", "run": "SPEED",
} | {f"weapon.{slot}": f"SELECT_WEAPON{slot}" for slot in range(1, 10)}  # fmt: skip
KEYS_OF_SPACE = {"minerl": KEYS, "doom": DOOM_KEYS}
_MOUSE = ("LOOK_UP_DOWN_DELTA", "TURN_LEFT_RIGHT_DELTA")
_WARM_UP_TICS = 14  # the engine ignores turning in its first 7 tics, and the weapon is still coming up


class Engine:
    """A running ViZDoom engine; `game` is its `DoomGame`. Close it after use.

    In the second episode of an engine, animations have another phase than in the first, independent of the seed, so
    only fresh engines repeat an episode byte for byte. Starting takes about 0.2 s.
    """

    def __init__(self, level: str, seed: int, skill: int, mode: str, objects: bool):
        """`mode` is one of ViZDoom's screen modes, such as "RES_640X360"; `objects` adds all objects to the state."""
        self.game = _configured_game(level, skill, mode)
        self.game.set_seed(seed)
        self.game.set_objects_info_enabled(objects)
        scratch = Path(tempfile.mkdtemp(prefix="vpt_doom_"))
        self.game.set_doom_config_path(str(scratch / "engine.ini"))  # on the engine's command line
        self._watchdog = watchdog.watch(scratch.name, scratch)  # before there is anything to clean up
        with contextlib.chdir(scratch):  # the engine creates a folder in its working directory
            self.game.init()
        watchdog.register_instance(self._watchdog, self.game.get_instance_id())

    def restart(self, seed: int) -> None:
        """Start another episode, with the engine's random seed set to `seed`."""
        self.game.set_seed(seed)
        self.game.new_episode()

    def close(self) -> None:
        """Close the engine and remove its files and shared memory."""
        self.game.close()
        self._watchdog.communicate()


def _configured_game(level: str, skill: int, mode: str) -> vizdoom.DoomGame:
    place, game = level_file(level), vizdoom.DoomGame()
    game.set_doom_game_path(str(place.game))
    game.set_doom_scenario_path(str(place.scenario or ""))
    game.set_doom_map(place.name)
    game.set_doom_skill(skill)
    game.set_screen_resolution(vizdoom.ScreenResolution.__members__[mode])
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_render_hud(True)
    game.set_render_minimal_hud(True)
    game.set_render_crosshair(True)
    game.set_render_messages(False)  # a message stays on the screen for the rest of the level
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_episode_timeout(0)
    game.set_episode_start_time(_WARM_UP_TICS)
    game.add_game_args("+sv_nofreelook 0 +freelook 1")  # or the view cannot be pitched
    game.add_game_args("+cl_showsecretmessage 0")  # it would stay on the screen
    game.set_available_buttons([vizdoom.Button.__members__[name] for name in (*KEYS.values(), *_MOUSE)])
    return game
