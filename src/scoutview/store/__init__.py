"""Decoded pixel shards of a cohort: built in parallel, verified, read by memory map."""
