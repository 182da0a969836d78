"""Precision of the computation, as documented in docs/scale.md."""

import jax
import jax.numpy as jnp
import pytest

from vpt_jax.models.layers import NormConv, NormDense


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("layer", "product"), [(NormDense, "dot_general"), (NormConv, "conv_general_dilated")])
def test_kernel_gradients_have_the_layers_precision(layer, product, dtype):
    """Gradients are rounded before they are summed over devices; the optimizer gets float32 (fidelity S9)."""
    module, x = layer(6, dtype=dtype), jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.bfloat16)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    gradient = jax.make_jaxpr(jax.grad(lambda params, x: module.apply(params, x).astype(jnp.float32).sum()))(params, x)
    assert {aval.dtype for aval in gradient.out_avals} == {jnp.dtype("float32")}
    products = [aval.dtype for aval in results(gradient.jaxpr, product)]
    assert len(products) >= 2  # of the forward pass, and of the kernel's gradient
    assert set(products) == {jnp.dtype(dtype)}


def results(jaxpr, name):
    """Results of all operations of a name, including those nested in other operations."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield from (out.aval for out in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from results(inner, name)
