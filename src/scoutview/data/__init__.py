"""From stored pixels to batches: samples, samplers, loader, Batch."""
