"""Names of keys and mouse buttons that all bridges use, and the codes of Windows and of the web for them.

A key has the name of its place on a US keyboard, in lower case with underscores: "w", "1", "f5", "space", "left_shift",
"left_control", "up" (an arrow), "keypad_7", "minus", "left_bracket". Mouse buttons are "mouse.left", "mouse.right",
"mouse.middle", "mouse.x1" and "mouse.x2", axes "mouse.x", "mouse.y" (right and down are positive) and "mouse.wheel" (up
is positive, in the recorder's unit: Windows counts 120 per notch). A code without a name here keeps its number, as
"key.233", so that a mapping can still name it; a whole list is `KEYS`.
"""

from string import ascii_lowercase, digits

MOUSE_X, MOUSE_Y, MOUSE_WHEEL = MOUSE_AXES = ("mouse.x", "mouse.y", "mouse.wheel")
MOUSE_BUTTONS = ("mouse.left", "mouse.right", "mouse.middle", "mouse.x1", "mouse.x2")

# Windows virtual-key codes (learn.microsoft.com, "Virtual-Key Codes"); mouse buttons have codes too.
VIRTUAL_KEYS = (
    {0x01: "mouse.left", 0x02: "mouse.right", 0x04: "mouse.middle", 0x05: "mouse.x1", 0x06: "mouse.x2"}
    | {0x08: "backspace", 0x09: "tab", 0x0D: "enter", 0x13: "pause", 0x14: "caps_lock", 0x1B: "escape", 0x20: "space"}
    | {0x21: "page_up", 0x22: "page_down", 0x23: "end", 0x24: "home", 0x25: "left", 0x26: "up", 0x27: "right"}
    | {0x28: "down", 0x2C: "print_screen", 0x2D: "insert", 0x2E: "delete", 0x5B: "left_meta", 0x5C: "right_meta"}
    | {0x5D: "menu", 0x6A: "keypad_multiply", 0x6B: "keypad_add", 0x6D: "keypad_subtract", 0x6E: "keypad_decimal"}
    | {0x6F: "keypad_divide", 0x90: "num_lock", 0x91: "scroll_lock", 0xA0: "left_shift", 0xA1: "right_shift"}
    | {0xA2: "left_control", 0xA3: "right_control", 0xA4: "left_alt", 0xA5: "right_alt", 0xBA: "semicolon"}
    | {0xBB: "equal", 0xBC: "comma", 0xBD: "minus", 0xBE: "period", 0xBF: "slash", 0xC0: "grave"}
    | {0xDB: "left_bracket", 0xDC: "backslash", 0xDD: "right_bracket", 0xDE: "apostrophe", 0xE2: "international"}
    # Raw input does not say which of two: the left one, as nearly all players mean.
    | {0x10: "left_shift", 0x11: "left_control", 0x12: "left_alt"}
    | {0x30 + number: digit for number, digit in enumerate(digits)}
    | {0x41 + number: letter for number, letter in enumerate(ascii_lowercase)}
    | {0x60 + number: f"keypad_{digit}" for number, digit in enumerate(digits)}
    | {0x70 + number: f"f{number + 1}" for number in range(24)}
)

# `KeyboardEvent.code` of the web (W3C, "UI Events KeyboardEvent code Values").
W3C_CODES = (
    {f"Key{letter.upper()}": letter for letter in ascii_lowercase}
    | {f"Digit{digit}": digit for digit in digits}
    | {f"Numpad{digit}": f"keypad_{digit}" for digit in digits}
    | {f"F{number}": f"f{number}" for number in range(1, 25)}
    | {f"{name}{side}": f"{side.lower()}_{name.lower()}" for name in ("Shift", "Control", "Alt", "Meta")
       for side in ("Left", "Right")}
    | {f"Arrow{name}": name.lower() for name in ("Left", "Right", "Up", "Down")}
    | {"Space": "space", "Enter": "enter", "Tab": "tab", "Escape": "escape", "Backspace": "backspace"}
    | {"CapsLock": "caps_lock", "NumLock": "num_lock", "ScrollLock": "scroll_lock", "PrintScreen": "print_screen"}
    | {"Pause": "pause", "Insert": "insert", "Delete": "delete", "Home": "home", "End": "end", "PageUp": "page_up"}
    | {"PageDown": "page_down", "ContextMenu": "menu", "Minus": "minus", "Equal": "equal", "Comma": "comma"}
    | {"Period": "period", "Slash": "slash", "Semicolon": "semicolon", "Quote": "apostrophe", "Backquote": "grave"}
    | {"Backslash": "backslash", "BracketLeft": "left_bracket", "BracketRight": "right_bracket"}
    | {"IntlBackslash": "international", "NumpadAdd": "keypad_add", "NumpadSubtract": "keypad_subtract"}
    | {"NumpadMultiply": "keypad_multiply", "NumpadDivide": "keypad_divide", "NumpadDecimal": "keypad_decimal"}
    | {"NumpadEnter": "keypad_enter"}
)  # fmt: skip

# Where names of the Rust crate rdev differ from the web's; some are short forms of it.
RDEV_NAMES = (
    {f"Num{digit}": digit for digit in digits}
    | {f"Kp{digit}": f"keypad_{digit}" for digit in digits}
    | {f"{name}Arrow": name.lower() for name in ("Left", "Right", "Up", "Down")}
    | {"Alt": "left_alt", "AltGr": "right_alt", "Return": "enter", "BackQuote": "grave", "SemiColon": "semicolon"}
    | {"BackSlash": "backslash", "Dot": "period", "LeftBracket": "left_bracket", "RightBracket": "right_bracket"}
    | {"KpReturn": "keypad_enter", "KpMinus": "keypad_subtract", "KpPlus": "keypad_add", "KpDelete": "keypad_decimal"}
    | {"KpMultiply": "keypad_multiply", "KpDivide": "keypad_divide"}
)

KEYS = tuple(sorted({*VIRTUAL_KEYS.values(), *W3C_CODES.values(), *MOUSE_BUTTONS}))


def virtual_key(code: int) -> str:
    """Name of a Windows virtual-key code, 1 to 254: `virtual_key(0x57)` is "w"."""
    return VIRTUAL_KEYS.get(code, f"key.{code}")


def web_key(code: str) -> str:
    """Name of a W3C code, or of rdev's variant of it: "KeyW" is "w", "ShiftLeft" is "left_shift"."""
    return W3C_CODES.get(code) or RDEV_NAMES.get(code) or f"key.{code}"


def mouse_button(number: int) -> str:
    """Name of a mouse button by its number in OpenAI's recordings: 0 is "mouse.left"."""
    return MOUSE_BUTTONS[number] if 0 <= number < len(MOUSE_BUTTONS) else f"mouse.{number}"
