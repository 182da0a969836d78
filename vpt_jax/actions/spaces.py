"""Built-in action spaces by name: MineRL's, the paper's, and Doom's own."""

from vpt_jax.actions.minerl import CAMERA, MINERL
from vpt_jax.actions.space import ActionSpace, Axis

WEAPONS = tuple(f"weapon.{slot}" for slot in range(1, 8))
DOOM = ActionSpace(
    name="doom",
    keys=("forward", "back", "left", "right", "run", "jump", "crouch", "attack", "use", *WEAPONS),
    axes=(Axis("pitch", "degrees", CAMERA), Axis("yaw", "degrees", CAMERA, mirrored=True)),
    groups=(WEAPONS, ("forward", "back"), ("left", "right")),
    cancelling=(("forward", "back"), ("left", "right")),
    mirrored=(("left", "right"),),
)
SPACES = {space.name: space for space in (MINERL, DOOM)}
