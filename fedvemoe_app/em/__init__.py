"""The algorithm: federated variational EM. Tensors in, tensors out; no model, file or network."""
