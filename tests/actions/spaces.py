"""Two made-up action spaces: a small one of 7 keys and one axis, and one of 63 keys and buttons and two axes."""

from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, Axis

SMALL = ActionSpace(
    name="small",
    keys=("up", "down", "left", "right", "fire", "menu", "boost"),
    axes=(Axis("aim", "degrees", AxisQuantizer(maximum=30, bin_size=10, mu=None), limit=90, mirrored=True),),
    groups=(("up", "down"), ("left", "right")),
    cancelling=(("left", "right"),),
    alone=("menu",),
    unpredicted=("pause",),
    mirrored=(("left", "right"),),
)
MOUSE_BUTTONS = ("mouse.left", "mouse.right", "mouse.middle")
LARGE = ActionSpace(
    name="large",
    keys=(*(f"key.{i}" for i in range(60)), *MOUSE_BUTTONS),
    axes=(
        Axis("mouse.x", "counts", AxisQuantizer(200, 40, 10), limit=5000, mirrored=True),
        Axis("mouse.y", "counts", AxisQuantizer(100, 20, 10), limit=5000),
    ),
)
