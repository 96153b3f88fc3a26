"""Work for a store's processes that ends the process, as a crash inside a decoder does."""

import os

from scoutview.store import prepare
from scoutview.store.shards import Piece


def prepare_or_die(job: prepare.Job) -> Piece:
    if any(locator.path.endswith("image2.png") for i in job.items for locator in i.locators):
        os._exit(139)
    return prepare.prepare(job)
