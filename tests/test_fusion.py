"""Fusion of a global view into local features."""

import pytest
import torch

from fastseg.models.parts.fusion import AttentionFusion, ChannelGateFusion, GateFusion

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


def test_fusions_are_their_formulas():
    local, wide = torch.randn(2, 8, 5, 6), torch.randn(2, 8, 5, 6)
    both = torch.cat([local, wide], 1)
    gate = GateFusion(2, 8)
    torch.testing.assert_close(gate(local, wide), local + gate.gate(both).sigmoid() * wide)
    channel = ChannelGateFusion(2, 8)
    hidden = torch.nn.functional.gelu(channel.squeeze(both.mean((2, 3))))
    exact = local + channel.excite(hidden).sigmoid()[..., None, None] * wide
    torch.testing.assert_close(channel(local, wide), exact)
    attention = AttentionFusion(2, 8)
    torch.nn.init.normal_(attention.out.weight)
    q, k, v = (
        t.flatten(2).unflatten(1, (4, 2)).movedim(2, 3)
        for t in (attention.query(local), *attention.key_value(wide).chunk(2, 1))
    )
    weights = (q @ k.transpose(2, 3) / 2**0.5).softmax(3)
    found = (weights @ v).movedim(3, 2).reshape(2, 8, 5, 6)
    torch.testing.assert_close(attention(local, wide), local + attention.out(found))
    tokens = []
    attention.key_value.register_forward_pre_hook(lambda m, args: tokens.append(args[0].shape[2:]))
    attention(torch.randn(1, 8, 30, 12), torch.randn(1, 8, 30, 12))
    assert tokens == [(24, 12)]
    with pytest.raises(ValueError, match="channels"):
        AttentionFusion(2, 6)
