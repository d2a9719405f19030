"""Paths and names of this package of before there were rooms; `rwkvclip_models.moved` says how they go on."""

from __future__ import annotations

MOVED: dict[str, tuple[str, ...]] = {
    "rwkvclip_eval.array_files": ("rwkvclip_eval.data.array_files",),
    "rwkvclip_eval.averages": ("rwkvclip_eval.plan.averages",),
    "rwkvclip_eval.cli_data": ("rwkvclip_eval.cli.data",),
    "rwkvclip_eval.cli_options": ("rwkvclip_eval.cli.options",),
    "rwkvclip_eval.cli_run": ("rwkvclip_eval.cli.printing",),
    "rwkvclip_eval.datasets": ("rwkvclip_eval.run.splits", "rwkvclip_eval.run.outcome"),
    "rwkvclip_eval.disk": ("rwkvclip_models.disk",),
    "rwkvclip_eval.distributed": ("rwkvclip_eval.features.ranks", "rwkvclip_eval.features.torchrun"),
    "rwkvclip_eval.doctor_report": ("rwkvclip_eval.doctor.report",),
    "rwkvclip_eval.dry_run": ("rwkvclip_eval.run.dry_run",),
    "rwkvclip_eval.elementwise_check": ("rwkvclip_models.ops.agreement", "rwkvclip_eval.doctor.comparison"),
    "rwkvclip_eval.encoding": (
        "rwkvclip_eval.features.encoding",
        "rwkvclip_eval.features.decoding",
        "rwkvclip_eval.features.options",
        "rwkvclip_eval.features.context",
    ),
    "rwkvclip_eval.evaluation": ("rwkvclip_eval.run.evaluation",),
    "rwkvclip_eval.html_table": ("rwkvclip_eval.printable",),
    "rwkvclip_eval.needs": ("rwkvclip_eval.run.needs",),
    "rwkvclip_eval.operator_check": ("rwkvclip_eval.doctor.comparison", "rwkvclip_models.ops.agreement"),
    "rwkvclip_eval.operator_speed": ("rwkvclip_eval.bench.operators",),
    "rwkvclip_eval.partial_entry": ("rwkvclip_eval.features.partial_entry",),
    "rwkvclip_eval.plugins": ("rwkvclip_eval.run.plugins",),
    "rwkvclip_eval.prefetch": ("rwkvclip_eval.run.prefetch",),
    "rwkvclip_eval.preflight": ("rwkvclip_eval.run.preflight",),
    "rwkvclip_eval.probe": ("rwkvclip_eval.logistic",),
    "rwkvclip_eval.probe.certificate": ("rwkvclip_eval.logistic.certificate",),
    "rwkvclip_eval.probe.descent": ("rwkvclip_eval.logistic.descent",),
    "rwkvclip_eval.probe.lbfgs": ("rwkvclip_eval.logistic.lbfgs",),
    "rwkvclip_eval.probe.logistic": ("rwkvclip_eval.logistic.solver",),
    "rwkvclip_eval.probe.newton": ("rwkvclip_eval.logistic.newton",),
    "rwkvclip_eval.probe.objective": ("rwkvclip_eval.logistic.objective",),
    "rwkvclip_eval.probe.preconditioner": ("rwkvclip_eval.logistic.preconditioner",),
    "rwkvclip_eval.probe.problem": ("rwkvclip_eval.logistic.problem",),
    "rwkvclip_eval.probe.search": ("rwkvclip_eval.logistic.search",),
    "rwkvclip_eval.probe.solution": ("rwkvclip_eval.logistic.solution",),
    "rwkvclip_eval.report.drawing": ("rwkvclip_eval.report.plots.drawing",),
    "rwkvclip_eval.report.page": ("rwkvclip_eval.report.formats.html",),
    "rwkvclip_eval.report.probe": (
        "rwkvclip_eval.report.curves",
        "rwkvclip_eval.report.probe_facts",
        "rwkvclip_eval.report.plots.probes",
    ),
    "rwkvclip_eval.report.text": (
        "rwkvclip_eval.report.formats.markdown",
        "rwkvclip_eval.report.formats.csv",
        "rwkvclip_eval.report.formats.latex",
    ),
    "rwkvclip_eval.results": ("rwkvclip_eval.records.schema", "rwkvclip_eval.records.reading"),
    "rwkvclip_eval.run_directory": ("rwkvclip_eval.run.directory",),
    "rwkvclip_eval.run_identity": ("rwkvclip_eval.run.identity",),
    "rwkvclip_eval.runner": (
        "rwkvclip_eval.run.options",
        "rwkvclip_eval.run.outcome",
        "rwkvclip_eval.run.unit",
    ),
    "rwkvclip_eval.seed_statistics": ("rwkvclip_eval.metrics.seed_intervals",),
    "rwkvclip_eval.shots": ("rwkvclip_eval.plan.overrides",),
    "rwkvclip_eval.speed_limits": ("rwkvclip_eval.bench.limits",),
    "rwkvclip_eval.statistics": ("rwkvclip_eval.metrics.intervals",),
    "rwkvclip_eval.stopwatch": ("rwkvclip_eval.bench.clock",),
    "rwkvclip_eval.store_upkeep": ("rwkvclip_eval.features.upkeep",),
    "rwkvclip_eval.stored_entry": ("rwkvclip_eval.features.entry",),
    "rwkvclip_eval.suite": ("rwkvclip_eval.plan.suite",),
    "rwkvclip_eval.suite_check": ("rwkvclip_eval.run.suite_check",),
    "rwkvclip_eval.suite_run": ("rwkvclip_eval.run.suite_run", "rwkvclip_eval.run.helper"),
    "rwkvclip_eval.tower_speed": ("rwkvclip_eval.bench.towers",),
    "rwkvclip_eval.units": ("rwkvclip_eval.plan.units",),
    "rwkvclip_eval.workload": ("rwkvclip_eval.run.workload",),
    "rwkvclip_eval.yaml_text": ("rwkvclip_eval.yaml_file",),
}
"""Old path → where its names are now."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "rwkvclip_eval.cli": ("rwkvclip_eval.cli.main",),
    "rwkvclip_eval.doctor": (
        "rwkvclip_eval.doctor.checks",
        "rwkvclip_eval.doctor.diagnosis",
        "rwkvclip_models.ops.agreement",
    ),
    "rwkvclip_eval.features": ("rwkvclip_eval.features.store", "rwkvclip_eval.run.stored_features"),
    "rwkvclip_eval.report.plots": ("rwkvclip_eval.report.plots.every", "rwkvclip_eval.report.plots.style"),
}
"""Modules that are packages of the same name now → where their names are."""

NAMES = {
    "rwkvclip_eval.encoders.weights.sha256_file": "rwkvclip_models.disk.file_digest",
    "rwkvclip_eval.preflight.check_unit": "rwkvclip_eval.run.preflight.open_unit",
    "rwkvclip_eval.results.PRIMARY": "rwkvclip_eval.records.metrics.PRIMARY_WORD",
    "rwkvclip_eval.stored_entry.digest": "rwkvclip_models.disk.file_digest",
    "rwkvclip_eval.tasks.zero_shot.class_embeddings": "rwkvclip_eval.tasks.similarity.class_embeddings",
}
"""Old name → the name now."""
