"""Run directories of two methods over seeds, for tests of groups."""

import json

from small_runs import Run


def seeded(path, seed, log=True, flip=0.0, fingerprint=None, **change):
    """A run of one seed; hits are missed in a share `flip`."""
    run = Run(path)
    for dataset, number in (("colours", 10), ("digits", 20)):
        run.zero_shot(
            dataset,
            seed=number + seed,
            flip=flip,
            model_info={"name": "nano", "spec": "nano", "fingerprint": fingerprint or f"{path.name}"},
            **change,
        )
    if log:
        (path / "training").mkdir()
        line = {"step": 10, "loss": 1.0, "lr": 0.1, "model": "nano", "seed": seed}
        (path / "training" / "nano.jsonl").write_text(json.dumps(line) + "\n")
    return run.write()


def method(base, name, seeds, **change):
    """Runs of one method, and the text for `--group`."""
    runs = [seeded(base / f"{name}{seed}", seed, **change) for seed in seeds]
    return f"{name}=" + ",".join(map(str, runs))
