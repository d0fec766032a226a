from __future__ import annotations

import numpy as np
import pytest

from repdyn.datasets import code_snippets, documentation_corpus, shuffled_characters
from repdyn.errors import RepdynError

MODULE = '''"""A module that says at some length what it is there for.

A second paragraph that is never read."""

raise SystemExit("a corpus is read, never run")


class A:
    """Too short."""

    def f(self):
        """Return the answer to a question that nobody asked yet."""
        answer = [question for question in range(43) if question > 41]
        return answer.pop() if answer else None
'''


@pytest.fixture
def site(tmp_path):
    for name, text in {"one": MODULE, "two": MODULE.replace("answer", "reply")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    (tmp_path / "two" / "broken.py").write_text("def (")
    (tmp_path / "not-a-package").mkdir()
    return tmp_path


def test_first_paragraphs_labelled_by_package_and_no_duplicates(site):
    corpus = documentation_corpus(site)
    assert sorted(corpus.texts) == [
        "A module that says at some length what it is there for.",
        "Return the answer to a question that nobody asked yet.",
        "Return the reply to a question that nobody asked yet.",
    ]
    assert sorted(corpus.labels.tolist()) == ["one", "one", "two"]


def test_parts_are_disjoint_and_depend_only_on_the_seed(site):
    corpus = documentation_corpus(site)
    a, b = corpus.split((1, 2), seed=0)
    assert set(a.texts).isdisjoint(b.texts)
    assert corpus.split((1, 2), seed=0)[1].texts == b.texts
    with pytest.raises(RepdynError, match="there are 3"):
        corpus.split((2, 2), seed=0)


def test_code_holds_no_documentation(site):
    snippets = code_snippets(10, site)
    assert len(snippets) == 2
    assert all(snippet.split(" ")[0] in ("answer", "reply") for snippet in snippets)
    assert not any("nobody" in snippet for snippet in snippets)


def test_shuffled_characters_keep_the_letters_and_lose_the_words():
    (text,) = shuffled_characters(["the quick brown fox jumps over the lazy dog"], seed=0)
    assert sorted(text) == sorted("the quick brown fox jumps over the lazy dog")
    assert "quick" not in text


def test_an_empty_environment_is_an_error(tmp_path):
    with pytest.raises(RepdynError, match="no package"):
        documentation_corpus(tmp_path)
    assert np.array_equal(code_snippets(3, tmp_path), ())
