"""MarketData -> causal features: jitted, differentiable, the same code offline, inside an env and inside a critic."""

from marljax.features.pipeline import FeaturePipeline, Reference, compute, fit, transform
from marljax.features.registry import REGISTRY, FeatureConfig, warm_up_steps
from marljax.features.returns import VolatilityThresholds, fit_volatility_thresholds, volatility_regime

__all__ = [
    "REGISTRY",
    "FeatureConfig",
    "FeaturePipeline",
    "Reference",
    "VolatilityThresholds",
    "compute",
    "fit",
    "fit_volatility_thresholds",
    "transform",
    "volatility_regime",
    "warm_up_steps",
]
