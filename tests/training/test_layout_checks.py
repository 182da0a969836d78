"""Warnings about layouts of devices that are not there."""

import numpy as np
import pytest
from jax.sharding import Mesh

from vpt_jax.parallel import AXES
from vpt_jax.training.layout_checks import layout_warnings, reads_per_frame


class Device:
    """What a sharding asks of a device: its number and its host's."""

    platform, device_kind = "tpu", "TPU v5 lite"

    def __init__(self, number, devices_per_host):
        self.id, self.process_index = number, number // devices_per_host


def mesh_of(*sizes, devices_per_host=4):
    devices = np.array([Device(i, devices_per_host) for i in range(np.prod(sizes))])
    return Mesh(devices.reshape(sizes), AXES)


@pytest.mark.parametrize(
    ("sizes", "devices_per_host", "reads"),
    [((4, 4, 1), 4, 1), ((2, 2, 4), 4, 1), ((2, 2, 4), 2, 2), ((1, 2, 8), 2, 4), ((1, 1, 4), 4, 1)],
)
def test_frames_are_read_by_every_host_that_holds_their_row(sizes, devices_per_host, reads):
    mesh = mesh_of(*sizes, devices_per_host=devices_per_host)
    assert reads_per_frame(mesh, 16) == reads
    warnings = list(layout_warnings(mesh, 16, 16 * 128 * 16, (256, 512)))
    assert [f"read and decoded {reads} times" in warning for warning in warnings] == [True] * (reads > 1)


@pytest.mark.parametrize(
    ("images", "widths", "warned"),
    [
        (4 * 128, (64, 128), False),
        (4 * 512, (64, 128), False),
        (4 * 64, (64, 128), True),
        (4 * 192, (64, 128), True),
        (4 * 64, (256, 512), False),  # proportional to the images
        (4 * 128 + 2, (64, 128), True),  # unequal parts
    ],
)
def test_images_that_do_not_fill_the_lanes_are_reported(images, widths, warned):
    warnings = list(layout_warnings(mesh_of(2, 2, 1), 4, images, widths))
    assert len(warnings) == warned
    assert all(warning.startswith(f"{images / 4:g} images per chip are no multiple of 128") for warning in warnings)
