"""Names of X11's keys and mouse buttons by their place: the key codes that all X servers on Linux use (evdev)."""

from vpt_jax.data.bridges.key_names import KEYS

WHEEL_BUTTONS = {4: 1, 5: -1}  # up and down: a press of them is a notch
BUTTONS = {1: "mouse.left", 2: "mouse.middle", 3: "mouse.right", 8: "mouse.x1", 9: "mouse.x2"}

_ROWS = {
    9: "escape 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab q w e r t y u i o p left_bracket right_bracket enter "
       "left_control a s d f g h j k l semicolon apostrophe grave left_shift backslash z x c v b n m comma period "
       "slash right_shift keypad_multiply left_alt space caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock "
       "keypad_7 keypad_8 keypad_9 keypad_subtract keypad_4 keypad_5 keypad_6 keypad_add keypad_1 keypad_2 keypad_3 "
       "keypad_0 keypad_decimal",
    94: "international f11 f12",
    104: "keypad_enter right_control keypad_divide print_screen right_alt",
    110: "home up page_up left right end down page_down insert delete",
    127: "pause",
    133: "left_meta right_meta menu",
}  # fmt: skip
PLACES = {first + number: name for first, row in _ROWS.items() for number, name in enumerate(row.split())}
CODES = {name: code for code, name in PLACES.items()}
CHECKED = {"escape": "Escape", "space": "space", "up": "Up", "delete": "Delete"}  # X keysyms that no layout moves


def unknown_keys(names: tuple[str, ...]) -> list[str]:
    """Returns those of `names` that are no key or mouse button."""
    return [name for name in names if name not in KEYS]
