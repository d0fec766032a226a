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
# # Two models, no pairs
# **Question.** Two encoders have read different texts of the same kind, and no text is common to both. Can
# the representations of one be translated into those of the other?
#
# **What you need.** `pip install 'repdyn[demo]'`, which installs two pretrained sentence encoders,
# all-MiniLM-L6-v2 and paraphrase-MiniLM-L3-v2. The text is the documentation of your installed
# packages. No network, about four minutes, much of it reading; a second run reads the
# paths from disk.

# %%
import numpy as np

import repdyn
from repdyn.datasets import documentation_corpus

corpus = documentation_corpus()
FITTED, HELD_OUT = 4000, 400
for_a, for_b, for_nobody = corpus.split([FITTED, FITTED, HELD_OUT], seed=0)
print(len(corpus), "passages;", FITTED, "for A,", FITTED, "others for B,", HELD_OUT, "for the evaluation")

# %%
model_a = repdyn.load("packaged:all-MiniLM-L6-v2")
model_b = repdyn.load("packaged:paraphrase-MiniLM-L3-v2")


def read(model, part, name):
    """Paths from the embeddings to the last layer, kept on disk."""
    points = ["embeddings", *[point for point in model.default_points if point != model.final]]
    out = f"tutorial/{name}.paths"
    return repdyn.trace(model, part.texts, points=points, labels=part.labels, out=out, batch_size=64)


a, b = read(model_a, for_a, "pairs-a"), read(model_b, for_b, "pairs-b")
print("A", a.points, "\nB", b.points)

# %% [markdown]
# Without pairs only the geometry of each space is available: regions that lie near each other for A
# should do so for B. `translate` matches regions at all depths at once and refines a linear map from
# the match. Its verdict rests on four tests: maps of disjoint halves of the data agree, translated points
# lie among the real ones, no different map fits as well, and none does if clusters are left out.

# %%
translation = repdyn.translate(a, b, seed=0)
print(translation)

# %% [markdown]
# **The evaluation** uses passages that both models read and that no map was fitted on: is the true
# passage the nearest of B's to the translation of A's representation? The rows below compare with a random
# map, the identity, and a map from 600 pairs.

# %%
from repdyn.translation import evaluate_translation

held_a, held_b = read(model_a, for_nobody, "pairs-held-a"), read(model_b, for_nobody, "pairs-held-b")
both = read(model_b, type(for_a)(for_a.texts[:600], for_a.labels[:600]), "pairs-both")
last_a, last_b = a.points[-1], b.points[-1]
found = evaluate_translation(
    translation,
    np.asarray(held_a[last_a]),
    np.asarray(held_b[last_b]),
    labels=for_nobody.labels,
    ceiling=(np.asarray(a[last_a])[:600], np.asarray(both[last_b])),
    seed=0,
)
print(found)

# %%
found.plot()

# %% [markdown]
# **The main control.** B's representations with each coordinate shuffled among the passages
# have the same values and no geometry. Any translation that is found there is an artifact.

# %%
rng = np.random.default_rng(0)
shapeless = repdyn.RepresentationPaths.from_arrays(
    {point: rng.permuted(np.asarray(b[point]), axis=0) for point in b.points}
)
nothing = repdyn.translate(a, shapeless, seed=0)
print(nothing)

# %% [markdown]
# ## What was not found
# No translation to the shuffled copy is found: different maps fit it equally well, and the verdict is
# "ambiguous". The translation of the real paths is therefore determined by their geometry and not by the
# values of coordinates.
#
# Consider the row of the identity before you draw conclusions. The identity needs no map, and its accuracy
# is high because both encoders descend from one checkpoint. `translate` never uses the identity, but
# related checkpoints make the geometries agree. This tutorial does *not* show that unrelated models can be
# translated in this way. Nor does it show that pairs are worthless: the paired rows had 600 of them, for a
# map of 384 dimensions.
