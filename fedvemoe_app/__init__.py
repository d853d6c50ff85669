"""Fed-VEMoE: federated variational EM over a shared bank of LoRA experts."""

__version__ = "0.1.0"
