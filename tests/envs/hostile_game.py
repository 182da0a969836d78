"""Game process that violates the protocol of `vector/server.py`, with the fault selected by the episode's seed.

It needs neither NumPy nor the library: `python hostile_game.py CHANNEL FRAME`.
"""

import json
import os
import socket
import subprocess
import sys

SHAPE = [4, 6, 3]
HUGE = b"1" + b"0" * 400


def answer(info=b'{"apples": 1}', number=b"%d", more=b""):
    """Template of an answer to a step, in which the number of the request is filled in."""
    return b'{"info": ' + info + b', "number": ' + number + more + b"}\n"


# Invalid answers, each of which ends its episode.
INVALID = {
    "no JSON": b"no JSON at all\n",
    "half": b'{"info"\n',
    "empty": b"\n",
    "not UTF-8": b"\xff\xfe{\n",
    "list": b"[]\n",
    "number": b"7\n",
    "null": b"null\n",
    "deep": b"[" * 200_000 + b"\n",
    "deep and whole": b"[" * 50_000 + b"]" * 50_000 + b"\n",
    "deep info": answer(b"[" * 200_000),
    "rather deep info": answer(b"[" * 900 + b"]" * 900),
    "deep error": b'{"error": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}\n",
    "error": b'{"error": "out of apples \\u001b[2J"}\n',
    "long line": b" " * (3 << 20),
    "long integer": answer(b'{"apples": ' + b"9" * 5000 + b"}"),
    "integer beyond float64": answer(b'{"apples": ' + HUGE + b"}"),
    "beyond float32": answer(b'{"apples": 1e39}'),
    "beyond any count": answer(b'{"apples": -1e38}'),
    "infinity by digits": answer(b'{"apples": 1e999}'),
    "infinity by name": answer(b'{"apples": -Infinity}'),
    "nan": answer(b'{"apples": NaN}'),
    "boolean": answer(b'{"apples": true}'),
    "text": answer(b'{"apples": "1"}'),
    "null count": answer(b'{"apples": null}'),
    "nested count": answer(b'{"apples": {"a": 1}}'),
    "info list": answer(b"[1]"),
    "info null": answer(b"null"),
    "no info": b'{"terminated": true, "number": %d}\n',
    "escape in a name": answer(b'{"\\u001b[2J": 1}'),
    "half a character": answer(b'{"\\ud800": 1}'),
    "long name": answer(b'{"' + b"a" * 1000 + b'": 1}'),
    "many names": answer(b"{" + b",".join(b'"%x":1' % i for i in range(20_000)) + b"}"),
    "ending is a number": answer(more=b', "terminated": 1'),
    "ending is a text": answer(more=b', "truncated": "no"'),
    "another question's": answer(number=b"1"),
    "a later question's": answer(number=b"99"),
    "a number as text": answer(number=b'"%d"'),
    "a number as boolean": answer(number=b"true"),
    "no question's": b'{"info": {}}\n',
    "a second time": answer() + answer(),
    "three at once": answer() + answer() + answer(),
    "a shape": b'{"shape": [4, 6, 3], "number": %d}\n',
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


def play(connection, frame_file):
    faults, steps = {}, 0
    for line in connection.makefile("rb"):
        message = json.loads(line)
        number = message["number"]
        if "make" in message:
            faults = message["arguments"]["faults"]
            os.ftruncate(frame_file, 4 * 6 * 3)
            connection.sendall(json.dumps({"shape": SHAPE, "number": number}).encode() + b"\n")
            continue
        if "reset" in message:
            fault, steps = faults[message["reset"]], 0
        else:
            steps += 1
            if fault == "shrink":
                os.ftruncate(frame_file, 0)
            elif fault.startswith("/"):
                leave_a_clean_child(fault)
            elif fault in INVALID:
                connection.sendall(fill(INVALID[fault], number))
                continue
        over = b"true" if steps == 2 else b"false"
        connection.sendall(fill(answer(b'{"apples": %d}' % steps, more=b', "truncated": ' + over), number))


if __name__ == "__main__":
    play(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
