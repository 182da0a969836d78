"""Names of keys agree between the codes of Windows, of the web, of rdev and of Minecraft."""

import json
from string import ascii_lowercase, digits

import pytest

from vpt_jax.data.bridges.key_names import (
    KEYS,
    VIRTUAL_KEYS,
    W3C_CODES,
    mouse_button,
    virtual_key,
    web_key,
)

SAME = [  # Windows, web, rdev, name
    (0x57, "KeyW", "KeyW", "w"),
    (0x31, "Digit1", "Num1", "1"),
    (0x20, "Space", "Space", "space"),
    (0xA0, "ShiftLeft", "ShiftLeft", "left_shift"),
    (0xA3, "ControlRight", "ControlRight", "right_control"),
    (0xA4, "AltLeft", "Alt", "left_alt"),
    (0x5B, "MetaLeft", "MetaLeft", "left_meta"),
    (0x1B, "Escape", "Escape", "escape"),
    (0x0D, "Enter", "Return", "enter"),
    (0x09, "Tab", "Tab", "tab"),
    (0x14, "CapsLock", "CapsLock", "caps_lock"),
    (0x21, "PageUp", "PageUp", "page_up"),
    (0x26, "ArrowUp", "UpArrow", "up"),
    (0x74, "F5", "F5", "f5"),
    (0x67, "Numpad7", "Kp7", "keypad_7"),
    (0x6B, "NumpadAdd", "KpPlus", "keypad_add"),
    (0xC0, "Backquote", "BackQuote", "grave"),
    (0xDB, "BracketLeft", "LeftBracket", "left_bracket"),
    (0xBA, "Semicolon", "SemiColon", "semicolon"),
    (0xBE, "Period", "Dot", "period"),
]


@pytest.mark.parametrize(("windows", "web", "rdev", "name"), SAME)
def test_codes_of_a_key_have_one_name(windows, web, rdev, name):
    assert virtual_key(windows) == web_key(web) == web_key(rdev) == name
    assert name in KEYS


def test_codes_are_complete_and_distinct():
    assert {*ascii_lowercase, *digits} <= {*VIRTUAL_KEYS.values()} & {*W3C_CODES.values()}
    assert len(set(W3C_CODES.values())) == len(W3C_CODES)
    sides = {"left_shift", "left_control", "left_alt"}  # Windows has codes that name no side
    assert len(VIRTUAL_KEYS) == len(set(VIRTUAL_KEYS.values())) + len(sides)


def test_mouse_buttons_and_unknown_codes():
    assert [virtual_key(code) for code in (1, 2, 4, 5, 6)] == [mouse_button(number) for number in range(5)]
    assert (virtual_key(233), web_key("Lang1"), mouse_button(7)) == ("key.233", "key.Lang1", "mouse.7")
    assert json.loads(json.dumps(KEYS)) == sorted(KEYS)
