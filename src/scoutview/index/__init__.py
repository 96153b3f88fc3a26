"""What exists: a typed table of images with labels, boxes, reports and splits, and no pixels."""
