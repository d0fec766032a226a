"""The corpus of documentation: what is taken of a planted tree; draws, parts and table of its study."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.translation.planted import clusters, rotation

FILLER = ["reads", "lines", "until", "nothing", "remains"] * 20


def sentence(subject: str, words: int = 24) -> str:
    """A sentence of so many words, of which the second is the subject."""
    return " ".join(["The", subject, *FILLER][:words]) + "."


def html(*paragraphs: str) -> str:
    """A page with these paragraphs, and with a menu, code, a table and a style that are no prose."""
    other = f"<nav><p>{sentence('menu')}</p></nav><pre>{sentence('code')}</pre>"
    other += f"<table><tr><td>{sentence('cell')}</td></tr></table>"
    body = "".join(f"<p>{one}</p>" for one in paragraphs)
    return f"<html><head><style>{sentence('style')}</style></head><body>{other}{body}</body></html>"


def test_prose_of_html(bench: Any) -> None:
    page = (
        html("A <em>small</em> walk &amp; a rest.", "Another.") + "<ul><li>An item <code>x</code></li></ul>"
    )
    assert bench("field_corpus").prose_of_html(page) == [
        "A small walk & a rest.",
        "Another.",
        "An item x",
    ]


def test_prose_of_a_manual_page(bench: Any) -> None:
    page = "\n".join(
        [
            '.\\" a comment',
            ".TH WALK 1",
            ".SH DESCRIPTION",
            "The command",
            ".B walk",
            "goes through \\fIfolders\\fP with",
            ".BR find (1)",
            "and \\-\\-depth.",
            ".PP",
            "Next.",
            ".nf",
            "some code",
            ".fi",
            "After it.",
        ]
    )
    assert bench("field_corpus").prose_of_man(page) == [
        "The command walk goes through folders with find(1) and --depth.",
        "Next. After it.",
    ]


def test_prose_of_pod(bench: Any) -> None:
    page = """my $code;

=head1 NAME

B<Walk> reads C<< a >> of L<a page|perlpod> I<B<well>>.

    code();

=cut

more $code;
"""
    assert bench("field_corpus").prose_of_pod(page) == ["Walk reads a of a page well."]


def test_passages_are_whole_sentences_of_20_to_60_words(bench: Any) -> None:
    cut = bench("field_corpus").cut
    short, middle, long = sentence("a", 12), sentence("b", 24), sentence("c", 70)
    assert list(cut(f"{short} {short} {middle} {long} {middle}")) == [f"{short} {short}", middle, middle]
    assert list(cut(short)) == []
    assert list(cut("The 0x1f 0x2f " + "12 34 56 78 " * 6 + "end.")) == []  # a table


def test_a_planted_tree(bench: Any, tmp_path: Path) -> None:
    """Pages of three kinds are read; what lies outside is not, though links lead to it."""
    corpus = bench("field_corpus")
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "man").mkdir(parents=True)
    outside.mkdir()
    (tree / "a.html").write_text(html(sentence("page")))
    (tree / "man" / "walk.1.gz").write_bytes(gzip.compress(f".PP\n{sentence('manual')}\n".encode()))
    (tree / "walk.pod").write_text(f"=head1 X\n\n{sentence('pod')}\n")
    (tree / "notes.txt").write_text(sentence("notes"))
    (outside / "secret.html").write_text(html(sentence("secret")))
    (tree / "link.html").symlink_to(outside / "secret.html")
    (tree / "folder").symlink_to(outside)
    (tree / "gone.html").symlink_to(tmp_path / "nowhere.html")
    os.mkfifo(tree / "pipe.html")
    assert sorted(corpus.passages_of(tree)) == sorted(sentence(one) for one in ("page", "manual", "pod"))


def test_near_copies_are_left_out(bench: Any) -> None:
    distinct = bench("field_corpus").distinct
    begins = "The same beginning of many words that goes on for sixty characters and more"
    kept = [(f"{begins} here.", "a"), ("Version 3 of it works.", "b"), ("Another text.", "b")]
    copies = [(f"{begins.upper()} there.", "b"), ("version 12 of it works!", "c")]
    assert list(distinct([*kept, *copies, *kept])) == kept


def test_the_corpus_depends_on_the_seed_alone(bench: Any, tmp_path: Path) -> None:
    corpus = bench("field_corpus")
    sources = [(name, [f"{name} {chr(97 + k)} is one of them." for k in range(20)]) for name in ("x", "y")]
    made = [corpus.made(sources, 30, seed) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) == 30
    for file in ("one.gz", "two.gz"):
        corpus.write(made[0], tmp_path / file)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    lines = gzip.decompress((tmp_path / "one.gz").read_bytes()).decode().splitlines()
    assert json.loads(lines[3]) == {"text": made[0][3][0], "source": made[0][3][1]}


def test_no_source_has_more_than_its_share(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = bench("field_corpus")
    monkeypatch.setattr(corpus, "MOST", 5)
    many = [f"text {chr(97 + k)} of many." for k in range(20)]
    names = [name for _, name in corpus.made([("many", many), ("few", ["one.", "two."])], 100, 0)]
    assert sorted(names) == ["few"] * 2 + ["many"] * 5


@pytest.mark.parametrize(("texts", "held", "each"), [(60_000, 8192, 25_904), (3001, 1000, 1000)])
def test_draws_do_not_overlap(bench: Any, texts: int, held: int, each: int) -> None:
    parts = bench("translation_corpus").draw(texts, 3)
    assert [len(part) for part in parts] == [held, each, each]
    assert len(np.unique(np.concatenate(parts))) == held + 2 * each
    assert max(part.max() for part in parts) < texts


def test_embedding_goes_on_where_it_was(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are in the corpus's order though texts are read by length, and parts are read once."""
    study = bench("translation_corpus")
    texts = ["word " * (1 + (7 * k) % 11) + str(k) for k in range(23)]
    bench("field_corpus").write([(text, "x") for text in texts], tmp_path / "corpus.gz")
    read: list[str] = []

    def encode(given: list[str], queries: bool) -> Any:
        read.extend(given)
        return [[float(text.split()[-1]), len(text)] for text in given]

    monkeypatch.setattr(study, "PART", 10)
    monkeypatch.setitem(study.ENCODERS, "use", encode)
    study.embed("use", tmp_path / "corpus.gz", tmp_path, 10)
    study.embed("use", tmp_path / "corpus.gz", tmp_path, 23)
    assert len(read) == 23
    expected = [[k, len(text)] for k, text in enumerate(texts)]
    assert study.embedded("use", tmp_path).tolist() == expected
    (tmp_path / "field-use" / "000010.npy").unlink()  # a gap: later parts are not used
    assert study.embedded("use", tmp_path).tolist() == expected[:10]


