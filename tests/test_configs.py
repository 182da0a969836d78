"""Layouts of machines: they fit their chips, and what they split can be split."""

import pytest

from configs import foundation, idm
from vpt_jax.models.presets import IDMS, POLICIES

CHIPS = {"gpu": 1, "gpu-8": 8, "v5e-256": 256, "v5p-128": 128, "v6e-256": 256}
LAYOUTS = [
    (module, size, machine)
    for module, sizes in ((foundation, ("500m", "248m", "71m")), (idm, ("paper",)))
    for size in sizes
    for machine in module.MACHINES
]


@pytest.mark.parametrize(("module", "size", "machine"), LAYOUTS)
def test_layouts_divide_what_they_split(module, size, machine):
    config, plain = (module.get_config(variant) for variant in (f"{size},{machine}", size))
    data, fsdp, tensor = (config.mesh[axis] for axis in ("data", "fsdp", "tensor"))
    chips = CHIPS[machine]
    data = chips // (fsdp * tensor) if data == -1 else data
    assert data * fsdp * tensor == chips
    assert config.data.batch % (data * fsdp) == config.data.valid_batch % (data * fsdp) == 0
    assert config.data.batch // (data * fsdp) % config.data.parts == 0
    assert {**POLICIES, **IDMS}[config.model.preset]["heads"] % tensor == 0
    assert 0.95 < config.data.batch / plain.data.batch < 1.17  # near the paper's
    assert config.optimizer == plain.optimizer


def test_a_machine_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="knows no machine 'v9'; choose one of gpu, gpu-8"):
        foundation.get_config("500m,v9")
