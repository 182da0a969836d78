"""Wire format of Open-P2P's `annotation.proto`: Protocol Buffers messages, of the fields that are read here.

The file is one message in binary form. Only its field numbers and types are on the wire, so this table describes them
in words of its own; fields that are not in it (game states, text embeddings, game pads) are skipped.

    recording: 2 metadata, 3 one record per frame (repeated)
    record:    1 what the player did, 6 what a model did, 7 texts, 8 the frame's time, 9 timed events

Times are nanoseconds from the start of the recording. A record has the keys and buttons that are held when its frame
is taken, and the movement since the frame before: it belongs to the step that ends with the frame.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

METADATA_FIELD, RECORD_FIELD = 2, 3  # of the recording

_PACKAGE = "vpt_jax.p2p"
_TYPES = {"bool": 8, "string": 9, "int32": 5, "int64": 3, "uint64": 4, "float": 2}  # Protocol Buffers' numbers
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3

# Message -> field -> (number, type); a type with "*" is repeated, one in capitals is a message.
_MESSAGES = {
    "Vector": {"x": (1, "int32"), "y": (2, "int32")},
    "Game": {"name": (1, "string"), "variant": (2, "string")},
    "Metadata": {
        "id": (1, "string"), "user": (3, "string"), "tasks": (4, "string*"), "frames_per_second": (5, "float"),
        "game": (6, "Game"),
    },
    "Keyboard": {"keys": (1, "string*")},
    "Mouse": {"moved": (3, "Vector"), "scrolled": (4, "Vector"), "buttons": (9, "string*")},
    "Action": {"keyboard": (2, "Keyboard"), "known": (3, "bool"), "mouse": (4, "Mouse")},
    "ButtonEvent": {"button": (1, "string"), "pressed": (2, "bool")},
    "KeyEvent": {"key": (1, "string"), "pressed": (2, "bool")},
    "Event": {
        "button": (1, "ButtonEvent"), "key": (2, "KeyEvent"), "scrolled": (4, "Vector"), "moved": (5, "Vector"),
        "time": (6, "uint64"), "by_model": (10, "bool"),
    },
    "Text": {"instruction": (1, "string"), "seconds": (3, "float")},
    "Record": {
        "player": (1, "Action"), "model": (6, "Action"), "texts": (7, "Text*"), "time": (8, "uint64"),
        "events": (9, "Event*"),
    },
    "Recording": {"metadata": (METADATA_FIELD, "Metadata"), "records": (RECORD_FIELD, "Record*")},
}  # fmt: skip


@cache
def message(name: str) -> type[Any]:
    """Message class of this name in the table above: `message("Record")`."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="vpt_jax_p2p.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label, kind = (_REPEATED if kind.endswith("*") else _OPTIONAL), kind.removesuffix("*")
            added = described.field.add(name=field, number=number, label=label)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type, added.type_name = _MESSAGE, f".{_PACKAGE}.{kind}"
    return file
