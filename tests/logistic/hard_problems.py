"""Problems on which a search goes wrong if it judges a strength before it is solved, and the exact search.

Samples about as many as features, many classes, spectra flat and decaying; then about as many samples as an
ordinary probe has.
"""

import numpy as np
import torch

from rwkvclip_eval.logistic import clip_grid, fit_logistic, scores

RATIOS = (0.9, 1.0, 1.2, 1.6, 3.0, 8.0, 20.0)
CLASSES = (2, 5, 10, 20, 37, 60, 102, 200)


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).mean())


def problem(seed, *, most_features=128, most_samples=2000):
    """Training and validation features [n, F] float32 and labels, and the number of classes K ≤ n."""
    rng = np.random.default_rng(seed)
    num_features = int(rng.integers(24, most_features))
    n = min(most_samples, int(num_features * rng.choice(RATIOS)))
    classes = min(int(rng.choice(CLASSES)), n)
    m = int(rng.integers(max(60, classes), 600))
    means = rng.choice([0.3, 0.6, 1.0, 2.0]) * rng.standard_normal((classes, num_features))
    y, vy = np.append(np.arange(classes), rng.integers(0, classes, n - classes)), rng.integers(0, classes, m)
    scale = 3 * (1 + np.arange(num_features)) ** -rng.choice([0.0, 0.0, 0.5, 1.0, 1.5])
    x, vx = (((means[k] + rng.standard_normal((len(k), num_features))) * scale) for k in (y, vy))
    return x.astype(np.float32), y, vx.astype(np.float32), vy, classes


class Exact:
    """Validation scores of single strengths, each solved cold, alone and in float64 to 1e-10."""

    def __init__(self, x, y, vx, vy, classes):
        self.given, self.validation, self.classes = (x, y), (vx, vy), classes
        self.known, self.solutions = {}, {}

    def at(self, step):
        if step not in self.known:
            [solution] = fit_logistic(
                *self.given,
                [clip_grid()[step]],
                num_classes=self.classes,
                relative_gap=1e-10,
                dtype=torch.float64,
            )
            assert solution.status == "converged"
            self.solutions[step] = solution
            self.known[step] = accuracy(scores(self.validation[0], solution), self.validation[1])
        return self.known[step]

    def best(self, policy):
        """The best score among the strengths that the policy tries."""
        for step in range(97) if policy == "grid" else range(0, 97, 16):
            self.at(step)
        for width in (8, 4, 2, 1):
            peak = max(self.known, key=lambda step: (self.known[step], step))
            for step in (peak - width, peak + width):
                if 0 <= step <= 96:
                    self.at(step)
        return max(self.known.values())


def lost(found, exact, policy="clip"):
    """Validation samples that the exact score at the chosen λ lies below the best exact one."""
    chosen = round(8 * (np.log10(found.best.l2) + 6))
    best = exact.best(policy)
    return round((best - exact.at(chosen)) * len(exact.validation[1]))
