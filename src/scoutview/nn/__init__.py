"""Pure torch: backbones, losses, heads, queues, clustering, teachers, collectives; no files."""

import atexit
import gc

# torch and timm leave half a million objects that stay to the end. A collector that looks at all of
# them again and again, while they and what follows are imported, takes a fifth of a start.
_collects = gc.isenabled()
gc.disable()
try:
    import timm  # noqa: F401
finally:
    gc.freeze()
    if _collects:
        gc.enable()
atexit.register(gc.unfreeze)  # nanobind counts what is left at the end as leaked
