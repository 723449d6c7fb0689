"""The collector's process: events over HTTP, judged and on the disk before the answer."""
