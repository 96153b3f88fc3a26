"""One function per verb: files in, files out."""
