"""Pure torch: backbones, losses, heads, queues, clustering, teachers, collectives. Knows no files."""
