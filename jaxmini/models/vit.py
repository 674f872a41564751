"""Vision transformers (Dosovitskiy et al. 2021): a class token and one token a patch, an encoder.

Patch and picture size are free; LayerNorm comes before attention and perceptron.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxmini.state import Array

INIT = nn.initializers.truncated_normal(0.02)  # Touvron et al. 2021


class EncoderBlock(nn.Module):
    """``x + attention(LN(x))``, then ``x + mlp(LN(x))``, tokens [B, N, D] -> [B, N, D]."""

    heads: int
    mlp_width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = jnp.dtype(self.dtype)
        y = _norm("norm0", x)
        attention = nn.MultiHeadDotProductAttention(
            self.heads, dtype=dtype, kernel_init=INIT, name="attention"
        )
        x = x + attention(y)
        y = _norm("norm1", x)
        y = nn.Dense(self.mlp_width, dtype=dtype, kernel_init=INIT, name="mlp0")(y)
        # The tanh form: the exact one has no TFLite operation.
        y = nn.gelu(y, approximate=True)
        return x + nn.Dense(x.shape[-1], dtype=dtype, kernel_init=INIT, name="mlp1")(y)


class ViT(nn.Module):
    """Pictures float [B, H, W, C] -> logits float32 [B, num_classes], or class tokens [B, width].

    The number of positions is that of the pictures the module is initialised with.

    Attributes:
        patch: side of a patch; divides both sides of the picture.
        width: of a token; a multiple of ``heads``.
        layers: encoder blocks.
        heads: of the attention.
        mlp_width: hidden width of the two-layer perceptrons.
        num_classes: None returns the features that the classifier would read.
        dtype: of the computation; parameters and what is returned are float32.

    Raises:
        ValueError: the patch does not divide the picture, or ``heads`` the width.
    """

    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    num_classes: int | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        del train  # No dropout, no statistics.
        if self.width % self.heads:
            raise ValueError(f"ViT: width {self.width} is not a multiple of the {self.heads} heads")
        x = self._tokens(x)
        for i in range(self.layers):
            x = EncoderBlock(self.heads, self.mlp_width, self.dtype, name=f"block{i}")(x)
        x = _norm("norm", x[:, 0]).astype(jnp.float32)
        if self.num_classes is None:
            return x
        return nn.Dense(self.num_classes, kernel_init=INIT, name="head")(x)

    def _tokens(self, x: Array) -> Array:
        """Pictures [B, H, W, C] -> the class token and one token a patch, [B, 1 + N, width]."""
        batch, height, width, _ = x.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"ViT: patches of {self.patch} px do not tile a picture of {height}x{width} px; "
                "choose a patch that divides both sides, or resize the picture"
            )
        window = (self.patch, self.patch)
        embed = nn.Conv(
            self.width, window, window, padding="VALID", dtype=jnp.dtype(self.dtype), name="embed"
        )
        x = embed(x).reshape(batch, -1, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(x.dtype), (batch, 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        return x + self.param("positions", INIT, (1, *x.shape[1:])).astype(x.dtype)


def vit(
    num_classes: int | None = None,
    *,
    patch: int,
    width: int,
    layers: int = 12,
    heads: int,
    mlp_width: int | None = None,
    **fields: Any,
) -> ViT:
    """A vision transformer of free sizes; ``mlp_width`` is 4 times the width unless given.

    Args:
        num_classes: None for the class token's features [B, width].
        patch: side of a patch; divides both sides of the picture.
        width: of a token; a multiple of ``heads``.
        layers: encoder blocks.
        heads: of the attention.
        mlp_width: hidden width of the two-layer perceptrons.
        **fields: further fields of ``ViT``.
    """
    mlp_width = 4 * width if mlp_width is None else mlp_width
    return ViT(patch, width, layers, heads, mlp_width, num_classes, **fields)


def vit_tiny(num_classes: int | None = None, *, patch: int = 16, **fields: Any) -> ViT:
    """ViT-Ti (Touvron et al. 2021, table 1); 5.7 M parameters with 1000 classes at 224 px."""
    return vit(num_classes, patch=patch, width=192, heads=3, **fields)


def vit_small(num_classes: int | None = None, *, patch: int = 16, **fields: Any) -> ViT:
    """ViT-S (Touvron et al. 2021, table 1); 22.1 M parameters with 1000 classes at 224 px."""
    return vit(num_classes, patch=patch, width=384, heads=6, **fields)


def vit_base(num_classes: int | None = None, *, patch: int = 16, **fields: Any) -> ViT:
    """ViT-B (Dosovitskiy et al. 2021, table 1); 86.6 M parameters with 1000 classes at 224 px."""
    return vit(num_classes, patch=patch, width=768, heads=12, **fields)


def _norm(name: str, x: Array) -> Array:
    """LayerNorm, computed in float32 whatever the dtype of ``x``."""
    return nn.LayerNorm(epsilon=1e-6, name=name)(x.astype(jnp.float32)).astype(x.dtype)
