"""Control characters of untrusted text never reach the terminal (attack M8)."""

import io
import sys

import pytest
from tqdm import tqdm

from vpt_jax.system import command_line, printable
from vpt_jax.system.errors import UserError
from vpt_jax.system.printable import escape_output
from vpt_jax.system.printable import printable as shown

ODD = "\x1b]0;pwned\x07\x1b[2J\x9b2J\x00\x7f\u202egpj.exe\u200b\ufeff\udce9\u2028\U000e0041\r"


def test_control_characters_are_shown_as_escapes():
    assert shown("a\x1b[2J\nb\tc") == r"a\x1b[2J\nb\tc"
    assert shown("a\x1b[2J\nb\tc", lines=True) == "a\\x1b[2J\nb\tc"
    assert shown("Ünïcödé 日本語　🎮 %s {} \\") == "Ünïcödé 日本語　🎮 %s {} \\"
    assert shown("x" * 10, length=4) == "xxxx..."
    assert shown(ValueError("\x1b")) == r"\x1b"
    assert shown(ODD).encode().isascii()
    assert shown(ODD).isprintable()


def capture(monkeypatch):
    """Replacements of standard output and error."""
    written = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", written[0])
    monkeypatch.setattr(sys, "stderr", written[1])
    return written


def test_all_output_is_escaped(monkeypatch):
    streams = capture(monkeypatch)
    escape_output()
    escape_output()  # a second call changes nothing
    print(ODD, "\n")
    print(ODD, file=sys.stderr)
    sys.stdout.writelines([ODD])
    assert streams[0].getvalue() == f"{shown(ODD)} \n\n{shown(ODD)}"
    assert streams[1].getvalue() == f"{shown(ODD)[:-2]}\r\n"
    assert not sys.stdout.isatty()


def test_progress_bars_keep_their_carriage_returns(monkeypatch):
    streams = capture(monkeypatch)
    escape_output()
    for _ in tqdm(range(3), desc="a\x1b[2J"):
        pass
    assert "\r" in streams[1].getvalue()
    assert "100%" in streams[1].getvalue()
    assert "\x1b" not in streams[1].getvalue()


def test_programs_escape_their_errors(monkeypatch):
    streams = capture(monkeypatch)

    def run(main, **_):
        with pytest.raises(SystemExit) as ended:
            main([])
        print(ended.value.code, file=sys.stderr)

    def fail():
        print("broken: \x1b[2J")
        raise UserError("not \x1b]0;pwned\x07")

    monkeypatch.setattr(command_line.app, "run", run)
    monkeypatch.setattr(command_line.stopping, "install", lambda: None)  # this process continues after the test
    command_line.run_plain(fail)
    assert streams[0].getvalue() == "broken: \\x1b[2J\n"
    assert streams[1].getvalue() == "error: not \\x1b]0;pwned\\x07\n"
    assert isinstance(sys.stdout, printable._EscapingStream)