def test_a_planted_pair_and_one_without_relation(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bench("translation_corpus")
    x, _ = clusters(700, seed=3, classes=30)
    noise = np.random.default_rng(0).normal(size=x.shape)
    for model, values in (("l6", x), ("l3", x @ rotation(x.shape[1], seed=5)), ("use", noise)):
        (tmp_path / f"field-{model}").mkdir()
        for start in range(0, 700, study.PART):
            np.save(tmp_path / f"field-{model}" / f"{start:06d}.npy", values[start : start + study.PART])
    rows = [
        {"pair": pair, "method": method, "seed": 0, "texts": 700} | study.run(pair, method, 0, 700, tmp_path)
        for pair in ("l6-l3", "l6-use")
        for method in ("paired", "translate")
    ]
    assert [row["pool"] for row in rows] == [233] * 4
    assert rows[0]["top1"] > 0.99
    assert rows[1]["top1"] > 0.75
    assert rows[1]["verdict"] == "found"
    assert rows[3]["verdict"] != "found"
    assert rows[3]["top1"] < 0.05
    assert rows[3]["mean_rank"] == pytest.approx(117, rel=0.3)


def test_the_table_counts_pairs_that_reach_the_goals(bench: Any) -> None:
    """Of the largest number of passages; the share of the ceiling is of the same seed."""
    study = bench("translation_corpus")
    rest = {"top10": 1.0, "foscttm": 0.0, "cosine": 0.5, "cpu": 1.0, "count": 9, "pool": 3}
    rows = [
        {"pair": pair, "method": method, "seed": 0, "texts": texts, "top1": top1, "mean_rank": rank, **rest}
        | ({"verdict": "found"} if method == "translate" else {})
        for pair, method, texts, top1, rank in (
            ("good", "paired", 100, 0.99, 1.0),
            ("good", "translate", 100, 0.98, 1.04),
            ("good", "translate", 50, 0.1, 9.0),
            ("near", "paired", 100, 0.5, 7.0),
            ("near", "translate", 100, 0.495, 7.0),
            ("lost", "paired", 100, 0.0, 7.0),
            ("lost", "translate", 100, 0.0, 7.0),
        )
    ]
    made = study.tables(rows)
    assert "on 1 of 3 pairs, and 98% of the ceiling's top-1 on 2." in made
    assert "0.100" not in made
    assert "| 99.0% |" in made
