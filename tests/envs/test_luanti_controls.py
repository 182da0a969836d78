"""Key presses and mouse moves of the Luanti controls, on a fake screen."""

from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("Xlib", reason="pip install -e '.[luanti]'")

from vpt_jax.actions.minerl import ENV_KEYS
from vpt_jax.envs.luanti import controls as luanti_controls
from vpt_jax.envs.luanti import game
from vpt_jax.envs.luanti.controls import Controls
from vpt_jax.envs.luanti.screen import Pointer

CENTRE = Pointer(320, 180, visible=False)


@dataclass
class FakeScreen:
    at: Pointer = CENTRE
    events: list = field(default_factory=list)

    def pointer(self):
        return self.at

    def press(self, key, down):
        self.events.append(("+" if down else "-") + key)

    def move(self, right, down):
        self.events.append((right, down))

    def show(self, visible):
        self.at = self.at._replace(visible=visible)


@pytest.fixture
def screen():
    return FakeScreen()


@pytest.fixture
def act(screen):
    controls = Controls(screen)

    def act(*keys, pitch=0.0, yaw=0.0):
        """The events of one more action."""
        screen.events = []
        controls.act(dict.fromkeys(keys, 1) | {"camera": (pitch, yaw)}, seconds=0.05)
        return screen.events

    return act


def test_keys_are_pressed_once_and_released_once(act):
    assert act("forward", "attack") == ["+Button1", "+w"]
    assert act("forward", "attack") == []
    assert act("forward", "hotbar.7") == ["-Button1", "+7"]
    assert act() == ["-w", "-7"]


def test_keys_without_a_counterpart_press_nothing(act):
    assert act("pickItem", "swapHands", "ESC") == []
    unknown = set(ENV_KEYS) - luanti_controls._X_KEYS.keys() - {"camera", "pickItem", "swapHands", "ESC"}
    assert not unknown


def test_turns_below_a_pixel_accumulate(act):
    moves = [act(pitch=-0.05, yaw=0.2) for _ in range(6)]
    assert np.sum([move for step in moves for move in step], axis=0).tolist() == [8, -2]  # of 0.15 degrees


def test_a_turn_wider_than_the_screen_takes_several_steps(act):
    moves = act(pitch=60, yaw=-180)
    while more := act():
        moves = moves + more
    assert (np.abs(moves) < (320, 180)).all()
    assert np.sum(moves, axis=0).tolist() == [-1200, 400]


def test_the_mouse_waits_until_the_game_has_read_it(screen, act):
    screen.at = Pointer(340, 180, visible=False)
    assert act("forward", yaw=3) == ["+w"]
    screen.at = CENTRE
    assert act("forward", yaw=3) == [(40, 0)]


def test_in_an_open_screen_the_mouse_moves_the_pointer_and_keys_are_released(screen, act):
    act("forward", yaw=100)
    screen.show(True)
    assert act("forward", "attack", "jump", yaw=-3, pitch=1.5) == ["+Button1", "-w", (-20, 10)]
    screen.show(False)
    assert act("forward") == ["-Button1", "+w"]  # the rest of the first turn is discarded


def test_the_inventory_key_opens_and_closes(screen, act):
    assert act("inventory") == ["+e"]
    screen.show(True)
    assert act("inventory") == ["-e"]  # still held, it does not close
    assert act() == []
    assert act("inventory") == ["+Escape", "-Escape"]
    screen.show(False)
    assert act("inventory") == []  # still held, it does not open
    act()
    assert act("inventory") == ["+e"]


def test_escape_is_not_pressed_again_while_a_screen_closes(screen, act, monkeypatch):
    screen.show(True)
    assert act("ESC") == ["+Escape", "-Escape"]
    act()
    assert act("ESC") == act() == []
    monkeypatch.setattr(luanti_controls, "_CLOSING_SECONDS", -1.0)
    screen.show(False)
    act()
    screen.show(True)
    assert act("inventory") == act("ESC") == ["+Escape", "-Escape"]  # the game must have missed the first press


def test_missing_programs_are_named(monkeypatch):
    monkeypatch.setattr(game.shutil, "which", lambda program, path=None: None)
    with pytest.raises(game.RecordError, match="apt-get install minetest xvfb"):
        game.check_installed()
