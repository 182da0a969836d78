"""Arithmetic of the models' matrix products and convolutions: what a frame costs, whatever the program does besides."""

from vpt_jax.models.attention import NUM_BASIS
from vpt_jax.models.heads import FACTORED_CHOICES, HEAD_CLASSES
from vpt_jax.models.idm import REACH, InverseDynamicsModel
from vpt_jax.models.impala import BLOCKS_PER_STACK, EMBEDDING
from vpt_jax.models.policy import Policy
from vpt_jax.models.transformer import MLP_RATIO

TRAINING = 3  # forward, gradient of the activations, gradient of the parameters: each as much


def policy_flops(policy: Policy, height: int, width: int, length: int) -> float:
    """Operations (a product and a sum are two) of a forward pass, per frame of a chunk of `length`."""
    keys = policy.memory_length + length
    outputs = sum(HEAD_CLASSES.values()) + 1  # and the value
    return (
        _encoder(policy.widths, policy.features, 3, height, width)
        + policy.layers * _block(policy.features, policy.heads, keys, distances=True)
        + _dense(policy.features, policy.features + outputs)
    )


def idm_flops(idm: InverseDynamicsModel, height: int, width: int, length: int) -> float:
    """The same of an inverse dynamics model, per frame of a window of `length`."""
    outputs = sum(choices * classes for choices, classes in FACTORED_CHOICES.values())
    last = idm.features if idm.use_last else 0
    return (
        height * width * _dense(3 * (2 * REACH + 1), idm.temporal_features)
        + _encoder(idm.widths, idm.features, idm.temporal_features, height, width)
        + idm.layers * _block(idm.features, idm.heads, length, distances=False)
        + _dense(idm.features, last + outputs)
    )


def _encoder(widths: tuple[int, ...], features: int, channels: int, height: int, width: int) -> float:
    total = 0.0
    for of_stack in widths:
        total += conv_flops(channels, of_stack, height, width)
        height, width, channels = height // 2, width // 2, of_stack
        total += 2 * BLOCKS_PER_STACK * conv_flops(of_stack, of_stack, height, width)
    return total + _dense(height * width * channels, EMBEDDING) + _dense(EMBEDDING, features)


def _block(features: int, heads: int, keys: int, distances: bool) -> float:
    projections = 4 * _dense(features, features) + _dense(features, heads * NUM_BASIS)
    attention = 2 * _dense(features, keys) + distances * _dense(NUM_BASIS, heads * keys)
    return projections + attention + 2 * _dense(features, MLP_RATIO * features)


def _dense(inputs: int, outputs: int) -> float:
    return 2.0 * inputs * outputs


def conv_flops(inputs: int, outputs: int, height: int, width: int) -> float:
    """Of a 3x3 convolution; products with the padding around the picture do not count."""
    return (3 * height - 2) * (3 * width - 2) * _dense(inputs, outputs)
