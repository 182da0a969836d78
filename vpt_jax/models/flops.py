"""Floating-point operations (FLOPs) per frame of the models' matrix products and convolutions.

Norms, activations and everything else that a program computes are not counted.
"""

import math
from collections.abc import Mapping

from vpt_jax.models.attention import NUM_BASIS
from vpt_jax.models.heads import logit_shapes
from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel
from vpt_jax.models.impala import BLOCKS_PER_STACK, EMBEDDING
from vpt_jax.models.latent_actions import PAIRS, LatentActionModel, LatentIDM
from vpt_jax.models.policy import Policy
from vpt_jax.models.text_projection import HIDDEN_LAYERS
from vpt_jax.models.transformer import MLP_RATIO

TRAINING_FACTOR = 3  # forward, gradient of the activations, gradient of the parameters: each costs as much


def policy_flops(policy: Policy, height: int, width: int, length: int) -> float:
    """FLOPs of a policy's forward pass per frame, in a chunk of `length` frames; a multiply-add is two."""
    keys = policy.memory_length + length
    outputs = _num_outputs(logit_shapes(policy.head, policy.space)) + 1  # and the value head
    text_inputs = policy.text_features + HIDDEN_LAYERS * policy.features if policy.text_features else 0
    return (
        _encoder(policy.widths, policy.features, 3, height, width)
        + policy.layers * _block(policy.features, policy.heads, keys, distances=True)
        + _dense(policy.features, policy.features + outputs + text_inputs)
    )


def idm_flops(idm: InverseDynamicsModel, height: int, width: int, length: int) -> float:
    """FLOPs of an inverse dynamics model's forward pass per frame, in a window of `length` frames."""
    outputs = _num_outputs(logit_shapes("factored", idm.space))
    last = idm.features if idm.use_last else 0
    channels = idm.temporal_features if idm.temporal_convolution else 3
    temporal = height * width * _dense(3 * (2 * TEMPORAL_RADIUS + 1), channels) if idm.temporal_convolution else 0.0
    return (
        temporal
        + _encoder(idm.widths, idm.features, channels, height, width)
        + idm.layers * _block(idm.features, idm.heads, length, distances=False)
        + _dense(idm.features, last + outputs)
    )


def latent_action_flops(model: LatentActionModel, height: int, width: int, length: int) -> float:
    """FLOPs per frame pair of the forward pass of a model of latent actions; `length` does not matter."""
    del length
    rows, columns, cell = height // model.patch, width // model.patch, 3 * model.patch**2
    code, features = model.tokens * model.code_features, model.decoder_features
    block = 2 * conv_flops(features, features, rows, columns) + _dense(code, 2 * features)
    decoder = conv_flops(cell, features, rows, columns) + model.decoder_blocks * block
    return _latent_encoder(model, height, width) + decoder + rows * columns * _dense(features, cell)


def latent_idm_flops(idm: LatentIDM, height: int, width: int, length: int) -> float:
    """FLOPs per frame of the forward pass of an inverse dynamics model on latent actions, in a window of `length`."""
    outputs = _num_outputs(logit_shapes("factored", idm.space))
    last = idm.features if idm.use_last else 0
    neighbours = _dense(PAIRS * idm.tokens * idm.code_features, idm.temporal_features)
    return (
        _latent_encoder(idm, height, width)
        + neighbours
        + _dense(idm.temporal_features, idm.features)
        + idm.layers * _block(idm.features, idm.heads, length, distances=False)
        + _dense(idm.features, last + outputs)
    )


def _latent_encoder(model: LatentActionModel | LatentIDM, height: int, width: int) -> float:
    vectors = _dense(EMBEDDING, model.tokens * model.code_features)
    return _encoder(model.widths, EMBEDDING, 6, height, width) + vectors


def _num_outputs(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Outputs of a head's layers; of a coupling, those below the diagonal."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    return sum((size - shapes[name][0]) // 2 if name == "coupling" else size for name, size in sizes.items())


def _encoder(widths: tuple[int, ...], features: int, channels: int, height: int, width: int) -> float:
    total = 0.0
    for stack_width in widths:
        total += conv_flops(channels, stack_width, height, width)
        height, width, channels = height // 2, width // 2, stack_width
        total += 2 * BLOCKS_PER_STACK * conv_flops(stack_width, stack_width, height, width)
    return total + _dense(height * width * channels, EMBEDDING) + _dense(EMBEDDING, features)


def _block(features: int, heads: int, keys: int, distances: bool) -> float:
    projections = 4 * _dense(features, features) + _dense(features, heads * NUM_BASIS)
    attention = 2 * _dense(features, keys) + distances * _dense(NUM_BASIS, heads * keys)
    return projections + attention + 2 * _dense(features, MLP_RATIO * features)


def _dense(inputs: int, outputs: int) -> float:
    return 2.0 * inputs * outputs


def conv_flops(inputs: int, outputs: int, height: int, width: int) -> float:
    """FLOPs of a 3x3 convolution of an image; products with the zero padding are not counted."""
    return (3 * height - 2) * (3 * width - 2) * _dense(inputs, outputs)
