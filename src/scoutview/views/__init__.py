"""Random views of an image: draw parameters, then apply them."""
