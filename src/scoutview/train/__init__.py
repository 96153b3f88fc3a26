"""The only training loop: fit, optimisers, schedules, checkpoints, probes, collapse monitor."""
