"""What learns: a PQ-VAE's networks and its product or residual quantizer. Torch only."""
