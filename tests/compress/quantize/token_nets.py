"""Transformers on the numbers of tokens, of which 0 is padding, with masks as models write them."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

WORDS, LENGTH, WIDTH = 11, 6, 12


def padding(tokens):
    """Of queries and keys, as flax's examples have it: a row of a padded query hides everything."""
    return nn.make_attention_mask(tokens > 0, tokens > 0)


def keys(tokens):
    """Of keys alone, bool."""
    return (tokens != 0)[:, None, None, :]


def causal(tokens):
    """Padding, and what comes later."""
    return nn.combine_masks(padding(tokens), nn.make_causal_mask(tokens))


class Added(nn.Module):
    """Attention by hand, of one head, with a mask that is added."""

    @nn.compact
    def __call__(self, x, bias):
        query, key, value = jnp.split(nn.Dense(3 * WIDTH, name="qkv")(x), 3, -1)
        scores = jnp.einsum("bqd,bkd->bqk", query, key) / jnp.sqrt(float(WIDTH))
        return nn.Dense(WIDTH, name="out")(nn.softmax(scores + bias) @ value)


class Encoder(nn.Module):
    """Two blocks of masked attention and a head on the first place, or on every place."""

    mask: object = padding
    adds: bool = False
    everywhere: bool = False

    @nn.compact
    def __call__(self, tokens):
        mask = self.mask(tokens)
        bias = jnp.where(mask, 0.0, -1e9)[:, 0] if self.adds else None
        x = nn.Embed(WORDS, WIDTH, name="tokens")(tokens)
        x = x + self.param("places", nn.initializers.normal(0.5), (1, tokens.shape[1], WIDTH))
        for block in range(2):
            if self.adds:
                x = x + Added(name=f"attention{block}")(x, bias)
            else:
                attention = nn.MultiHeadDotProductAttention(2, name=f"attention{block}")
                x = x + attention(x, mask=mask)
            y = nn.relu(nn.Dense(16, name=f"mlp{block}_0")(x))
            x = x + nn.Dense(WIDTH, name=f"mlp{block}_1")(y)
        return nn.Dense(4, name="head")(x if self.everywhere else x[:, 0])


NETS = {
    "padding": Encoder(),
    "keys": Encoder(keys),
    "causal": Encoder(causal),
    "added": Encoder(keys, adds=True),
    "added_causal": Encoder(causal, adds=True),
    "decoder": Encoder(causal, everywhere=True),
}


def sentences(count=12, seed=0):
    """Tokens [count, LENGTH] with padding behind them; none of the first, all of the second."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, WORDS, (count, LENGTH)).astype(np.int32)
    lengths = rng.integers(1, LENGTH + 1, (count, 1))
    lengths[:2, 0] = LENGTH, 0
    return jnp.asarray(np.where(np.arange(LENGTH) < lengths, tokens, 0))
