"""Results and models to and from other projects' tools: the hub, CLIP_benchmark, MTEB, trackers."""
