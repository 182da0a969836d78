"""Game process that violates the protocol of `vector/server.py`, with the fault selected by the episode's seed.

It needs neither NumPy nor the library: `python hostile_game.py CHANNEL BLOCK`.
"""

import json
import os
import socket
import struct
import subprocess
import sys

SHAPE = [4, 6, 3]
SIZE = 80  # bytes of the ending, the frame and the padding of one game
ANSWERS = 1 << 16  # offset in the block: `server.ANSWERS`
OPERATION, SEED = 0, 1  # offsets of a single game's request
HUGE = b"1" + b"0" * 400


def names(of_games=b'[["apples"]]', number=b"%d", more=b""):
    """Template of an answer with new names, in which the number of the request is filled in."""
    return b'{"names": ' + of_games + b', "number": ' + number + more + b"}\n"


# Invalid answers, each of which ends its episode.
INVALID = {
    "no JSON": b"no JSON at all\n",
    "half": b'{"names"\n',
    "empty": b"\n",
    "not UTF-8": b"\xff\xfe{\n",
    "list": b"[]\n",
    "null": b"null\n",
    "deep": b"[" * 200_000 + b"\n",
    "deep and whole": b"[" * 50_000 + b"]" * 50_000 + b"\n",
    "deep names": names(b"[" * 200_000),
    "rather deep names": names(b"[" * 900 + b"]" * 900),
    "deep error": b'{"error": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}\n",
    "error": b'{"error": "out of apples \\u001b[2J"}\n',
    "long line": b" " * (3 << 20),
    "names object": names(b'{"apples": 1}'),
    "names null": names(b"null"),
    "names of no game": names(b"[]"),
    "names of two games": names(b'[["apples"], ["apples"]]'),
    "names of a game as object": names(b'[{"apples": 1}]'),
    "no names": b'{"number": %d}\n',
    "a number for a name": names(b"[[1]]"),
    "null for a name": names(b"[[null]]"),
    "a name twice": names(b'[["apples", "apples"]]'),
    "escape in a name": names(b'[["\\u001b[2J"]]'),
    "half a character": names(b'[["\\ud800"]]'),
    "long name": names(b'[["' + b"a" * 1000 + b'"]]'),
    "many names": names(b"[[" + b",".join(b'"%x"' % i for i in range(20_000)) + b"]]"),
    "another question's": b"1\n",
    "a later question's": b"99\n",
    "a number with a sign": b"+%d\n",
    "a number with a space": b" %d\n",
    "a fraction": b"%d.0\n",
    "names for another question": names(number=b"1"),
    "a number as text": names(number=b'"%d"'),
    "a number as boolean": names(number=b"true"),
    "a long integer": names(number=b"9" * 5000),
    "no question's": b'{"names": [["apples"]]}\n',
    "failures as list": names(more=b', "failed": ["0"]'),
    "a failure as number": names(more=b', "failed": {"0": 1}'),
    "a second time": b"%d\n%d\n",
    "three at once": b"%d\n%d\n%d\n",
    "a shape": b'{"shape": [4, 6, 3], "number": %d}\n',
}
# Numbers in the block that no `info` may have.
VALUES = {
    "beyond float32": 1e39,
    "infinity": float("-inf"),
    "nan": float("nan"),
    "beyond any count": -1e38,
}
SHAPES = {
    "booleans": "[true, true, 3]", "negative": "[-4, -6, 3]", "nothing": "[0, 6, 3]", "four": "[4, 6, 3, 1]",
    "grey": "[4, 6, 1]", "fractions": "[4.0, 6.0, 3]", "texts": '["4", "6", "3"]', "null": "null", "a text": '"463"',
    "giant": "[1000000000, 1000000000, 3]", "one line": "[1, 20000000, 3]",
    "beyond integers": f"[{HUGE.decode()}, 6, 3]",
    "object": '{"0": 4, "1": 6, "2": 3}',
}  # fmt: skip


def fill(template, number):
    """The bytes of an answer to the request of that number."""
    return template.replace(b"%d", str(number).encode())


def leave_a_clean_child(file):
    """Starts an orphan process without the mark, in its own session; writes its PID to the file."""
    program = (
        "import os, sys, time\n"
        "if os.fork(): sys.exit()\n"
        "os.setsid(); open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(1000)"
    )
    subprocess.run([sys.executable, "-ISc", program, file], env={}, check=True)
    while not os.path.exists(file):
        pass


def write_block(file, ending, apples):
    """Writes the ending of a step and the only number of `info`."""
    os.pwrite(file, bytes([ending]), ANSWERS)
    os.pwrite(file, struct.pack("=d", apples), ANSWERS + SIZE)


def play(connection, block):
    faults, steps, answer = {}, 0, names()
    for line in connection.makefile("rb"):
        if not line.strip().isdigit():
            message = json.loads(line)
            number, faults = message["number"], message["arguments"]["faults"]
            os.ftruncate(block, ANSWERS + SIZE + 8)
            connection.sendall(json.dumps({"shape": SHAPE, "number": number}).encode() + b"\n")
            continue
        number, apples = int(line), 1.0
        if os.pread(block, 1, OPERATION) == b"\2":
            (seed,) = struct.unpack("=q", os.pread(block, 8, SEED))
            fault, steps = faults[seed], 0
        else:
            steps += 1
            if fault == "shrink":
                os.ftruncate(block, 0)
            elif fault.startswith("/"):
                leave_a_clean_child(fault)
            elif fault in INVALID:
                connection.sendall(fill(INVALID[fault], number))
                continue
            apples = VALUES.get(fault, steps)
        if fault != "shrink" or not steps:
            write_block(block, 2 * (steps == 2), apples)
        connection.sendall(fill(answer, number))
        answer = b"%d\n"


if __name__ == "__main__":
    play(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
