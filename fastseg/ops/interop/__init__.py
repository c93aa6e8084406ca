"""What torch's own tools ask of an operator: how much it computes, how devices share it.

A tool is told when a call first meets it: importing operators loads none.
"""

from fastseg.ops import context
from fastseg.ops.interop import flops, sharding

context.TOOLS["torch.utils.flop_counter"] = flops.register
context.SHARE.append(sharding.share)
