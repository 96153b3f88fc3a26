"""Work for a store's processes: one ends its process as a crash in a decoder does, one is slow."""

import os
import time

from scoutview.store import prepare
from scoutview.store.shards import Piece


def prepare_or_die(job: prepare.Job) -> Piece:
    if any(locator.path.endswith("image2.png") for i in job.items for locator in i.locators):
        os._exit(139)
    return prepare.prepare(job)


def prepare_slowly(job: prepare.Job) -> Piece:
    time.sleep(0.3)
    return prepare.prepare(job)
