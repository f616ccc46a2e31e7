"""What every adapter comes down to, whatever its method: delta kinds, each at a site of the base model."""

from .kinds import AdapterDeltas, Bottleneck, LowRank, Prefix, Prompt, SiteDelta, activate

__all__ = ["AdapterDeltas", "Bottleneck", "LowRank", "Prefix", "Prompt", "SiteDelta", "activate"]
