"""Pure torch: backbones, losses, heads, queues, clustering, teachers, collectives; no files."""
